"""The calls to cuda-python: against what its releases really have, and what errors become."""

from __future__ import annotations

import ast
import ctypes
import enum
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesr.errors import BackendError, MissingDependency
from edgesr.runtime.backends import cuda
from edgesr.runtime.backends.cuda import CudaRuntime, load_runtime, open_cuda

# First lines of the docstrings of cuda-python 12.2.0 (`cuda.cudart`), cuda-bindings 12.9.10 and
# 13.5.0 (`cuda.bindings.runtime`): the same in all three. `test_installed_release` reads them anew.
SIGNATURES = {
    "cudaDeviceGetAttribute": "attr: cudaDeviceAttr, int device",
    "cudaDriverGetVersion": "",
    "cudaFree": "devPtr",
    "cudaFreeHost": "ptr",
    "cudaGetDeviceCount": "",
    "cudaGetDeviceProperties": "int device",
    "cudaGetErrorString": "error: cudaError_t",
    "cudaGetLastError": "",
    "cudaGraphDestroy": "graph",
    "cudaGraphExecDestroy": "graphExec",
    "cudaGraphInstantiate": "graph, unsigned long long flags",
    "cudaGraphLaunch": "graphExec, stream",
    "cudaHostAlloc": "size_t size, unsigned int flags",
    "cudaMalloc": "size_t size",
    "cudaMemGetInfo": "",
    "cudaMemcpyAsync": "dst, src, size_t count, kind: cudaMemcpyKind, stream",
    "cudaRuntimeGetVersion": "",
    "cudaSetDevice": "int device",
    "cudaStreamBeginCapture": "stream, mode: cudaStreamCaptureMode",
    "cudaStreamCreateWithFlags": "unsigned int flags",
    "cudaStreamDestroy": "stream",
    "cudaStreamEndCapture": "stream",
    "cudaStreamSynchronize": "stream",
}
ENUMS = {
    "cudaDeviceAttr": ["cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor"],
    "cudaMemcpyKind": ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"],
    "cudaStreamCaptureMode": ["cudaStreamCaptureModeThreadLocal"],
}
CONSTANTS = ["cudaHostAllocDefault", "cudaStreamNonBlocking"]


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


class Graph:
    """A handle that is no int, as `cudaGraph_t` is."""


class Recorder(types.ModuleType):
    """A cuda-python that notes its calls: by name and how many arguments it takes.

    gives   what a call gives behind its code; fails   name -> code
    """

    def __init__(self, **gives: Any) -> None:
        super().__init__("recorder")
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, Error] = {}
        self.gives = {
            "cudaGetErrorString": b"out of memory",
            "cudaStreamCreateWithFlags": 7,
            "cudaStreamEndCapture": Graph(),
            "cudaGraphInstantiate": 9,
            "cudaMalloc": 4096,
            "cudaDriverGetVersion": 12060,
            "cudaRuntimeGetVersion": 12020,
            "cudaGetDeviceCount": 2,
            **gives,
        }
        for name, members in ENUMS.items():
            setattr(self, name, enum.Enum(name, members))
        for name in CONSTANTS:
            setattr(self, name, f"<{name}>")

    def __getattr__(self, name: str) -> Callable[..., tuple[Any, ...]]:
        if name not in SIGNATURES:
            raise AttributeError(f"cuda-python has no {name}")

        def call(*arguments: Any) -> tuple[Any, ...]:
            count = len([a for a in SIGNATURES[name].split(", ") if a])
            assert len(arguments) == count, f"{name}({SIGNATURES[name]})"
            self.calls.append((name, *arguments))
            code = self.fails.get(name, Error.cudaSuccess)
            if name not in self.gives:
                return (code,)
            value = self.gives[name]
            if code != Error.cudaSuccess:
                return (code, None)
            return (code, *value) if isinstance(value, tuple) else (code, value)

        return call

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def test_calls_and_their_arguments() -> None:
    memory = (ctypes.c_uint8 * 16)()
    properties = types.SimpleNamespace(name=b"Orin (nvgpu)\0\0")
    runtime = Recorder(
        cudaHostAlloc=ctypes.addressof(memory),
        cudaGetDeviceProperties=properties,
        cudaDeviceGetAttribute=8,
        cudaMemGetInfo=(5, 11),
    )
    gpu = CudaRuntime(runtime, device=1)
    gpu.make_current()
    assert gpu.device_name() == "Orin (nvgpu)"
    assert gpu.compute_capability() == (8, 8)
    assert gpu.memory_info() == (5, 11)
    assert (gpu.malloc(64), gpu.stream_create()) == (4096, 7)
    host = gpu.host_alloc(16)
    host[:] = range(16)
    assert bytes(memory) == bytes(range(16))
    gpu.copy_to_device(4096, host, 12, 7)
    gpu.copy_to_host(host, 4096, 10, 7)
    gpu.capture_begin(7)
    assert gpu.capture_end(7) == 9
    gpu.graph_launch(9, 7)
    gpu.graph_destroy(9)
    gpu.stream_synchronize(7)
    gpu.stream_destroy(7)
    gpu.free(4096)
    gpu.host_free(host)
    kinds, address = runtime.cudaMemcpyKind, ctypes.addressof(memory)
    calls = runtime.calls
    assert calls[0] == ("cudaSetDevice", 1)
    assert ("cudaMalloc", 64) in calls
    assert ("cudaHostAlloc", 16, "<cudaHostAllocDefault>") in calls
    assert ("cudaStreamCreateWithFlags", "<cudaStreamNonBlocking>") in calls
    assert ("cudaMemcpyAsync", 4096, address, 12, kinds.cudaMemcpyHostToDevice, 7) in calls
    assert ("cudaMemcpyAsync", address, 4096, 10, kinds.cudaMemcpyDeviceToHost, 7) in calls
    graph = runtime.gives["cudaStreamEndCapture"]
    recorded = [("cudaGraphInstantiate", graph, 0), ("cudaGraphDestroy", graph)]
    assert [call for call in calls if graph in call] == recorded
    assert calls[-2:] == [("cudaFree", 4096), ("cudaFreeHost", address)]


