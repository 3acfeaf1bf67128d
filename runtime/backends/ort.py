"""ONNX Runtime on the CPU: graphs as they are, fp32, fp16 (computed in fp32) and int8 (Q/DQ)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from edgesr.errors import BackendError
from edgesr.runtime.backends import Array, Facts, Request, Session, check_batch
from edgesr.runtime.backends.uint8 import to_float, to_uint8

PROVIDER = "CPUExecutionProvider"


class OrtSession:
    """See `edgesr.runtime.backends.Session`."""

    def __init__(self, inner: Any, *, facts: Facts, request: Request) -> None:
        self.facts = facts
        self._inner = inner
        self._request = request
        self._input = inner.get_inputs()[0].name
        # A graph with fp16 ends takes and gives float16; the batches here are float32.
        self._half = inner.get_inputs()[0].type == "tensor(float16)"
        self._turns = threading.Semaphore(request.parallel)

    def __call__(self, batch: Array) -> Array:
        check_batch(batch, self._request)
        if self._inner is None:
            raise BackendError("this session is closed")
        if self._request.converts:
            return to_uint8(self._run(to_float(batch)))
        return self._run(batch)

    def _run(self, batch: Array) -> Array:
        given = batch.astype(np.float16) if self._half else batch
        with self._turns:
            big = self._inner.run(None, {self._input: given})[0]
        return big.astype(np.float32) if self._half else big

    def close(self) -> None:
        self._inner = None


def open_session(request: Request) -> Session:
    """Raises BackendError when ONNX Runtime cannot load the model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = request.threads // request.parallel
    options.log_severity_level = 3  # warnings belong to whoever exports, not to a stream
    # Waiting threads that spin take the cores which decoder and encoder need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        inner = onnxruntime.InferenceSession(str(request.path), options, providers=[PROVIDER])
    except Exception as error:  # its exception classes are private and derive from Exception
        line = " ".join(str(error).split())
        raise BackendError(f"ONNX Runtime cannot load {request.path}: {line}") from error
    providers = inner.get_providers()
    if providers != [PROVIDER]:
        raise BackendError(f"ONNX Runtime took {providers} instead of {PROVIDER}")
    facts = Facts(
        backend="ort",
        version=onnxruntime.__version__,
        device=providers[0].removesuffix("ExecutionProvider"),
        precision=request.precision,
        threads=inner.get_session_options().intra_op_num_threads * request.parallel,
        parallel=request.parallel,
        why=request.why,
        file=str(request.path),
    )
    return OrtSession(inner, facts=facts, request=request)
