"""Which layers lose most by quantisation: an estimate from one float run, no graph is quantised.

For each convolution the noise of 8-bit inputs and weights by the power of its output. Input noise
is the step of the tensor's range on every channel, so one channel that is a hundred times larger
than the others drowns them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What is kept in float together. noise: estimated, by the power of the output."""

    label: str
    nodes: frozenset[str]
    noise: float


def _some(names: Sequence[str]) -> str:
    """For a column that is read: networks with attention have dozens behind one layer."""
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def units(
    graph: onnx.ModelProto, nodes: Sequence[str], pictures: Sequence[Array], *, outputs: bool
) -> list[Unit]:
    """Each convolution, noisiest first.

    nodes     names of the convolutions
    pictures  (1, C, H, W) float32, few
    outputs   the flavour quantises what a convolution gives as well: then a second unit for each,
              with all that stands between it and the convolutions before, and these
    """
    from onnx import numpy_helper as helper

    from edgesr.export.typed import lift_constants, named

    graph = named(graph)
    lift_constants(graph)
    weights = {tensor.name: helper.to_array(tensor) for tensor in graph.graph.initializer}
    by_name = {node.name: node for node in graph.graph.node}
    made_by = {name: node for node in graph.graph.node for name in node.output}
    powers, spans = _activations(graph, [by_name[n].input[0] for n in nodes], pictures)
    found = []
    for name in nodes:
        node = by_name[name]
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        noise = _noise(node.op_type, weight, powers[node.input[0]], spans[node.input[0]])
        alone = Unit(label=name, nodes=frozenset({name}), noise=noise)
        found.append(alone)
        before = _back_to(node, made_by, frozenset(nodes))
        if outputs and before:
            label = f"{_some([n for n in nodes if n in before])} to {name}"
            found.append(Unit(label=label, nodes=alone.nodes | before, noise=noise))
    return sorted(found, key=lambda unit: -unit.noise)


def _activations(
    graph: onnx.ModelProto, names: Sequence[str], pictures: Sequence[Array]
) -> tuple[dict[str, Array], dict[str, float]]:
    """Of tensors: mean square of each channel, and width of the range."""
    import onnx
    import onnxruntime

    tapped = onnx.ModelProto()
    tapped.CopyFrom(graph)
    entry = graph.graph.input[0].name
    wanted = list(dict.fromkeys(name for name in names if name != entry))
    there = {value.name for value in tapped.graph.output}
    for name in wanted:
        if name not in there:
            tapped.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    powers: dict[str, list[Array]] = {name: [] for name in (entry, *wanted)}
    ends: dict[str, list[float]] = {name: [0.0] for name in powers}
    for picture in pictures:
        values = dict(zip(wanted, session.run(wanted, {entry: picture}), strict=True))
        for name, value in {entry: picture, **values}.items():
            axes = tuple(axis for axis in range(value.ndim) if axis != 1)
            powers[name].append(np.mean(np.square(value, dtype=np.float64), axis=axes))
            ends[name] += [float(value.min()), float(value.max())]
    return (
        {name: np.mean(taken, axis=0) for name, taken in powers.items()},
        {name: max(taken) - min(taken) for name, taken in ends.items()},
    )


def _noise(op: str, weight: Array | None, power: Array, span: float) -> float:
    """Noise of 8-bit inputs and weights by the power of the output, every channel on its own."""
    if op != "Conv" or weight is None or weight.ndim != 4:
        return 0.0
    out, inner = weight.shape[:2]
    taps = np.square(weight, dtype=np.float64).reshape(out, inner, -1).sum(axis=2)  # (out, in)
    # In groups each output sees `inner` of the inputs: these, in turn.
    groups = len(power) // inner
    inputs = power.reshape(groups, inner).repeat(out // groups, axis=0)  # (out, in)
    signal = (taps * inputs).sum(axis=1)
    step = span / 255.0
    largest = np.abs(weight).reshape(out, -1).max(axis=1) / 127.0
    area = float(np.prod(weight.shape[2:]))
    noise = taps.sum(axis=1) * step**2 / 12.0
    noise += inputs.sum(axis=1) * area * np.square(largest, dtype=np.float64) / 12.0
    return float(noise.sum() / max(float(signal.sum()), 1e-30))


def _back_to(node: Any, made_by: dict[str, Any], stops: frozenset[str]) -> frozenset[str]:
    """Names of nodes behind a node's first input, up to and with the convolutions in `stops`."""
    found: set[str] = set()
    open_ends = [node.input[0]]
    while open_ends:
        before = made_by.get(open_ends.pop())
        if before is None or before.name in found:
            continue
        found.add(before.name)
        if before.name not in stops:
            open_ends += [name for name in before.input if name]
    return frozenset(found) if found & stops else frozenset()


def behind(graph: onnx.ModelProto, name: str) -> frozenset[str]:
    """Names of all nodes that a node's result reaches: behind the last convolution, the tail."""
    from edgesr.export.typed import named

    reached: set[str] = set()
    found: set[str] = set()
    for node in named(graph).graph.node:  # in running order
        if node.name == name:
            reached |= set(node.output)
        elif reached & set(node.input):
            reached |= set(node.output)
            found.add(node.name)
    return frozenset(found)
