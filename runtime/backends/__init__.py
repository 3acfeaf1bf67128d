"""Backends: one protocol over the runtimes that execute a deployable.

session = open_session(path, spec=spec, size=(360, 640))
big = session(batch)                  # NCHW in, NCHW out, `spec.scale` times as large
session.facts                         # what really runs, and why it was chosen
session.close()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from edgesr.errors import BackendError, ModelError, UsageError
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Io = Literal["float32", "uint8"]
Size = tuple[int, int]  # (height, width) of the input in pixels


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What really runs, read back from the session, not what was asked for.

    threads    in all
    parallel   batches that may run at the same time, sharing these threads
    why        how they were chosen: "asked for", "measured on this machine" or "rule"
    precision  "fp16" and "int8" as in the graph of the file
    floats     in what the sums of the layers that are not int8 are done: "fp32", "bf16", "fp16"
    file       what was opened; it can be another form of the model asked for
    """

    backend: str
    version: str
    device: str
    precision: Precision
    threads: int
    parallel: int = 1
    why: str = "asked for"
    floats: Precision = "fp32"
    file: str = ""


class Session(Protocol):
    """One opened model. `session(batch)` takes and gives NCHW of the dtype it was opened for:

    float32 in 0..1, not clamped on the way out; or uint8, scaled, rounded (half to even) and
    clamped inside. The result is the caller's: the next call does not touch it. As many threads may
    call at once as it was opened for (`parallel`); more of them wait. Raises UsageError for a batch
    of another shape or dtype than the session takes.
    """

    facts: Facts

    def __call__(self, batch: Array) -> Array: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an opener is asked for, every choice made.

    size     (H, W) when all batches have that size, which may run faster; None: any size
    device   "cpu", or "cuda:N" with N from 0
    """

    path: Path
    spec: ModelSpec
    precision: Precision
    threads: int
    parallel: int
    size: Size | None
    io: Io
    why: str
    device: str = "cpu"

    @property
    def converts(self) -> bool:
        """Whether 8-bit batches are scaled and rounded around the graph, not inside it."""
        return self.io == "uint8" and self.spec.io.dtype != "uint8"


def _open_ort(request: Request) -> Session:
    if request.device != "cpu":
        from edgesr.runtime.backends import ort_cuda

        return ort_cuda.open_session(request)
    from edgesr.runtime.backends import ort

    return ort.open_session(request)


def _open_ort_tensorrt(request: Request) -> Session:
    from edgesr.runtime.backends import ort_cuda

    return ort_cuda.open_session(request, tensorrt=True)


def _open_openvino(request: Request) -> Session:
    from edgesr.runtime.backends import openvino

    return openvino.open_session(request)


def _open_tensorrt(request: Request) -> Session:
    from edgesr.runtime.backends import tensorrt

    return tensorrt.open_session(request)


# In the order in which `edgesr bench` tries them; imported only when opened.
OPENERS: dict[str, Callable[[Request], Session]] = {
    "ort": _open_ort,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
    "ort-tensorrt": _open_ort_tensorrt,
}


def open_session(
    path: Path,
    *,
    spec: ModelSpec,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    parallel: int = 1,
    size: Size | None = None,
    io: Io = "float32",
) -> Session:
    """Open a deployable.

    path       an .onnx file, an OpenVINO .xml or a TensorRT .plan with its .json
    spec       its facts
    backend    "ort", "openvino", "tensorrt", "ort-tensorrt" or "auto": what measured faster on
               this machine, else a rule
    precision  "fp32", "bf16", "fp16", "int8" or "auto"; see `choose.choose`. "fp16" and "int8" of
               an fp32 model is another file beside it, see `siblings`; facts.file names it
    device     "cpu", "cuda" (the first GPU), "cuda:1", or "auto": a GPU where one really opens
    threads    None: as many as there are usable cores
    parallel   how many batches run at the same time, on threads / parallel threads each. Each takes
               longer, all together take less: threads that share a frame wait for the slowest of
               them after each layer. On 2 busy cores 2 frames on a thread each came to 1.1 to 1.2
               times the rate of 1 frame on 2 threads, for 14 % less CPU time
    size       (H, W) when it is the same for every batch (OpenVINO is faster then); None: any
    io         dtype of the batches, see `Session`

    Raises BackendError when what was asked for cannot run here (nothing else is run instead),
    ModelError for a temporal model, UsageError for a value that is not allowed.
    """
    from edgesr.runtime.backends.choose import choose
    from edgesr.runtime.backends.machine import usable_cores

    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: it must be 1 or more")
    if parallel < 1:
        raise UsageError(f"parallel is {parallel}: it must be 1 or more")
    if io not in ("float32", "uint8"):
        raise UsageError(f"io is {io!r}: it must be 'float32' or 'uint8'")
    if size is not None and min(size) < 1:
        raise UsageError(f"size is {size}: height and width must be 1 or more")
    if spec.state:
        raise ModelError(
            f"{spec.name} keeps state between frames: stream, image and bench cannot run such "
            "models yet"
        )
    if io == "float32" and spec.io.dtype == "uint8":
        raise BackendError(
            f"{path} takes and gives 8-bit values, finer ones are needed here: "
            "use the float32 file that it was exported from"
        )
    choice = choose(path, spec=spec, backend=backend, precision=precision, device=device)
    request = Request(
        path=choice.model.path,
        spec=choice.model.spec,
        precision=choice.precision,
        threads=max(threads or usable_cores(), parallel),
        parallel=parallel,
        size=size,
        io=io,
        why=choice.why,
        device=str(choice.device),
    )
    return OPENERS[choice.backend](request)


def check_batch(batch: Array, request: Request) -> None:
    """Raise UsageError unless `batch` is what a session opened by `request` takes."""
    spec, size = request.spec, request.size
    shape = batch.shape
    if batch.dtype != request.io:
        raise UsageError(f"a batch for {spec.name} is {request.io}, got {batch.dtype}")
    if len(shape) != 4 or shape[1] != spec.channels or 0 in shape:
        raise UsageError(f"a batch for {spec.name} is (N, {spec.channels}, H, W), got {shape}")
    if size is not None and (shape[0] != 1 or shape[2:] != size):
        expected = (1, spec.channels, *size)
        raise UsageError(f"this session of {spec.name} was opened for {expected}, got {shape}")
    if min(shape[2:]) < spec.min_size or shape[2] % spec.multiple or shape[3] % spec.multiple:
        raise UsageError(
            f"{spec.name} takes heights and widths from {spec.min_size} up that are multiples of "
            f"{spec.multiple}, got {shape[2]}x{shape[3]}: pad the picture"
        )
