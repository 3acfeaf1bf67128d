"""The TensorRT backend over a fake GPU that computes the real network through ONNX Runtime."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from fake_cuda import FakeCuda, Misuse
from fake_tensorrt import FakeTrt, make_plan
from fake_tensorrt_builder import BuildingTrt
from onnx import TensorProto, helper
from tolerances import assert_close

from edgesr import models
from edgesr.errors import BackendError, MissingDependency, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import Request, ort, tensorrt
from edgesr.runtime.backends.cuda import open_cuda
from edgesr.runtime.backends.engine import make_key, save_engine, sidecar_path
from edgesr.runtime.backends.engine_options import engine_options
from edgesr.runtime.backends.tensorrt_session import TensorRtSession
from edgesr.spec import IoSpec, ModelSpec

SHIPPED = ["espcn-x2", "ecbsr-m4c16-x2", "ecbsr-m4c16-x3", "ecbsr-m10c16-x4"]
LOW, HIGH = (1, 8, 8), (4, 96, 128)  # (N, H, W) of the engines here


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """What other tests have left alive is not looked through again by every `gc.collect`."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    """A GPU on which nothing may be misused; what is left over each test checks for itself."""
    cuda = FakeCuda()
    yield cuda
    gc.collect()
    assert not cuda.misuses, cuda.misuses


@pytest.fixture
def trt(cuda: FakeCuda) -> FakeTrt:
    return FakeTrt(cuda)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return onnx_models.convolutions(tmp_path / "tiny.onnx")


def request_for(path: Path, spec: ModelSpec | None = None, **changes: Any) -> Request:
    spec = spec or load_file(path).spec
    values: dict[str, Any] = {
        "path": path,
        "spec": spec,
        "precision": spec.precision,
        "threads": 1,
        "parallel": 1,
        "size": None,
        "io": "float32",
        "why": "asked for",
        "device": "cuda:0",
    }
    return Request(**{**values, **changes})


def opened(
    path: Path,
    trt: FakeTrt,
    *,
    low: tuple[int, int, int] = LOW,
    high: tuple[int, int, int] = HIGH,
    static: bool = False,
    notes: list[str] | None = None,
    **changes: Any,
) -> TensorRtSession:
    request = request_for(path, **changes)
    c = request.spec.channels
    low4, high4 = ((n, c, h, w) for n, h, w in (low, high))
    plan = make_plan(path, low=low4, high=high4, static=static)
    heard = notes if notes is not None else []
    return TensorRtSession(plan, trt=trt, cuda=trt.cuda, request=request, on_note=heard.append)


def closed_clean(session: TensorRtSession, trt: FakeTrt) -> None:
    session.close()
    gc.collect()
    trt.cuda.check()
    assert (trt.contexts, trt.engines) == (0, 0)


def picture(height: int, width: int, *, channels: int = 1, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height).random((batch, channels, height, width), np.float32)


def by_ort(path: Path, batch: np.ndarray, **changes: Any) -> np.ndarray:
    return ort.open_session(request_for(path, device="cpu", **changes))(batch)


# Results


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


def half_model(path: Path) -> Path:
    """Each pixel four times, float16 in and out."""
    facts = onnx_models.spec(precision="fp16", halo=0, io=IoSpec(dtype="float16"))
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], kernel_shape=[1, 1])]
    nodes += [helper.make_node("DepthToSpace", ["h"], ["y"], blocksize=2, mode="CRD")]
    weight = {"w": np.ones((4, 1, 1, 1), np.float16)}
    return onnx_models.save(path, nodes, weight, facts, TensorProto.FLOAT16)


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


# Buffers, shapes and graphs


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


# Closing and failing


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


# Opening


def test_tensorrt_8_shares_no_profile(tiny: Path, trt: FakeTrt) -> None:
    notes: list[str] = []
    trt.shared_profiles = False
    session = opened(tiny, trt, parallel=3, notes=notes)
    assert session.facts.parallel == session.facts.threads == 1
    assert len(notes) == 1
    assert "1 frame at a time" in notes[0]
    assert "Profile 0 has been chosen" in notes[0]
    np.testing.assert_array_equal(session(picture(16, 16)), by_ort(tiny, picture(16, 16)))
    closed_clean(session, trt)


def test_facts(tiny: Path, trt: FakeTrt) -> None:
    session = opened(tiny, trt, parallel=2)
    facts = session.facts
    assert (facts.backend, facts.version, facts.device) == ("tensorrt", "10.3.0", "Fake GPU")
    assert (facts.precision, facts.floats, facts.parallel) == ("fp32", "fp32", 2)
    assert (facts.file, facts.why) == (str(tiny), "asked for")
    closed_clean(session, trt)


def test_engine_that_is_none(tiny: Path, trt: FakeTrt) -> None:
    for plan, said in [
        (b"no plan", "magicTagRead failed"),
        (make_plan(tiny, low=(1, 1, 8, 8), high=(1, 1, 8, 8))[:-7], "sizeRead failed"),
        (make_plan(tiny, low=(1, 1, 8, 8), high=(1, 1, 8, 8), gpu="Orin"), "not compatible"),
    ]:
        with pytest.raises(BackendError, match=said) as caught:
            TensorRtSession(
                plan, trt=trt, cuda=trt.cuda, request=request_for(tiny), on_note=pytest.fail
            )
        assert "\n" not in str(caught.value)
    trt.cuda.check()


def test_engine_of_another_kind_of_model(tmp_path: Path, tiny: Path, trt: FakeTrt) -> None:
    rgb = onnx_models.nearest(tmp_path / "rgb.onnx", colour="rgb")
    two = tmp_path / "two.onnx"
    nodes = [helper.make_node("Add", ["x", "s"], ["y"]), helper.make_node("Neg", ["s"], ["t"])]
    info = [helper.make_tensor_value_info(n, 1, ["n", 1, "h", "w"]) for n in ("x", "s", "y", "t")]
    graph = helper.make_graph(nodes, "two", info[:2], info[2:])
    opset = [helper.make_opsetid("", 17)]
    two.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    shapes = {"low": (1, 3, 8, 8), "high": (1, 3, 8, 8)}
    gray = {"low": (1, 1, 8, 8), "high": (1, 1, 8, 8)}
    for path, sizes, said in [
        (rgb, shapes, "takes 3 channels of float32"),
        (half_model(tmp_path / "half.onnx"), gray, None),
        (two, gray, r"takes \['x', 's'\] and gives \['y', 't'\]"),
    ]:
        plan = make_plan(path, **sizes)
        request = request_for(tiny)
        if said is None:  # half in and out is a form of a float32 model
            TensorRtSession(plan, trt=trt, cuda=trt.cuda, request=request, on_note=print).close()
            continue
        with pytest.raises(BackendError, match=said):
            TensorRtSession(plan, trt=trt, cuda=trt.cuda, request=request, on_note=print)
    gc.collect()
    trt.cuda.check()


def saved(path: Path, plan: bytes, onnx_path: Path, trt: Any, *, spec: ModelSpec) -> Path:
    options = engine_options(spec, least=(8, 8), usual=(8, 8), most=(96, 128))
    key = make_key(onnx_path, options=options, trt=trt, cuda=trt.cuda)
    save_engine(path, plan, spec=spec, key=key)
    return path


def test_plan_with_its_sidecar(tmp_path: Path, tiny: Path, trt: FakeTrt) -> None:
    spec = load_file(tiny).spec
    plan = make_plan(tiny, low=(1, 1, 8, 8), high=(1, 1, 96, 128))
    path = saved(tmp_path / "tiny.plan", plan, tiny, trt, spec=spec)
    session = tensorrt.open_session(request_for(path, spec), trt=trt, cuda=trt.cuda)
    np.testing.assert_array_equal(session(picture(16, 16)), by_ort(tiny, picture(16, 16)))
    closed_clean(session, trt)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gpu", "it was built for GPU Fake GPU, this is Orin"),
        ("tensorrt", "built for TensorRT tensorrt 10.3.0, this is tensorrt 10.13.3"),
        ("cut", "it is cut off"),
        ("damaged", "it is damaged"),
        ("no sidecar", r"alone\.json is missing"),
        ("other model", "is an fp32 engine of tiny-x2, not the fp32 one of other-x2"),
    ],
)
def test_wrong_engine_is_refused(
    tmp_path: Path, tiny: Path, trt: FakeTrt, change: str, said: str
) -> None:
    """Nothing is handed to TensorRT that was not built here for this model."""
    spec = load_file(tiny).spec.replace(name="tiny-x2")
    plan = make_plan(tiny, low=(1, 1, 8, 8), high=(1, 1, 96, 128))
    path = saved(tmp_path / "alone.plan", plan, tiny, trt, spec=spec)
    if change == "gpu":
        trt.cuda.name = "Orin"
    elif change == "tensorrt":
        trt.__version__ = "10.13.3"
    elif change == "cut":
        path.write_bytes(plan[:-9])
    elif change == "damaged":
        path.write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    elif change == "no sidecar":
        sidecar_path(path).unlink()
    else:
        spec = spec.replace(name="other-x2")
    with pytest.raises(BackendError, match=said) as caught:
        tensorrt.open_session(request_for(path, spec), trt=trt, cuda=trt.cuda)
    assert change == "other model" or "edgesr export" in str(caught.value)
    assert trt.deserialised == 0
    trt.cuda.check()


def test_another_driver_is_a_note(tmp_path: Path, tiny: Path, trt: FakeTrt) -> None:
    spec, notes = load_file(tiny).spec, list[str]()
    plan = make_plan(tiny, low=(1, 1, 8, 8), high=(1, 1, 96, 128))
    path = saved(tmp_path / "tiny.plan", plan, tiny, trt, spec=spec)
    trt.cuda.driver = "13.0"
    request = request_for(path, spec)
    tensorrt.open_session(request, trt=trt, cuda=trt.cuda, on_note=notes.append).close()
    assert len(notes) == 1
    assert "built for driver 12.6, this is 13.0" in notes[0]
    gc.collect()
    trt.cuda.check()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgesr" / "engines"


def test_onnx_by_way_of_the_cache(tiny: Path, cuda: FakeCuda, cache: Path) -> None:
    """Built once with a note, then taken from the cache; built again with a reason."""
    trt, request = BuildingTrt(cuda), request_for(tiny)
    notes: list[str] = []

    def run() -> None:
        session = tensorrt.open_session(request, trt=trt, cuda=cuda, on_note=notes.append)
        frame = picture(64, 80)
        np.testing.assert_array_equal(session(frame), by_ort(tiny, frame))
        closed_clean(session, trt)  # type: ignore[arg-type]

    run()
    assert trt.builds == 1
    assert "building the fp32 engine of convolutions-x2 for Fake GPU" in notes[-1]
    notes.clear()
    run()
    assert (trt.builds, notes) == (1, [])

    cuda.name = "Orin"
    run()
    assert trt.builds == 2
    assert "it was built for GPU Fake GPU, this is Orin" in notes[0]
    notes.clear()

    for plan in cache.glob("*.plan"):
        plan.write_bytes(plan.read_bytes()[:-1])
    run()
    assert trt.builds == 3
    assert "it is cut off" in notes[0]


def test_engine_that_tensorrt_cannot_read_is_built_anew(
    tiny: Path, cuda: FakeCuda, cache: Path
) -> None:
    """All that is known of it fits, and still: once more, and no third time."""
    trt, notes = BuildingTrt(cuda), list[str]()
    options = {"trt": trt, "cuda": cuda, "on_note": notes.append}
    tensorrt.open_session(request_for(tiny), **options).close()
    trt.unreadable = 1
    tensorrt.open_session(request_for(tiny), **options).close()
    assert trt.builds == 2
    assert "magicTagRead failed" in notes[-2]
    trt.unreadable = 9
    with pytest.raises(BackendError, match="magicTagRead failed"):
        tensorrt.open_session(request_for(tiny), **options)
    assert trt.builds == 3
    gc.collect()
    cuda.check()


def test_onnx_of_one_size(tiny: Path, cuda: FakeCuda, cache: Path) -> None:
    trt = BuildingTrt(cuda)
    request = request_for(tiny, size=(24, 40), parallel=2, io="uint8")
    session = tensorrt.open_session(request, trt=trt, cuda=cuda, on_note=lambda line: None)
    assert cuda.live()["graphs"] == 2
    batch = np.random.default_rng(0).integers(0, 256, (1, 1, 24, 40), np.uint8)
    np.testing.assert_array_equal(session(batch), by_ort(tiny, batch, io="uint8"))
    with pytest.raises(UsageError, match="opened for"):
        session(batch[:, :, :8])
    closed_clean(session, trt)  # type: ignore[arg-type]


def test_tensorrt_is_missing(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match="--system-site-packages") as caught:
        tensorrt.open_session(request_for(tiny))
    assert "\n" not in str(caught.value)
    assert "pip install 'edgesr[trt]'" in str(caught.value)


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


# The fake itself: it must see what a GPU would not forgive.


def test_the_fake_sees_misuse() -> None:
    cuda = FakeCuda()
    cuda.make_current()
    stream, device, host = cuda.stream_create(), cuda.malloc(8), cuda.host_alloc(8)
    host[:] = 7
    cuda.copy_to_device(device, host, 8, stream)
    assert (cuda.device(device, 8) == 0xFF).all()  # nothing is done before it is waited for
    cuda.stream_synchronize(stream)
    assert (cuda.device(device, 8) == 7).all()
    for wrong in [
        lambda: cuda.device(device, 9),
        lambda: cuda.free(device + 1),
        lambda: cuda.host_free(np.zeros(8, np.uint8)),
        lambda: cuda.graph_launch(1, stream),
        lambda: cuda.stream_destroy(stream + 1),
        lambda: (cuda.copy_to_device(device, host, 9, stream), cuda.stream_synchronize(stream)),
        lambda: (cuda.copy_to_host(host, device, 8, stream), cuda.stream_destroy(stream)),
    ]:
        with pytest.raises(Misuse):
            wrong()
    stream = cuda.stream_create()
    cuda.copy_to_device(device, host, 8, stream)
    cuda.free(device)
    with pytest.raises(Misuse, match="not allocated"):
        cuda.free(device)
    with pytest.raises(Misuse, match="not allocated"):
        cuda.stream_synchronize(stream)
    with ThreadPoolExecutor(1) as pool, pytest.raises(Misuse, match="no device in this thread"):
        pool.submit(cuda.malloc, 4).result()
    with pytest.raises(AssertionError):
        cuda.check()
