"""Graph rewrites: transposed convolutions and their crops become plain convolutions."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch.nn.functional as F
from rewriting import drawer, graph, same, stays, traced
from torch import nn

weights = drawer()


def deconv(kernel, stride: int, pads, extra, *, inner: int = 5, out: int = 1, **more: Any):
    kernel = [kernel, kernel] if isinstance(kernel, int) else kernel
    pads = [pads] * 4 if isinstance(pads, int) else pads
    extra = [extra, extra] if isinstance(extra, int) else extra
    attributes = dict(
        kernel_shape=kernel, strides=[stride, stride], pads=pads, output_padding=extra, **more
    )
    return graph(
        [("ConvTranspose", ["x", "w", "b"], ["y"], attributes)],
        {"w": weights(inner, out, *kernel), "b": weights(out * more.get("group", 1))},
        channels=inner,
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "extra", "out"),
    [
        (9, 2, 4, 1, 1),  # FSRCNN
        (9, 3, 4, 2, 1),
        (9, 4, 4, 3, 1),
        (3, 2, 1, 1, 1),  # SRDenseNet
        (4, 2, 1, 0, 4),  # LapSRN
        (3, 2, [0, 0, 1, 1], 0, 3),  # LapSRN after its crop
        (5, 4, 2, 3, 3),  # NEMO
        (2, 2, 0, 0, 2),  # no overlap
        (2, 3, 0, 1, 2),  # gaps that hold the bias alone
        (3, 3, 0, 0, 1),  # EBRN
        ([5, 3], 2, [2, 1, 2, 1], [1, 1], 2),
        ([6, 4], 2, [4, 0, 0, 2], [0, 0], 2),  # one-sided borders
        (12, 4, 4, 0, 1),
        (8, 2, 3, 0, 1),
    ],
)
def test_a_transposed_convolution_becomes_a_plain_one(kernel, stride, pads, extra, out) -> None:
    kinds, applied = same(deconv(kernel, stride, pads, extra, out=out))
    assert kinds[:2] == ["Conv", "DepthToSpace"]
    assert applied[0] == "convolve"


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(deconv(3, 2, 0, 0), id="2h+1"),
        pytest.param(deconv(9, 2, 4, 0), id="2h-1"),
        pytest.param(deconv(3, 1, 1, 0), id="stride 1"),
        pytest.param(deconv(3, 2, 1, 1, out=16), id="many channels: its own kernel is faster"),
        pytest.param(deconv(3, 2, 0, 0, dilations=[2, 2]), id="dilation"),
        pytest.param(deconv(2, 2, 0, 0, inner=4, group=2), id="groups"),
    ],
)
def test_other_transposed_convolutions_stay(model) -> None:
    stays(model)


def test_a_wide_kernel_is_computed_in_blocks_of_pixels() -> None:
    """FSRCNN's 9x9 at x2: four channels waste the 16 lanes of an engine, sixteen do not."""
    kinds, applied = same(deconv(9, 2, 4, 1, inner=56))
    assert kinds == ["Conv", "DepthToSpace", "Shape", "Mul", "Slice"]
    assert applied == ["convolve", "block tail"]


def test_a_cropped_transposed_convolution() -> None:
    def ends(m, x):
        return m.up(x)[:, :, :-1, :-1]

    def both(m, x):
        return m.up(x)[:, :, 1:-1, 1:-1]

    def by_size(m, x):
        return m.up(x)[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]

    def padded(m, x):
        return F.pad(m.up(x), (0, -1, 0, -1))

    for forward, kernel in ((ends, 3), (both, 4), (by_size, 3), (by_size, 4), (padded, 3)):
        kinds, _ = traced(forward, up=nn.ConvTranspose2d(3, 2, kernel, stride=2))
        assert kinds == ["Conv", "DepthToSpace"], forward.__name__
        kinds, applied = traced(forward, up=nn.ConvTranspose2d(3, 16, kernel, stride=2))
        assert kinds == ["ConvTranspose"], forward.__name__
        assert set(applied) == {"crop"}


def test_a_crop_to_another_size_stays() -> None:
    kinds, applied = traced(
        lambda m, x: m.up(x)[:, :, 1 : x.shape[2], : x.shape[3]],
        up=nn.ConvTranspose2d(3, 1, 3, stride=2),
        sizes=[(8, 8), (7, 11)],
    )
    assert "Slice" in kinds
    assert applied == []
    kinds, applied = traced(  # read before the crop as well
        lambda m, x: m.up(x)[:, :, :-1, :-1] + m.up(x)[:, :, 1:, 1:],
        up=nn.ConvTranspose2d(3, 1, 3, stride=2),
    )
    assert "crop" not in applied or kinds.count("ConvTranspose") + kinds.count("Conv") == 2
