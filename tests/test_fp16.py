"""Typed fp16 graphs: valid, close to float32, and float where float16 cannot hold the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from photos import draw_photo

from edgesr import models
from edgesr.errors import ModelError
from edgesr.export.fp16 import overflowing, to_fp16
from edgesr.spec import METADATA_KEY, IoSpec, ModelSpec, StateSpec

Array = np.ndarray[Any, Any]

SHIPPED = Path(models.__file__).parent / "weights"
TOLERANCE = 2.5e-3


def run(graph: onnx.ModelProto, **feeds: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return [np.asarray(result) for result in session.run(None, feeds)]


def luma(height: int = 40, width: int = 52) -> Array:
    picture = draw_photo(3, height=height, width=width)[..., 1]
    return (picture[None, None] / np.float32(255)).astype(np.float32)


def graph_of(
    nodes: list[Any],
    constants: dict[str, Array],
    *,
    inputs: dict[str, int],
    outputs: dict[str, int],
    dtypes: dict[str, int] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """inputs, outputs: name -> channels, NCHW with dynamic N, H, W."""

    def value(name: str, channels: int) -> Any:
        dtype = (dtypes or {}).get(name, TensorProto.FLOAT)
        return helper.make_tensor_value_info(name, dtype, [None, channels, None, None])

    graph = helper.make_graph(
        nodes,
        "test",
        [value(*entry) for entry in inputs.items()],
        [value(*entry) for entry in outputs.items()],
        [numpy_helper.from_array(numbers, name) for name, numbers in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def types_of(graph: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.output)}
    return types | {v.name: v.type.tensor_type.elem_type for v in inferred.input}


@pytest.mark.parametrize("name", ["espcn-x2", "ecbsr-m4c16-x2", "ecbsr-m10c16-x4"])
@pytest.mark.parametrize("io", ["float32", "float16"])
def test_shipped_models_stay_close(name: str, io: Any) -> None:
    model = models.load_file(SHIPPED / f"{name}.onnx")
    graph = onnx.load(model.path)
    half = to_fp16(graph, model.spec, io=io)
    picture = luma()
    (expected,) = run(graph, x=picture)
    (got,) = run(half, x=picture.astype(io))
    assert got.dtype == io
    assert np.abs(expected - got.astype(np.float32)).max() < TOLERANCE
    facts = {p.key: p.value for p in half.metadata_props}
    facts_of = ModelSpec.from_json(facts[METADATA_KEY])
    assert (facts_of.precision, facts_of.io.dtype) == ("fp16", io), "as the graph's ends are"
    floats = [t.name for t in half.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert floats == []
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == (2 if io == "float32" else 0)
    assert half.opset_import[0].version == 17
    assert len(half.SerializeToString()) < 0.75 * model.path.stat().st_size


def test_the_graph_that_came_is_untouched() -> None:
    graph = onnx.load(SHIPPED / "espcn-x2.onnx")
    before = graph.SerializeToString(deterministic=True)
    to_fp16(graph, onnx_models.spec())
    assert graph.SerializeToString(deterministic=True) == before


def stateful() -> tuple[onnx.ModelProto, ModelSpec]:
    """y and the next state; the state that goes out is also read inside."""
    rng = np.random.default_rng(0)
    constants = {
        "w": (rng.standard_normal((4, 5, 3, 3)) * 0.1).astype("f4"),
        "v": (rng.standard_normal((1, 4, 3, 3)) * 0.1).astype("f4"),
        "roi": np.zeros(0, "f4"),
        "scales": np.array([1, 1, 2, 2], "f4"),
    }
    nodes = [
        helper.make_node("Concat", ["x", "s"], ["both"], axis=1),
        helper.make_node("Conv", ["both", "w"], ["s_out"], pads=[1] * 4),
        helper.make_node("Conv", ["s_out", "v"], ["small"], pads=[1] * 4),
        helper.make_node("Resize", ["small", "roi", "scales"], ["y"], mode="linear"),
    ]
    graph = graph_of(nodes, constants, inputs={"x": 1, "s": 4}, outputs={"y": 1, "s_out": 4})
    state = (StateSpec(name="s", shape=(None, 4, None, None)),)
    return graph, onnx_models.spec(state=state)


@pytest.mark.parametrize("io", ["float32", "float16"])
def test_an_output_that_is_read_inside(io: Any) -> None:
    graph, spec = stateful()
    half = to_fp16(graph, spec, io=io)
    feeds = {"x": luma(), "s": np.repeat(luma(), 4, axis=1)}
    expected = run(graph, **feeds)
    got = run(half, **{name: value.astype(io) for name, value in feeds.items()})
    for a, b in zip(expected, got, strict=True):
        assert b.dtype == io
        assert np.abs(a - b.astype(np.float32)).max() < TOLERANCE
    convs = [node for node in half.graph.node if node.op_type == "Conv"]
    assert {types_of(half)[node.output[0]] for node in convs} == {TensorProto.FLOAT16}
    resize = next(node for node in half.graph.node if node.op_type == "Resize")
    kinds = {t.name: t.data_type for t in half.graph.initializer}
    assert kinds[resize.input[2]] == TensorProto.FLOAT, "ONNX has the scales in float32 only"


def test_eight_bit_ends() -> None:
    constants = {
        "unit": np.float32(1 / 255),
        "peak": np.float32(255),
        "zero": np.float32(0),
        "w": np.full((1, 1, 3, 3), 1 / 9, "f4"),
    }
    nodes = [
        helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "unit"], ["u"]),
        helper.make_node("Conv", ["u", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Mul", ["c", "peak"], ["m"]),
        helper.make_node("Round", ["m"], ["r"]),
        helper.make_node("Clip", ["r", "zero", "peak"], ["k"]),
        helper.make_node("Cast", ["k"], ["y"], to=TensorProto.UINT8),
    ]
    kinds = {"x": TensorProto.UINT8, "y": TensorProto.UINT8}
    graph = graph_of(nodes, constants, inputs={"x": 1}, outputs={"y": 1}, dtypes=kinds)
    spec = onnx_models.spec(1, io=IoSpec(dtype="uint8", range=(0.0, 255.0)))
    half = to_fp16(graph, spec)
    picture = (luma() * 255).astype(np.uint8)
    (expected,), (got,) = run(graph, x=picture), run(half, x=picture)
    assert got.dtype == np.uint8
    assert np.abs(expected.astype(int) - got).max() <= 1
    assert len([node for node in half.graph.node if node.op_type == "Cast"]) == 2
    assert all(t.data_type == TensorProto.FLOAT16 for t in half.graph.initializer)


def test_sizes_are_not_counted_in_float16() -> None:
    """Shape -> float -> x2 -> integers: 2049 is no float16."""
    constants = {
        "two": np.array([1, 1, 2, 2], "f4"),
        "w": np.ones((1, 1, 1, 1), "f4"),
        "none": np.zeros(0, "f4"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Shape", ["c"], ["size"]),
        helper.make_node("Cast", ["size"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "two"], ["twice"]),
        helper.make_node("Cast", ["twice"], ["sizes"], to=TensorProto.INT64),
        helper.make_node("Resize", ["c", "none", "none", "sizes"], ["y"], mode="nearest"),
    ]
    graph = graph_of(nodes, constants, inputs={"x": 1}, outputs={"y": 1})
    half = to_fp16(graph, onnx_models.spec())
    (got,) = run(half, x=np.zeros((1, 1, 2, 2049), np.float32))
    assert got.shape == (1, 1, 4, 4098)


def test_constant_nodes_and_nameless_nodes() -> None:
    value = numpy_helper.from_array(np.float32(0.25))
    nodes = [
        helper.make_node("Constant", [], ["q"], value=value),
        helper.make_node("Constant", [], ["h"], value_float=0.5),
        helper.make_node("Mul", ["x", "q"], ["m"]),
        helper.make_node("Add", ["m", "h"], ["y"]),
    ]
    graph = graph_of(nodes, {}, inputs={"x": 1}, outputs={"y": 1})
    half = to_fp16(graph, onnx_models.spec(1))
    picture = luma()
    np.testing.assert_allclose(run(half, x=picture)[0], picture / 4 + 0.5, atol=1e-3)
    assert {t.data_type for t in half.graph.initializer} == {TensorProto.FLOAT16}
    assert all(node.name for node in half.graph.node)


def planted() -> onnx.ModelProto:
    """x * 3e4 * 40, then back: the middle leaves float16 where x > 0.055."""
    constants = {"a": np.float32(3e4), "b": np.float32(40), "c": np.float32(1 / 1024)}
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["p"], "large"),
        helper.make_node("Mul", ["p", "b"], ["q"], "beyond"),
        helper.make_node("Mul", ["q", "c"], ["r"], "back"),
        helper.make_node("Relu", ["r"], ["y"], "last"),
    ]
    return graph_of(nodes, constants, inputs={"x": 1}, outputs={"y": 1})


def test_what_overflows_is_named_and_kept() -> None:
    graph, spec, picture = planted(), onnx_models.spec(1), luma()
    keep = overflowing(graph, spec, [picture])
    assert keep == ["beyond", "back"], (
        "the node that makes such values, and the one that reads them"
    )
    half = to_fp16(graph, spec, keep_float=keep)
    types = types_of(half)
    by_name = {node.name: node for node in half.graph.node}
    assert types[by_name["beyond"].output[0]] == TensorProto.FLOAT
    assert types[by_name["large"].output[0]] == TensorProto.FLOAT16
    assert types[by_name["last"].output[0]] == TensorProto.FLOAT16
    (expected,), (got,) = run(graph, x=picture), run(half, x=picture)
    np.testing.assert_allclose(got, expected, rtol=5e-3, atol=1e-3)
    assert overflowing(graph, spec, [picture * np.float32(0.02)]) == []


def test_what_underflows_is_named() -> None:
    constants = {"a": np.float32(1e-5), "b": np.float32(1e-3)}
    nodes = [
        helper.make_node("Mul", ["x", "a"], ["p"], "small"),
        helper.make_node("Mul", ["p", "b"], ["q"], "smaller"),
        helper.make_node("Div", ["q", "b"], ["r"], "up"),
        helper.make_node("Div", ["r", "a"], ["y"], "back"),
    ]
    graph = graph_of(nodes, constants, inputs={"x": 1}, outputs={"y": 1})
    assert overflowing(graph, onnx_models.spec(1), [luma()]) == ["smaller", "up"]


def test_state_is_zero_where_it_is_not_given() -> None:
    graph, spec = stateful()
    assert overflowing(graph, spec, [luma()]) == []
    huge = {"x": luma(), "s": np.full((1, 4, 40, 52), 1e6, np.float32)}
    assert "Concat_0" in overflowing(graph, spec, [huge])


def test_bounds_beyond_float16_are_bounds_still() -> None:
    constants = {"low": np.float32(0), "high": np.float32(3.4e38)}
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"], "clip")]
    graph = graph_of(nodes, constants, inputs={"x": 1}, outputs={"y": 1})
    spec, picture = onnx_models.spec(1), luma() - np.float32(0.5)
    assert overflowing(graph, spec, [picture]) == []
    half = to_fp16(graph, spec)
    assert all(np.isfinite(numpy_helper.to_array(t)).all() for t in half.graph.initializer)
    np.testing.assert_allclose(run(half, x=picture)[0], np.maximum(picture, 0), atol=1e-3)


def test_an_unknown_node_is_refused() -> None:
    graph = onnx.load(SHIPPED / "espcn-x2.onnx")
    with pytest.raises(ModelError, match="no node 'nope'"):
        to_fp16(graph, onnx_models.spec(), keep_float=["nope"])


def test_control_flow_is_refused() -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["z"])],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [None, 1, None, None])],
    )
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)]
    graph = graph_of(nodes, {"yes": np.array(True)}, inputs={"x": 1}, outputs={"y": 1})
    with pytest.raises(ModelError, match="onnxsim"):
        to_fp16(graph, onnx_models.spec(1))


def test_nothing_of_the_maker_is_left() -> None:
    graph = onnx.load(SHIPPED / "espcn-x2.onnx")
    graph.graph.node[0].metadata_props.add(key="stack", value="/home/somebody/net.py")
    graph.graph.node[0].doc_string = "/home/somebody/net.py"
    assert b"somebody" not in to_fp16(graph, onnx_models.spec()).SerializeToString()
