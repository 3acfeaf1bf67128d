"""PRelu in other words, for the INT8 file of ONNX Runtime.

Its PRelu has neither an INT8 form nor a fast float one: with it INT8 ran slower than float32
(ecbsr-m4c16-x2, 640x360, one thread: 1.4 times the time of float32, without it 0.5 times).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]

FEW = 16
"""Most channels that are doubled: the layer behind them multiplies twice as much, or four times."""


def double_slopes(graph: onnx.ModelProto, *, keep_float: Collection[str]) -> None:
    """Conv, PRelu, Conv -> a Conv of 2C channels, Relu, Conv: max(x, 0) - a max(-x, 0). In place.

    Relu is part of the INT8 Conv in front of it, so the result is rounded once, not twice: 0.1 dB
    more on ecbsr-m4c16-x2 in the time of `plain_slopes`. Where the channels are few and none of
    these Conv nodes stays float.
    """
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    outputs = {value.name for value in graph.graph.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def own(node: onnx.NodeProto) -> bool:
        """An ungrouped Conv to be quantised, with weights of its own."""
        grouped = any(entry.name == "group" and entry.i != 1 for entry in node.attribute)
        alone = all(n in weights and len(users[n]) == 1 for n in node.input[1:] if n)
        return node.op_type == "Conv" and alone and not grouped and node.name not in keep_float

    for node in graph.graph.node:
        if node.op_type != "PRelu" or node.input[1] not in weights:
            continue
        conv, result = makers.get(node.input[0]), node.output[0]
        readers = users.get(result, [])
        if conv is None or not own(conv) or len(users[node.input[0]]) != 1:
            continue
        if {node.input[0], result} & outputs or not readers:
            continue
        if not all(own(reader) and reader.input[0] == result for reader in readers):
            continue
        count = weights[conv.input[1]].dims[0]
        slopes = numpy_helper.to_array(weights[node.input[1]])
        if count > FEW or slopes.size not in (1, count):
            continue
        for name in (n for n in conv.input[1:] if n):
            numbers = numpy_helper.to_array(weights[name])
            _put(weights[name], np.concatenate([numbers, -numbers]))
        each = np.broadcast_to(slopes.reshape(-1), (count,)).reshape(1, -1, 1, 1)
        for reader in readers:
            numbers = numpy_helper.to_array(weights[reader.input[1]])
            _put(weights[reader.input[1]], np.concatenate([numbers, -numbers * each], axis=1))
        node.op_type = "Relu"
        del node.input[1]
    del graph.graph.value_info[:]


def _put(tensor: onnx.TensorProto, numbers: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numbers.astype(np.float32), tensor.name))


def plain_slopes(graph: onnx.ModelProto) -> list[str]:
    """Every PRelu with known slopes a -> max(x, a x), or x + (a - 1) min(x, 0) where an a > 1.

    In place. Returns the names of the new nodes.
    """
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    taken = {node.name for node in graph.graph.node}
    nodes: list[onnx.NodeProto] = []
    made: list[str] = []
    for node in graph.graph.node:
        if node.op_type != "PRelu" or node.input[1] not in weights:
            nodes.append(node)
            continue
        source, slopes = node.input
        result = node.output[0]
        numbers = numpy_helper.to_array(weights[slopes])
        if (numbers <= 1).all():
            steps = [("Mul", [source, slopes], f"{result}_slope")]
            steps += [("Max", [source, f"{result}_slope"], result)]
        else:
            less, zero = f"{result}_less", f"{result}_zero"
            graph.graph.initializer.append(numpy_helper.from_array(numbers - 1, less))
            graph.graph.initializer.append(numpy_helper.from_array(np.zeros((), "f4"), zero))
            steps = [("Min", [source, zero], f"{result}_low")]
            steps += [("Mul", [f"{result}_low", less], f"{result}_slope")]
            steps += [("Add", [source, f"{result}_slope"], result)]
        for kind, inputs, output in steps:
            name = f"{node.name}_{kind.lower()}"
            while name in taken:
                name += "_"
            taken.add(name)
            nodes.append(helper.make_node(kind, inputs, [output], name))
            made.append(name)
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.graph.initializer if tensor.name in read]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)
    return made
