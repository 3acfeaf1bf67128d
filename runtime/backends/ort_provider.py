"""ONNX Runtime's providers for a GPU: does one start here, and a session that took it.

Nothing falls back to the CPU in silence: the session forbids it, and what it took is read back.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesr.errors import BackendError
from edgesr.runtime.backends.devices import Device
from edgesr.runtime.backends.machine import has_nvidia, installed

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
GET = "pip uninstall onnxruntime, then pip install 'edgesr[gpu]'"
# y = Relu(x) of one number, opset 13: the smallest model that a provider has to start for.
PROBE = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01'
    b"\x12\x04\n\x02\x08\x01b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a session runs.

    providers     name -> options, the first one first
    device_type   where the buffers lie, a word of OrtValue's: "cuda"
    strict        a node that none of the providers takes is an error
    graph         the run is recorded once and replayed, so one batch at a time
    """

    providers: Mapping[str, Mapping[str, str]]
    device_type: str = "cuda"
    device_id: int = 0
    strict: bool = True
    graph: bool = False


def why_not(device: Device, *, tensorrt: bool = False) -> str | None:
    """Why the provider does not run on `device`, in one line with what to type; None: it does.

    Found out by opening a model of one node, once in a process.
    """
    if not installed("ort"):
        return f"ONNX Runtime is not installed: {GET.partition('then ')[2]}"
    return _probe(device, TENSORRT if tensorrt else CUDA)


@functools.cache
def _probe(device: Device, provider: str) -> str | None:
    import onnxruntime

    return probe(onnxruntime, device, provider)


def probe(runtime: Any, device: Device, provider: str) -> str | None:
    """As `why_not`. runtime: the module `onnxruntime`."""
    name = provider.removesuffix("ExecutionProvider")
    if provider not in runtime.get_available_providers():
        return f"the installed ONNX Runtime has no {name} provider: {GET}"
    if not has_nvidia():
        return f"{device} needs an NVIDIA GPU, and the system shows none (nvidia-smi lists them)"
    target = Target(providers={provider: {"device_id": str(device.index)}}, device_id=device.index)
    try:
        open_inner(runtime, PROBE, target, runtime.SessionOptions())
    except BackendError as error:
        reason = _unloadable(runtime, name.lower()) or str(error)
        version = getattr(runtime, "cuda_version", "") or "of its version"
        also = "" if provider == CUDA else ", and TensorRT"
        return (
            f"ONNX Runtime's {name} provider does not start on {device}: {reason}; onnxruntime-gpu "
            f"{runtime.__version__} needs CUDA {version} and its cuDNN "
            f"(pip install 'onnxruntime-gpu[cuda,cudnn]'){also}"
        )
    return None


def _unloadable(runtime: Any, name: str) -> str | None:
    """Which library the provider's own cannot be loaded for; None: it loads, or is not there.

    ONNX Runtime only logs it, and goes on without the provider.
    """
    library = Path(runtime.__file__).parent / "capi" / f"libonnxruntime_providers_{name}.so"
    if not library.is_file():
        return None
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        reason = " ".join(str(error).split())
        # Loaded by itself it misses its host's symbols, which is no fault.
        return None if "undefined symbol" in reason else reason
    return None


def open_inner(runtime: Any, model: Any, target: Target, options: Any) -> Any:
    """An InferenceSession that took the first provider. model: a path, or the bytes of one."""
    options.log_severity_level = 4  # what matters is raised, or read back below
    if target.strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if hasattr(runtime, "preload_dlls") and target.device_type == "cuda":
        _preload(runtime)
    wanted = [(name, dict(given)) for name, given in target.providers.items()]
    what = "a first model" if isinstance(model, bytes) else str(model)
    given = model if isinstance(model, bytes) else str(model)
    first = wanted[0][0].removesuffix("ExecutionProvider")
    try:
        with _quiet(runtime):
            # With its own fallback it would print, and open the model on the CPU instead.
            inner = runtime.InferenceSession(given, options, providers=wanted, enable_fallback=0)
    except Exception as error:  # its exception classes are private and derive from Exception
        line = " ".join(str(error).split())
        raise BackendError(f"ONNX Runtime's {first} cannot load {what}: {line}") from error
    inner.disable_fallback()
    taken = inner.get_providers()
    missing = [name for name, _ in wanted if name not in taken]
    if missing or taken[0] != wanted[0][0]:
        raise BackendError(f"ONNX Runtime took {', '.join(taken)} instead of {first}")
    return inner


@contextlib.contextmanager
def _quiet(runtime: Any) -> Iterator[None]:
    """A provider that does not start is logged on stderr; here it is raised or read back."""
    runtime.set_default_logger_severity(4)
    try:
        yield
    finally:
        runtime.set_default_logger_severity(2)  # its default


def _preload(runtime: Any) -> None:
    """CUDA and cuDNN from pip's nvidia packages; what is missing shows when a session opens."""
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        runtime.preload_dlls()
