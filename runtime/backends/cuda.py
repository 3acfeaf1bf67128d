"""The few CUDA calls that a TensorRT session makes, as a protocol, and over `cuda-python`.

`Cuda` is the seam: tests put a fake in its place, so nothing above it needs a GPU. Addresses,
streams and graphs are plain ints, sizes are bytes. Every call raises BackendError with the name
of CUDA's own error, e.g. "cudaMalloc of 8294400 bytes: cudaErrorMemoryAllocation (out of memory)".
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgesr.errors import BackendError, MissingDependency
from edgesr.runtime.backends import Array

MODULES = ("cuda.bindings.runtime", "cuda.cudart")  # new name first; 13 has no other, 12.2 not this
INSTALL = "pip install 'cuda-python<13' for CUDA 12 (JetPack 6), cuda-python for CUDA 13"
_DRIVER = Path("/sys/module/nvidia/version")


class Cuda(Protocol):
    """One GPU. Safe for calls from several threads, each after `make_current`."""

    def device_name(self) -> str: ...

    def compute_capability(self) -> tuple[int, int]:
        """(major, minor), e.g. (8, 7)."""
        ...

    def driver_version(self) -> str:
        """What the driver calls itself and the CUDA version that it serves: "540.4.0 CUDA 12.6"."""
        ...

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes of the GPU."""
        ...

    def make_current(self) -> None:
        """Let the calls of this thread mean this GPU."""
        ...

    def malloc(self, size: int) -> int: ...

    def free(self, address: int) -> None: ...

    def host_alloc(self, size: int) -> Array:
        """Pinned memory as a uint8 array of `size`, its address in `.ctypes.data`.

        Valid until `host_free`; a view of it must not be touched afterwards.
        """
        ...

    def host_free(self, buffer: Array) -> None: ...

    def copy_to_device(self, target: int, source: Array, size: int, stream: int) -> None:
        """Enqueue a copy of the first `size` bytes of pinned memory."""
        ...

    def copy_to_host(self, target: Array, source: int, size: int, stream: int) -> None: ...

    def stream_create(self) -> int: ...

    def stream_synchronize(self, stream: int) -> None:
        """Wait for all that was enqueued; raises what went wrong in it."""
        ...

    def stream_destroy(self, stream: int) -> None: ...

    def capture_begin(self, stream: int) -> None:
        """From here the work enqueued by this thread is recorded, not done."""
        ...

    def capture_end(self, stream: int) -> int:
        """The recorded work, ready to launch. Raising, it has left the recording all the same."""
        ...

    def graph_launch(self, graph: int, stream: int) -> None: ...

    def graph_destroy(self, graph: int) -> None: ...


