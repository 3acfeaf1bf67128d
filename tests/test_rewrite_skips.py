"""Graph rewrites: skips of repeated pixels and convolutions of copies, in one node or none."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import torch.nn.functional as F
from rewriting import drawer, graph, same, stays, traced
from torch import nn

weights = drawer()


def shuffled(m, x):
    return F.pixel_shuffle(m.conv(x), 2)


@pytest.mark.parametrize("colour", ["y", "rgb"])
@pytest.mark.parametrize("scale", [2, 3])
def test_nearest_skip(colour: str, scale: int) -> None:
    c = 1 if colour == "y" else 3
    kinds, applied = traced(
        lambda m, x: F.pixel_shuffle(m.conv(x), scale) + F.interpolate(x, scale_factor=scale),
        colour=colour,
        conv=nn.Conv2d(c, c * scale**2, 3, padding=1),
    )
    assert kinds == ["Conv", *(["Gather"] if c == 3 else []), "Add", "DepthToSpace"]
    assert applied == ["nearest skip"]


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (lambda x: x.repeat_interleave(4, dim=1), "Gather"),
        (lambda x: x[:, :, None].expand(-1, -1, 4, -1, -1).flatten(1, 2), "Gather"),
        (lambda x: x[:, None].expand(-1, 4, -1, -1, -1).flatten(1, 2), "Gather"),
        (lambda x: x.repeat(1, 4, 1, 1), "Tile"),
        (lambda x: torch.cat([x] * 4, 1), "Concat"),
    ],
)
def test_repeated_channels_are_one_node(skip, left: str) -> None:
    kinds, _ = traced(
        lambda m, x: F.pixel_shuffle(m.conv(x) + skip(x), 2), conv=nn.Conv2d(3, 12, 3, padding=1)
    )
    assert sorted(kinds) == sorted(["Conv", left, "Add", "DepthToSpace"])


def test_one_repeated_channel_is_broadcast() -> None:
    for skip in (
        lambda x: x.repeat(1, 9, 1, 1),
        lambda x: x.repeat_interleave(9, dim=1),
        lambda x: x.expand(-1, 9, -1, -1),
    ):
        kinds, _ = traced(
            lambda m, x, skip=skip: F.pixel_shuffle(m.conv(x) + skip(x), 3),
            colour="y",
            conv=nn.Conv2d(1, 9, 3, padding=1),
        )
        assert kinds == ["Conv", "Add", "DepthToSpace"]


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_of_copies_reads_them_once(kernel: int) -> None:
    """BSRN's first pointwise convolution."""
    kinds, applied = traced(
        lambda m, x: m.conv(torch.cat([x] * 4, 1)),
        conv=nn.Conv2d(12, 8, kernel, padding=kernel // 2),
    )
    assert (kinds, applied) == (["Conv"], ["sum repeated"])


def test_a_convolution_of_split_and_gathered_channels() -> None:
    kinds, _ = traced(
        lambda m, x: m.conv(torch.cat([c for c in x.split(1, 1) for _ in range(4)], 1)),
        conv=nn.Conv2d(12, 8, 3, padding=1),
    )
    assert kinds == ["Conv"]
    nodes = [
        ("Gather", ["x", "i"], ["g"], {"axis": 1}),
        ("Conv", ["g", "w"], ["y"], {"kernel_shape": [1, 1]}),
    ]
    kinds, _ = same(graph(nodes, {"w": weights(4, 4, 1, 1), "i": [2, 0, 0, 1]}))
    assert kinds == ["Conv"]


def test_other_skips_stay() -> None:
    conv = nn.Conv2d(3, 12, 3, padding=1)
    for forward in (
        lambda m, x: shuffled(m, x) + F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda m, x: m.conv(torch.cat([x, x * x, x, x], 1)[:, :3]),
        lambda m, x: m.conv(x) * torch.cat([x] * 4, 1),
    ):
        assert traced(forward, conv=conv)[1] == []
    # What is shuffled is read elsewhere too.
    kinds, applied = traced(
        lambda m, x: (shuffled(m, x) + F.interpolate(x, scale_factor=2)) * shuffled(m, x).sigmoid(),
        conv=conv,
    )
    assert "Resize" in kinds or applied == ["nearest skip"]


def test_a_shuffle_that_is_read_twice_keeps_its_resize() -> None:
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"kernel_shape": [1, 1]}),
        ("DepthToSpace", ["c"], ["d"], {"blocksize": 2, "mode": "CRD"}),
        ("Resize", ["x", "", "s"], ["r"], {"mode": "nearest", "nearest_mode": "floor"}),
        ("Add", ["d", "r"], ["e"], {}),
        ("Mul", ["d", "e"], ["y"], {}),
    ]
    stays(graph(nodes, {"w": weights(12, 3, 1, 1), "s": [1.0, 1.0, 2.0, 2.0]}))
    wrong = [*nodes[:3], ("Add", ["d", "r"], ["y"], {})]
    stays(graph(wrong, {"w": weights(12, 3, 1, 1), "s": [1.0, 1.0, 2.0, 2.0]}))  # half_pixel, floor


@pytest.mark.parametrize("mode", ["CRD", "DCR"])
def test_both_orders_of_channels(mode: str) -> None:
    place = {"nearest_mode": "round_prefer_ceil", "coordinate_transformation_mode": "half_pixel"}
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"kernel_shape": [1, 1]}),
        ("DepthToSpace", ["c"], ["d"], {"blocksize": 2, "mode": mode}),
        ("Resize", ["x", "", "s"], ["r"], {"mode": "nearest", **place}),
        ("Add", ["r", "d"], ["e"], {}),
        ("Add", ["b", "e"], ["f"], {}),
        ("Mul", ["f", "k"], ["y"], {}),
    ]
    constants = {
        "w": weights(12, 3, 1, 1),
        "s": [1.0, 1.0, 2.0, 2.0],
        "k": np.reshape([0.5, 2.0, 3.0], (1, 3, 1, 1)),
        "b": np.reshape([0.1, 0.2, 0.3], (3, 1, 1)),
    }
    kinds, applied = same(graph(nodes, constants))
    assert kinds == ["Conv", "Gather", "Add", "DepthToSpace", "Mul"]  # the skip takes no factor
    assert Counter(applied) == {"nearest skip": 1, "fold shift": 1}
    nodes = [*nodes[:2], ("Add", ["b", "d"], ["f"], {}), nodes[-1]]
    assert same(graph(nodes, constants))[0] == ["Conv", "DepthToSpace"]
