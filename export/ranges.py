"""Ranges of the values of a float graph, by onnxruntime's calibrators."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.export.quiet import quiet
from edgesr.export.rounding import MANY
from edgesr.export.typed import convolutions

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration
    from edgesr.export.quantize import Method, Scheme

Array = np.ndarray[Any, Any]
OnNote = Callable[[str], None]

ENTROPY_BINS = 1024
"""Of the histograms; ranges of 1/8 of them and more are tried."""

FEW = 8
"""Pictures for histograms of a network of more than `MANY` layers: one of them takes seconds."""

SYMMETRIC = ("trt8", "trt")
"""Flavours of symmetric activations."""


def ranges_of(
    graph: onnx.ModelProto,
    calibration: Calibration,
    scheme: Scheme,
    *,
    kept: dict[str, str],
    on_note: OnNote,
) -> str:
    """Ranges of the values of a float graph: new ones, or what is `kept` of these already.

    They hang on the graph, not on what of it will be quantised.
    """
    symmetric = scheme.method == "percentile" and scheme.flavour in SYMMETRIC
    of = (calibration.digest, len(calibration.pictures), scheme.method, scheme.percentile)
    whole = graph.SerializeToString(deterministic=True) + repr((*of, symmetric)).encode()
    every, inputs = (hashlib.sha256(whole + word).hexdigest() for word in (b" all", b" Conv"))
    wanted = (every,) if scheme.flavour == "ort" else (every, inputs)
    found = next((kept[key] for key in wanted if key in kept), None)
    if found is None:
        operators = None if scheme.flavour == "ort" else ["Conv"]
        found = _find_ranges(
            graph, calibration, scheme, operators, symmetric=symmetric, on_note=on_note
        )
        kept[wanted[-1]] = found
    return found


def _find_ranges(
    graph: onnx.ModelProto,
    calibration: Calibration,
    scheme: Scheme,
    operators: list[str] | None,
    *,
    symmetric: bool,
    on_note: OnNote,
) -> str:
    """Ranges as `quantize_static` reads them, one picture in memory at a time.

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
            {"percentile": scheme.percentile, "symmetric": symmetric},
        ),
    }
    method, extra = methods[scheme.method]
    pictures = pictures_for(graph, calibration, scheme.method)
    with tempfile.TemporaryDirectory() as folder:
        source, cache = Path(folder, "float.onnx"), Path(folder, "ranges.json")
        source.write_bytes(graph.SerializeToString())
        with quiet():
            calibrator = create_calibrator(
                source,
                operators,
                augmented_model_path=str(Path(folder, "augmented.onnx")),
                calibrate_method=method,
                extra_options=extra,
            )
        for number, picture in enumerate(pictures, 1):
            on_note(f"ranges, picture {number} of {len(pictures)}")
            with quiet():
                calibrator.collect_data(Reader(graph, (picture,)))
        with quiet():
            save_tensors_data(calibrator.compute_data(), cache)
        return cache.read_text()


def pictures_for(
    graph: onnx.ModelProto, calibration: Calibration, method: Method
) -> tuple[Array, ...]:
    """Those that ranges of a float graph are taken from."""
    pictures = calibration.pictures
    if method == "minmax" or len(convolutions(graph)) <= MANY:
        return pictures
    return pictures[:: -(-len(pictures) // FEW)]


class Reader:
    """onnxruntime.quantization.CalibrationDataReader by its two methods."""

    def __init__(self, graph: onnx.ModelProto, pictures: tuple[Array, ...]) -> None:
        held = {tensor.name for tensor in graph.graph.initializer}
        self._name = next(v.name for v in graph.graph.input if v.name not in held)
        self._pictures = iter(pictures)

    def get_next(self) -> dict[str, Array] | None:
        picture = next(self._pictures, None)
        return None if picture is None else {self._name: picture}
