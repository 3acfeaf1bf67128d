"""A stand-in for a GPU: `edgesr.runtime.backends.cuda.Cuda` as strict bookkeeping over numpy.

Device addresses mean nothing to numpy, work enqueued on a stream is done at `stream_synchronize`
and not before, fresh and freed memory is filled with 0xFF (NaN), and what would be undefined on a
GPU is a `Misuse`: a double free, a copy past the end, memory used after `free`, a stream destroyed
with work on it, a thread without a device.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from edgesr.errors import BackendError

View = Callable[[], np.ndarray]
GAP = 4096  # between device allocations, so that a copy past the end of one hits none


class Misuse(BaseException):
    """Undefined behaviour on a real GPU. No Exception: nothing may catch it and go on."""


class FakeCuda:
    """See `edgesr.runtime.backends.cuda.Cuda`.

    fail_at   the number of the call, from 1, that raises BackendError; calls that release
              something have released it then
    sticky    every later call raises too, as after an illegal address on a real GPU
    calls     how often each was called; trace: all of them in order
    """

    def __init__(
        self, *, name: str = "Fake GPU", capability: tuple[int, int] = (8, 7), driver: str = "12.6"
    ) -> None:
        self.name, self.capability, self.driver = name, capability, driver
        self.fail_at: int | None = None
        self.sticky = False
        self.fail_names: set[str] = set()  # every call of these raises
        self.on_synchronize: Callable[[], None] | None = None  # called before the work is done
        self.calls: Counter[str] = Counter()
        self.trace: list[str] = []
        self.events: list[str] = []  # what TensorRT objects came and went
        self.misuses: list[str] = []
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._device: dict[int, np.ndarray] = {}
        self._host: dict[int, np.ndarray] = {}
        self._graveyard: list[np.ndarray] = []  # so that no address of host memory comes back
        self._streams: dict[int, list[Callable[[], None]]] = {}
        self._recording: dict[int, tuple[int, list[Callable[[], None]]]] = {}
        self._graphs: dict[int, list[Callable[[], None]]] = {}
        self._next_address, self._next_handle = 0x7F00_0000_0000, 100

    # What the protocol asks for.

    def device_name(self) -> str:
        self._count("device_name", device=False)
        return self.name

    def compute_capability(self) -> tuple[int, int]:
        self._count("compute_capability", device=False)
        return self.capability

    def driver_version(self) -> str:
        self._count("driver_version", device=False)
        return self.driver

    def memory_info(self) -> tuple[int, int]:
        self._count("memory_info")
        used = sum(len(buffer) for buffer in self._device.values())
        return 2**30 - used, 2**30

    def make_current(self) -> None:
        self._count("make_current", device=False)
        self._thread.current = True

    def malloc(self, size: int) -> int:
        self._count("malloc", size, allocates=True)
        with self._lock:
            address, self._next_address = self._next_address, self._next_address + size + GAP
            self._device[address] = np.full(size, 0xFF, np.uint8)
        return address

    def free(self, address: int) -> None:
        with self._lock:
            buffer = self._device.pop(address, None)
        self._known(buffer is not None, f"free of {address:#x}, which is not allocated")
        self._count("free", address, allocates=True)

    def host_alloc(self, size: int) -> np.ndarray:
        self._count("host_alloc", size, allocates=True)
        buffer = np.full(size, 0xFF, np.uint8)
        with self._lock:
            self._host[buffer.ctypes.data] = buffer
        return buffer

    def host_free(self, buffer: np.ndarray) -> None:
        with self._lock:
            found = self._host.pop(buffer.ctypes.data, None)
        self._known(found is not None, "host_free of memory that is not allocated")
        assert found is not None
        found[:] = 0xFF
        self._graveyard.append(found)
        self._count("host_free", allocates=True)

    def copy_to_device(self, target: int, source: np.ndarray, size: int, stream: int) -> None:
        self._count("copy_to_device", size)
        self._move(stream, lambda: self.device(target, size), lambda: self.host(source, size))

    def copy_to_host(self, target: np.ndarray, source: int, size: int, stream: int) -> None:
        self._count("copy_to_host", size)
        self._move(stream, lambda: self.host(target, size), lambda: self.device(source, size))

    def stream_create(self) -> int:
        self._count("stream_create")
        with self._lock:
            handle = self._handle()
            self._streams[handle] = []
        return handle

    def stream_synchronize(self, stream: int) -> None:
        self._known(stream in self._streams, f"synchronize of stream {stream}, which is not there")
        self._known(stream not in self._recording, "synchronize while recording")
        with self._lock:
            work, self._streams[stream] = self._streams[stream], []
        self._count("stream_synchronize")  # raising, it has lost the work
        if self.on_synchronize is not None:
            self.on_synchronize()
        for step in work:
            step()

    def stream_destroy(self, stream: int) -> None:
        with self._lock:
            work = self._streams.pop(stream, None)
        self._known(work is not None, f"destroy of stream {stream}, which is not there")
        self._known(not work or self.sticky, "a stream destroyed with work on it")
        self._count("stream_destroy")

    def capture_begin(self, stream: int) -> None:
        self._known(stream in self._streams, "recording on a stream that is not there")
        self._known(stream not in self._recording, "recording twice")
        self._count("capture_begin")
        with self._lock:
            self._recording[stream] = (threading.get_ident(), [])

    def capture_end(self, stream: int) -> int:
        self._known(stream in self._recording, "end of no recording")
        with self._lock:
            owner, work = self._recording.pop(stream)
        self._known(owner == threading.get_ident(), "a recording ended by another thread")
        self._count("capture_end")
        with self._lock:
            handle = self._handle()
            self._graphs[handle] = work
        return handle

    def graph_launch(self, graph: int, stream: int) -> None:
        self._known(graph in self._graphs, f"launch of graph {graph}, which is not there")
        self._count("graph_launch")

        def replay() -> None:
            self._known(graph in self._graphs, "a graph destroyed before it ran")
            for step in self._graphs[graph]:
                step()

        self._enqueue(stream, replay)

    def graph_destroy(self, graph: int) -> None:
        with self._lock:
            found = self._graphs.pop(graph, None)
        self._known(found is not None, f"destroy of graph {graph}, which is not there")
        self._count("graph_destroy")

    # What the fake TensorRT and the tests ask for.

    def device(self, address: int, size: int) -> np.ndarray:
        """The bytes at an address, as a kernel sees them."""
        with self._lock:
            for start, buffer in self._device.items():
                if start <= address < start + max(len(buffer), 1):
                    end = address - start + size
                    self._known(end <= len(buffer), f"{size} bytes at {address:#x}: past the end")
                    return buffer[address - start : end]
        raise self._misuse(f"device memory at {address:#x} is not allocated")

    def host(self, array: np.ndarray, size: int) -> np.ndarray:
        address = array.ctypes.data
        buffer = self._host.get(address)
        self._known(buffer is not None, "copy with host memory that is freed or not pinned")
        assert buffer is not None
        self._known(size <= len(buffer), f"{size} bytes of {len(buffer)} host bytes: past the end")
        return buffer[:size]

    def enqueue_kernel(self, stream: int, work: Callable[[], None]) -> None:
        self._enqueue(stream, work)

    def is_recording(self, stream: int) -> bool:
        return stream in self._recording

    def live(self) -> dict[str, int]:
        """How much of each kind is allocated now."""
        return {
            "device": len(self._device),
            "host": len(self._host),
            "streams": len(self._streams),
            "graphs": len(self._graphs),
            "recordings": len(self._recording),
        }

    def check(self) -> None:
        """Nothing misused and nothing left over."""
        assert not self.misuses, self.misuses
        assert not any(self.live().values()), self.live()

    def _count(
        self, name: str, *arguments: Any, device: bool = True, allocates: bool = False
    ) -> None:
        with self._lock:
            self.calls[name] += 1
            self.trace.append(name)
            number = len(self.trace)
        if device:
            self._known(
                getattr(self._thread, "current", False), f"{name}: no device in this thread"
            )
        if allocates:
            mine = threading.get_ident()
            recording = any(owner == mine for owner, _ in self._recording.values())
            self._known(not recording, f"{name} while this thread records")
        at = self.fail_at
        due = at is not None and (number == at or (self.sticky and number > at))
        if due or name in self.fail_names:
            said = ", ".join(str(a) for a in arguments)
            raise BackendError(f"{name}({said}): cudaErrorInjected (call {number})")

    def _enqueue(self, stream: int, work: Callable[[], None]) -> None:
        self._known(stream in self._streams, f"work on stream {stream}, which is not there")
        with self._lock:
            if stream in self._recording:
                self._recording[stream][1].append(work)
            else:
                self._streams[stream].append(work)

    def _move(self, stream: int, target: View, source: View) -> None:
        """Enqueue a copy between memory that is looked up when it is done."""

        def copy() -> None:
            target()[:] = source()

        self._enqueue(stream, copy)

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _known(self, right: bool, message: str) -> None:
        if not right:
            raise self._misuse(message)

    def _misuse(self, message: str) -> Misuse:
        self.misuses.append(message)
        return Misuse(message)
