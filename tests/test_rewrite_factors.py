"""Graph rewrites: shifts, factors and slopes are folded, and nodes that do nothing go."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from rewriting import LARGE, PADDED, drawer, graph, same, stays

MEAN = np.reshape([0.4488, 0.4371, 0.4040], (1, 3, 1, 1))
BARE = {"kernel_shape": [3, 3]}

weights = drawer()


# ---- shifts and factors


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


# ---- slopes, nodes that do nothing


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
