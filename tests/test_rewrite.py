"""Graph rewrites: the same numbers before and after, and what must stay stays."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgesr.export.onnx import trace
from edgesr.export.rewrite import rewrite
from edgesr.spec import ModelSpec

SIZES = [(8, 8), (7, 11), (1, 2), (12, 5)]
rng = np.random.default_rng(0)


def graph(
    nodes: list[tuple[Any, ...]],
    constants: dict[str, Any],
    *,
    channels: int = 3,
    outputs: tuple[str, ...] = ("y",),
):
    """A graph of (op, inputs, outputs, attributes) from "x" (n, channels, h, w)."""
    made = [helper.make_node(op, i, o, name=o[0], **attributes) for op, i, o, attributes in nodes]
    arrays = {
        k: np.asarray(v, np.float32 if np.asarray(v).dtype.kind == "f" else np.int64)
        for k, v in constants.items()
    }
    model = helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, [None] * 4) for o in outputs],
            [numpy_helper.from_array(v, k) for k, v in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def weights(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))


def run(model, picture: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": picture})


def same(model, *, sizes=SIZES, tolerance: float = 1e-5) -> tuple[list[str], list[str]]:
    """Rewrite, compare at several sizes; the kinds of nodes that are left, and the rules used."""
    before = model.SerializeToString()
    result, applied = rewrite(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert [o.name for o in result.graph.output] == [o.name for o in model.graph.output]
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for height, width in sizes:
        picture = np.random.default_rng(1).random((2, channels, height, width), dtype=np.float32)
        for expected, got in zip(run(model, picture), run(result, picture), strict=True):
            assert got.shape == expected.shape
            largest = max(1.0, float(np.abs(expected).max()))
            assert np.abs(got - expected).max() <= tolerance * largest, (height, width)
    assert rewrite(result)[1] == []
    assert len(model.graph.node) - len(result.graph.node) >= sum(a.nodes for a in applied)
    return [n.op_type for n in result.graph.node], [a.rewrite for a in applied]


def stays(model, **options: Any) -> None:
    kinds, applied = same(model, **options)
    assert applied == []
    assert kinds == [n.op_type for n in model.graph.node]


def traced(forward, *, colour: str = "rgb", sizes=SIZES, **parts: nn.Module):
    """The same for a torch function of (parts, x)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    module.forward = lambda x: forward(module, x)
    spec = ModelSpec(name="a", network="a", scale=2, colour=colour, halo=None)
    return same(trace(module.eval(), spec), sizes=sizes)


# ---- transposed convolutions


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


# ---- skips and copies


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


# ---- shifts and factors

MEAN = np.reshape([0.4488, 0.4371, 0.4040], (1, 3, 1, 1))
PADDED = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
BARE = {"kernel_shape": [3, 3]}
LARGE = [(8, 8), (7, 11), (6, 5)]


def test_mean_shift_and_value_range() -> None:
    """(x - mean) * 255 at entry, / 255 + mean at the end: all but the shift before a border."""
    nodes = [
        ("Sub", ["x", "mean"], ["a"], {}),
        ("Mul", ["a", "range"], ["b"], {}),
        ("Conv", ["b", "w", "bias"], ["c"], PADDED),
        ("Div", ["c", "range"], ["d"], {}),
        ("Add", ["d", "mean"], ["y"], {}),
    ]
    constants = {"mean": MEAN, "range": 255.0, "w": weights(3, 3, 3, 3), "bias": weights(3)}
    kinds, applied = same(graph(nodes, constants))
    assert kinds == ["Sub", "Conv"]
    assert Counter(applied) == {"fold factor": 2, "fold shift": 1}


@pytest.mark.parametrize(("op", "shift"), [("Sub", MEAN), ("Add", 0.5)])
def test_a_shift_before_a_convolution_folds_only_without_border(op: str, shift) -> None:
    constants = {"m": shift, "w": weights(4, 3, 3, 3), "b": weights(4)}
    nodes = [(op, ["x", "m"], ["a"], {}), ("Conv", ["a", "w", "b"], ["y"], PADDED)]
    stays(graph(nodes, constants))
    nodes = [nodes[0], ("Conv", ["a", "w", "b"], ["y"], BARE)]
    assert same(graph(nodes, constants), sizes=LARGE) == (["Conv"], ["fold shift"])


