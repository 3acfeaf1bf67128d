"""OpenVINO on the CPU: fp32 or bf16, fp16 graphs, and int8 (Q/DQ or an IR of NNCF's).

What is left in float in an int8 graph runs in bf16 where the CPU has it, and `facts.floats` says
so. An fp16 graph is computed in fp32, or in bf16 when that is asked for.
"""

from __future__ import annotations

import functools
from queue import SimpleQueue
from typing import Any

import numpy as np

from edgesr.errors import BackendError
from edgesr.runtime.backends import Array, Facts, Precision, Request, Session, check_batch
from edgesr.runtime.backends.subpixel import Ending, cut
from edgesr.runtime.backends.uint8 import to_float, to_uint8

DEVICE = "CPU"
HINTS = {"fp32": "f32", "bf16": "bf16"}
FLOATS: dict[str, Precision] = {"f32": "fp32", "bf16": "bf16"}


class OpenVinoSession:
    """See `edgesr.runtime.backends.Session`."""

    def __init__(
        self, compiled: Any, *, facts: Facts, request: Request, ending: Ending | None = None
    ) -> None:
        self.facts = facts
        self._request = request
        self._ending = ending
        self._closed = False
        # A graph with fp16 ends takes and gives float16; the batches here are float32.
        self._half = compiled.input(0).get_element_type().get_type_name() == "f16"
        self._requests: SimpleQueue[Any] = SimpleQueue()  # those that no caller is using
        for _ in range(request.parallel):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, batch: Array) -> Array:
        check_batch(batch, self._request)
        if self._closed:
            raise BackendError("this session is closed")
        request = self._requests.get()
        try:
            if self._half:
                floats = to_float(batch) if self._request.converts else batch
                big = request.infer([floats.astype(np.float16)])[0].astype(np.float32)
                return to_uint8(big) if self._request.converts else big
            if self._request.converts:  # read before the next call writes over it: no copy
                batch = to_float(batch)
                big = request.infer([batch], share_inputs=True, share_outputs=True)[0]
                return to_uint8(big) if self._ending is None else self._ending(big, batch)
            return request.infer([np.ascontiguousarray(batch)], share_inputs=True)[0]
        finally:
            self._requests.put(request)

    def close(self) -> None:
        self._closed = True
        while not self._requests.empty():
            self._requests.get()


def has_bf16() -> bool:
    """Whether this CPU multiplies in bf16 (AVX512_BF16 or AMX)."""
    return "BF16" in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")


@functools.cache
def core() -> Any:
    """The Core of this process, made once and never freed.

    The CPU plugin of each Core gives this thread an alternative signal stack, and at its end puts
    back the one that it found. Of two, the first one freed frees what the second one puts back:
    the next Ctrl-C would end the program with a segmentation fault (openvino 2026.4).
    """
    import openvino

    return openvino.Core()


def open_session(request: Request) -> Session:
    """Raises BackendError when OpenVINO cannot load the model or run it as asked."""
    import openvino

    plugin = core()
    wanted = _floats(request)
    try:
        model, ending = plugin.read_model(request.path), None
        if request.converts and model.input(0).get_element_type().get_type_name() == "f32":
            model, ending = cut(model) or (model, None)
        if request.size is not None and not (request.precision == "bf16" and _broadcasts(model)):
            model.reshape([1, request.spec.channels, *request.size])
        compiled = plugin.compile_model(
            model,
            DEVICE,
            {
                # Left alone, it would be bf16 wherever the CPU has it.
                "INFERENCE_PRECISION_HINT": HINTS[wanted],
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": request.threads,
                "NUM_STREAMS": request.parallel,
                # Pinned threads cannot step aside for the decoder and the encoder.
                "ENABLE_CPU_PINNING": False,
            },
        )
    except RuntimeError as error:
        line = " ".join(str(error).split())
        raise BackendError(f"OpenVINO cannot load {request.path}: {line}") from error
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if FLOATS.get(hint) != wanted:
        raise BackendError(f"OpenVINO took {hint} instead of {HINTS[wanted]}")
    facts = Facts(
        backend="openvino",
        version=openvino.__version__.partition("-")[0],
        device=compiled.get_property("EXECUTION_DEVICES")[0],
        precision=request.precision,
        threads=compiled.get_property("INFERENCE_NUM_THREADS"),
        parallel=compiled.get_property("NUM_STREAMS"),
        why=request.why,
        floats=FLOATS[hint],
        file=str(request.path),
    )
    session = OpenVinoSession(compiled, facts=facts, request=request, ending=ending)
    # The first inferences of two threads at once can wait for each other for ever (one holds the
    # GIL, the other a lock inside openvino's bindings), so each request runs once here, in turn.
    for _ in range(request.parallel):
        session(_blank(request))
    return session


def _floats(request: Request) -> Precision:
    """In what the layers are computed that are not int8."""
    if request.precision == "int8":
        return "bf16" if has_bf16() else "fp32"
    return "bf16" if request.precision == "bf16" else "fp32"


def _blank(request: Request) -> Array:
    """A batch that the session takes: of the size that will come, else of the smallest."""
    spec = request.spec
    least = -(-spec.min_size // spec.multiple) * spec.multiple
    return np.zeros((1, spec.channels, *(request.size or (least, least))), request.io)


def _broadcasts(model: Any) -> bool:
    """Whether one channel is added to several, as the skip of a luma ECBSR is.

    A fixed size makes most networks 5 to 10 % faster. These in bf16 it makes 15 % slower: the sum
    is then computed in a channel-blocked layout, with a reorder in front of it and one behind.
    """
    for node in model.get_ops():
        if node.get_type_name() == "Add":
            sizes = [value.get_partial_shape() for value in node.input_values()]
            constant = any(
                value.get_node().get_type_name() == "Constant" for value in node.input_values()
            )
            if not constant and sizes[0][1] != sizes[1][1]:
                return True
    return False
