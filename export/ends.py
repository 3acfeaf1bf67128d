"""The two ends of a graph: 8-bit pictures in and out, and a size that is written into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgesr.errors import UsageError
from edgesr.export.typed import finish
from edgesr.runtime.backends import Size
from edgesr.spec import IoSpec, ModelSpec

BYTES = IoSpec(dtype="uint8", range=(0.0, 255.0))


def with_bytes(graph: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """uint8 in 0..255 at both ends: scaling, rounding (half to even) and clamping are inside.

    graph   float32 in and out, any precision between; stays untouched

    Raises UsageError for a model with state, whose state stays float.
    """
    if spec.state:
        raise UsageError(f"{spec.name} keeps state between frames: --io float32 is what it has")
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    inner = made.graph
    x, y = inner.input[0], inner.output[0]
    names = {name for node in inner.node for name in (*node.input, *node.output)}
    floats = {old: _fresh(f"{old}_float", names) for old in (x.name, y.name)}
    for node in inner.node:
        node.input[:] = [floats.get(name, name) for name in node.input]
        node.output[:] = [floats.get(name, name) for name in node.output]
    constants = {
        "byte_step": np.array(1 / 255, np.float32),
        "byte_white": np.array(255, np.float32),
        "byte_black": np.array(0, np.float32),
    }
    named = {old: _fresh(old, names) for old in constants}
    for old, value in constants.items():
        inner.initializer.append(numpy_helper.from_array(value, named[old]))
    step, white, black = named.values()
    inside = {n: _fresh(n, names) for n in ("bytes_in", "bytes_scaled", "bytes_even", "bytes_cut")}
    first, scaled, even, cut = inside.values()

    def step_of(kind: str, inputs: list[str], output: str, **more: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [output], name=f"{output}_node", **more)

    before = [
        step_of("Cast", [x.name], first, to=TensorProto.FLOAT),
        step_of("Mul", [first, step], floats[x.name]),
    ]
    after = [
        step_of("Mul", [floats[y.name], white], scaled),
        step_of("Round", [scaled], even),
        step_of("Clip", [even, black, white], cut),
        step_of("Cast", [cut], y.name, to=TensorProto.UINT8),
    ]
    middle = list(inner.node)
    del inner.node[:]
    inner.node.extend([*before, *middle, *after])
    for end in (x, y):
        end.type.tensor_type.elem_type = TensorProto.UINT8
    return finish(made, spec.replace(io=BYTES))


def of_size(graph: onnx.ModelProto, spec: ModelSpec, size: Size) -> onnx.ModelProto:
    """The same for one picture of one size, (H, W) in pixels; `spec.fixed_size` says so.

    graph   stays untouched

    Raises UsageError for a size that the model does not take.
    """
    check_size(spec, size)
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    for end, factor in ((made.graph.input[0], 1), (made.graph.output[0], spec.scale)):
        shape = [1, spec.channels, size[0] * factor, size[1] * factor]
        elem = end.type.tensor_type.elem_type
        end.CopyFrom(helper.make_tensor_value_info(end.name, elem, shape))
    return finish(made, spec.replace(fixed_size=size))


def check_size(spec: ModelSpec, size: Size) -> None:
    """Raises UsageError for a size (H, W) that the model does not take."""
    height, width = size
    asked = f"{width}x{height}"
    if spec.state:
        raise UsageError(f"{spec.name} keeps state between frames: it is exported for any size")
    if spec.fixed_size is not None and spec.fixed_size != size:
        one = f"{spec.fixed_size[1]}x{spec.fixed_size[0]}"
        raise UsageError(f"{spec.name} takes {one} (width x height) and no other size, not {asked}")
    if min(size) < spec.min_size or height % spec.multiple or width % spec.multiple:
        raise UsageError(
            f"{spec.name} takes widths and heights from {spec.min_size} up that are multiples of "
            f"{spec.multiple}, not {asked}"
        )


def _fresh(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    names.add(name)
    return name
