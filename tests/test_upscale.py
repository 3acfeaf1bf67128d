"""The Upscale stage and the statistics, on a fake session: the answer is known exactly."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from edgesr.colour import upscale_chroma
from edgesr.errors import BackendError, MediaError, ModelError
from edgesr.runtime.backends import Facts
from edgesr.runtime.frame import ColourTags, Frame
from edgesr.runtime.pipeline import run
from edgesr.runtime.progress import Progress, Watch
from edgesr.runtime.stats import Histogram, Recorder, Stats
from edgesr.runtime.upscale import Upscale
from edgesr.spec import ModelSpec, StateSpec

Array = np.ndarray[Any, Any]


class FakeSession:
    """Repeats each pixel `scale` times, `gain` times as bright; fails at call `fail_at`."""

    def __init__(
        self, *, scale: int = 2, gain: float = 1.0, fail_at: int | None = None, parallel: int = 1
    ) -> None:
        self.facts = Facts(
            backend="fake",
            version="0",
            device="none",
            precision="fp32",
            threads=parallel,
            parallel=parallel,
        )
        self.scale = scale
        self.gain = gain
        self.fail_at = fail_at
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, batch: Array) -> Array:
        if self.fail_at == len(self.shapes):
            raise BackendError("the accelerator is gone")
        self.shapes.append(batch.shape)
        big = batch.repeat(self.scale, axis=2).repeat(self.scale, axis=3)
        return (big * self.gain).astype(batch.dtype)

    def close(self) -> None:
        pass


def spec(**changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": "fake-x2",
        "network": "fake",
        "scale": 2,
        "colour": "y",
        "halo": 0,
    }
    return ModelSpec(**{**values, **changes})


def frame(
    seed: int = 0,
    *,
    size: tuple[int, int] = (12, 20),
    depth: int = 8,
    gray: bool = False,
    range: int = 1,
    siting: int = 1,
    pts: int = 0,
) -> Frame:
    random = np.random.default_rng(seed)
    dtype = np.uint8 if depth == 8 else np.uint16
    half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
    shapes = [size] if gray else [size, half, half]
    name = "gray" if gray else "yuv420p"
    return Frame(
        planes=tuple(random.integers(0, 1 << depth, shape).astype(dtype) for shape in shapes),
        format=name if depth == 8 else f"{name}{depth}le",
        depth=depth,
        pts=pts,
        time_base=Fraction(1, 24),
        duration=1,
        colour=ColourTags(range=range, matrix=1, siting=siting),
        sar=Fraction(64, 45),
    )


def repeated(plane: Array, scale: int = 2) -> Array:
    return plane.repeat(scale, axis=0).repeat(scale, axis=1)


@pytest.mark.parametrize("size", [(12, 20), (13, 21)])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_frame_comes_back_larger(scale: int, size: tuple[int, int]) -> None:
    stage = Upscale(FakeSession(scale=scale), spec=spec(scale=scale))
    small = frame(size=size, pts=7)
    (big,) = stage.push(small)
    assert (big.height, big.width) == (scale * size[0], scale * size[1])
    np.testing.assert_array_equal(big.planes[0], repeated(small.planes[0], scale))
    for before, after in zip(small.planes[1:], big.planes[1:], strict=True):
        np.testing.assert_array_equal(
            after, upscale_chroma(before, scale=scale, luma=size, siting=1)
        )
    assert dataclasses.replace(big, planes=small.planes) == small  # all else untouched
    assert list(stage.flush()) == []


def test_gray() -> None:
    small = frame(gray=True)
    (big,) = Upscale(FakeSession(), spec=spec()).push(small)
    assert len(big.planes) == 1
    np.testing.assert_array_equal(big.planes[0], repeated(small.planes[0]))


@pytest.mark.parametrize("depth", [10, 12, 16])
@pytest.mark.parametrize("range", [0, 1, 2])
def test_deep_frames_lose_no_bit(depth: int, range: int) -> None:
    small = frame(depth=depth, range=range)
    (big,) = Upscale(FakeSession(), spec=spec()).push(small)
    np.testing.assert_array_equal(big.planes[0], repeated(small.planes[0]))
    assert all(plane.dtype == np.uint16 and plane.max() < 1 << depth for plane in big.planes)


@pytest.mark.parametrize(("range", "white"), [(1, 940), (2, 1023)])
def test_deep_frames_mean_the_same_shades(range: int, white: int) -> None:
    """White of a 10-bit frame reaches the model as white of an 8-bit frame does: code / 255."""
    seen: list[float] = []

    class Looks(FakeSession):
        def __call__(self, batch: Array) -> Array:
            assert batch.dtype == np.float32
            seen.append(float(batch.max()))
            return super().__call__(batch)

    small = frame(depth=10, range=range, gray=True)
    small = small.replace(planes=(np.full((4, 4), white, np.uint16),))
    Upscale(Looks(), spec=spec()).push(small)
    assert seen[0] == pytest.approx((235 if range == 1 else 255) / 255, abs=1e-6)


def test_deep_frames_are_clamped() -> None:
    small = frame(depth=10)
    (bright,) = Upscale(FakeSession(gain=3), spec=spec()).push(small)
    assert bright.planes[0].max() == 1023
    (dark,) = Upscale(FakeSession(gain=-1), spec=spec()).push(small)
    assert dark.planes[0].max() == 0


def test_duplicates_reuse_the_result() -> None:
    session = FakeSession()
    stage = Upscale(session, spec=spec())
    first, again, chroma_only, other = (frame(pts=i) for i in range(4))
    cb = first.planes[1].copy()
    cb[0, 0] ^= 1
    chroma_only = chroma_only.replace(planes=(first.planes[0], cb, first.planes[2]))
    results = [stage.push(f)[0] for f in (first, again, chroma_only, other)]
    assert len(session.shapes) == 3
    assert stage.duplicates == 1
    assert [r.pts for r in results] == [0, 1, 2, 3]
    assert results[1].planes is results[0].planes
    assert (results[2].planes[1] != results[0].planes[1]).any()


@pytest.mark.parametrize("parallel", [2, 3])
def test_frames_at_once_come_back_in_order_with_the_packets_between(parallel: int) -> None:
    """The first frame takes longest, so that the later ones are finished before it."""
    running = threading.Barrier(parallel, timeout=60)  # a failure, not a hang

    class Slow(FakeSession):
        def __call__(self, batch: Array) -> Array:
            if batch[0, 0, 0, 0] < parallel:  # the first ones wait for each other: all run at once
                running.wait()
            return super().__call__(batch)

    stage = Upscale(Slow(parallel=parallel), spec=spec())
    frames = [frame(seed=i, pts=i) for i in range(7)]
    for i, one in enumerate(frames):
        one.planes[0][0, 0] = i
    items: list[Any] = [frames[0], "packet", *frames[1:], "last packet"]
    done = [result for item in items for result in stage.push(item)] + stage.flush()
    stage.close()
    assert [d if isinstance(d, str) else d.pts for d in done] == [
        0,
        "packet",
        *range(1, 7),
        "last packet",
    ]
    pictures = [d for d in done if isinstance(d, Frame)]
    for small, big in zip(frames, pictures, strict=True):
        np.testing.assert_array_equal(big.planes[0], repeated(small.planes[0]))


def test_the_time_of_a_frame_is_its_own() -> None:
    """Not the time that `push` waits for the frame before."""
    seconds = {0: 0.2, 1: 0.01, 2: 0.01}

    class Uneven(FakeSession):
        def __call__(self, batch: Array) -> Array:
            time.sleep(seconds[int(batch[0, 0, 0, 0])])
            return super().__call__(batch)

    seen: list[tuple[int, float]] = []
    stage = Upscale(
        Uneven(parallel=2), spec=spec(), observe=lambda frame, took: seen.append((frame.pts, took))
    )
    frames = [frame(seed=min(i, 2), pts=i) for i in range(4)]  # the last one is a duplicate
    for i, one in enumerate(frames):
        one.planes[0][0, 0] = min(i, 2)
    for one in frames:
        stage.push(one)
        time.sleep(0.3)  # by then each is finished, and the next push waits for nothing
    stage.flush()
    stage.close()
    assert [pts for pts, _ in seen] == [0, 1, 2, 3]
    assert seen[0][1] >= 0.2
    assert 0.01 <= seen[1][1] < 0.2
    assert 0.01 <= seen[2][1] < 0.2
    assert seen[3][1] == 0


def test_close_need_not_wait_for_a_frame_that_hangs() -> None:
    inside, release = threading.Event(), threading.Event()

    class Hangs(FakeSession):
        def __call__(self, batch: Array) -> Array:
            inside.set()
            release.wait(60)
            return super().__call__(batch)

    stage = Upscale(Hangs(parallel=2), spec=spec())
    assert stage.push(frame()) == []
    assert inside.wait(60)
    start = time.perf_counter()
    stage.close(wait=False)
    assert time.perf_counter() - start < 30
    release.set()
    stage.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("edgesr-upscale")]


def test_an_error_in_a_frame_at_once_arrives_and_the_threads_end() -> None:
    stage = Upscale(FakeSession(parallel=2, fail_at=2), spec=spec())
    with pytest.raises(BackendError, match="gone"):
        [stage.push(frame(seed=i)) for i in range(6)]
    stage.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("edgesr-upscale")]


def test_padded_to_what_the_model_takes() -> None:
    session = FakeSession()
    small = frame(size=(13, 21))
    (big,) = Upscale(session, spec=spec(multiple=8, min_size=32)).push(small)
    assert session.shapes == [(1, 1, 32, 32)]
    np.testing.assert_array_equal(big.planes[0], repeated(small.planes[0]))


def test_read_only_views_are_fine() -> None:
    """Planes are views into the decoder's memory: rows longer than the picture, not writeable."""
    wide = frame(size=(12, 32))
    views = tuple(plane[:, : plane.shape[1] * 5 // 8] for plane in wide.planes)
    for view in views:
        view.flags.writeable = False
    (big,) = Upscale(FakeSession(), spec=spec()).push(wide.replace(planes=views))
    np.testing.assert_array_equal(big.planes[0], repeated(views[0]))
    assert big.planes[1].shape == (12, 20)


def test_other_items_pass_in_order() -> None:
    stage = Upscale(FakeSession(), spec=spec())
    packet = object()
    assert list(stage.push(packet)) == [packet]
    items: list[Any] = []
    run([packet, frame(), packet], [("infer", stage)], items.append)
    assert [isinstance(item, Frame) for item in items] == [False, True, False]


def test_change_of_size() -> None:
    stage = Upscale(FakeSession(), spec=spec())
    stage.push(frame())
    with pytest.raises(MediaError, match=r"from 20x12 yuv420p to 32x24 yuv420p at 2\.000 s"):
        stage.push(frame(size=(24, 32), pts=48))


def test_models_that_cannot_stream() -> None:
    with pytest.raises(ModelError, match="faces-x8 takes pictures of one size"):
        Upscale(FakeSession(), spec=spec(name="faces-x8", fixed_size=(32, 32)))
    state = (StateSpec(name="hidden", shape=(1, 8, None, None)),)
    with pytest.raises(ModelError, match="causal-x2 keeps state between frames"):
        Upscale(FakeSession(), spec=spec(name="causal-x2", state=state))


def test_session_fails_in_the_pipeline() -> None:
    stage = Upscale(FakeSession(fail_at=3), spec=spec())
    written: list[Any] = []
    with pytest.raises(BackendError, match="the accelerator is gone"):
        run((frame(i) for i in range(100)), [("infer", stage)], written.append)
    assert len(written) <= 3


def test_histogram_percentiles() -> None:
    histogram = Histogram()
    seconds = np.random.default_rng(0).lognormal(-4, 1, 20000)
    for value in seconds:
        histogram.add(float(value))
    for percent in (50, 95, 99):
        exact = np.percentile(seconds, percent, method="inverted_cdf")
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0101)
    assert histogram.percentile(100) == pytest.approx(seconds.max(), rel=0.0101)
    assert histogram.total == pytest.approx(seconds.sum())


def test_histogram_extremes() -> None:
    histogram = Histogram()
    assert histogram.percentile(50) is None
    for value in (0.0, 1e-9, 1e9):
        histogram.add(value)
    assert histogram.percentile(1) is not None
    assert histogram.largest == 1e9


def test_recorder_counts_frames_and_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [10.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    recorder = Recorder(["infer"])
    assert (recorder.fps, recorder.slowest) == (None, None)
    for index in range(5):
        clock[0] += 0.5
        recorder.observe("decode", object(), 0.001)  # a packet: counted with the next frame
        recorder.observe("decode", frame(), 0.002)
        recorder.observe("infer", frame(), 0.6, at_once=2)
        recorder.observe("encode", frame(), 0.1 + index / 100)
    clock[0] += 0.5  # the encoder's delayed frames
    recorder.observe("encode", None, 0.4)
    assert (recorder.frames_in, recorder.frames_out) == (5, 5)
    assert recorder.fps == pytest.approx((5 - 1) / 2.5)
    assert recorder.slowest == "infer"
    stages = recorder.stages(elapsed=3.0)
    assert stages["decode"].p50_ms == pytest.approx(3.0, rel=0.01)
    assert stages["encode"].frames == 5
    assert stages["encode"].busy_s == pytest.approx(0.1 * 5 + 0.1 + 0.4)
    assert stages["infer"].share == pytest.approx(0.5)
    assert stages["infer"].p50_ms == pytest.approx(600, rel=0.01)
    assert stages["infer"].mean_ms == pytest.approx(600)


def test_watch_tells_progress_and_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    seen: list[Progress] = []
    warned: list[str] = []
    watch = Watch(["infer"], progress=seen.append, on_warning=warned.append)
    watch.total = 100
    growing = ["first"]
    watch.follow(growing)
    assert warned == ["first"]
    watch.tick()
    assert (seen[-1].frames, seen[-1].fps, seen[-1].eta) == (0, None, None)
    for _ in range(40):
        clock[0] += 0.5
        for _ in range(2):
            watch.recorder.observe("encode", frame(), 0.1)
        watch.tick()
    growing.append("second")
    watch.tick(done=True)
    assert seen[-1].frames == 80
    assert seen[-1].fps == pytest.approx(4.0)
    assert seen[-1].eta == pytest.approx(5.0)
    assert seen[-1].slowest == "encode"
    assert seen[-1].done
    assert warned == watch.warnings == ["first", "second"]


def test_stats_are_json_in_the_documented_schema() -> None:
    stats = Stats(
        input={"path": "in.mp4"}, output={"path": "out.mp4"}, frames_in=2, frames_out=2,
        duplicates=0, decode_errors=0, seconds_total=1.0, seconds_first_frame=0.5,
        seconds_sustained=0.5, fps=2.0, stages=Recorder(["infer"]).stages(elapsed=1.0),
        slowest="infer", peak_rss_mb=100.0, model={"name": "fake-x2"},
        backend=dataclasses.asdict(FakeSession().facts),
    )  # fmt: skip
    values = json.loads(json.dumps(stats.to_dict()))
    assert values["schema"] == 1
    documentation = str(__import__("edgesr.runtime.stats", fromlist=["_"]).__doc__)
    for key in [*values, *values["frames"], *values["seconds"], *values["stages"]["infer"]]:
        assert key in documentation, key
