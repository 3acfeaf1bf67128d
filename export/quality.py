"""How far an output is from the float32 network's and from the truth: pairs in, decibels out.

Scores follow the published protocol (`edgesr.metrics`): 8-bit luma of the network, unrounded luma
of the truth, `scale` pixels cropped on each side, mean of the per-picture values. Numpy and ONNX
Runtime; no torch.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.errors import UsageError
from edgesr.metrics import crop_border, psnr, rgb_to_y, ssim
from edgesr.runtime.upscale import pad, padded
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]
"""(1, C, H, W) float32 in 0..1 -> (1, C, sH, sW) float32; sizes that the model takes."""
Pair = tuple[Array, Array]
"""LR (1, C, h, w) and truth (1, C, s*h, s*w), float32 in 0..1."""

ASSUMED_DB = 36.0
"""PSNR of the float32 network to the truth that `likely_drop` assumes where there is no truth."""
SAME_DB = 200.0
"""Stands for infinity, which JSON has not: outputs that are equal."""
SMALLEST = 11  # SSIM's window


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Mean over pairs. psnr_y in dB, ssim_y 0..1."""

    psnr_y: float
    ssim_y: float


@dataclass(frozen=True, kw_only=True)
class Distance:
    """Of an output to the float32 network's, not rounded: values in 0..1, psnr in dB."""

    max_abs: float
    mean_abs: float
    psnr: float


def by_graph(graph: onnx.ModelProto, *, threads: int = 0) -> Run:
    """A graph in ONNX Runtime on the CPU; 8-bit I/O is scaled around it. 0 threads: all cores.

    Raises whatever ONNX Runtime raises for a graph that it cannot load.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    entry = session.get_inputs()[0]

    def run(batch: Array) -> Array:
        if entry.type == "tensor(uint8)":
            return from_bytes(session.run(None, {entry.name: to_bytes(batch)})[0])
        fed = as_fed(batch, entry.type)
        return np.asarray(session.run(None, {entry.name: fed})[0]).astype(np.float32)

    return run


def as_fed(batch: Array, kind: str) -> Array:
    """What an input of that type in ONNX Runtime takes: float16 ends are given float16."""
    return batch.astype(np.float16) if kind == "tensor(float16)" else batch


def by_backend(graph: onnx.ModelProto, spec: ModelSpec, backend: str) -> Run:
    """A float32-in, float32-out graph as the runtime will run it. Raises BackendError.

    Runtimes differ: OpenVINO fuses other nodes than ONNX Runtime, and rounds at other places.
    """
    from edgesr.runtime.backends import open_session

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(graph.SerializeToString())
        session = open_session(path, spec=spec, backend=backend, precision=spec.precision)
    return lambda batch: np.asarray(session(batch), dtype=np.float32)


def to_bytes(batch: Array) -> Array:
    """0..1 -> uint8, rounded half to even, clamped."""
    return np.clip(np.round(batch * 255.0), 0, 255).astype(np.uint8)


def from_bytes(batch: Array) -> Array:
    return np.asarray(batch.astype(np.float32) / 255.0)


def fitted(run: Run, spec: ModelSpec) -> Run:
    """The same for pictures of any size: edges are repeated up to what the model takes, then cut.

    Raises UsageError where the picture is larger than the only size that the model takes; see
    `cut_to`.
    """

    def whole(batch: Array) -> Array:
        height, width = batch.shape[2:]
        size = spec.fixed_size or padded((height, width), spec)
        if height > size[0] or width > size[1]:
            raise UsageError(
                f"{spec.name} takes {size[1]}x{size[0]} pixels alone, the picture is "
                f"{width}x{height}"
            )
        full = np.stack([pad(plane, size) for plane in batch[0]])[None]
        big = run(full)
        expected = (1, spec.channels, size[0] * spec.scale, size[1] * spec.scale)
        if big.shape != expected:
            raise UsageError(f"{spec.name} gave {big.shape} for {full.shape}, not {expected}")
        return big[:, :, : height * spec.scale, : width * spec.scale]

    return whole


def cut_to(pair: Pair, spec: ModelSpec) -> Pair:
    """The middle of a pair that is larger than the only size that the model takes."""
    if spec.fixed_size is None:
        return pair
    lr, hr = pair
    top, left = (
        max(0, (side - most) // 2) for side, most in zip(lr.shape[2:], spec.fixed_size, strict=True)
    )
    height, width = (min(a, b) for a, b in zip(lr.shape[2:], spec.fixed_size, strict=True))
    s = spec.scale
    return (
        lr[:, :, top : top + height, left : left + width],
        hr[:, :, s * top : s * (top + height), s * left : s * (left + width)],
    )


def distance(outputs: Sequence[Array], references: Sequence[Array]) -> Distance:
    """Over all values of all pictures; psnr is of the mean squared error, at most `SAME_DB`."""
    worst, total, squares, count = 0.0, 0.0, 0.0, 0
    for output, reference in zip(outputs, references, strict=True):
        apart = np.abs(output.astype(np.float64) - reference.astype(np.float64))
        worst = float(np.maximum(worst, apart.max()))  # max() would lose a NaN
        total += float(apart.sum())
        squares += float((apart**2).sum())
        count += apart.size
    mse = squares / count
    return Distance(
        max_abs=worst,
        mean_abs=total / count,
        psnr=SAME_DB if mse == 0 else min(SAME_DB, -10.0 * math.log10(mse)),
    )


def scores(outputs: Sequence[Array], truths: Sequence[Array], *, scale: int) -> Scores:
    """PSNR-Y and SSIM-Y of outputs (1, C, H, W) in 0..1 against truths of the same shapes."""
    values = []
    for output, truth in zip(outputs, truths, strict=True):
        if min(truth.shape[2:]) < SMALLEST + 2 * scale:
            raise UsageError(
                f"a picture to measure on is {truth.shape[3]}x{truth.shape[2]}: SSIM at x{scale} "
                f"needs {SMALLEST + 2 * scale} pixels a side"
            )
        ours = luma(np.round(np.clip(output.astype(np.float64) * 255.0, 0.0, 255.0)))
        theirs = luma(truth.astype(np.float64) * 255.0)
        a, b = crop_border(ours, border=scale), crop_border(theirs, border=scale)
        values.append((min(psnr(a, b), SAME_DB), ssim(a, b)))
    means = np.mean(values, axis=0)
    return Scores(psnr_y=float(means[0]), ssim_y=float(means[1]))


def luma(batch: Array) -> Array:
    """(H, W) on a 0..255 scale of (1, 1, H, W) luma or (1, 3, H, W) RGB."""
    return batch[0, 0] if batch.shape[1] == 1 else rgb_to_y(np.moveaxis(batch[0], 0, -1))


def likely_drop(psnr_to_fp32: float) -> float:
    """dB that an output so far from the float32 one likely loses, where there is no truth.

    Errors that have nothing to do with each other add their squares: a network `ASSUMED_DB` from
    the truth, and an artefact psnr_to_fp32 from the network. 46.3 dB come to 0.4, 52.3 to 0.1.
    """
    return 10.0 * math.log10(1.0 + 10.0 ** ((ASSUMED_DB - psnr_to_fp32) / 10.0))
