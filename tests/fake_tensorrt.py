"""A stand-in for the module `tensorrt` that computes the real network, through ONNX Runtime.

It has the names that `edgesr.runtime` uses. Engines are ONNX files behind a line of facts; what
they enqueue runs when `FakeCuda` synchronises, on the memory as it is then.
"""

from __future__ import annotations

import enum
import hashlib
import json
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from fake_cuda import FakeCuda


class Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity  # pybind11 exports them like this
    started = False

    def __init__(self) -> None:
        self.started = True  # pybind11 crashes where a subclass forgets this

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8 = range(6)


DTYPES = {
    onnx.TensorProto.FLOAT: (DataType.FLOAT, np.float32),
    onnx.TensorProto.FLOAT16: (DataType.HALF, np.float16),
    onnx.TensorProto.UINT8: (DataType.UINT8, np.uint8),
    onnx.TensorProto.INT32: (DataType.INT32, np.int32),
}
Shape = tuple[int, ...]


def make_plan(
    model: Path | bytes,
    *,
    low: Shape,
    high: Shape,
    static: bool = False,
    version: str = "10.3.0",
    gpu: str = "Fake GPU",
) -> bytes:
    """What `FakeTrt` reads as an engine: who made it, for which shapes, and the ONNX itself."""
    graph = model if isinstance(model, bytes) else model.read_bytes()
    facts = {
        "version": version,
        "gpu": gpu,
        "low": low,
        "high": high,
        "static": static,
        "digest": hashlib.sha256(graph).hexdigest(),
    }
    return b"PLAN" + json.dumps(facts).encode() + b"\0" + graph


class FakeTrt:
    """Stands for the module `tensorrt` on the GPU of `cuda`.

    shared_profiles   whether several contexts may use one profile: TensorRT 8 refuses it
    fail_run          numbers of the executions, from 1, that TensorRT refuses
    unreadable        how many of the next engines cannot be read, whatever they are
    fail_record       whether a recording refuses executions
    raises            what executions raise as a RuntimeError instead, as bindings can
    raise_in_record   the same while a recording is on
    """

    def __init__(self, cuda: FakeCuda, *, version: str = "10.3.0") -> None:
        self.cuda = cuda
        self.__version__ = version
        self.shared_profiles = True
        self.fail_run: set[int] = set()
        self.fail_record = False
        self.unreadable = 0
        self.raises: str | None = None
        self.raise_in_record: str | None = None
        self.runs = 0
        self.deserialised = 0
        self.contexts = 0  # alive
        self.engines = 0
        self.ILogger, self.TensorIOMode, self.DataType = ILogger, TensorIOMode, DataType
        self.Runtime = lambda logger: Runtime(self, logger)


class Runtime:
    def __init__(self, trt: FakeTrt, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)
        assert logger.started, "ILogger.__init__ was not called"
        self._trt, self._logger = trt, logger
        there, cuda = weakref.ref(trt), trt.cuda
        weakref.finalize(self, lambda: _gone(cuda, "runtime", there()))

    def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
        self._trt.deserialised += 1
        if self._trt.unreadable > 0:
            self._trt.unreadable -= 1
            plan = b""
        if not plan.startswith(b"PLAN") or b"\0" not in plan:
            self._logger.log(Severity.ERROR, "Serialization assertion magicTagRead failed.\n")
            return None
        head, _, graph = plan[4:].partition(b"\0")
        facts = json.loads(head)
        if hashlib.sha256(graph).hexdigest() != facts["digest"]:
            self._logger.log(Severity.ERROR, "Serialization assertion sizeRead failed.")
            return None
        if (facts["version"], facts["gpu"]) != (self._trt.__version__, self._trt.cuda.name):
            self._logger.log(
                Severity.ERROR, "The engine plan file is not compatible with this TensorRT."
            )
            return None
        return Engine(self._trt, Net(facts, graph), self._logger, self)


