"""INT8 weights rounded by what the layer sees, and biases corrected: no cost when it runs.

Rounding to nearest ignores that inputs are correlated: where a few channels carry the brightness of
the picture, its errors add up to a shift. Here each weight's error is made good by the weights of
the same filter that are still to be rounded (Frantar et al., GPTQ, arXiv 2210.17323), and what
remains of the mean goes into the bias (Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgesr.export.typed import session_for

Array = np.ndarray[Any, Any]

SAMPLES = 18000
"""Output pixels looked at for each layer, over all pictures."""

STEPS = 16
"""Most groups of layers that are rounded one after the other, each seeing the errors before it."""

MANY = 32
"""Layers above which fewer pictures are looked at, in fewer steps: 206 take 16 s of one core."""

DAMPING = 0.01
"""Of the mean of the covariance's diagonal, added to it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a float32 layer gives at the places looked at: mean (C,), and (H, W) of each picture."""

    mean: Array
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """A Conv with Q/DQ weights: names of its tensors in the Q/DQ graph, and of the bias."""

    node: onnx.NodeProto
    weight: str  # int8 initializer
    scale: str
    bias: str | None  # float initializer, or int32 with bias_scale
    bias_scale: str | None


def refine(
    quantised: onnx.ModelProto,
    original: onnx.ModelProto,
    pictures: Sequence[Array],
    *,
    targets: dict[tuple[str, str], Target] | None = None,
    on_note: Callable[[str], None] = lambda line: None,
) -> None:
    """Better weights and biases for the quantised Conv nodes of a Q/DQ graph, in place.

    original  the float32 graph with the same node names and float weights
    targets   kept from call to call: of which graph and pictures, and layer -> what it gives
    """
    targets = {} if targets is None else targets
    weights = {tensor.name: tensor for tensor in quantised.graph.initializer}
    floats = {tensor.name: tensor for tensor in original.graph.initializer}
    layers = _layers(quantised, weights)
    before = {node.name: node for node in original.graph.node}
    layers = [layer for layer in layers if before[layer.node.name].input[1] in floats]
    many = len(layers) > MANY
    some = _spread(pictures, 6 if many else 12)
    key = _digest(original, some)
    places = SAMPLES // len(some)
    steps = min(4 if many else STEPS, max(len(layers), 1))
    for step, group in enumerate(np.array_split(np.arange(len(layers)), steps), 1):
        members = [layers[index] for index in group]
        if not members:
            continue
        inputs = [layer.node.input[0] for layer in members]
        results = [before[layer.node.name].output[0] for layer in members]
        new = [name for name in dict.fromkeys(results) if (key, name) not in targets]
        for name, target in _targets(original, new, some, places=places).items():
            targets[key, name] = target
        names = list(dict.fromkeys(inputs))
        seen = session_for(quantised, names)
        moments = [_Moments() for _ in members]
        for number, picture in enumerate(some):
            on_note(f"weights {step} of {steps}, picture {number + 1} of {len(some)}")
            got = dict(
                zip(names, seen.run(names, {seen.get_inputs()[0].name: picture}), strict=True)
            )
            for moment, layer, source, result in zip(
                moments, members, inputs, results, strict=True
            ):
                kernel = list(weights[layer.weight].dims[2:])
                rows, columns = _chosen(targets[key, result].sizes[number], places, number)
                moment.add(_taps(layer.node, got[source], kernel, rows, columns))
        for moment, layer, result in zip(moments, members, results, strict=True):
            exact = numpy_helper.to_array(floats[before[layer.node.name].input[1]])
            _store(layer, exact, moment, targets[key, result].mean, weights)


def _digest(graph: onnx.ModelProto, pictures: Sequence[Array]) -> str:
    digest = hashlib.sha256(graph.SerializeToString(deterministic=True))
    for picture in pictures:
        digest.update(np.ascontiguousarray(picture).tobytes())
    return digest.hexdigest()


def _targets(
    graph: onnx.ModelProto, names: Sequence[str], pictures: Sequence[Array], *, places: int
) -> dict[str, Target]:
    """What the float32 layers that give `names` (1, C, H, W) should give."""
    if not names:
        return {}
    session = session_for(graph, names)
    sums: dict[str, Any] = dict.fromkeys(names, 0.0)
    counts = dict.fromkeys(names, 0)
    sizes: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    for number, picture in enumerate(pictures):
        values = session.run(names, {session.get_inputs()[0].name: picture})
        for name, value in zip(names, values, strict=True):
            rows, columns = _chosen(value.shape[2:], places, number)
            sums[name] = sums[name] + value[0][:, rows, columns].sum(axis=1, dtype=np.float64)
            counts[name] += len(rows)
            sizes[name].append(value.shape[2:])
    return {
        name: Target(mean=sums[name] / counts[name], sizes=tuple(sizes[name])) for name in names
    }


