"""What a TensorRT session is opened from: engines, plans with sidecars, the cache, nothing."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tensorrt_sessions
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTrt, make_plan
from fake_tensorrt_builder import BuildingTrt
from onnx import helper
from tensorrt_sessions import by_ort, closed_clean, half_model, opened, picture, request_for

from edgesr.errors import BackendError, MissingDependency, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import tensorrt
from edgesr.runtime.backends.engine import make_key, save_engine, sidecar_path
from edgesr.runtime.backends.engine_options import engine_options
from edgesr.runtime.backends.tensorrt_session import TensorRtSession
from edgesr.spec import ModelSpec

quick_collection = tensorrt_sessions.quick_collection
cuda = tensorrt_sessions.cuda
trt = tensorrt_sessions.trt
tiny = tensorrt_sessions.tiny


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
