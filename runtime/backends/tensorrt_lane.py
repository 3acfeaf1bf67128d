"""One execution context of a TensorRT engine with all that it needs, for one frame at a time.

A lane owns a stream, pinned host memory and device memory for input and output, and a CUDA graph
once the same shape has come twice. Nothing in it is shared, so lanes run beside each other.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesr.errors import BackendError
from edgesr.runtime.backends import Array
from edgesr.runtime.backends.cuda import Cuda

Shape = tuple[int, ...]
# By the names of `trt.DataType`; its own `nptype` fails under numpy >= 1.24 in TensorRT 8.
DTYPES = {"FLOAT": np.float32, "HALF": np.float16, "UINT8": np.uint8}


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """The one input and the one output of an engine, and the shapes that it was built for.

    low, high   smallest and largest (N, C, H, W) of the input in optimisation profile 0
    dynamic     whether a shape has to be set, even where the profile allows only one
    """

    input: str
    output: str
    input_dtype: np.dtype[Any]
    output_dtype: np.dtype[Any]
    low: Shape
    high: Shape
    dynamic: bool


def read_tensors(engine: Any, *, trt: Any) -> Tensors:
    """Raises BackendError for an engine that is no picture-in, picture-out network."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    sides = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
    inputs = [name for name in names if sides[name]]
    outputs = [name for name in names if not sides[name]]
    if len(inputs) != 1 or len(outputs) != 1:
        raise BackendError(
            f"the engine takes {inputs} and gives {outputs}, not one picture for one"
        )
    source, target = inputs[0], outputs[0]
    low = high = tuple(engine.get_tensor_shape(source))
    dynamic = -1 in low
    if dynamic:
        low, _, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(source, 0))
    if len(low) != 4:
        raise BackendError(f"the engine takes {len(low)} axes, not (N, C, H, W)")
    return Tensors(
        input=source,
        output=target,
        input_dtype=_dtype(engine, source),
        output_dtype=_dtype(engine, target),
        low=low,
        high=high,
        dynamic=dynamic,
    )


