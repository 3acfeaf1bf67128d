"""INT8 as explicit Q/DQ in the graph: one flavour for each runtime that reads it differently."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from edgesr.errors import ModelError, UsageError
from edgesr.export.calibrate import Calibration
from edgesr.export.fp16 import halve
from edgesr.export.quiet import quiet
from edgesr.export.ranges import SYMMETRIC, OnNote, Reader, ranges_of
from edgesr.export.rounding import Target, refine, round_weights
from edgesr.export.slopes import double_slopes, plain_slopes
from edgesr.export.typed import (
    WEIGHTED,
    check_names,
    convolutions,
    finish,
    lift_constants,
    named,
)
from edgesr.spec import ModelSpec

__all__ = ["METHODS", "Flavour", "Method", "Scheme", "Seen", "convolutions", "quantize"]

Array = np.ndarray[Any, Any]
Flavour = Literal["trt8", "trt", "ort", "openvino"]
Method = Literal["minmax", "entropy", "percentile"]
METHODS: tuple[Method, ...] = get_args(Method)

SMALLEST_SCALE = 2.0**-14
"""Of a float16 scale: smaller ones lose digits."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How to quantise.

    flavour     trt8: opset 17, symmetric int8 with float32 scales on inputs and weights of Conv,
                no bias quantisation, the rest float32; trt: the same at opset 20 with float16
                scales, the rest float16; ort: asymmetric uint8 activations, int8 weights, all
                operators up to the last convolution, int32 bias, no PRelu; openvino: uint8
                inputs of Conv, int8 weights, float bias and the rest, which its CPU fuses
    method      where the ranges of activations come from: minmax clips nothing; percentile clips
                the outermost values; entropy clips where that changes their distribution least,
                which is made for classifiers: here it is 13 to 16 dB further from float32
    percentile  for method "percentile": how much of the values lies inside the range
    keep_float  names of nodes that are not quantised, see `convolutions`
    rounding    of weights: by what the layer sees, with the bias corrected (`export/rounding.py`),
                or each to its nearest step, which is quick and loses up to 2 dB more
    """

    flavour: Flavour = "ort"
    method: Method = "minmax"
    percentile: float = 99.99
    keep_float: frozenset[str] = frozenset()
    rounding: Literal["seen", "nearest"] = "seen"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was found out about float graphs: kept from call to call, for all flavours.

    ranges   graph, pictures and method -> ranges of its values, as onnxruntime keeps them
    targets  see `edgesr.export.rounding.refine`
    """

    ranges: dict[str, str] = field(default_factory=dict)
    targets: dict[tuple[str, str], Target] = field(default_factory=dict)


def quantize(
    graph: onnx.ModelProto,
    spec: ModelSpec,
    calibration: Calibration,
    scheme: Scheme,
    *,
    seen: Seen | None = None,
    on_note: OnNote = lambda line: None,
) -> onnx.ModelProto:
    """Q/DQ nodes by onnxruntime.quantization, ranges from `calibration`; float32 in and out.

    graph    the canonical float32 graph; stays untouched
    seen     what earlier calls found out, and this one adds to
    on_note  called with a line for each picture that is looked at

    Facts: precision "int8". Raises UsageError for a model with state or uint8 I/O, ModelError for
    an unknown node, or when nothing is left to quantise.
    """
    if spec.state:
        raise UsageError(f"{spec.name} keeps state between frames: INT8 is for single pictures")
    if spec.io.dtype != "float32":
        raise UsageError(f"{spec.name} takes {spec.io.dtype}: quantise the float32 file")
    seen = seen or Seen()
    floats = named(graph)
    check_names(floats, set(scheme.keep_float), spec=spec)
    made = floats
    if scheme.flavour == "trt":
        # Not by the number alone: from 18 on the axes of ReduceMean are an input.
        made = named(onnx.version_converter.convert_version(floats, 20))
        lift_constants(made)
    lift_constants(floats)
    left = [name for name in convolutions(floats) if name not in scheme.keep_float]
    if not left:
        raise ModelError(f"{spec.name}: no convolution is left to be quantised")
    exclude = set(scheme.keep_float)
    if scheme.flavour == "ort":
        if any(node.op_type == "PRelu" for node in floats.graph.node):
            double_slopes(floats, keep_float=scheme.keep_float)
            exclude |= {*plain_slopes(floats)}
        exclude |= {*tail(floats)}
    ranges = ranges_of(floats, calibration, scheme, kept=seen.ranges, on_note=on_note)
    quantised = _static(made, scheme, exclude=exclude, ranges=ranges)
    if scheme.flavour == "trt":
        halve_scales(quantised)
    if scheme.rounding == "seen":
        pictures = calibration.pictures
        refine(quantised, floats, pictures, targets=seen.targets, on_note=on_note)
    elif scheme.flavour == "trt":
        round_weights(quantised, floats)
    if scheme.flavour == "trt":
        quantised.ir_version = 9
        halve(quantised, spec, io="float32", keep_float=())
    return finish(quantised, spec.replace(precision="int8"))


def tail(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes with no convolution behind them: the sum with the input, the clamp.

    Nothing is gained by INT8 there, and what they give is the picture itself.
    """
    before: set[str] = set()  # values from which a convolution follows
    found = []
    for node in reversed(graph.graph.node):
        if node.op_type in WEIGHTED or before & {*node.output}:
            before.update(node.input)
        else:
            found.append(node.name)
    return found[::-1]


def halve_scales(graph: onnx.ModelProto) -> None:
    """Scales that float16 can hold exactly; the weights are rounded anew by `refine`."""
    pairs = ("QuantizeLinear", "DequantizeLinear")
    scales = {node.input[1] for node in graph.graph.node if node.op_type in pairs}
    for tensor in graph.graph.initializer:
        if tensor.name in scales:
            numbers = numpy_helper.to_array(tensor)
            held = np.clip(numbers, SMALLEST_SCALE, None).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(held, tensor.name))


def _static(
    graph: onnx.ModelProto, scheme: Scheme, *, exclude: set[str], ranges: str
) -> onnx.ModelProto:
    """Q/DQ in the graph by the ranges of its values."""
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    symmetric = scheme.flavour in SYMMETRIC
    extra: dict[str, Any] = {"CalibPercentile": scheme.percentile}
    if symmetric:
        extra |= {"ActivationSymmetric": True, "WeightSymmetric": True}
    if scheme.flavour != "ort":  # Q/DQ in front of a Conv only, its bias a float
        every = sorted({node.op_type for node in graph.graph.node})
        extra |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": every}
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(graph.SerializeToString())
        cache = Path(folder, "ranges.json")
        cache.write_text(ranges)
        quantize_static(
            source,
            target,
            Reader(graph, ()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if scheme.flavour == "ort" else ["Conv"],
            calibration_cache_path=cache,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(exclude),
            calibrate_method=methods[scheme.method],
            extra_options=extra,
        )
        return onnx.load(target)
