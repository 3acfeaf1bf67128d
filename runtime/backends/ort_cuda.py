"""ONNX Runtime on a GPU: its CUDA provider, or its TensorRT provider before it.

Batches are copied into a buffer on the device and back out of one (IOBinding); both are kept from
call to call and made anew when the shape changes. With one size for all batches the run is recorded
as a CUDA graph. Nothing falls back to the CPU in silence: the session forbids it, and what it took
is read back from it.

What needs a GPU is a `Target`: names, options and where the buffers lie. Tests put the CPU provider
in its place. No part of this module was run on a GPU so far.
"""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np

from edgesr.errors import BackendError
from edgesr.runtime.backends import Array, Facts, Request, Session, check_batch
from edgesr.runtime.backends.devices import Device, parse_device
from edgesr.runtime.backends.machine import cache
from edgesr.runtime.backends.ort_provider import CUDA, TENSORRT, Target, open_inner, why_not
from edgesr.runtime.backends.uint8 import to_float, to_uint8

DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class Slot:
    """Buffers of one batch on the device, bound to the session; shapes are NCHW."""

    def __init__(self, runtime: Any, inner: Any, target: Target, *, scale: int) -> None:
        self._runtime, self._inner, self._target = runtime, inner, target
        self._scale = scale
        self._in, self._out = inner.get_inputs()[0], inner.get_outputs()[0]
        self._shape: tuple[int, ...] | None = None
        self._binding: Any = None
        self._x: Any = None
        self._y: Any = None

    def run(self, batch: Array) -> Array:
        """The output; on the CPU it is the buffer itself, which the next run writes over."""
        if batch.shape != self._shape:
            self._bind(batch.shape)
        self._x.update_inplace(np.ascontiguousarray(batch, DTYPES[self._in.type]))
        self._inner.run_with_iobinding(self._binding)
        return self._y.numpy()

    def _bind(self, shape: tuple[int, ...]) -> None:
        n, c, height, width = shape
        self._shape = None  # nothing is bound when one of these fails
        self._x = self._y = None  # given back before the new ones are asked for
        self._binding = self._inner.io_binding()
        self._x = self._buffer([n, c, height, width], self._in.type)
        self._y = self._buffer([n, c, height * self._scale, width * self._scale], self._out.type)
        self._binding.bind_ortvalue_input(self._in.name, self._x)
        self._binding.bind_ortvalue_output(self._out.name, self._y)
        self._shape = shape

    def _buffer(self, shape: list[int], kind: str) -> Any:
        return self._runtime.OrtValue.ortvalue_from_shape_and_type(
            shape, DTYPES[kind], self._target.device_type, self._target.device_id
        )


class OrtDeviceSession:
    """See `edgesr.runtime.backends.Session`."""

    def __init__(self, slots: list[Slot], *, facts: Facts, request: Request, copy: bool) -> None:
        self.facts = facts
        self._request = request
        self._copy = copy
        self._closed = False
        self._slots: SimpleQueue[Slot] = SimpleQueue()  # those that no caller is using
        for slot in slots:
            self._slots.put(slot)

    def __call__(self, batch: Array) -> Array:
        check_batch(batch, self._request)
        if self._closed:
            raise BackendError("this session is closed")
        slot = self._slots.get()
        try:
            if self._request.converts:
                return to_uint8(slot.run(to_float(batch)).astype(np.float32, copy=False))
            return slot.run(batch).astype(self._request.io, copy=self._copy)
        except BackendError:
            raise
        except Exception as error:  # its exception classes are private and derive from Exception
            line = " ".join(str(error).split())
            raise BackendError(f"{self.facts.device}: {line}") from error
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        self._closed = True
        while not self._slots.empty():
            self._slots.get()


def open_session(request: Request, *, tensorrt: bool = False) -> Session:
    """Raises BackendError, which says what is missing, when the model cannot run there."""
    device = parse_device(request.device)
    assert device is not None
    reason = why_not(device, tensorrt=tensorrt)
    if reason is not None:
        raise BackendError(reason)
    import onnxruntime

    return open_on(onnxruntime, request, target_of(request, device, tensorrt=tensorrt))


def open_on(runtime: Any, request: Request, target: Target) -> Session:
    """Open a model on `target`. runtime: the module `onnxruntime`."""
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    inner = open_inner(runtime, request.path, target, options)
    many = 1 if target.graph else request.parallel
    slots = [Slot(runtime, inner, target, scale=request.spec.scale) for _ in range(many)]
    taken = inner.get_providers()[0]
    facts = Facts(
        backend="ort-tensorrt" if taken == TENSORRT else "ort",
        version=runtime.__version__,
        device=f"{taken.removesuffix('ExecutionProvider')}:{target.device_id}",
        precision=request.precision,
        threads=request.threads,
        parallel=many,
        why=request.why,
        floats="fp16" if request.precision == "fp16" else "fp32",
        file=str(request.path),
    )
    session = OrtDeviceSession(
        slots, facts=facts, request=request, copy=target.device_type == "cpu"
    )
    if request.size is not None:  # what cannot run is said here, not at the first picture
        blank = np.zeros((1, request.spec.channels, *request.size), request.io)
        for _ in range(many):
            session(blank)
    return session


def target_of(request: Request, device: Device, *, tensorrt: bool) -> Target:
    """Options of the providers for what is asked for."""
    fixed = request.size is not None
    flag = {True: "1", False: "0"}
    index = str(device.index)
    cuda = {
        "device_id": index,
        # EXHAUSTIVE tries every algorithm again for each shape that comes.
        "cudnn_conv_algo_search": "EXHAUSTIVE" if fixed else "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "prefer_nhwc": flag[request.precision == "fp16"],
        "use_tf32": "0",  # fp32 is fp32
        "enable_cuda_graph": flag[fixed and not tensorrt],
    }
    providers = {CUDA: cuda}
    if tensorrt:
        folder = str(cache() / "ort-tensorrt")
        providers = {
            TENSORRT: {
                "device_id": index,
                "trt_engine_cache_enable": "1",
                "trt_engine_cache_path": folder,
                "trt_timing_cache_enable": "1",
                "trt_timing_cache_path": folder,
                "trt_fp16_enable": flag[request.precision == "fp16"],
                "trt_int8_enable": flag[request.precision == "int8"],
                "trt_cuda_graph_enable": flag[fixed],
            },
            CUDA: cuda,
        }
    return Target(providers=providers, device_id=device.index, graph=fixed)
