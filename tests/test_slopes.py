"""PRelu in other words is the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from onnx import numpy_helper

from edgesr.export.slopes import double_slopes, plain_slopes
from edgesr.export.typed import named

Array = np.ndarray[Any, Any]
SLOPES = np.linspace(-0.6, 1.4, 8, dtype=np.float32)


def graph_at(path: Path, slopes: Array = SLOPES) -> onnx.ModelProto:
    """Three Conv with PRelu of 8 channels, a fourth, a skip."""
    graph = named(onnx.load(onnx_models.convolutions(path)))
    for tensor in graph.graph.initializer:
        if tensor.name.startswith("s"):
            numbers = np.broadcast_to(slopes, 8).reshape(1, 8, 1, 1).astype("f4")
            tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
    return graph


def run(graph: onnx.ModelProto) -> Array:
    onnx.checker.check_model(graph, full_check=True)
    picture = np.random.default_rng(0).random((1, 1, 20, 24), dtype=np.float32)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": picture})[0])


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize("slopes", [SLOPES, np.float32([0.25]), np.float32([1.0])])
def test_plain_steps_are_the_same(tmp_path: Path, slopes: Array) -> None:
    graph = graph_at(tmp_path / "m.onnx", slopes)
    expected = run(graph)
    made = plain_slopes(graph)
    assert "PRelu" not in kinds(graph)
    assert ("Min" in kinds(graph)) == bool((slopes > 1).any())
    assert set(made) <= {node.name for node in graph.graph.node}
    np.testing.assert_allclose(run(graph), expected, atol=2e-6)


def test_doubled_channels_are_the_same(tmp_path: Path) -> None:
    graph = graph_at(tmp_path / "m.onnx")
    expected = run(graph)
    double_slopes(graph, keep_float=())
    assert kinds(graph).count("Relu") == 3
    assert "PRelu" not in kinds(graph)
    np.testing.assert_allclose(run(graph), expected, atol=2e-6)


def test_beside_a_float_layer_nothing_is_doubled(tmp_path: Path) -> None:
    graph = graph_at(tmp_path / "m.onnx")
    expected = run(graph)
    first = next(node.name for node in graph.graph.node if node.op_type == "Conv")
    double_slopes(graph, keep_float={first})
    assert kinds(graph).count("PRelu") == 1
    assert kinds(graph).count("Relu") == 2
    np.testing.assert_allclose(run(graph), expected, atol=2e-6)


def test_many_channels_and_shared_results_stay(tmp_path: Path) -> None:
    wide = named(onnx.load(onnx_models.convolutions(tmp_path / "w.onnx", width=24)))
    double_slopes(wide, keep_float=())
    assert kinds(wide).count("PRelu") == 3
    graph = graph_at(tmp_path / "m.onnx")
    graph.graph.output.append(
        onnx.helper.make_tensor_value_info("a0", onnx.TensorProto.FLOAT, [None, 8, None, None])
    )
    double_slopes(graph, keep_float=())
    assert kinds(graph).count("PRelu") == 1, "a0 leaves the graph"