def test_errors_have_cudas_name() -> None:
    runtime = Recorder()
    runtime.fails = {"cudaMalloc": Error.cudaErrorMemoryAllocation}
    expected = r"cudaMalloc of 64 bytes: cudaErrorMemoryAllocation \(out of memory\)"
    with pytest.raises(BackendError, match=expected):
        CudaRuntime(runtime).malloc(64)


@pytest.mark.parametrize(
    ("failing", "left"),
    [
        (
            "cudaStreamEndCapture",
            ["cudaStreamEndCapture", "cudaGetErrorString", "cudaGetLastError"],
        ),
        ("cudaGraphInstantiate", ["cudaGraphDestroy"]),
        ("cudaGraphDestroy", ["cudaGraphExecDestroy"]),
    ],
)
def test_a_recording_that_fails_leaves_nothing(failing: str, left: list[str]) -> None:
    runtime = Recorder()
    runtime.fails = {failing: Error.cudaErrorMemoryAllocation}
    with pytest.raises(BackendError, match=failing):
        CudaRuntime(runtime).capture_end(7)
    assert runtime.names[-len(left) :] == left


def test_driver_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "version"
    monkeypatch.setattr(cuda, "_DRIVER", file)
    gpu = CudaRuntime(Recorder())
    assert gpu.driver_version() == "CUDA 12.6"
    file.write_text("540.4.0\n")
    assert gpu.driver_version() == "540.4.0 CUDA 12.6"


@pytest.fixture
def fake_modules(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put modules in the place of cuda-python's; None: not installed."""

    def place(new: Any, old: Any) -> None:
        package = types.ModuleType("cuda")
        package.__path__ = []
        bindings = types.ModuleType("cuda.bindings")
        bindings.__path__ = []
        monkeypatch.setitem(sys.modules, "cuda", package)
        monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
        for name, module in (("cuda.bindings.runtime", new), ("cuda.cudart", old)):
            monkeypatch.delitem(sys.modules, name, raising=False)
            if module is not None:
                monkeypatch.setitem(sys.modules, name, module)

    return place


def test_either_name_of_the_module(fake_modules: Callable[..., None]) -> None:
    new, old = Recorder(), Recorder()
    fake_modules(new, old)
    assert load_runtime() is new
    fake_modules(None, old)
    assert load_runtime() is old


def test_cuda_python_is_missing(
    fake_modules: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_modules(None, None)
    with pytest.raises(
        MissingDependency, match="TensorRT needs cuda-python: pip install"
    ) as caught:
        open_cuda()
    assert "\n" not in str(caught.value)

    def broken(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'cuda.pathfinder'", name="cuda.pathfinder")

    monkeypatch.setattr(cuda.importlib, "import_module", broken)  # type: ignore[attr-defined]
    with pytest.raises(
        MissingDependency, match=r"\(cuda\.bindings\.runtime: No module named 'cuda\.path"
    ):
        open_cuda()


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ((0, 12020), "no NVIDIA GPU can be used here: there is no NVIDIA driver$"),
        ((12020, 13000), r"serves CUDA 12\.2, cuda-python is 13\.0: pip install 'cuda-python<13'"),
        ((13000, 12020), "here: cudaGetDeviceCount: cudaErrorNoDevice"),
    ],
)
def test_no_usable_gpu(
    fake_modules: Callable[..., None], versions: tuple[int, int], said: str
) -> None:
    runtime = Recorder(cudaDriverGetVersion=versions[0], cudaRuntimeGetVersion=versions[1])
    runtime.fails = {"cudaGetDeviceCount": Error.cudaErrorNoDevice}
    fake_modules(runtime, None)
    with pytest.raises(BackendError, match=said) as caught:
        open_cuda()
    assert "\n" not in str(caught.value)


def test_which_gpu(fake_modules: Callable[..., None]) -> None:
    runtime = Recorder()
    fake_modules(runtime, None)
    open_cuda(1)
    assert runtime.calls[-1] == ("cudaSetDevice", 1)
    with pytest.raises(BackendError, match=r"no device cuda:2: there is cuda:0, cuda:1$"):
        open_cuda(2)


def used() -> set[str]:
    """Every name of cuda-python in cuda.py."""
    tree = ast.parse(Path(cuda.__file__).read_text(encoding="utf-8"))
    words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is str
    }
    return {
        word for word in words if word.isidentifier() and word[:4] == "cuda" and word[4:5].isupper()
    }


