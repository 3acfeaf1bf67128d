"""INT8 as explicit Q/DQ in the graph: one flavour for each runtime that reads it differently."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.version_converter
from onnx import numpy_helper

from edgesr.errors import ModelError, UsageError
from edgesr.export.calibrate import Calibration
from edgesr.export.fp16 import halve
from edgesr.export.rounding import MANY, refine, round_weights
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

__all__ = ["Flavour", "Method", "Scheme", "convolutions", "quantize"]

Array = np.ndarray[Any, Any]
Flavour = Literal["trt8", "trt", "ort", "openvino"]
Method = Literal["minmax", "entropy", "percentile"]

ENTROPY_BINS = 1024
"""Of the histograms; ranges of 1/8 of them and more are tried."""

FEW = 8
"""Pictures for histograms of a network of more than `MANY` layers: one of them takes seconds."""

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
    method      where the ranges of activations come from
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


def quantize(
    graph: onnx.ModelProto,
    spec: ModelSpec,
    calibration: Calibration,
    scheme: Scheme,
    *,
    ranges: dict[str, str] | None = None,
) -> onnx.ModelProto:
    """Q/DQ nodes by onnxruntime.quantization, ranges from `calibration`; float32 in and out.

    graph   the canonical float32 graph; stays untouched
    ranges  kept from call to call: graph, pictures and method -> what was found, and is not again

    Facts: precision "int8". Raises UsageError for a model with state or uint8 I/O, ModelError for
    an unknown node, or when nothing is left to quantise.
    """
    if spec.state:
        raise UsageError(f"{spec.name} keeps state between frames: INT8 is for single pictures")
    if spec.io.dtype != "float32":
        raise UsageError(f"{spec.name} takes 8-bit values: quantise the float32 file")
    made = named(graph)
    if scheme.flavour == "trt":
        # Not by the number alone: from 18 on the axes of ReduceMean are an input.
        made = named(onnx.version_converter.convert_version(made, 20))
    check_names(made, set(scheme.keep_float), spec=spec)
    lift_constants(made)
    left = [name for name in convolutions(made) if name not in scheme.keep_float]
    if not left:
        raise ModelError(f"{spec.name}: no convolution is left to be quantised")
    exclude = set(scheme.keep_float)
    if scheme.flavour == "ort":
        double_slopes(made, keep_float=scheme.keep_float)
        exclude |= {*plain_slopes(made), *tail(made)}
    quantised = _static(
        made, calibration, scheme, exclude=exclude, kept={} if ranges is None else ranges
    )
    if scheme.flavour == "trt":
        halve_scales(quantised)
    if scheme.rounding == "seen":
        refine(quantised, made, calibration.pictures)
    elif scheme.flavour == "trt":
        round_weights(quantised, made)
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
    graph: onnx.ModelProto,
    calibration: Calibration,
    scheme: Scheme,
    *,
    exclude: set[str],
    kept: dict[str, str],
) -> onnx.ModelProto:
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
    symmetric = scheme.flavour in ("trt8", "trt")
    extra: dict[str, Any] = {"CalibPercentile": scheme.percentile}
    if symmetric:
        extra |= {"ActivationSymmetric": True, "WeightSymmetric": True}
    if scheme.flavour != "ort":  # Q/DQ in front of a Conv only, its bias a float
        every = sorted({node.op_type for node in graph.graph.node})
        extra |= {"QuantizeBias": False, "OpTypesToExcludeOutputQuantization": every}
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(graph.SerializeToString())
        operators = None if scheme.flavour == "ort" else ["Conv"]
        cache = Path(folder, "ranges.json")
        key = range_key(source.read_bytes(), calibration, scheme)
        if key in kept:
            cache.write_text(kept[key])
        else:
            _find_ranges(graph, source, cache, calibration, scheme, operators)
            kept[key] = cache.read_text()
        quantize_static(
            source,
            target,
            _Reader(graph, ()),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=operators,
            calibration_cache_path=cache,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(exclude),
            calibrate_method=methods[scheme.method],
            extra_options=extra,
        )
        return onnx.load(target)


def range_key(graph: bytes, calibration: Calibration, scheme: Scheme) -> str:
    """Ranges hang on the float graph, not on what of it will be quantised."""
    parts = (calibration.digest, len(calibration.pictures), scheme.method, scheme.percentile)
    kind = scheme.flavour == "ort"  # the others look at inputs of Conv alone
    return hashlib.sha256(graph + repr((*parts, kind)).encode()).hexdigest()


def _find_ranges(
    graph: onnx.ModelProto,
    source: Path,
    cache: Path,
    calibration: Calibration,
    scheme: Scheme,
    operators: list[str] | None,
) -> None:
    """Ranges into a file that `quantize_static` reads, one picture in memory at a time.

    Left alone it keeps every value of every picture until the end, takes ranges of percentiles as
    if values were as often negative, and counts for entropy in as many bins as it has steps, so
    that only the whole range is tried: its entropy is min/max (onnxruntime 1.31).
    """
    from onnxruntime.quantization.calibrate import (
        CalibrationMethod,
        create_calibrator,
        save_tensors_data,
    )

    methods = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "entropy": (
            CalibrationMethod.Entropy,
            {"num_bins": ENTROPY_BINS, "num_quantized_bins": 128},
        ),
        "percentile": (
            CalibrationMethod.Percentile,
            {"percentile": scheme.percentile, "symmetric": scheme.flavour in ("trt8", "trt")},
        ),
    }
    method, extra = methods[scheme.method]
    calibrator = create_calibrator(
        source,
        operators,
        augmented_model_path=str(cache.with_name("augmented.onnx")),
        calibrate_method=method,
        extra_options=extra,
    )
    pictures = calibration.pictures
    if scheme.method != "minmax" and len(convolutions(graph)) > MANY:
        pictures = pictures[:: -(-len(pictures) // FEW)]
    for picture in pictures:
        calibrator.collect_data(_Reader(graph, (picture,)))
    save_tensors_data(calibrator.compute_data(), cache)


class _Reader:
    """onnxruntime.quantization.CalibrationDataReader by its two methods."""

    def __init__(self, graph: onnx.ModelProto, pictures: tuple[Array, ...]) -> None:
        held = {tensor.name for tensor in graph.graph.initializer}
        self._name = next(v.name for v in graph.graph.input if v.name not in held)
        self._pictures = iter(pictures)

    def get_next(self) -> dict[str, Array] | None:
        picture = next(self._pictures, None)
        return None if picture is None else {self._name: picture}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
