"""Does an engine compute what the float32 graph computes? And which layers to keep float if not.

The reference is ONNX Runtime on the CPU, so this is TensorRT against another program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import onnx

from edgesr.export.quality import as_fed
from edgesr.export.typed import lift_constants, named
from edgesr.export.verify import Difference, compare, read_photo
from edgesr.runtime.backends.engine_options import EngineOptions
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Largest mean and largest single distance, of the largest value or of 1."""

    mean: float
    single: float


# Between what rounding does (float16 about 3e-4, INT8 about 5e-3 in the mean) and what an overflow
# or a wrong layer does (0.1 and more, or NaN). The cost in dB is the gate's to judge.
LIMITS = {
    "fp32": Limit(mean=1e-4, single=2e-3),
    "fp16": Limit(mean=2e-3, single=5e-2),
    "int8": Limit(mean=2e-2, single=5e-1),
}


def near(difference: Difference, precision: str) -> bool:
    """Whether an engine of that precision may differ so; never true for NaN."""
    limit, scale = LIMITS[precision], max(1.0, difference.largest)
    return bool(
        difference.mean_abs <= limit.mean * scale and difference.max_abs <= limit.single * scale
    )


def parity_inputs(spec: ModelSpec, options: EngineOptions) -> list[Array]:
    """Noise and a photo in the smallest and the usual size of the engine: (1, C, H, W)."""
    random = np.random.default_rng(0)
    photo = read_photo()
    inputs: list[Array] = []
    for _, height, width in dict.fromkeys((options.least, options.usual)):
        inputs.append(random.random((1, spec.channels, height, width), dtype=np.float32))
        picture = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        planes = picture[:, :, : spec.channels].transpose(2, 0, 1).astype(np.float32) / 255.0
        inputs.append(np.ascontiguousarray(planes)[None])
    if spec.io.dtype == "uint8":
        inputs = [np.round(picture * 255.0).astype(np.uint8) for picture in inputs]
    return inputs


def parity(engine: Run, graph: onnx.ModelProto, inputs: Sequence[Array]) -> Difference:
    """Distance of the engine to the graph in ONNX Runtime, in units of 0..1 also for uint8.

    A graph of float16 ends is fed what a session makes of a float32 batch.
    """
    session = _session(graph)
    entry = session.get_inputs()[0]

    def unit(result: Array) -> Array:
        return result / 255.0 if result.dtype == np.uint8 else result

    return compare(
        lambda picture: unit(
            np.asarray(session.run(None, {entry.name: as_fed(picture, entry.type)})[0])
        ),
        lambda picture: unit(engine(picture)),
        inputs,
    )


def loudest(graph: onnx.ModelProto, inputs: Sequence[Array]) -> list[str]:
    """Names of the nodes by the largest value that they make, largest first.

    Half precision has its largest steps, and ends, where values are largest.
    """
    asked = named(graph)
    lift_constants(asked)
    makers = {name: node.name for node in asked.graph.node for name in node.output if name}
    floats = _float_values(asked)
    names = [name for name in makers if name in floats]
    del asked.graph.output[:]
    asked.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    session = _session(asked)
    source = session.get_inputs()[0].name
    peaks = dict.fromkeys(makers.values(), 0.0)
    for picture in inputs:
        for name, result in zip(names, session.run(names, {source: picture}), strict=True):
            if result.size:
                peaks[makers[name]] = max(peaks[makers[name]], float(np.abs(result).max()))
    order = sorted(peaks, key=lambda node: -peaks[node])
    return [node for node in order if peaks[node] > 0.0]


def _float_values(graph: onnx.ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {
        value.name
        for value in (*inferred.value_info, *inferred.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }


def _session(graph: onnx.ModelProto) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
