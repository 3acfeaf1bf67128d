"""The opset of every deployable: 17, the newest that TensorRT 8.6 reads."""

from __future__ import annotations

import onnx
from onnx import numpy_helper

OPSET = 17

NEWER = {"Split": ("num_outputs",), "Resize": ("antialias", "keep_aspect_ratio_policy")}
"""Attributes that came with opset 18, which torch writes with their defaults."""


def lowered(graph: onnx.ModelProto) -> onnx.ModelProto:
    """As opset 17 where torch left it at 18: what its own converter does not bring down.

    Split has `num_outputs` and reductions take their axes as an input from 18 on; a Pad of all
    axes only looks newer. Anything else newer makes the checker refuse the graph in `tidy`.
    """
    constants = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    for node in graph.graph.node:
        reduces = node.op_type.startswith("Reduce") and node.op_type != "ReduceSum"
        newer = ("noop_with_empty_axes",) if reduces else NEWER.get(node.op_type, ())
        kept = [a for a in node.attribute if a.name not in newer]
        del node.attribute[:]
        node.attribute.extend(kept)
        if reduces and len(node.input) == 2 and node.input[1] in constants:
            values = [int(axis) for axis in constants[node.input.pop()]]
            node.attribute.append(onnx.helper.make_attribute("axes", values))
    for entry in graph.opset_import:
        if (entry.domain, entry.version) == ("", OPSET + 1):
            entry.version = OPSET
    return graph
