"""TensorRT on an NVIDIA GPU: an engine (.plan with its .json), or an .onnx whose engine is cached.

Precision is the file's: fp32, a typed fp16 graph, or int8 with Q/DQ. Nothing here is a default of
the builder's. Batches of the same shape run as a CUDA graph from the second one on.
"""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

from edgesr.errors import BackendError, MissingDependency
from edgesr.runtime.backends import Request, Session
from edgesr.runtime.backends.cuda import Cuda, open_cuda
from edgesr.runtime.backends.devices import parse_device
from edgesr.runtime.backends.engine_options import engine_options
from edgesr.runtime.backends.tensorrt_build import build_or_load, open_plan
from edgesr.runtime.backends.tensorrt_session import OnNote, TensorRtSession, UnreadableEngine
from edgesr.spec import ModelSpec

INSTALL = (
    "on a Jetson it comes with JetPack, for the system's Python: make the environment with "
    "`python3 -m venv --system-site-packages`; elsewhere pip install 'edgesr[trt]'"
)
PLANS = (".plan", ".engine")


def open_session(
    request: Request,
    *,
    trt: Any = None,
    cuda: Cuda | None = None,
    on_note: OnNote | None = None,
) -> Session:
    """Open a .plan, or an .onnx by way of the engine cache, which may take minutes to build it.

    trt, cuda   what stands in for the module `tensorrt` and the GPU, in tests
    on_note     lines for the user; None: to stderr

    Raises MissingDependency without TensorRT or cuda-python, BackendError without a GPU or with an
    engine that cannot be loaded here, UsageError for a size that the engine was not built for.
    """
    note = on_note or _to_stderr
    trt = trt if trt is not None else load_tensorrt()
    if cuda is None:
        device = parse_device(request.device)
        cuda = open_cuda(device.index if device is not None else 0)
    about = {"trt": trt, "cuda": cuda, "on_note": note}
    if request.path.suffix in PLANS:
        plan, spec = open_plan(request.path, **about)
        if _identity(spec) != _identity(request.spec):
            raise BackendError(
                f"{request.path} is an {spec.precision} engine of {spec.name}, not the "
                f"{request.spec.precision} one of {request.spec.name} that was asked for"
            )
        return TensorRtSession(plan, request=request, **about)
    options = engine_options(request.spec, size=request.size)
    build = functools.partial(
        build_or_load, request.path, spec=request.spec, options=options, **about
    )
    try:
        return TensorRtSession(build(), request=request, **about)
    except UnreadableEngine as error:
        plan = build(unusable=str(error))
    return TensorRtSession(plan, request=request, **about)


def load_tensorrt() -> Any:
    """The module `tensorrt`. Raises MissingDependency."""
    try:
        return importlib.import_module("tensorrt")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "tensorrt"
        reason = "" if missing else f" ({' '.join(str(error).split())})"
        raise MissingDependency(f"TensorRT is not installed{reason}: {INSTALL}") from error


def _identity(spec: ModelSpec) -> tuple[object, ...]:
    return spec.name, spec.scale, spec.colour, spec.precision, spec.io


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
