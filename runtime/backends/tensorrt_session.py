"""A TensorRT engine opened for several callers, each in a lane of its own."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from edgesr.errors import BackendError, EdgesrError, UsageError
from edgesr.runtime.backends import Array, Facts, Request, check_batch
from edgesr.runtime.backends.cuda import Cuda
from edgesr.runtime.backends.tensorrt_hooks import logger_of
from edgesr.runtime.backends.tensorrt_lane import Lane, read_tensors, run_all
from edgesr.runtime.backends.uint8 import to_float, to_uint8

OnNote = Callable[[str], None]


class UnreadableEngine(BackendError):
    """TensorRT cannot read these bytes, although all that is known of them fits."""


class TensorRtSession:
    """See `edgesr.runtime.backends.Session`. An error while it runs closes it for good.

    A batch larger than the engine's goes through in parts.
    """

    def __init__(
        self, plan: bytes, *, trt: Any, cuda: Cuda, request: Request, on_note: OnNote
    ) -> None:
        self._request = request
        self._cuda = cuda
        self._on_note = on_note
        self._log = logger_of(trt)
        self._change = threading.Condition()
        self._idle: list[Lane] = []  # those that no caller is using
        self._lanes = 0  # idle or in use
        self._closed = False
        self._reason = ""
        self._noted = False
        cuda.make_current()
        self._log.clear()
        try:
            self._runtime = trt.Runtime(self._log)
        except Exception as error:  # pybind11: TypeError, "factory function returned nullptr"
            raise BackendError(self._says("does not start", error)) from error
        try:
            self._engine = self._runtime.deserialize_cuda_engine(plan)
        except Exception as error:
            raise UnreadableEngine(self._says("cannot read its engine", error)) from error
        if self._engine is None:
            raise UnreadableEngine(self._says("cannot read its engine"))
        try:
            self._tensors = read_tensors(self._engine, trt=trt)
            self._check_tensors()
            self._add_lanes()
            self.facts = self._facts(trt)
        except BaseException:
            self._abandon()
            raise

    def __call__(self, batch: Array) -> Array:
        check_batch(batch, self._request)
        most = self._tensors.high[0]
        parts = [batch[i : i + most] for i in range(0, len(batch), most)]
        for part in parts:
            self._check_profile(part.shape)
        results = [self._one(part) for part in parts]
        return results[0] if len(results) == 1 else np.concatenate(results)

    def _one(self, batch: Array) -> Array:
        """A batch that the engine takes at once."""
        lane = self._take()
        try:
            self._cuda.make_current()
            result = self._run(lane, batch)
        except BaseException as error:  # Ctrl-C too: work may be under way in the lane's memory
            self._fail(lane, error)
            if not isinstance(error, Exception):
                raise
            if isinstance(error, EdgesrError):
                raise BackendError(f"{self._request.path}: {error}") from error
            raise BackendError(self._says("did not run", error)) from error
        self._give_back(lane)
        return result

    def close(self) -> None:
        """Waits for callers inside, then frees everything. Raises what freeing raised, once."""
        with self._change:
            self._closed = True
            lanes, self._idle = self._idle, []
        try:
            self._release(lanes)
        finally:
            with self._change:
                self._change.wait_for(lambda: self._lanes == 0)

    def _run(self, lane: Lane, batch: Array) -> Array:
        tensors = self._tensors
        if self._request.io == "uint8" and tensors.input_dtype != np.uint8:
            batch = to_float(batch)
        result = lane.run(batch)
        if self._request.io == "uint8" and tensors.output_dtype != np.uint8:
            return to_uint8(result.astype(np.float32, copy=False))
        # A copy: the lane's next frame is written over its result.
        return result.astype(self._request.io, copy=True)

    def _facts(self, trt: Any) -> Facts:
        request = self._request
        return Facts(
            backend="tensorrt",
            version=trt.__version__,
            device=self._cuda.device_name(),
            precision=request.precision,
            threads=self._lanes,
            parallel=self._lanes,
            why=request.why,
            floats="fp32" if request.precision == "fp32" else "fp16",
            file=str(request.path),
        )

    def _check_tensors(self) -> None:
        """The engine against the facts of the model that it is said to be."""
        spec, tensors = self._request.spec, self._tensors
        takes_bytes = tensors.input_dtype == np.uint8, tensors.output_dtype == np.uint8
        if takes_bytes != (spec.io.dtype == "uint8",) * 2 or tensors.low[1] != spec.channels:
            raise BackendError(
                f"{self._request.path} is no {spec.name}: its engine takes {tensors.low[1]} "
                f"channels of {tensors.input_dtype} and gives {tensors.output_dtype}, not "
                f"{spec.channels} of {spec.io.dtype}: export it again"
            )
        size = self._request.size
        if size is not None:
            self._check_profile((1, spec.channels, *size))

    def _check_profile(self, shape: tuple[int, ...]) -> None:
        low, high = self._tensors.low, self._tensors.high
        if all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True)):
            return
        batches = _span(low[0], high[0])
        sizes = (
            f"{high[3]}x{high[2]}"
            if low[2:] == high[2:]
            else f"{low[3]}x{low[2]} to {high[3]}x{high[2]}"
        )
        raise UsageError(
            f"this engine of {self._request.spec.name} takes {sizes} in batches of {batches}, got "
            f"{shape[3]}x{shape[2]} in a batch of {shape[0]}: build one for it with `edgesr export "
            "--trt`, see its --min, --opt and --max"
        )

    def _add_lanes(self) -> None:
        """As many as asked for, or as the engine allows, and one frame through each."""
        for _ in range(self._request.parallel):
            try:
                lane = self._guarded(self._new_lane)
            except BackendError as error:
                if not self._idle:
                    raise
                # TensorRT 8 without shared profiles; or no memory for one more.
                count = len(self._idle)
                frames = "1 frame" if count == 1 else f"{count} frames"
                self._on_note(f"{frames} at a time, not {self._request.parallel}: {error}")
                break
            self._idle.append(lane)
            self._lanes += 1
            size, channels = self._request.size, self._request.spec.channels
            if size is not None:  # two runs: the second one records the graph
                blank = np.zeros((1, channels, *size), self._tensors.input_dtype)
                for _ in range(2):
                    self._guarded(functools.partial(lane.run, blank))

    def _new_lane(self) -> Lane:
        return Lane(
            self._engine,
            tensors=self._tensors,
            cuda=self._cuda,
            on_graph=self._note_graph,
            on_error=functools.partial(_last, self._log),
        )

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What `work` gives; whatever the bindings raise becomes a BackendError."""
        try:
            return work()
        except EdgesrError:
            raise
        except Exception as error:
            raise BackendError(self._says("did not run", error)) from error

    def _take(self) -> Lane:
        with self._change:
            self._change.wait_for(lambda: self._closed or self._idle)
            if self._closed:
                raise BackendError(f"this session is closed{self._reason}")
            return self._idle.pop()

    def _give_back(self, lane: Lane) -> None:
        with self._change:
            if not self._closed:
                self._idle.append(lane)
                self._change.notify()
                return
        self._release([lane])

    def _fail(self, lane: Lane, error: BaseException) -> None:
        """Close for good; the error is on its way, so what freeing raises is not said."""
        with self._change:
            if not self._reason:
                self._reason = f" after an error: {str(error) or type(error).__name__}"
            self._closed = True
            lanes, self._idle = [lane, *self._idle], []
        with contextlib.suppress(BackendError):
            self._release(lanes)

    def _abandon(self) -> None:
        """Free what was made before opening went wrong."""
        self._closed = True
        lanes, self._idle = self._idle, []
        with contextlib.suppress(BackendError):
            self._release(lanes)
        self._engine = self._runtime = None

    def _release(self, lanes: list[Lane]) -> None:
        """Free lanes that nobody uses, the engine with the last one; wake all who wait."""
        try:
            if lanes:
                self._cuda.make_current()
        finally:
            try:
                run_all([lane.release for lane in lanes])
            finally:
                with self._change:
                    self._lanes -= len(lanes)
                    if self._lanes == 0:
                        self._engine = None
                        self._runtime = None
                    self._change.notify_all()

    def _note_graph(self, reason: str) -> None:
        with self._change:
            first, self._noted = not self._noted, True
        if first:
            self._on_note(f"no CUDA graph, frames are started one by one: {reason}")

    def _says(self, what: str, error: Exception | None = None) -> str:
        """One line of TensorRT's own last message, else of the exception."""
        message = _last(self._log) or (" ".join(str(error).split()) if error is not None else "")
        path = self._request.path
        return f"TensorRT {what} ({path}){': ' if message else ''}{message}"


def _last(log: Any) -> str:
    """TensorRT's last error, "" when it said none."""
    return next((text for kind, text in reversed(log.lines) if kind == "error"), "")


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
