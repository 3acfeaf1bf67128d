"""Graph rewrites: convolutions that follow each other, and the last layer of a luma network."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper
from rewriting import LARGE, PADDED, drawer, graph, same, stays

from edgesr.export.rewrite import rewrite

weights = drawer()


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


# ---- the last layer


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
