"""TensorRT sessions that are closed, that fail and that are stopped leave nothing behind."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorrt_sessions
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTrt
from tensorrt_sessions import by_ort, closed_clean, opened, picture

from edgesr.errors import BackendError

quick_collection = tensorrt_sessions.quick_collection
cuda = tensorrt_sessions.cuda
trt = tensorrt_sessions.trt
tiny = tensorrt_sessions.tiny


def test_everything_is_freed_once_and_in_order(tiny: Path, trt: FakeTrt) -> None:
    session, cuda = opened(tiny, trt, parallel=2), trt.cuda
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(session, [picture(16, 16)] * 8))
    start = len(cuda.trace)
    session.close()
    session.close()
    gc.collect()
    freed = [name for name in cuda.trace[start:] if name != "make_current"]
    lane = ["stream_synchronize", "graph_destroy", "free", "host_free", "free", "host_free"]
    one = [*lane, "stream_destroy"]
    unrecorded = [name for name in one if name != "graph_destroy"]
    unused = ["stream_synchronize", "stream_destroy"]  # one thread may have taken all frames
    others = (one, unrecorded, unused)
    assert freed in [one + other for other in others] + [other + one for other in others]
    assert cuda.events == ["context", "context", "engine", "runtime"]
    cuda.check()
    with pytest.raises(BackendError, match=r"this session is closed$"):
        session(picture(16, 16))


def test_close_waits_for_callers_inside(tiny: Path, trt: FakeTrt) -> None:
    session, cuda = opened(tiny, trt, parallel=2), trt.cuda
    inside, go = threading.Event(), threading.Event()

    def hold() -> None:
        inside.set()
        assert go.wait(30)

    cuda.on_synchronize = hold
    results: list[np.ndarray] = []
    caller = threading.Thread(target=lambda: results.append(session(picture(16, 16))))
    caller.start()
    assert inside.wait(30)
    cuda.on_synchronize = None
    closer = threading.Thread(target=session.close)
    closer.start()
    closer.join(0.3)
    assert closer.is_alive()
    assert cuda.live()["streams"] >= 1  # the caller's
    with pytest.raises(BackendError, match="closed"):
        session(picture(16, 16))
    go.set()
    caller.join(30)
    closer.join(30)
    np.testing.assert_array_equal(results[0], by_ort(tiny, picture(16, 16)))
    gc.collect()
    cuda.check()


def work(path: Path, trt: FakeTrt) -> list[np.ndarray]:
    """All that a session does: two lanes, three shapes, graphs, closing."""
    session = opened(path, trt, parallel=2)
    try:
        return [session(picture(h, 16)) for h in (16, 16, 16, 24, 24, 8)]
    finally:
        session.close()


@pytest.mark.parametrize("sticky", [False, True])
def test_any_call_may_fail(tiny: Path, trt: FakeTrt, cuda: FakeCuda, sticky: bool) -> None:
    """Call k of n fails, for every k: a clear error (or a note), and nothing is left over."""
    right = work(tiny, trt)
    calls = len(cuda.trace)
    gc.collect()
    cuda.check()
    assert calls > 50
    silent = []
    for k in range(1, calls + 1):
        cuda = FakeCuda()
        cuda.fail_at, cuda.sticky = k, sticky
        trt = FakeTrt(cuda)
        failed = cuda_call = None
        try:
            results = work(tiny, trt)
        except BackendError as error:
            failed = str(error)
        cuda_call = cuda.trace[k - 1]
        gc.collect()
        cuda.check()
        assert (trt.contexts, trt.engines) == (0, 0), cuda_call
        if failed is None:
            silent.append(cuda_call)
            assert all(np.array_equal(a, b) for a, b in zip(results, right, strict=True))
        else:
            assert "cudaErrorInjected" in failed, cuda_call
            assert "\n" not in failed
    # A recording may fail, and a second lane may be refused: frames run without them.
    allowed = {"capture_begin", "capture_end", "copy_to_device", "copy_to_host"}
    allowed |= {"stream_create", "stream_synchronize"}
    assert sticky or set(silent) <= allowed, silent
    assert not sticky or not silent


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_tensorrt_fails_while_it_runs(tiny: Path, trt: FakeTrt, how: str) -> None:
    session = opened(tiny, trt, parallel=2)
    session(picture(16, 16))
    if how == "returns":
        trt.fail_run = {trt.runs + 1}
    else:
        trt.raises = "stream is\nnot valid"
    said = "an illegal memory access" if how == "returns" else "stream is not valid"
    with pytest.raises(BackendError, match=said) as caught:
        session(picture(24, 24))
    assert "\n" not in str(caught.value)
    assert str(tiny) in str(caught.value)
    del caught
    gc.collect()
    trt.cuda.check()  # all is freed without `close`
    with pytest.raises(BackendError, match=f"closed after an error: .*{said.split()[-1]}"):
        session(picture(16, 16))
    closed_clean(session, trt)


def test_ctrl_c_inside_leaves_nothing(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt)

    def interrupt() -> None:
        trt.cuda.on_synchronize = None
        raise KeyboardInterrupt

    trt.cuda.on_synchronize = interrupt
    with pytest.raises(KeyboardInterrupt):
        session(picture(16, 16))
    gc.collect()
    trt.cuda.check()
    with pytest.raises(BackendError, match="closed after an error: KeyboardInterrupt"):
        session(picture(16, 16))


def test_an_error_wakes_those_who_wait(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt)
    trt.fail_run = set(range(4, 99))
    frames = [picture(8 + 8 * (i % 4), 16) for i in range(12)]

    def call(frame: np.ndarray) -> bool:
        try:
            session(frame)
        except BackendError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(call, frames))
    assert done.count(True) < len(frames)
    gc.collect()
    trt.cuda.check()
