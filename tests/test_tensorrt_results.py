"""What a TensorRT session gives: ONNX Runtime's numbers, over a fake GPU and a real one."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tensorrt_sessions
from fake_tensorrt import FakeTrt
from onnx import TensorProto, helper
from tensorrt_sessions import by_ort, closed_clean, half_model, opened, picture, request_for
from tolerances import assert_close

from edgesr import models
from edgesr.errors import BackendError, MissingDependency
from edgesr.runtime.backends import tensorrt
from edgesr.runtime.backends.cuda import open_cuda
from edgesr.spec import IoSpec

SHIPPED = ["espcn-x2", "ecbsr-m4c16-x2", "ecbsr-m4c16-x3", "ecbsr-m10c16-x4"]

quick_collection = tensorrt_sessions.quick_collection
cuda = tensorrt_sessions.cuda
trt = tensorrt_sessions.trt
tiny = tensorrt_sessions.tiny


@pytest.mark.parametrize("name", SHIPPED)
def test_equals_onnx_runtime(name: str, trt: FakeTrt) -> None:
    """Three times each: on its own, recorded as a graph, and replayed."""
    path = models.resolve(name).path
    session = opened(path, trt)
    for batch, height, width in [(1, 16, 24), (1, 17, 53), (3, 16, 24), (1, 96, 128), (4, 9, 8)]:
        for turn in range(3):
            frames = picture(height, width, batch=batch) * np.float32(1 - turn / 10)
            np.testing.assert_array_equal(session(frames), by_ort(path, frames))
    closed_clean(session, trt)


def test_rgb_in_batches(tmp_path: Path, trt: FakeTrt) -> None:
    path = onnx_models.convolutions(tmp_path / "rgb.onnx", colour="rgb", scale=3)
    session = opened(path, trt)
    for batch in (2, 1, 4):
        frames = picture(20, 12, channels=3, batch=batch)
        np.testing.assert_array_equal(session(frames), by_ort(path, frames))
    closed_clean(session, trt)


def test_8_bit_batches_of_a_float_engine(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt, io="uint8")
    for seed in range(3):
        batch = np.random.default_rng(seed).integers(0, 256, (2, 1, 16, 24), np.uint8)
        result = session(batch)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, by_ort(tiny, batch, io="uint8"))
    closed_clean(session, trt)


def test_8_bit_engine(tmp_path: Path, trt: FakeTrt) -> None:
    """`export --io uint8`: bytes all the way, nothing is converted on the host."""
    facts = onnx_models.spec(io=IoSpec(dtype="uint8", range=(0, 255)))
    nodes = [helper.make_node("Concat", ["x", "x"], ["a"], axis=3)]
    nodes += [helper.make_node("Concat", ["a", "a"], ["y"], axis=2)]
    path = onnx_models.save(tmp_path / "m.onnx", nodes, {}, facts, TensorProto.UINT8)
    session = opened(path, trt, io="uint8")
    batch = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for _ in range(3):
        np.testing.assert_array_equal(session(batch), np.tile(batch, (2, 2)))
    assert trt.cuda.live()["device"] == 2
    closed_clean(session, trt)


@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_half_in_and_out(tmp_path: Path, trt: FakeTrt, io: str) -> None:
    path = half_model(tmp_path / "half.onnx")
    session = opened(path, trt, io=io)
    for seed in range(3):
        batch = np.random.default_rng(seed).integers(0, 256, (1, 1, 16, 24), np.uint8)
        unit = batch.astype(np.float32) / np.float32(255)
        values = unit.astype(np.float16).repeat(2, 2).repeat(2, 3)
        result = session(unit if io == "float32" else batch)
        assert result.dtype == io
        # Half holds 11 bits, so that every 8-bit value comes back from it.
        wanted = values.astype("f4") if io == "float32" else batch.repeat(2, 2).repeat(2, 3)
        np.testing.assert_array_equal(result, wanted)
    assert session.facts.precision == "fp16"
    closed_clean(session, trt)


def test_results_and_inputs_stay_the_callers(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt)
    frames = [picture(16, 24) * np.float32(i / 5) for i in range(5)]
    copies = [frame.copy() for frame in frames]
    results = [session(frame) for frame in frames]
    for frame, copy, result in zip(frames, copies, results, strict=True):
        np.testing.assert_array_equal(frame, copy)
        np.testing.assert_array_equal(result, by_ort(tiny, frame))
    closed_clean(session, trt)
    np.testing.assert_array_equal(results[-1], by_ort(tiny, frames[-1]))


@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_views_are_taken(tiny: Path, trt: FakeTrt, io: Any) -> None:
    """A decoder's plane has longer lines than the picture is wide, and may be read-only."""
    lines = np.random.default_rng(2).integers(0, 256, (16, 64)).astype(np.uint8)
    view = (lines if io == "uint8" else lines.astype(np.float32) / 255)[:, :24]
    view.flags.writeable = False
    session = opened(tiny, trt, io=io)
    batch = view[None, None]
    np.testing.assert_array_equal(session(batch), by_ort(tiny, batch.copy(), io=io))
    closed_clean(session, trt)


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_callers_at_the_same_time(tiny: Path, trt: FakeTrt, parallel: int, io: Any) -> None:
    """More callers than lanes wait; nobody gets another one's picture, sizes may differ."""
    session = opened(tiny, trt, parallel=parallel, io=io)
    assert session.facts.parallel == trt.contexts == parallel
    peak = 255 if io == "uint8" else 1
    batches = [(picture(16 + 8 * (i % 3), 24) * peak).astype(io) for i in range(24)]
    expected = [by_ort(tiny, batch, io=io) for batch in batches]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            for result, right in zip(pool.map(session, batches), expected, strict=True):
                np.testing.assert_array_equal(result, right)
    closed_clean(session, trt)


# The real thing, where there is one


@pytest.mark.parametrize("size", [None, (96, 128)])
def test_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Any) -> None:
    """Against ONNX Runtime; EDGESR_REQUIRE_GPU=1 turns the absence of a GPU into failure."""
    try:
        real, gpu = tensorrt.load_tensorrt(), open_cuda()
    except (BackendError, MissingDependency) as error:
        if os.environ.get("EDGESR_REQUIRE_GPU") == "1":
            pytest.fail(f"EDGESR_REQUIRE_GPU=1, and {error}")
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path, notes = models.resolve("ecbsr-m4c16-x2").path, list[str]()
    request = request_for(path, size=size, parallel=2)
    session = tensorrt.open_session(request, trt=real, cuda=gpu, on_note=notes.append)
    assert not any("CUDA graph" in note for note in notes), notes
    sizes = [(96, 128)] * 8 if size else [(96, 128)] * 4 + [(80, 64)] * 4 + [(120, 200)] * 4
    frames = [picture(*hw) * np.float32(1 - i / 20) for i, hw in enumerate(sizes)]
    with ThreadPoolExecutor(4) as pool:
        for frame, result in zip(frames, pool.map(session, frames), strict=True):
            assert_close(result, by_ort(path, frame), dtype="float32")
    session.close()
