"""Typed fp16 graph: precision lives in the graph, so TensorRT 8 to 11 and others read the same.

A pass of our own: onnxconverter_common writes an invalid model where a graph output is also used
inside (the state of temporal networks), and `model.half()` needs the torch network, which a foreign
.onnx does not have.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgesr.export.typed import (
    FLOAT,
    HALF,
    check_names,
    element_types,
    finish,
    lift_constants,
    named,
    opset_of,
    session_for,
    slots,
)
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]

LARGEST = 65504.0
"""Largest finite float16."""

SMALLEST = 2.0**-20
"""float16 goes in steps of 2**-24 here: what is smaller has fewer than four bits left."""


def to_fp16(
    graph: onnx.ModelProto,
    spec: ModelSpec,
    *,
    io: Literal["float32", "float16"] = "float32",
    keep_float: Collection[str] = (),
) -> onnx.ModelProto:
    """The same network with float16 weights and results.

    graph       float32 or uint8 I/O, any opset; stays untouched
    io          dtype of float inputs and outputs (frames and state); "float32" puts a Cast at each
    keep_float  names of nodes that stay float32, see `overflowing`

    An input that ONNX allows in float32 only (scales of Resize, of Q/DQ below opset 19) stays so.
    Facts: precision "fp16", and `io` where the ends were float32. Raises ModelError for an unknown
    name, or a graph whose types cannot be told.
    """
    made = named(graph)
    check_names(made, set(keep_float), spec=spec)
    halve(made, spec, io=io, keep_float=keep_float)
    ends = spec.io if spec.io.dtype == "uint8" else replace(spec.io, dtype=io)
    return finish(made, spec.replace(precision="fp16", io=ends))


def halve(
    graph: onnx.ModelProto,
    spec: ModelSpec,
    *,
    io: Literal["float32", "float16"],
    keep_float: Collection[str],
) -> None:
    """`to_fp16` in place, without facts and check."""
    lift_constants(graph)
    _Halver(graph, spec, ends=HALF if io == "float16" else FLOAT, keep_float=keep_float).run()


class _Halver:
    """One graph while its floats become float16."""

    def __init__(
        self, graph: onnx.ModelProto, spec: ModelSpec, *, ends: int, keep_float: Collection[str]
    ) -> None:
        self.graph = graph.graph
        self.opset = opset_of(graph)
        self.ends = ends
        self.types = element_types(graph, spec=spec)
        self.weights = {tensor.name: tensor for tensor in self.graph.initializer}
        self.keep = {*keep_float, *_sizes(graph), *_coordinates(graph)}
        self.copies: dict[tuple[str, int], str] = {}  # (value, type) -> its name in that type
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.names = {*self.types}

    def run(self) -> None:
        for value in self.graph.input:
            if self._is_float(value.name) and value.name not in self.weights:
                value.type.tensor_type.elem_type = self.ends
                self.copies[value.name, self.ends] = value.name
        outputs = set()
        for value in self.graph.output:
            if self._is_float(value.name):
                value.type.tensor_type.elem_type = self.ends
                outputs.add(value.name)
        for node in self.graph.node:
            self._convert(node, outputs)
        used = {name for node in self.nodes for name in node.input}
        used |= {value.name for value in self.graph.output}
        kept = [tensor for tensor in self.weights.values() if not self._is_float(tensor.name)]
        kept = [tensor for tensor in kept if tensor.name in used] + self.constants
        del self.graph.initializer[:], self.graph.node[:]
        self.graph.initializer.extend(kept)
        self.graph.node.extend(self.nodes)

    def _is_float(self, name: str) -> bool:
        return self.types.get(name) == FLOAT

    def _convert(self, node: onnx.NodeProto, outputs: set[str]) -> None:
        new = onnx.NodeProto()
        new.CopyFrom(node)
        stays = node.name in self.keep
        for index, able in slots(node, outputs=False, opset=self.opset):
            if self._is_float(node.input[index]):
                wanted = HALF if able and not stays else FLOAT
                new.input[index] = self._as(node.input[index], wanted)
        self.nodes.append(new)
        halved = False
        for index, able in slots(node, outputs=True, opset=self.opset):
            name = node.output[index]
            if not name or not self._is_float(name):
                continue
            made = HALF if able and not stays else FLOAT
            halved |= made == HALF
            self.copies[name, made] = name
            if name in outputs and made != self.ends:
                inner = self._fresh(name, made)
                new.output[index] = self.copies[name, made] = inner
                self.copies[name, self.ends] = name
                self._cast(inner, name, self.ends)
        if halved:
            _retype(new)

    def _as(self, name: str, wanted: int) -> str:
        """The name under which the float value `name` is to be had as `wanted`."""
        if (name, wanted) in self.copies:
            return self.copies[name, wanted]
        other = self.copies.get((name, FLOAT if wanted == HALF else HALF))
        if name in self.weights:
            made = name if other is None else self._fresh(name, wanted)
            numbers = numpy_helper.to_array(self.weights[name])
            if wanted == HALF:  # the bounds of a Clip lie beyond it
                numbers = np.clip(numbers, -LARGEST, LARGEST).astype(np.float16)
            self.constants.append(numpy_helper.from_array(numbers, made))
        else:
            assert other is not None, f"{name} is used before it is made"
            made = self._fresh(name, wanted)
            self._cast(other, made, wanted)
        self.copies[name, wanted] = made
        return made

    def _cast(self, source: str, made: str, to: int) -> None:
        self.nodes.append(helper.make_node("Cast", [source], [made], f"{made}_cast", to=to))

    def _fresh(self, name: str, type: int) -> str:
        made = f"{name}_half" if type == HALF else f"{name}_float"
        while made in self.names:
            made += "_"
        self.names.add(made)
        return made


def _retype(node: onnx.NodeProto) -> None:
    """Attributes that say float32, of a node whose result becomes float16."""
    for entry in node.attribute:
        if entry.name in ("to", "dtype") and entry.i == FLOAT:
            entry.i = HALF
        elif node.op_type == "ConstantOfShape" and entry.t.data_type == FLOAT:
            numbers = numpy_helper.to_array(entry.t)
            entry.t.CopyFrom(numpy_helper.from_array(numbers.astype(np.float16), entry.t.name))


def _sizes(graph: onnx.ModelProto) -> set[str]:
    """Nodes that compute sizes: float16 counts only to 2048."""
    known = {tensor.name for tensor in graph.graph.initializer} | {""}
    sizes: set[str] = set()
    found = set()
    for node in graph.graph.node:
        inputs = set(node.input)
        if node.op_type in ("Shape", "Size"):
            sizes.update(node.output)
        elif inputs & sizes and inputs <= known | sizes:
            sizes.update(node.output)
            found.add(node.name)
    return found


_MOVES = {"Add", "Sub", "Mul", "Div", "Concat", "Transpose", "Slice", "Unsqueeze", "Squeeze"}
_MOVES |= {"Reshape", "Cast", "Expand", "Tile", "Clip", "Identity"}


def _coordinates(graph: onnx.ModelProto) -> set[str]:
    """GridSample and what its grid is put together from: in float16 it is off by 0.1 pixel."""
    makers = {name: node for node in graph.graph.node for name in node.output}
    found = set()
    for node in graph.graph.node:
        if node.op_type != "GridSample":
            continue
        found.add(node.name)
        waiting = [node.input[1]]
        while waiting:
            maker = makers.get(waiting.pop())
            if maker is not None and maker.op_type in _MOVES and maker.name not in found:
                found.add(maker.name)
                waiting += maker.input
    return found


def overflowing(
    graph: onnx.ModelProto, spec: ModelSpec, inputs: Sequence[Array | dict[str, Array]]
) -> list[str]:
    """Names of nodes that must stay float32, in running order: for `to_fp16(keep_float=)`.

    A node is named when one of its results (or constants) leaves +-65504 on `inputs`, when it
    reads such a result, or when a result is so small throughout that float16 has no digits for it.

    inputs  pictures (N, C, H, W) for the first input, of its dtype, or dictionaries by name;
            inputs that are not given (state) are zeros
    """
    made = named(graph)
    lift_constants(made)
    types = element_types(made, spec=spec)
    peaks = _peaks(made, inputs, [name for node in made.graph.node for name in node.output], types)
    for tensor in made.graph.initializer:
        if tensor.data_type == FLOAT:
            peaks[tensor.name] = _peak(numpy_helper.to_array(tensor))
    sizes = _sizes(made)
    bounds = {name for n in made.graph.node if n.op_type == "Clip" for name in n.input[1:]}
    found = []
    for node in made.graph.node:
        values = [
            peaks.get(name, 0.0) for name in (*node.input, *node.output) if name not in bounds
        ]
        beyond = any(not value <= LARGEST or 0 < value < SMALLEST for value in values)
        if beyond and node.name not in sizes:
            found.append(node.name)
    return found


def _peak(numbers: Array) -> float:
    return float(np.abs(numbers).max()) if numbers.size else 0.0


TOGETHER = 24
"""Results asked for in one run: more of them hold too much memory."""


def _peaks(
    graph: onnx.ModelProto,
    inputs: Sequence[Array | dict[str, Array]],
    values: Sequence[str],
    types: dict[str, int],
) -> dict[str, float]:
    """Largest absolute value of each float value over the inputs; NaN stays NaN."""
    wanted = [name for name in values if name and types.get(name) == FLOAT]
    peaks = dict.fromkeys(wanted, 0.0)
    for start in range(0, len(wanted), TOGETHER):
        names = wanted[start : start + TOGETHER]
        session = session_for(graph, names)
        for given in inputs:
            results = session.run(names, _feeds(session, given))
            for name, result in zip(names, results, strict=True):
                peaks[name] = float(np.maximum(peaks[name], _peak(result)))
    return peaks


def _feeds(session: Any, given: Array | dict[str, Array]) -> dict[str, Array]:
    entries = session.get_inputs()
    feeds = dict(given) if isinstance(given, dict) else {entries[0].name: given}
    n, _, height, width = next(iter(feeds.values())).shape
    for entry in entries:
        if entry.name not in feeds:
            channels = entry.shape[1]
            feeds[entry.name] = np.zeros((n, channels, height, width), np.float32)
    return feeds