def test_the_record_holds_what_is_used() -> None:
    recorded = {*SIGNATURES, *ENUMS, *CONSTANTS, *(m for names in ENUMS.values() for m in names)}
    assert used() == recorded


@pytest.mark.parametrize("name", cuda.MODULES)
@pytest.mark.filterwarnings("ignore:The cuda.cudart module is deprecated:FutureWarning")
def test_installed_release(name: str) -> None:
    """The record against the cuda-python that is installed here, if any."""
    try:
        runtime = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name}: {error}")
    for function, signature in SIGNATURES.items():
        assert getattr(runtime, function).__doc__.splitlines()[0] == f"{function}({signature})"
    for kind, members in ENUMS.items():
        assert set(members) <= set(getattr(runtime, kind).__members__)
    for constant in CONSTANTS:
        assert isinstance(getattr(runtime, constant), int)
    assert isinstance(runtime.cudaDeviceProp().name, bytes)


@pytest.mark.filterwarnings("ignore:The cuda.cudart module is deprecated:FutureWarning")
def test_installed_release_takes_ints() -> None:
    """Without a GPU each call comes back with an error of CUDA's, not with a TypeError."""
    try:
        runtime = load_runtime()
    except MissingDependency as error:
        pytest.skip(str(error))
    gpu, host = CudaRuntime(runtime), np.zeros(8, np.uint8)
    try:
        gpu.make_current()
    except BackendError:
        pass
    else:
        on_a_gpu(gpu)
        return
    calls: list[Callable[[], Any]] = [
        gpu.device_name,
        gpu.compute_capability,
        gpu.memory_info,
        lambda: gpu.malloc(8),
        lambda: gpu.free(8),
        lambda: gpu.host_alloc(8),
        lambda: gpu.host_free(host),
        lambda: gpu.copy_to_device(8, host, 8, 3),
        lambda: gpu.copy_to_host(host, 8, 8, 3),
        gpu.stream_create,
        lambda: gpu.stream_synchronize(3),
        lambda: gpu.stream_destroy(3),
        lambda: gpu.capture_begin(3),
        lambda: gpu.capture_end(3),
        lambda: gpu.graph_launch(3, 3),
        lambda: gpu.graph_destroy(3),
    ]
    for call in calls:
        with pytest.raises(BackendError, match=r"^cuda\w+"):
            call()
    with pytest.raises(BackendError, match="no NVIDIA GPU can be used here"):
        open_cuda()


def on_a_gpu(gpu: CudaRuntime) -> None:
    """Bytes there and back, straight and by a graph."""
    assert gpu.device_name()
    assert gpu.compute_capability() >= (5, 0)
    free, total = gpu.memory_info()
    assert 0 < free <= total
    half = 1 << 19
    stream, device, host = gpu.stream_create(), gpu.malloc(half), gpu.host_alloc(2 * half)
    source, target = host[:half], host[half:]

    def enqueue() -> None:
        gpu.copy_to_device(device, source, half, stream)
        gpu.copy_to_host(target, device, half, stream)

    source[:] = np.random.default_rng(0).integers(0, 256, half)
    enqueue()
    gpu.stream_synchronize(stream)
    np.testing.assert_array_equal(source, target)
    gpu.capture_begin(stream)
    enqueue()
    graph = gpu.capture_end(stream)
    for seed in (1, 2):  # it reads the memory as it is when it runs
        source[:] = np.random.default_rng(seed).integers(0, 256, half)
        gpu.graph_launch(graph, stream)
        gpu.stream_synchronize(stream)
        np.testing.assert_array_equal(source, target)
    gpu.graph_destroy(graph)
    gpu.free(device)
    gpu.host_free(host)
    gpu.stream_destroy(stream)
