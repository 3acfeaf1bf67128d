"""A foreign .onnx -> a canonical graph: float32, opset 17, `x` to `y`, compared with the file."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper, version_converter

from edgesr.errors import ModelError
from edgesr.export.opset import OPSET, lowered
from edgesr.export.rewrite import rewrite
from edgesr.export.tidy import IR_VERSION, TOLERANCE, ParityError, strip, tidy
from edgesr.export.verify import Difference, check_inputs, compare
from edgesr.foreign import Found, measure, name_of, probe
from edgesr.spec import IoSpec, ModelSpec

Array = np.ndarray[Any, Any]

HALF_TOLERANCE = 2e-2
"""Of a file in float16, whose own rounding is the larger part."""

QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger"}


@dataclass(frozen=True, kw_only=True)
class Adopted:
    graph: onnx.ModelProto
    spec: ModelSpec
    difference: Difference
    notes: tuple[str, ...]


def adopt(original: onnx.ModelProto, path: Path) -> Adopted:
    """The canonical graph of a file without edgesr facts; they are probed.

    original  what lies in `path`, weights included

    Raises ModelError for what cannot be one, ParityError when it came out different.
    """
    check(original, path)
    graph = onnx.ModelProto()
    graph.CopyFrom(original)
    notes = []
    halves = widen_halves(graph)
    if halves:
        notes.append(f"{path.name} is float16: its weights become float32")
    graph = plain(graph)
    if (opset := opset_of(original)) != OPSET:
        graph = brought(graph, opset, path)
        notes.append(f"{path.name} is of opset {opset}: it becomes {OPSET}")
    found = probed(graph) if halves else probe(path)
    notes.insert(0, found.describe(path).partition("; `edgesr export")[0])
    spec = found.spec(name_of(path, found.scale)).replace(io=IoSpec())
    rename(graph)
    free(graph, spec)
    if found.white != 1:
        rescale(graph, found.white)
        notes.append(f"{path.name} is for 0..{found.white}: scaling from 0..1 and back is inside")
    strip(graph)
    graph, _ = rewrite(graph)
    graph = tidy(graph, spec)
    difference = distance(original, graph, spec, white=found.white)
    limit = HALF_TOLERANCE if halves else TOLERANCE
    if not difference.within(limit):
        raise ParityError(
            f"{path}: what was made of it differs from it: {difference}, allowed {limit:g}"
        )
    return Adopted(graph=graph, spec=spec, difference=difference, notes=tuple(notes))


def check(graph: onnx.ModelProto, path: Path) -> None:
    """Raises ModelError for operators that no other runtime has, and for what is quantised."""
    kinds = {(node.domain, node.op_type) for node in graph.graph.node}
    local = {(function.domain, function.name) for function in graph.functions}
    custom = sorted(kind for kind in kinds - local if kind[0] not in ("", "ai.onnx"))
    if custom:
        names = ", ".join(f"{domain}.{op}" for domain, op in custom)
        raise ModelError(f"{path} uses operators beyond ONNX itself, {names}: export it without")
    if QUANTISED & {op for _, op in kinds}:
        raise ModelError(f"{path} is quantised already: give the float model it was made from")


def plain(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Functions inlined, weights that old exporters list as inputs no inputs, one opset."""
    if graph.functions:
        graph = inliner.inline_local_functions(graph)
    inner = graph.graph
    weights = {tensor.name for tensor in inner.initializer}
    inputs = [value for value in inner.input if value.name not in weights]
    del inner.input[:]
    inner.input.extend(inputs)
    del inner.value_info[:]
    del graph.metadata_props[:]
    for node in inner.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    kept = onnx.OperatorSetIdProto(domain="", version=opset_of(graph))
    del graph.opset_import[:]
    graph.opset_import.append(kept)
    graph.ir_version = IR_VERSION
    lift_constants(inner)
    model = ir.from_proto(graph)
    model.graph.sort()  # some converters leave a node behind the one that reads it
    return ir.to_proto(model)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Constant nodes become initializers, where the rewrites look for weights."""
    kept = []
    for node in graph.node:
        value = next((a for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and value is not None and value.type == AttributeProto.TENSOR:
            tensor = graph.initializer.add()
            tensor.CopyFrom(value.t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def opset_of(graph: onnx.ModelProto) -> int:
    return next((i.version for i in graph.opset_import if i.domain in ("", "ai.onnx")), 1)


def brought(graph: onnx.ModelProto, opset: int, path: Path) -> onnx.ModelProto:
    """At opset 17, from below or from above."""
    try:
        if opset > OPSET + 1:
            graph = version_converter.convert_version(graph, OPSET + 1)
        if opset > OPSET:
            return lowered(graph)
        return version_converter.convert_version(graph, OPSET)
    except Exception as error:  # RuntimeError and a private ConvertError
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} is of opset {opset} and cannot be brought to {OPSET} ({reason}): "
            f"export it anew with opset_version={OPSET}"
        ) from error


def widen_halves(graph: onnx.ModelProto) -> bool:
    """Every float16 becomes float32; whether there was any."""
    found = False
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT

    def widen(tensor: TensorProto) -> None:
        nonlocal found
        if tensor.data_type == half:
            found = True
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    for part in _graphs(graph.graph):
        for tensor in part.initializer:
            widen(tensor)
        for value in (*part.input, *part.output, *part.value_info):
            if value.type.tensor_type.elem_type == half:
                found = True
                value.type.tensor_type.elem_type = single
        for node in part.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    widen(attribute.t)
                elif attribute.name in ("to", "dtype") and attribute.i == half:
                    attribute.i = single
    return found


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def probed(graph: onnx.ModelProto) -> Found:
    """The facts of a graph that lies in no file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "graph.onnx")
        path.write_bytes(graph.SerializeToString())
        return measure(path)