class Net:
    """The network behind an engine, and what it was built for."""

    def __init__(self, facts: dict[str, Any], graph: bytes) -> None:
        model = onnx.load_from_string(graph)
        self.low, self.high = tuple(facts["low"]), tuple(facts["high"])
        self.static = facts["static"]
        self.sides = [(value, TensorIOMode.INPUT) for value in model.graph.input]
        self.sides += [(value, TensorIOMode.OUTPUT) for value in model.graph.output]
        self.names = [value.name for value, _ in self.sides]
        self.types = {v.name: DTYPES[v.type.tensor_type.elem_type] for v, _ in self.sides}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        if len(self.names) != 2:
            return
        source, target = self.names
        blank = np.zeros(self.low, self.types[source][1])
        result = self._session.run([target], {source: blank})[0].shape
        self._ratio = tuple(b // a for a, b in zip(blank.shape, result, strict=True))

    def result(self, shape: Shape) -> Shape:
        return tuple(a * b for a, b in zip(shape, self._ratio, strict=True))

    def run(self, batch: np.ndarray) -> np.ndarray:
        return self._session.run([self.names[-1]], {self.names[0]: batch})[0]


class Engine:
    num_optimization_profiles = 1

    def __init__(self, trt: FakeTrt, net: Net, logger: ILogger, runtime: Runtime) -> None:
        self._trt, self._net, self._logger = trt, net, logger
        self._kept_alive = runtime  # as the bindings do
        self._users: weakref.WeakSet[Context] = weakref.WeakSet()
        trt.engines += 1
        there, cuda = weakref.ref(trt), trt.cuda
        weakref.finalize(self, lambda: _gone(cuda, "engine", there()))

    @property
    def num_io_tensors(self) -> int:
        return len(self._net.names)

    def get_tensor_name(self, index: int) -> str:
        return self._net.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return next(side for value, side in self._net.sides if value.name == name)

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._net.types[name][0]

    def get_tensor_shape(self, name: str) -> Shape:
        net = self._net
        shape = net.low if self.get_tensor_mode(name) == TensorIOMode.INPUT else net.result(net.low)
        return shape if net.static else (-1, shape[1], -1, -1)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        assert profile_index == 0
        assert self.get_tensor_mode(name) == TensorIOMode.INPUT
        return [self._net.low, self._net.low, self._net.high]

    def create_execution_context(self) -> Context:
        context = Context(self._trt, self._net, self._logger, self, first=not self._users)
        self._users.add(context)
        return context


class Context:
    def __init__(
        self, trt: FakeTrt, net: Net, logger: ILogger, engine: Engine, *, first: bool
    ) -> None:
        self._trt, self._net, self._logger = trt, net, logger
        self._kept_alive = engine  # as the bindings do
        self._profile = 0 if first or trt.shared_profiles else -1
        self._shape: Shape | None = net.low if net.static else None
        self._addresses: dict[str, int] = {}
        self._ran = False
        self._busy = threading.Lock()
        trt.contexts += 1
        there, cuda = weakref.ref(trt), trt.cuda
        weakref.finalize(self, lambda: _gone(cuda, "context", there()))

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert profile_index == 0
        self._trt.cuda.enqueue_kernel(stream_handle, lambda: None)
        if self._profile != 0:
            return self._refuse("Profile 0 has been chosen by another IExecutionContext.")
        return True

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        net = self._net
        assert name == net.names[0]
        fits = all(a <= n <= b for a, n, b in zip(net.low, shape, net.high, strict=True))
        if self._profile < 0 or not fits:
            return self._refuse(f"Set dimension of {name} does not satisfy any profile.")
        self._shape = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> Shape:
        if self._shape is None:
            return (-1, -1, -1, -1)
        return self._shape if name == self._net.names[0] else self._net.result(self._shape)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert name in self._net.names
        assert type(memory) is int
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, net, shape = self._trt, self._net, self._shape
        trt.runs += 1
        if trt.raises is not None:
            raise RuntimeError(trt.raises)
        if shape is None or set(self._addresses) != set(net.names):
            return self._refuse("Neither address nor shape is set.")
        recording = trt.cuda.is_recording(stream_handle)
        if recording and trt.raise_in_record is not None:
            raise RuntimeError(trt.raise_in_record)
        if recording and (trt.fail_record or not self._ran):
            return self._refuse("operation not permitted when stream is capturing")
        if trt.runs in trt.fail_run:
            return self._refuse("Error Code 1: Cuda Runtime (an illegal memory access)")
        self._ran = True
        addresses, me, cuda = dict(self._addresses), weakref.ref(self), trt.cuda

        def kernel() -> None:
            context = me()
            cuda._known(context is not None, "an execution context destroyed with work under way")
            assert context is not None
            cuda._known(context._shape == shape, "a graph replayed after its context moved on")
            cuda._known(context._busy.acquire(blocking=False), "two frames in one context")
            source, target = net.names[0], net.names[-1]
            dtype, result_dtype = (np.dtype(net.types[name][1]) for name in (source, target))
            size = int(np.prod(shape)) * dtype.itemsize
            batch = cuda.device(addresses[source], size).view(dtype).reshape(shape)
            result = net.run(batch.copy()).astype(result_dtype, copy=False)
            cuda.device(addresses[target], result.nbytes)[:] = result.reshape(-1).view(np.uint8)
            context._busy.release()

        cuda.enqueue_kernel(stream_handle, kernel)
        return True

    def _refuse(self, message: str) -> bool:
        self._logger.log(Severity.ERROR, message)
        return False


def _gone(cuda: FakeCuda, what: str, trt: FakeTrt | None) -> None:
    """A TensorRT object was destroyed."""
    cuda.events.append(what)
    if trt is not None and what != "runtime":
        setattr(trt, f"{what}s", getattr(trt, f"{what}s") - 1)