def test_a_shift_that_is_read_elsewhere_stays() -> None:
    nodes = [
        ("Sub", ["x", "m"], ["a"], {}),
        ("Conv", ["a", "w"], ["c"], {"kernel_shape": [1, 1]}),
        ("Mul", ["a", "c"], ["y"], {}),
    ]
    stays(graph(nodes, {"m": MEAN, "w": weights(3, 3, 1, 1)}))


def test_constants_minus_or_divided_by_x_stay() -> None:
    for op in ("Sub", "Div"):
        nodes = [
            ("Conv", ["x", "w"], ["c"], {"kernel_shape": [1, 1]}),
            ("Exp", ["c"], ["e"], {}),
            (op, ["m", "e"], ["y"], {}),
        ]
        stays(graph(nodes, {"m": MEAN, "w": weights(3, 3, 1, 1)}))


def test_a_factor_goes_through_relu_only_when_positive() -> None:
    for activation, factor, left in (
        (("Relu", [], {}), 2.0, ["Conv", "Relu"]),
        (("LeakyRelu", [], {"alpha": 0.1}), 0.5, ["Conv", "LeakyRelu"]),
        (("PRelu", ["slope"], {}), 0.5, ["Conv", "PRelu"]),
        (("Relu", [], {}), -2.0, ["Conv", "Relu", "Mul"]),
        (("Tanh", [], {}), 2.0, ["Conv", "Tanh", "Mul"]),
    ):
        op, more, attributes = activation
        nodes = [
            ("Conv", ["x", "w", "b"], ["c"], PADDED),
            (op, ["c", *more], ["r"], attributes),
            ("Mul", ["k", "r"], ["y"], {}),
        ]
        constants = {"w": weights(4, 3, 3, 3), "b": weights(4), "k": factor}
        if more:
            constants["slope"] = np.reshape([0.1, 0.2, 0.3, 1.5], (4, 1, 1))
        assert same(graph(nodes, constants))[0] == left


def test_a_factor_of_features_goes_into_the_next_convolutions() -> None:
    nodes = [
        ("Tanh", ["x"], ["t"], {}),
        ("Div", ["t", "k"], ["a"], {}),
        ("Conv", ["a", "w"], ["c"], PADDED),
        ("Conv", ["a", "v"], ["d"], {**PADDED, "group": 3}),
        ("Add", ["c", "d"], ["y"], {}),
    ]
    constants = {"k": MEAN, "w": weights(6, 3, 3, 3), "v": weights(6, 1, 3, 3)}
    assert same(graph(nodes, constants)) == (["Tanh", "Conv", "Conv", "Add"], ["fold factor"])


def test_weights_that_two_convolutions_share_are_not_spoiled() -> None:
    nodes = [
        ("Conv", ["x", "w"], ["a"], PADDED),
        ("Mul", ["a", "k"], ["b"], {}),
        ("Tanh", ["b"], ["t"], {}),
        ("Conv", ["t", "w"], ["y"], PADDED),
    ]
    assert same(graph(nodes, {"w": weights(3, 3, 3, 3), "k": 3.0}))[0] == ["Conv", "Tanh", "Conv"]


def test_a_factor_through_a_sum_needs_both_sides() -> None:
    nodes = [
        ("Conv", ["x", "w"], ["a"], PADDED),
        ("Conv", ["x", "v"], ["b"], {"kernel_shape": [1, 1]}),
        ("Add", ["a", "b"], ["s"], {}),
        ("Mul", ["s", "k"], ["y"], {}),
    ]
    constants = {"w": weights(3, 3, 3, 3), "v": weights(3, 3, 1, 1), "k": MEAN}
    assert same(graph(nodes, constants))[0] == ["Conv", "Conv", "Add"]
    stays(graph([nodes[0], ("Add", ["a", "x"], ["s"], {}), nodes[3]], constants))


# ---- convolutions that follow each other


def two(first: tuple[int, ...], second: tuple[int, ...], pads: tuple[int, int], bias: bool, **more):
    shapes = (first, second)
    names = [["w0"], ["w1", "b1"]] if not bias else [["w0", "b0"], ["w1", "b1"]]
    nodes = [
        ("Conv", ["x", *names[0]], ["a"], {"kernel_shape": first[2:], "pads": [pads[0]] * 4}),
        (
            "Conv",
            ["a", *names[1]],
            ["y"],
            {"kernel_shape": second[2:], "pads": [pads[1]] * 4, **more},
        ),
    ]
    constants = {f"w{i}": weights(*shape) for i, shape in enumerate(shapes)}
    constants |= {f"b{i}": weights(shape[0]) for i, shape in enumerate(shapes)}
    if not bias:
        del constants["b0"]
    return graph(nodes, constants)