class CudaRuntime:
    """`Cuda` over the module `cuda.bindings.runtime` or `cuda.cudart` of cuda-python."""

    def __init__(self, runtime: Any, *, device: int = 0) -> None:
        self._runtime = runtime
        self._device = device

    def device_name(self) -> str:
        name = self._call("cudaGetDeviceProperties", self._device).name
        return name.split(b"\0")[0].decode("utf-8", "replace").strip()

    def compute_capability(self) -> tuple[int, int]:
        attributes = self._runtime.cudaDeviceAttr
        major, minor = (
            int(self._call("cudaDeviceGetAttribute", attribute, self._device))
            for attribute in (
                attributes.cudaDevAttrComputeCapabilityMajor,
                attributes.cudaDevAttrComputeCapabilityMinor,
            )
        )
        return major, minor

    def driver_version(self) -> str:
        cuda = f"CUDA {_dotted(self._call('cudaDriverGetVersion'))}"
        try:
            return f"{_DRIVER.read_text(encoding='ascii').strip()} {cuda}"
        except (OSError, ValueError):
            return cuda

    def memory_info(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def make_current(self) -> None:
        self._call("cudaSetDevice", self._device)

    def malloc(self, size: int) -> int:
        return int(self._call("cudaMalloc", size, what=f" of {size} bytes"))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def host_alloc(self, size: int) -> Array:
        flags = self._runtime.cudaHostAllocDefault
        address = int(self._call("cudaHostAlloc", size, flags, what=f" of {size} bytes"))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def host_free(self, buffer: Array) -> None:
        self._call("cudaFreeHost", buffer.ctypes.data)

    def copy_to_device(self, target: int, source: Array, size: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source.ctypes.data, size, kind, stream)

    def copy_to_host(self, target: Array, source: int, size: int, stream: int) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, source, size, kind, stream)

    def stream_create(self) -> int:
        # Blocking streams would wait for whatever another library does on the default stream.
        return int(self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking))

    def stream_synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def stream_destroy(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def capture_begin(self, stream: int) -> None:
        # Thread-local: another thread may allocate meanwhile without spoiling the recording.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def capture_end(self, stream: int) -> int:
        try:
            graph = self._call("cudaStreamEndCapture", stream)
        except BackendError:
            with contextlib.suppress(RuntimeError):
                self._runtime.cudaGetLastError()  # else the next call would report it once more
            raise
        try:
            executable = int(self._call("cudaGraphInstantiate", graph, 0))
        except BackendError:
            with contextlib.suppress(BackendError):
                self._call("cudaGraphDestroy", graph)
            raise
        try:
            self._call("cudaGraphDestroy", graph)
        except BackendError:
            with contextlib.suppress(BackendError):
                self.graph_destroy(executable)
            raise
        return executable

    def graph_launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def graph_destroy(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any, what: str = "") -> Any:
        """What the call gives behind its error code: nothing, a value or a tuple of several."""
        try:
            code, *values = getattr(self._runtime, name)(*arguments)
        except RuntimeError as error:  # 12.2 without a driver: "Failed to dlopen libcuda.so.1"
            raise BackendError(f"{name}{what}: {error}: there is no NVIDIA driver") from error
        if int(code) != 0:
            raise BackendError(f"{name}{what}: {self._error(code)}")
        return values[0] if len(values) == 1 else tuple(values)

    def _error(self, code: Any) -> str:
        """E.g. "cudaErrorMemoryAllocation (out of memory)"."""
        name = getattr(code, "name", f"CUDA error {int(code)}")
        try:
            failed, text = self._runtime.cudaGetErrorString(code)
        except RuntimeError:
            return name
        return name if int(failed) else f"{name} ({text.decode()})"


def open_cuda(index: int = 0) -> Cuda:
    """The GPU of that number, made current for this thread.

    Raises MissingDependency without cuda-python, BackendError without a usable driver or GPU.
    """
    runtime = load_runtime()
    try:
        count = int(CudaRuntime(runtime)._call("cudaGetDeviceCount"))
    except BackendError as error:
        reason = _driver_trouble(runtime) or str(error)
        raise BackendError(f"no NVIDIA GPU can be used here: {reason}") from error
    if index >= count:
        there = ", ".join(f"cuda:{i}" for i in range(count)) or "none"
        raise BackendError(f"no device cuda:{index}: there is {there}")
    cuda = CudaRuntime(runtime, device=index)
    cuda.make_current()
    return cuda


def load_runtime() -> Any:
    """The module of cuda-python, under whichever name it has. Raises MissingDependency."""
    reason = ""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            # Missing itself: try the other name. Something that it needs: say so.
            if error.name is None or not (name + ".").startswith(error.name + "."):
                reason = reason or f" ({name}: {error})"
        except ImportError as error:
            reason = reason or f" ({name}: {' '.join(str(error).split())})"
    raise MissingDependency(f"TensorRT needs cuda-python{reason}: {INSTALL}")


def _driver_trouble(runtime: Any) -> str:
    """Why not even the GPUs can be counted, where it is known; else an empty string."""
    try:
        failed, driver = runtime.cudaDriverGetVersion()
        broken, built = runtime.cudaRuntimeGetVersion()
    except RuntimeError:  # 12.2: the driver's library is not there
        return "there is no NVIDIA driver"
    if int(failed) or int(broken) or driver >= built:
        return ""
    if driver == 0:
        return "there is no NVIDIA driver"
    return f"the driver serves CUDA {_dotted(driver)}, cuda-python is {_dotted(built)}: {INSTALL}"


def _dotted(version: int) -> str:
    """12060 -> "12.6"."""
    return f"{version // 1000}.{version % 1000 // 10}"
