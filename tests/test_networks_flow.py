"""Warping, optical flow and deformable convolution against numpy, OpenCV and loops by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close
from video_networks import randomised, run, silenced

from edgesr.networks.deform import DeformConv, deform_conv
from edgesr.networks.spynet import Spynet, SpynetConfig, warp

# Warping and flow


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 0), (0, -3), (-1, 2)], ids=str)
def test_whole_flow_moves_the_picture(right: int, down: int, padding: str) -> None:
    """Against numpy.pad and a slice: align_corners, the order x, y, and both paddings."""
    picture = torch.rand(2, 3, 9, 12)
    flow = torch.tensor([right, down]).view(1, 2, 1, 1).expand(2, 2, 9, 12).float()
    mode = {"zeros": "constant", "border": "edge"}[padding]
    framed = np.pad(picture.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=mode)
    expected = framed[:, :, 4 + down : 13 + down, 4 + right : 16 + right]
    assert_close(warp(picture, flow, padding=padding), expected, dtype="float32")


def test_warp_reads_between_pixels_and_single_pixels() -> None:
    picture = torch.tensor([[[[0.0, 1.0, 3.0]]]])
    flow = torch.zeros(1, 2, 1, 3)
    flow[:, 0] = 0.25
    assert_close(warp(picture, flow), [[[[0.25, 1.5, 2.25]]]], dtype="float32")


def test_warp_keeps_whole_pixels_apart_in_bfloat16() -> None:
    picture = (torch.arange(600) % 2).view(1, 1, 1, 600).bfloat16()
    assert_close(
        warp(picture, torch.zeros(1, 2, 1, 600).bfloat16()).float(),
        picture.float(),
        dtype="float32",
    )


@pytest.mark.parametrize("size", [(32, 64), (33, 70), (20, 9), (64, 32)], ids=str)
def test_spynet_doubles_the_flow_from_level_to_level(size: tuple[int, int]) -> None:
    """With biases only, level l adds a constant: the flow is their sum, each doubled 5 - l times,
    and shrinks with the picture when that was stretched to multiples of 32."""
    model = silenced(Spynet(SpynetConfig(widths=(2, 2, 2, 2))))
    biases = np.random.default_rng(0).normal(size=(6, 2))
    for level, bias in zip(model.basic_module, biases, strict=True):
        level.basic_module[-1].bias.data = torch.tensor(bias, dtype=torch.float32)
    flow = run(model, torch.rand(1, 3, *size), torch.rand(1, 3, *size))
    total = sum(bias * 2 ** (5 - level) for level, bias in enumerate(biases))
    for axis, length in ((0, size[1]), (1, size[0])):
        stretched = int(np.ceil(length / 32)) * 32
        expected = np.full(size, total[axis] * length / stretched)
        assert_close(flow[0, axis], expected, dtype="float32")


def test_spynet_level_sees_reference_warped_support_and_flow() -> None:
    """In this order, normalised, the border repeated; the last level's network is listened to."""
    model = silenced(Spynet(SpynetConfig(levels=2, widths=(2,))))
    model.basic_module[0].basic_module[-1].bias.data = torch.tensor([1.0, 0.0])
    seen = []
    model.basic_module[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    near, far = torch.rand(1, 3, 8, 10), torch.rand(1, 3, 8, 10)
    run(model, near, far)
    mean, std = (
        np.array(values).reshape(1, 3, 1, 1)
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    columns = np.minimum(np.arange(10) + 2, 9)  # one pixel on level 0 is two on level 1
    flow = np.broadcast_to(np.array([2.0, 0.0]).reshape(1, 2, 1, 1), (1, 2, 8, 10))
    parts = [(near.numpy() - mean) / std, ((far.numpy() - mean) / std)[..., columns], flow]
    assert_close(seen[0], np.concatenate(parts, axis=1), dtype="float32")


def test_spynet_enlarges_the_flow_corner_to_corner() -> None:
    """The first and last pixels keep their flow (align_corners), doubled; against numpy.interp."""
    model = silenced(Spynet(SpynetConfig(levels=2, widths=(2,))))
    coarse = torch.randn(1, 2, 4, 5)
    model.basic_module[0].register_forward_hook(lambda *_: coarse)
    rows, columns = np.linspace(0, 3, 8), np.linspace(0, 4, 10)
    for axis in range(2):
        wide = np.array([np.interp(columns, range(5), row) for row in coarse[0, axis].numpy()])
        expected = 2 * np.array([np.interp(rows, range(4), column) for column in wide.T]).T
        flow = run(model, torch.rand(1, 3, 8, 10), torch.rand(1, 3, 8, 10))
        assert_close(flow[0, axis], expected, dtype="float32")


def test_spynet_takes_other_sizes_like_a_resized_picture() -> None:
    model = randomised(Spynet(SpynetConfig(levels=3, widths=(4, 4, 4, 4))))
    near, far = torch.rand(1, 3, 10, 19), torch.rand(1, 3, 10, 19)

    def resized(picture, width: int, height: int):
        planes = [cv2.resize(plane, (width, height)) for plane in picture[0].numpy()]
        return torch.from_numpy(np.stack(planes))[None]

    flow = resized(run(model, resized(near, 20, 12), resized(far, 20, 12)), 19, 10)
    expected = flow * torch.tensor([19 / 20, 10 / 12]).view(1, 2, 1, 1)
    assert_close(run(model, near, far), expected, dtype="float32")


# Deformable convolution


def test_deform_conv_is_its_formula() -> None:
    """Loops over pixels and taps (equation 1 of the paper), y before x, groups, zeros outside."""
    rng = np.random.default_rng(1)
    c, out, groups, height, width = 4, 3, 2, 5, 6
    x = rng.normal(size=(2, c, height, width))
    offset = 2 * rng.normal(size=(2, groups * 9 * 2, height, width))
    strength = rng.random(size=(2, groups * 9, height, width))
    weight, bias = rng.normal(size=(out, c, 3, 3)), rng.normal(size=out)

    def at(plane, down: float, across: float) -> float:
        total = 0.0
        for i in range(height):
            for j in range(width):
                near = max(0.0, 1 - abs(down - i)) * max(0.0, 1 - abs(across - j))
                total += near * plane[i, j]
        return total

    expected = np.zeros((2, out, height, width))
    for n, i, j in np.ndindex(2, height, width):
        expected[n, :, i, j] = bias
        for channel, tap in np.ndindex(c, 9):
            k = channel // (c // groups) * 9 + tap
            down = i + tap // 3 - 1 + offset[n, 2 * k, i, j]
            across = j + tap % 3 - 1 + offset[n, 2 * k + 1, i, j]
            value = strength[n, k, i, j] * at(x[n, channel], down, across)
            expected[n, :, i, j] += weight[:, channel, tap // 3, tap % 3] * value
    tensors = [torch.from_numpy(a) for a in (x, offset, strength)]
    got = deform_conv(*tensors, weight=torch.from_numpy(weight), bias=torch.from_numpy(bias))
    assert_close(got, expected, dtype="float64")


def test_deform_conv_starts_as_half_a_convolution() -> None:
    """No offsets, and the sigmoid of 0 is a half; two thirds of the channels are offsets."""
    layer = DeformConv(4, 6, groups=2)
    x, guide = torch.rand(1, 4, 7, 5), torch.rand(1, 4, 7, 5)
    plain = F.conv2d(x, layer.weight, padding=1)
    assert_close(run(layer, x, guide), 0.5 * plain.detach(), dtype="float32")
    layer.conv_offset.bias.data[36:] = 30.0  # 2 groups of 9 pairs before it
    assert_close(run(layer, x, guide), plain.detach(), dtype="float32")