@pytest.mark.parametrize(
    ("first", "second", "pads", "bias"),
    [
        ((8, 3, 3, 3), (4, 8, 1, 1), (1, 0), True),  # 3x3, 1x1: borders and bias do not matter
        ((8, 3, 5, 5), (8, 8, 1, 1), (0, 0), True),
        ((16, 3, 1, 1), (4, 16, 3, 3), (0, 1), False),  # 1x1 without bias, padded 3x3
        ((16, 3, 1, 1), (4, 16, 3, 3), (0, 0), True),  # with bias, but nothing padded
        ((16, 3, 1, 1), (4, 16, 1, 1), (0, 0), True),
    ],
)
def test_two_linear_convolutions_become_one(first, second, pads, bias) -> None:
    assert same(two(first, second, pads, bias), sizes=LARGE) == (["Conv"], ["merge convs"])


def test_a_stride_counts_what_the_first_computes_in_vain() -> None:
    assert same(two((8, 3, 1, 1), (9, 8, 3, 3), (0, 1), False, strides=[2, 2]))[0] == ["Conv"]


@pytest.mark.parametrize(
    ("first", "second", "pads", "bias"),
    [
        ((16, 3, 1, 1), (4, 16, 3, 3), (0, 1), True),  # the border is 0, not the bias
        ((1, 3, 1, 1), (64, 1, 1, 1), (0, 0), True),  # a narrow waist
        ((8, 3, 3, 3), (64, 8, 1, 1), (1, 0), True),  # more multiplications
        ((8, 3, 3, 3), (4, 8, 3, 3), (1, 1), False),  # two borders
        ((8, 3, 3, 3), (4, 8, 1, 1), (1, 1), True),  # a padded 1x1
    ],
)
def test_other_pairs_stay(first, second, pads, bias) -> None:
    stays(two(first, second, pads, bias))


def test_a_pair_with_another_reader_stays() -> None:
    nodes = [
        ("Conv", ["x", "w"], ["a"], PADDED),
        ("Conv", ["a", "v"], ["b"], {"kernel_shape": [1, 1]}),
        ("Mul", ["a", "b"], ["y"], {}),
    ]
    stays(graph(nodes, {"w": weights(8, 3, 3, 3), "v": weights(8, 8, 1, 1)}))
    nodes[2] = ("Identity", ["b"], ["y"], {})
    kinds, _ = same(
        graph(nodes[:2], {"w": weights(8, 3, 3, 3), "v": weights(8, 8, 1, 1)}, outputs=("a", "b"))
    )
    assert kinds == ["Conv", "Conv"]


def test_depthwise_pairs() -> None:
    """1x1 then depthwise 3x3 (BSConv) would become a dense 3x3; two depthwise become one."""
    one = {"kernel_shape": [1, 1]}
    nodes = [
        ("Conv", ["x", "w"], ["a"], one),
        ("Conv", ["a", "v"], ["y"], {**PADDED, "group": 16}),
    ]
    stays(graph(nodes, {"w": weights(16, 3, 1, 1), "v": weights(16, 1, 3, 3)}))
    nodes = [
        ("Conv", ["x", "v", "b"], ["a"], {**PADDED, "group": 3}),
        ("Conv", ["a", "w", "b"], ["y"], {**one, "group": 3}),
    ]
    constants = {"w": weights(3, 1, 1, 1), "v": weights(3, 1, 3, 3), "b": weights(3)}
    result, _ = rewrite(graph(nodes, constants))
    assert same(graph(nodes, constants))[0] == ["Conv"]
    assert helper.get_node_attr_value(result.graph.node[0], "group") == 3


# ---- the last layer, slopes, nodes that do nothing