class Pair:
    """Pinned host memory and device memory of one size, kept while it suffices."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.size = 0
        self.host: Array | None = None
        self.device: int | None = None

    def grow(self, size: int) -> None:
        """Make room for `size` bytes. Nothing may be under way on either side."""
        if size <= self.size:
            return
        self.release()
        self.host = self._cuda.host_alloc(size)
        self.device = self._cuda.malloc(size)
        self.size = size

    def both(self) -> tuple[Array, int]:
        """Host memory and the address of device memory."""
        assert self.host is not None, "there is no memory yet"
        assert self.device is not None
        return self.host, self.device

    def view(self, shape: Shape, dtype: np.dtype[Any]) -> Array:
        """The host memory as an array."""
        return self.both()[0][: _bytes(shape, dtype)].view(dtype).reshape(shape)

    def release(self) -> None:
        """Frees both, each once, even when freeing the first raises."""
        host, device = self.host, self.device
        self.host = self.device = None
        self.size = 0
        try:
            if device is not None:
                self._cuda.free(device)
        finally:
            if host is not None:
                self._cuda.host_free(host)


class Lane:
    """Not safe for two callers at once; `release` it when done or after an error.

    on_graph   told why no CUDA graph could be recorded; frames then run without one
    on_error   gives TensorRT's last error message, "" when there is none
    """

    def __init__(
        self,
        engine: Any,
        *,
        tensors: Tensors,
        cuda: Cuda,
        on_graph: Callable[[str], None],
        on_error: Callable[[], str],
    ) -> None:
        self._tensors = tensors
        self._cuda = cuda
        self._on_graph = on_graph
        self._on_error = on_error
        self._context: Any = None
        self._graph: int | None = None
        self._graphs = True
        self._shape: Shape | None = None
        self._repeats = 0  # runs of this shape
        self._input = Pair(cuda)
        self._output = Pair(cuda)
        self._stream: int | None = cuda.stream_create()
        try:
            self._open(engine)
        except BaseException:
            with contextlib.suppress(BackendError):
                self.release()
            raise

    def run(self, batch: Array) -> Array:
        """(N, C, H, W) within the profile -> the engine's output, valid until the next run.

        Values are converted to the dtype of the engine's input; the result is pinned memory in the
        dtype of its output. Raises BackendError; the lane is then good for `release` only.
        """
        if self._shape != batch.shape:
            self._take_shape(batch.shape)
        np.copyto(self._source, batch, casting="same_kind")
        self._start()
        self._cuda.stream_synchronize(self._its_stream)
        self._repeats += 1
        return self._target

    def release(self) -> None:
        """Free everything, each once and in order. Raises the first error, after all is tried."""
        steps: list[Callable[[], None]] = []
        stream, graph = self._stream, self._graph
        self._stream = self._graph = self._shape = None
        self._source = self._target = np.empty(0)  # views of memory that is about to go
        if stream is not None:
            steps.append(lambda: self._cuda.stream_synchronize(stream))
        if graph is not None:
            steps.append(lambda: self._cuda.graph_destroy(graph))
        steps += [self._drop_context, self._input.release, self._output.release]
        if stream is not None:
            steps.append(lambda: self._cuda.stream_destroy(stream))
        run_all(steps)

    def _open(self, engine: Any) -> None:
        self._context = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT made no execution context{self._reason()}")
        # TensorRT 8 gives profile 0 to the first context only, and may refuse it to a second one.
        if self._tensors.dynamic:
            refusal = "TensorRT gives this context no profile"
            stream = self._its_stream
            self._ask(refusal, lambda: self._context.set_optimization_profile_async(0, stream))
            self._cuda.stream_synchronize(stream)

    def _take_shape(self, shape: Shape) -> None:
        """Prepare buffers and context for batches of `shape`; what was recorded is void."""
        tensors = self._tensors
        graph, self._graph, self._shape = self._graph, None, None
        if graph is not None:
            self._cuda.graph_destroy(graph)
        if tensors.dynamic:
            refusal = f"TensorRT refuses the shape {shape}"
            self._ask(refusal, lambda: self._context.set_input_shape(tensors.input, shape))
        result = tuple(self._context.get_tensor_shape(tensors.output))
        if len(result) != 4 or min(result) < 1:
            raise BackendError(f"TensorRT gives {result} for {shape}, which is no picture")
        for pair, name, its_shape, dtype in (
            (self._input, tensors.input, shape, tensors.input_dtype),
            (self._output, tensors.output, result, tensors.output_dtype),
        ):
            pair.grow(_bytes(its_shape, dtype))
            setting = functools.partial(self._set_address, name, pair.both()[1])
            self._ask(f"TensorRT takes no address for {name!r}", setting)
        self._source = self._input.view(shape, tensors.input_dtype)
        self._target = self._output.view(result, tensors.output_dtype)
        self._shape, self._repeats = shape, 0

    def _start(self) -> None:
        """Enqueue one frame: recorded with its second run, launched as a graph from then on.

        Not with the first: TensorRT and CUDA then still load kernels, which no recording survives.
        """
        if self._graph is None and self._graphs and self._repeats == 1:
            try:
                self._graph = self._record()
            except BackendError as error:
                self._graphs = False
                self._on_graph(str(error))
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.graph_launch(self._graph, self._its_stream)

    def _record(self) -> int:
        self._cuda.capture_begin(self._its_stream)
        try:
            self._enqueue()
        except BaseException:
            with contextlib.suppress(BackendError):  # the stream has to leave the recording
                self._cuda.graph_destroy(self._cuda.capture_end(self._its_stream))
            raise
        return self._cuda.capture_end(self._its_stream)

    def _enqueue(self) -> None:
        cuda, stream = self._cuda, self._its_stream
        source, target = self._input, self._output
        host, device = source.both()
        cuda.copy_to_device(device, host, self._source.nbytes, stream)
        self._ask("TensorRT did not run", lambda: self._context.execute_async_v3(stream))
        host, device = target.both()
        cuda.copy_to_host(host, device, self._target.nbytes, stream)

    @property
    def _its_stream(self) -> int:
        assert self._stream is not None, "a lane was used after its release"
        return self._stream

    def _drop_context(self) -> None:
        self._context = None

    def _set_address(self, name: str, address: int) -> bool:
        return self._context.set_tensor_address(name, address)

    def _ask(self, refusal: str, call: Callable[[], bool]) -> None:
        """Raises BackendError when the context answers False, and for what it raises.

        Callers get at it through `self`: a traceback that held it would keep its memory.
        """
        try:
            if call():
                return
        except Exception as error:  # the bindings raise RuntimeError, TypeError and others
            line = " ".join(str(error).split())
            raise BackendError(f"{refusal}: {line}") from error
        raise BackendError(f"{refusal}{self._reason()}")

    def _reason(self) -> str:
        message = self._on_error()
        return f": {message}" if message else ""


def run_all(steps: list[Callable[[], None]]) -> None:
    """Every step, whatever the others do; then raises the first BackendError among theirs."""
    first: BackendError | None = None
    for step in steps:
        try:
            step()
        except BackendError as error:
            first = first or error
    try:
        if first is not None:
            raise first
    finally:
        first = None  # else it would hold itself, by way of this frame in its traceback


def _dtype(engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPES:
        raise BackendError(f"the engine's {name!r} is {kind}, not one of {', '.join(DTYPES)}")
    return np.dtype(DTYPES[kind])


def _bytes(shape: Shape, dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
