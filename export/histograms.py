"""How the values inside an INT8 graph lie in the ranges that they were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import numpy_helper

from edgesr.export.typed import session_for

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]

BINS = 16
PICTURES = 4
"""They show where values lie; more of them cost seconds in deep networks."""
TOGETHER = 24
"""Values asked for in one run: more of them hold too much memory."""


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """One value of the graph, over several pictures.

    low, high  the range that its 256 steps cover
    counts     how many numbers lie in each of `BINS` equal parts of it
    clipped    share of all numbers that lie half a step or more outside; none of them is counted
    """

    low: float
    high: float
    counts: tuple[int, ...]
    clipped: float


def histograms(
    graph: onnx.ModelProto, floats: onnx.ModelProto, pictures: Sequence[Array]
) -> dict[str, Histogram]:
    """One for each value of `floats` that `graph` quantises on the way, in running order.

    graph     with Q/DQ: its own scales are read, so this is what was written
    floats    the float32 graph that it was made from, whose numbers are counted: in `graph` the
              lower end of a range can be the ReLU, and what it cuts off is no loss
    pictures  (1, C, H, W) float32; up to `PICTURES` of them are looked at
    """
    spans = _spans(graph)
    entry = floats.graph.input[0].name
    inner = [name for node in floats.graph.node for name in node.output if name in spans]
    looked_at = pictures[:: -(-len(pictures) // PICTURES)] if pictures else []
    names = [name for name in (entry, *inner) if name in spans]
    totals = {name: _Total(*spans[name]) for name in names}
    for start in range(0, len(inner), TOGETHER):
        group = inner[start : start + TOGETHER]
        session = session_for(floats, group)
        for picture in looked_at:
            for name, numbers in zip(group, session.run(None, {entry: picture}), strict=True):
                totals[name].add(numbers)
    if entry in totals:
        for picture in looked_at:
            totals[entry].add(picture)
    return {name: total.histogram() for name, total in totals.items()}


def _spans(graph: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Value -> the smallest and largest number that its steps stand for."""
    constants = {tensor.name: tensor for tensor in graph.graph.initializer}
    spans = {}
    for node in graph.graph.node:
        if node.op_type != "QuantizeLinear" or node.input[0] in constants:
            continue
        scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        steps = np.iinfo(zero.dtype)
        low, high = ((float(end) - float(zero)) * float(scale) for end in (steps.min, steps.max))
        # Its input may be a cast by now; the node's name is still the value's in the float graph.
        spans[node.name.removesuffix("_QuantizeLinear") or node.input[0]] = (low, high)
    return spans


class _Total:
    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = low, high
        self._counts = np.zeros(BINS, np.int64)
        self._clipped = self._all = 0

    def add(self, numbers: Array) -> None:
        flat = numbers.ravel().astype(np.float32)
        half = (self._high - self._low) / 255 / 2  # what lies nearer is only rounded
        outside = (flat < self._low - half) | (flat > self._high + half)
        within = np.clip(flat[~outside], self._low, self._high)
        self._counts += np.histogram(within, bins=BINS, range=(self._low, self._high))[0]
        self._clipped += int(outside.sum())
        self._all += flat.size

    def histogram(self) -> Histogram:
        return Histogram(
            low=self._low,
            high=self._high,
            counts=tuple(int(count) for count in self._counts),
            clipped=self._clipped / max(self._all, 1),
        )