def round_weights(quantised: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Each weight to the nearest step of the scales as they are now, in place."""
    weights = {tensor.name: tensor for tensor in quantised.graph.initializer}
    floats = {tensor.name: tensor for tensor in original.graph.initializer}
    before = {node.name: node for node in original.graph.node}
    for layer in _layers(quantised, weights):
        exact = floats.get(before[layer.node.name].input[1])
        if exact is not None:
            numbers = numpy_helper.to_array(exact)
            scale = numpy_helper.to_array(weights[layer.scale])
            if scale.ndim:
                scale = scale.reshape(-1, *[1] * (numbers.ndim - 1))
            codes = np.clip(np.rint(numbers / scale), -127, 127).astype(np.int8)
            weights[layer.weight].CopyFrom(numpy_helper.from_array(codes, layer.weight))


def _spread(pictures: Sequence[Array], count: int) -> list[Array]:
    return [pictures[i] for i in np.unique(np.linspace(0, len(pictures) - 1, count).astype(int))]


def _layers(graph: onnx.ModelProto, weights: dict[str, onnx.TensorProto]) -> list[_Layer]:
    makers = {name: node for node in graph.graph.node for name in node.output}
    found = []
    for node in graph.graph.node:
        if node.op_type != "Conv" or _attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
            continue
        weight = makers.get(node.input[1])
        if weight is None or weight.op_type != "DequantizeLinear" or weight.input[0] not in weights:
            continue
        if len(weights[weight.input[0]].dims) != 4:
            continue
        bias, bias_scale = None, None
        if len(node.input) > 2 and node.input[2]:
            maker = makers.get(node.input[2])
            bias = node.input[2] if maker is None else maker.input[0]
            bias_scale = None if maker is None else maker.input[1]
        found.append(
            _Layer(
                node=node,
                weight=weight.input[0],
                scale=weight.input[1],
                bias=bias,
                bias_scale=bias_scale,
            )
        )
    return found


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


@dataclass
class _Moments:
    """Sums over samples: what the filters see (groups, taps), and its products.

    The samples themselves would be gigabytes for a network of 200 layers.
    """

    count: int = 0
    seen: Any = 0.0
    products: Any = 0.0

    def add(self, seen: Array) -> None:
        """seen (groups, taps, P)"""
        seen = seen.astype(np.float64)
        self.count += seen.shape[2]
        self.seen = self.seen + seen.sum(axis=2)
        self.products = self.products + seen @ seen.swapaxes(1, 2)

    def mean(self) -> Array:
        return np.asarray(self.seen / self.count)

    def covariance(self) -> Array:
        """(groups, taps, taps), about the mean: a shift is the bias's to correct."""
        mean = self.mean()
        return np.asarray(self.products / self.count - mean[:, :, None] * mean[:, None, :])


def _chosen(size: Sequence[int], places: int, seed: int) -> tuple[Array, Array]:
    """Rows and columns of some pixels of a picture (H, W)."""
    height, width = size
    count = min(places, height * width)
    chosen = np.random.default_rng(seed).choice(height * width, count, replace=False)
    return chosen // width, chosen % width


def _taps(
    node: onnx.NodeProto, source: Array, kernel: Sequence[int], rows: Array, columns: Array
) -> Array:
    """What filters see for some pixels of their result: (groups, taps, P)."""
    strides = _attribute(node, "strides", [1, 1])
    dilations = _attribute(node, "dilations", [1, 1])
    pads = _attribute(node, "pads", [0, 0, 0, 0])
    padded = np.pad(source[0], ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    taps = [
        padded[:, rows * strides[0] + y * dilations[0], columns * strides[1] + x * dilations[1]]
        for y in range(kernel[0])
        for x in range(kernel[1])
    ]
    seen = np.stack(taps, axis=1)  # (C, k*k, P)
    return seen.reshape(_attribute(node, "group", 1), -1, len(rows))


def _store(
    layer: _Layer,
    exact: Array,
    moments: _Moments,
    target: Array,
    weights: dict[str, onnx.TensorProto],
) -> None:
    out = exact.shape[0]
    scale = numpy_helper.to_array(weights[layer.scale]).astype(np.float64)
    scale = np.broadcast_to(scale.reshape(-1), (out,))
    mean, covariance = moments.mean(), moments.covariance()
    flat = exact.reshape(out, -1).astype(np.float64)
    codes = np.empty_like(flat)
    answers = np.empty(out)
    each = out // len(mean)
    for group in range(len(mean)):
        part = slice(group * each, (group + 1) * each)
        codes[part] = round_by(flat[part], scale[part], covariance[group])
        answers[part] = codes[part] * scale[part, None] @ mean[group]
    numbers = codes.reshape(exact.shape).astype(np.int8)
    weights[layer.weight].CopyFrom(numpy_helper.from_array(numbers, layer.weight))
    if layer.bias is None:
        return
    bias = target - answers
    if layer.bias_scale is None:
        made = bias.astype(np.float32)
    else:
        step = numpy_helper.to_array(weights[layer.bias_scale]).astype(np.float64)
        made = np.clip(np.rint(bias / step), -(2**31), 2**31 - 1).astype(np.int32)
    weights[layer.bias].CopyFrom(numpy_helper.from_array(made, layer.bias))


def round_by(exact: Array, scale: Array, covariance: Array) -> Array:
    """int8 codes (out, taps) whose filters err least on inputs of that covariance (taps, taps).

    exact  (out, taps) float weights; scale (out,)
    """
    level = np.trace(covariance) / len(covariance)
    if level <= 1e-12:
        return np.clip(np.rint(exact / scale[:, None]), -127, 127)
    damped = covariance + np.eye(len(covariance)) * (DAMPING * level)
    # The upper Cholesky factor of the inverse says how an error spreads to what is left.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    left = exact.copy()
    codes = np.empty_like(left)
    for tap in range(left.shape[1]):
        codes[:, tap] = np.clip(np.rint(left[:, tap] / scale), -127, 127)
        error = (left[:, tap] - codes[:, tap] * scale) / factor[tap, tap]
        left[:, tap:] -= error[:, None] * factor[tap, tap:]
    return codes