def rename(graph: onnx.ModelProto) -> None:
    """The input becomes `x`, the output `y`; an inner value of that name makes room."""
    inner = graph.graph
    old = {inner.input[0].name: "x", inner.output[0].name: "y"}
    names = {name for node in inner.node for name in (*node.input, *node.output)}
    names |= {tensor.name for tensor in inner.initializer}
    for name in ("x", "y"):
        if name in names and name not in old:
            old[name] = next(f for i in range(len(names) + 1) if (f := f"{name}_{i}") not in names)
    for node in inner.node:
        node.input[:] = [old.get(name, name) for name in node.input]
        node.output[:] = [old.get(name, name) for name in node.output]
    for value in (*inner.input, *inner.output, *inner.initializer):
        value.name = old.get(value.name, value.name)


def free(graph: onnx.ModelProto, spec: ModelSpec) -> None:
    """Declare what is true: any batch where that works, any height and width unless fixed."""
    inner, s, c = graph.graph, spec.scale, spec.channels
    size = spec.fixed_size or ("h", "w")
    large = [side * s if isinstance(side, int) else f"{s}*{side}" for side in size]
    for count in ("n", 1):
        for value, shape in (
            (inner.input[0], [count, c, *size]),
            (inner.output[0], [count, c, *large]),
        ):
            value.CopyFrom(helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape))
        if count == "n" and takes_batches(graph, spec):
            return


def takes_batches(graph: onnx.ModelProto, spec: ModelSpec) -> bool:
    """Whether two pictures at once come out as one by one; sizes may be written into the graph."""
    side = -(-max(16, spec.min_size) // spec.multiple) * spec.multiple
    size = spec.fixed_size or (side, side)
    pair = np.random.default_rng(0).random((2, spec.channels, *size), dtype=np.float32)
    run = runner(graph)
    with contextlib.suppress(Exception):  # its exception classes are private
        together = run(pair)
        if together.shape[0] == 2:
            apart = np.concatenate([run(pair[:1]), run(pair[1:])])
            return bool(np.abs(together - apart).max() <= TOLERANCE)
    return False


def rescale(graph: onnx.ModelProto, white: int) -> None:
    """From 0..1 to 0..white in front, and back behind."""
    inner = graph.graph
    for node in inner.node:
        node.input[:] = ["x_scaled" if name == "x" else name for name in node.input]
        node.output[:] = ["y_scaled" if name == "y" else name for name in node.output]
    for name, value in (("x_factor", white), ("y_factor", 1 / white)):
        inner.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    inner.node.insert(0, helper.make_node("Mul", ["x", "x_factor"], ["x_scaled"], name="scale_x"))
    inner.node.append(helper.make_node("Mul", ["y_scaled", "y_factor"], ["y"], name="scale_y"))


def distance(
    original: onnx.ModelProto, graph: onnx.ModelProto, spec: ModelSpec, *, white: int
) -> Difference:
    """Between the file, as it was, and what was made of it, in ONNX Runtime."""
    elem = original.graph.input[0].type.tensor_type.elem_type
    dtype = np.float16 if elem == TensorProto.FLOAT16 else np.float32
    theirs, ours = runner(original), runner(graph)

    def reference(picture: Array) -> Array:
        return theirs((picture * np.float32(white)).astype(dtype)).astype(np.float32) / white

    size = spec.fixed_size
    least = spec.min_size if size is None else max(size)
    inputs = check_inputs(channels=spec.channels, least=least, multiple=spec.multiple)
    if size is not None:
        inputs = [np.ascontiguousarray(picture[..., : size[0], : size[1]]) for picture in inputs]
    return compare(reference, ours, inputs)


def runner(graph: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda picture: np.asarray(session.run(None, {name: picture})[0])
