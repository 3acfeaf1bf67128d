"""What fp16 and INT8 files share: node names, types of values, schemas, facts and the last check.

No torch: everything here works on the canonical float32 graph, whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgesr.errors import ModelError
from edgesr.export.tidy import strip
from edgesr.spec import METADATA_KEY, ModelSpec

FLOAT = TensorProto.FLOAT
HALF = TensorProto.FLOAT16
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def named(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own; names that are there stay."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name += "_"
        node.name = name
        taken.add(name)
    return copy


def convolutions(graph: onnx.ModelProto) -> list[str]:
    """Names of the Conv, ConvTranspose, Gemm and MatMul nodes in running order.

    Nodes without a name are called as `named` calls them; `keep_float` takes these names.
    """
    return [node.name for node in named(graph).graph.node if node.op_type in WEIGHTED]


def check_names(graph: onnx.ModelProto, names: set[str], *, spec: ModelSpec) -> None:
    """Raises ModelError when one of `names` is no node of `graph`."""
    unknown = sorted(names - {node.name for node in graph.graph.node})
    if unknown:
        known = ", ".join(convolutions(graph))
        raise ModelError(f"{spec.name} has no node {unknown[0]!r}: its convolutions are {known}")


def element_types(graph: onnx.ModelProto, *, spec: ModelSpec) -> dict[str, int]:
    """Element type of every value by name. Raises ModelError where one cannot be told."""
    try:
        inferred = onnx.shape_inference.infer_shapes(graph, data_prop=True).graph
    except Exception as error:  # its own error class derives from several
        reason = " ".join(str(error).split())
        raise ModelError(f"{spec.name}: the types in the graph do not fit: {reason}") from error
    types = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
    for node in graph.graph.node:
        if any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            raise ModelError(
                f"{spec.name} has a {node.op_type} node with a graph inside ({node.name!r}): "
                "simplify it first, for example with `onnxsim in.onnx out.onnx`"
            )
        for name in node.output:
            if name and name not in types:
                raise ModelError(
                    f"{spec.name}: the type of {name!r}, made by {node.op_type}, cannot be told"
                )
    return types


def lift_constants(graph: onnx.ModelProto) -> None:
    """Constant nodes become initializers."""
    kept = []
    for node in graph.graph.node:
        if node.op_type != "Constant" or node.domain:
            kept.append(node)
            continue
        tensor = _constant(node)
        tensor.name = node.output[0]
        graph.graph.initializer.append(tensor)
    del graph.graph.node[:]
    graph.graph.node.extend(kept)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    entry = node.attribute[0]
    tensor = onnx.TensorProto()
    match entry.name:
        case "value":
            tensor.CopyFrom(entry.t)
        case "value_float" | "value_floats":
            value = entry.f if entry.name == "value_float" else list(entry.floats)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32)))
        case "value_int" | "value_ints":
            number = entry.i if entry.name == "value_int" else list(entry.ints)
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(number, np.int64)))
        case _:
            raise ModelError(f"a Constant with {entry.name} is not supported")
    return tensor


def slots(node: onnx.NodeProto, *, outputs: bool, opset: int) -> Iterator[tuple[int, bool]]:
    """(index, whether it may be float16) of each input or output of a node, by the ONNX schema.

    None of them where the operator is not one of ONNX itself.
    """
    names = node.output if outputs else node.input
    schema = None
    if not node.domain:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset)
        except onnx.defs.SchemaError:
            schema = None
    if schema is None:
        yield from ((index, False) for index in range(len(names)))
        return
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    formal = schema.outputs if outputs else schema.inputs
    for index in range(len(names)):
        parameter = formal[min(index, len(formal) - 1)]  # the last one may be variadic
        types = allowed.get(parameter.type_str, {parameter.type_str})
        yield index, "tensor(float16)" in types


def opset_of(graph: onnx.ModelProto) -> int:
    return next(entry.version for entry in graph.opset_import if not entry.domain)


def finish(graph: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Facts in; traces of the maker, of paths and of stale shapes out; checked in full.

    Raises ModelError when the graph is not valid.
    """
    del graph.graph.value_info[:]
    strip(graph)
    onnx.helper.set_model_props(graph, {METADATA_KEY: spec.to_json()})
    try:
        onnx.checker.check_model(graph, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{spec.name} as {spec.precision} is no valid graph: {reason}") from error
    return graph


def session_for(graph: onnx.ModelProto, names: Sequence[str]) -> Any:
    """An ONNX Runtime session that gives the float values `names`, nothing fused or left out."""
    import onnxruntime

    asked = onnx.ModelProto()
    asked.CopyFrom(graph)
    del asked.graph.output[:]
    asked.graph.output.extend(helper.make_tensor_value_info(n, FLOAT, None) for n in names)
    needed, nodes = set(names), []
    for node in reversed(asked.graph.node):
        if needed & {*node.output}:
            needed.update(node.input)
            nodes.append(node)
    del asked.graph.node[:]
    asked.graph.node.extend(nodes[::-1])
    weights = [tensor for tensor in asked.graph.initializer if tensor.name in needed]
    del asked.graph.initializer[:]
    asked.graph.initializer.extend(weights)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        asked.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