def tail(channels: int, *, skip: bool, scale: int = 2, static: tuple[int, int] | None = None):
    nodes = [
        ("Conv", ["x", "w0"], ["f"], PADDED),
        ("Relu", ["f"], ["g"], {}),
        ("Conv", ["g", "w", "b"], ["c"], PADDED),
        *([("Add", ["c", "x"], ["s"], {})] if skip else []),
        ("DepthToSpace", ["s" if skip else "c"], ["y"], {"blocksize": scale, "mode": "CRD"}),
    ]
    model = graph(
        nodes,
        {
            "w0": weights(channels, 1, 3, 3),
            "w": weights(scale**2, channels, 3, 3),
            "b": weights(scale**2),
        },
        channels=1,
    )
    if static:
        for dim, size in zip(
            model.graph.input[0].type.tensor_type.shape.dim, (2, 1, *static), strict=True
        ):
            dim.dim_value = size
    return model


def test_the_last_layer_of_a_luma_network_at_x2() -> None:
    kinds, applied = same(tail(16, skip=False))
    assert kinds == ["Conv", "Relu", "Conv", "DepthToSpace", "Shape", "Mul", "Slice"]
    assert applied == ["block tail"]


def test_a_fixed_even_size_needs_no_crop() -> None:
    kinds, _ = same(tail(16, skip=False, static=(6, 8)), sizes=[(6, 8)])
    assert kinds == ["Conv", "Relu", "Conv", "DepthToSpace"]
    kinds, _ = same(tail(16, skip=False, static=(6, 7)), sizes=[(6, 7)])
    assert kinds[-1] == "Slice"


def test_a_last_layer_that_fills_its_vectors_stays() -> None:
    stays(tail(16, skip=True, scale=4))
    stays(tail(16, skip=False, scale=3))
    stays(tail(16, skip=True))  # the skip would have to be blocked too
    stays(tail(2, skip=False))  # too little work for a copy of the picture


def test_slopes() -> None:
    for slopes, kind in (([0.2] * 4, "LeakyRelu"), ([0.0] * 4, "Relu"), ([0.2, 0.3] * 2, "PRelu")):
        nodes = [("Conv", ["x", "w"], ["c"], PADDED), ("PRelu", ["c", "s"], ["y"], {})]
        constants = {"w": weights(4, 3, 3, 3), "s": np.reshape(slopes, (1, 4, 1, 1))}
        assert same(graph(nodes, constants))[0] == ["Conv", kind]


def test_nodes_that_do_nothing() -> None:
    nodes = [
        ("Identity", ["x"], ["a"], {}),
        ("Mul", ["a", "one"], ["b"], {}),
        ("Add", ["b", "zeros"], ["c"], {}),
        ("Expand", ["c", "ones"], ["d"], {}),
        ("Tile", ["d", "ones"], ["e"], {}),
        ("Pad", ["e", "none"], ["f"], {}),
        ("Concat", ["f"], ["g"], {"axis": 1}),
        ("Tanh", ["g"], ["h"], {}),
        ("Exp", ["g"], ["unread"], {}),
        ("Identity", ["h"], ["y"], {}),
    ]
    constants = {
        "one": 1.0,
        "zeros": np.zeros((1, 3, 1, 1)),
        "ones": [1, 1, 1, 1],
        "none": [0] * 8,
    }
    kinds, applied = same(graph(nodes, constants))
    assert kinds == ["Tanh"]
    assert set(applied) == {"drop"}


def test_an_input_that_is_an_output_stays_one() -> None:
    assert same(graph([("Identity", ["x"], ["y"], {})], {})) == (["Identity"], [])


def test_a_one_that_widens_is_no_neutral_factor() -> None:
    """A broadcast by constants of more channels than the picture has."""
    stays(graph([("Mul", ["x", "k"], ["y"], {})], {"k": np.ones((1, 3, 1, 1))}, channels=1))


# ---- whole networks


def test_every_network_in_a_small_size() -> None:
    """Rewritten graphs of random networks give what torch gives: see test_export for the rest."""
    from small_networks import SMALL

    seen: Counter[str] = Counter()
    for name in ("fsrcnn", "ecbsr-m4c16-rgb", "srvgg-16", "lapsrn", "edsr", "sesr-m5", "abpn"):
        torch.manual_seed(0)
        from edgesr.networks import deployed

        module = deployed(SMALL[name](2))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        colour: Any = module.colour
        spec = ModelSpec(name=name, network=name, scale=2, colour=colour, halo=None)
        _, applied = same(trace(module, spec), sizes=[(16, 16), (9, 14)])
        seen.update(applied)
    assert seen.keys() == {
        *("convolve", "block tail", "crop", "nearest skip", "add repeated"),
        *("fold factor", "fold shift"),
    }
