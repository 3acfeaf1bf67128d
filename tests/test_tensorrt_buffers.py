"""Buffers, shapes and CUDA graphs of a TensorRT session, over the fake GPU."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorrt_sessions
from fake_tensorrt import FakeTrt
from tensorrt_sessions import by_ort, closed_clean, opened, picture

from edgesr.errors import UsageError

quick_collection = tensorrt_sessions.quick_collection
cuda = tensorrt_sessions.cuda
trt = tensorrt_sessions.trt
tiny = tensorrt_sessions.tiny


def test_memory_stays_flat(tiny: Path, trt: FakeTrt) -> None:
    session, cuda = opened(tiny, trt), trt.cuda
    session(picture(40, 40))
    before = dict(cuda.calls)
    for i in range(50):
        session(picture(40, 40) * np.float32(i / 50))
    for name in ("malloc", "host_alloc", "free", "host_free", "stream_create"):
        assert cuda.calls[name] == before.get(name, 0), name
    assert cuda.calls["capture_begin"] == 1
    assert cuda.calls["graph_launch"] == 50
    assert trt.runs == 2  # one on its own, one recorded: the other 49 are replays
    assert cuda.live() == {"device": 2, "host": 2, "streams": 1, "graphs": 1, "recordings": 0}
    closed_clean(session, trt)


def test_buffers_grow_and_are_kept(tiny: Path, trt: FakeTrt) -> None:
    session, cuda = opened(tiny, trt), trt.cuda
    made = []
    for size in [(16, 16), (16, 32), (8, 8), (32, 16), (96, 128), (16, 16)]:
        frame = picture(*size)
        np.testing.assert_array_equal(session(frame), by_ort(tiny, frame))
        made.append(cuda.calls["malloc"])
    assert made == [2, 4, 4, 4, 6, 6]  # an input and an output each time it has to grow
    assert cuda.live()["device"] == cuda.live()["host"] == 2
    closed_clean(session, trt)


def test_a_new_shape_drops_the_graph(tiny: Path, trt: FakeTrt) -> None:
    session, cuda = opened(tiny, trt), trt.cuda
    graphs = []
    for size in [(16, 16)] * 3 + [(24, 16)] * 2 + [(16, 16)] * 2:
        frame = picture(*size)
        np.testing.assert_array_equal(session(frame), by_ort(tiny, frame))
        graphs.append((cuda.calls["capture_begin"], cuda.live()["graphs"]))
    assert graphs == [(0, 0), (1, 1), (1, 1), (1, 0), (2, 1), (2, 0), (3, 1)]
    closed_clean(session, trt)


def test_fixed_size_is_warm_from_the_start(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt, low=(1, 40, 64), high=(1, 40, 64), static=True, size=(40, 64))
    cuda = trt.cuda
    assert cuda.live()["graphs"] == 1
    before = cuda.calls["malloc"], trt.runs
    frame = picture(40, 64)
    np.testing.assert_array_equal(session(frame), by_ort(tiny, frame))
    assert (cuda.calls["malloc"], trt.runs) == before
    closed_clean(session, trt)


def test_a_profile_of_one_shape_still_sets_it(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt, low=(1, 40, 64), high=(1, 40, 64))
    np.testing.assert_array_equal(session(picture(40, 64)), by_ort(tiny, picture(40, 64)))
    closed_clean(session, trt)


@pytest.mark.parametrize("how", ["capture_begin", "capture_end", "tensorrt", "raises"])
def test_without_graphs_it_runs_all_the_same(tiny: Path, trt: FakeTrt, how: str) -> None:
    """A recording that fails is said once, not for each lane and size, and costs no frame."""
    notes: list[str] = []
    if how == "tensorrt":
        trt.fail_record = True
    elif how == "raises":
        trt.raise_in_record = "enqueueV3 raised"
    else:
        trt.cuda.fail_names = {how}
    session = opened(tiny, trt, parallel=2, notes=notes)
    for size in [(16, 16)] * 4 + [(24, 24)] * 3:
        frame = picture(*size)
        with ThreadPoolExecutor(2) as pool:
            for result in pool.map(session, [frame, frame]):
                np.testing.assert_array_equal(result, by_ort(tiny, frame))
    assert len(notes) == 1
    assert notes[0].startswith("no CUDA graph")
    assert trt.cuda.live()["graphs"] == trt.cuda.live()["recordings"] == 0
    closed_clean(session, trt)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 1, 97, 128), "got 128x97 in a batch of 1"),
        ((1, 1, 8, 4), "got 4x8"),
    ],
)
def test_shapes_outside_the_profile(
    tiny: Path, trt: FakeTrt, shape: tuple[int, ...], said: str
) -> None:
    session = opened(tiny, trt)
    with pytest.raises(UsageError, match="takes 8x8 to 128x96 in batches") as caught:
        session(np.zeros(shape, np.float32))
    assert said in str(caught.value)
    assert "--trt" in str(caught.value)
    session(picture(16, 16))  # a wrong batch is the caller's fault and closes nothing
    closed_clean(session, trt)


def test_batches_larger_than_the_engines_go_in_parts(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt)
    frames = picture(16, 24, batch=9)
    np.testing.assert_array_equal(session(frames), by_ort(tiny, frames))
    assert trt.runs == 3  # of 4, 4 (recorded) and 1
    closed_clean(session, trt)
    session = opened(tiny, trt, low=(2, 8, 8), high=(4, 16, 16))
    with pytest.raises(UsageError, match="batches of 2 to 4, got 16x16 in a batch of 1"):
        session(picture(16, 16, batch=5))
    closed_clean(session, trt)


def test_engine_of_one_size_says_which(tiny: Path, trt: FakeTrt) -> None:
    one = {"low": (1, 40, 64), "high": (1, 40, 64), "static": True}
    session = opened(tiny, trt, **one)
    with pytest.raises(UsageError, match="takes 64x40 in batches of 1, got 24x16"):
        session(picture(16, 24))
    closed_clean(session, trt)
    with pytest.raises(UsageError, match="takes 64x40"):
        opened(tiny, trt, **one, size=(16, 24))
    gc.collect()
    trt.cuda.check()


def test_wrong_batches(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt)
    with pytest.raises(UsageError, match="is float32, got uint8"):
        session(np.zeros((1, 1, 16, 16), np.uint8))
    with pytest.raises(UsageError, match=r"\(N, 1, H, W\), got"):
        session(np.zeros((1, 3, 16, 16), np.float32))
    closed_clean(session, trt)
