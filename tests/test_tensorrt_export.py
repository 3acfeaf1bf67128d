"""`export --trt`: the typed files, the engine that is compared, and what is said without one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx_models import convolutions, nearest
from trt_fakes import PLAN, Cuda, Trt8, Trt10, Trt11

from edgesr.errors import BackendError, UsageError
from edgesr.export import tensorrt as export
from edgesr.export.fp16 import to_fp16
from edgesr.export.source import load_source
from edgesr.export.tensorrt import TensorRtReport, export_tensorrt
from edgesr.export.tensorrt_parity import parity, parity_inputs
from edgesr.models import load_file
from edgesr.runtime.backends import open_session
from edgesr.runtime.backends.engine import make_key, read_sidecar
from edgesr.runtime.backends.engine_options import engine_options
from edgesr.runtime.backends.tensorrt_build import open_plan

SIZES = {"least": (32, 32), "usual": (40, 56), "most": (90, 160)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without TensorRT, whatever this one has."""
    monkeypatch.setattr(export, "find_tensorrt", lambda *_: (None, None, "it is not installed"))


class Computed:
    """A plan of the fakes, run by ONNX Runtime; `spoil` is done to each result."""

    def __init__(self, spoil=lambda result, round: result) -> None:
        self.round = 0
        self.spoil = spoil
        self.closed = 0

    def __call__(self, plan: bytes, spec, path: Path):
        assert plan.startswith(PLAN)
        session = onnxruntime.InferenceSession(
            plan.removeprefix(PLAN), providers=["CPUExecutionProvider"]
        )
        self.round += 1
        at = self.round
        outer = self

        class Run:
            def __call__(self, picture: np.ndarray) -> np.ndarray:
                return outer.spoil(session.run(None, {"x": picture})[0], at)

            def close(self) -> None:
                outer.closed += 1

        return Run()


def exported(path: Path, precision: str, base: Path, **changes) -> TensorRtReport:
    source = load_source(str(path))
    options = engine_options(source.spec, precision=precision, **changes.pop("sizes", SIZES))
    if precision == "int8" and source.spec.precision == "fp32":
        changes.setdefault("quantised", quantised(path))
    return export_tensorrt(source, base=base, precision=precision, options=options, **changes)


def quantised(path: Path, asked: list | None = None):
    """Stands for the quantiser: the graph with other facts, told apart by its name."""

    def make(flavour: str, keep: frozenset[str]) -> onnx.ModelProto:
        if asked is not None:
            asked.append((flavour, keep))
        graph = onnx.load(path)
        graph.graph.name = flavour
        spec = load_file(path).spec.replace(precision="int8")
        onnx.helper.set_model_props(graph, {"edgesr": spec.to_json()})
        return graph

    return make


def test_without_tensorrt_the_typed_file_and_a_command(tmp_path: Path, none: None) -> None:
    net = convolutions(tmp_path / "net.onnx")
    notes: list[str] = []
    report = exported(net, "fp16", tmp_path / "out", on_note=notes.append)
    (path,) = set(report.files.values())
    assert path == tmp_path / "out-fp16.onnx"
    assert load_file(path).spec.precision == "fp16"
    assert report.to_dict()["engine"] is None
    assert report.why == "it is not installed"
    assert not list(tmp_path.glob("*.plan"))
    sizes = "--min 32x32 --opt 56x40 --max 160x90"
    assert f"  edgesr export out-fp16.onnx --trt fp16 {sizes}" in report.commands
    shapes = "--minShapes=x:1x1x32x32 --optShapes=x:1x1x40x56 --maxShapes=x:1x1x90x160"
    lines = [line for line in report.commands if "trtexec" in line]
    tool = "trtexec --onnx=out-fp16.onnx --saveEngine=out-fp16.plan"
    assert [line.partition(": ")[2] for line in lines] == [
        f"{tool} --stronglyTyped {shapes}",
        f"{tool} --fp16 {shapes}",
    ]
    assert any("--system-site-packages" in line for line in report.commands)
    text = json.dumps(report.to_dict())
    assert str(tmp_path) not in text


def test_int8_without_tensorrt_is_two_files(tmp_path: Path, none: None) -> None:
    net = convolutions(tmp_path / "net.onnx")
    report = exported(net, "int8", tmp_path / "out", sizes={"size": (40, 56)})
    assert report.files == {
        "trt": tmp_path / "out-int8-tensorrt.onnx",
        "trt8": tmp_path / "out-int8-tensorrt8.onnx",
    }
    assert [onnx.load(path).graph.name for path in report.files.values()] == ["trt", "trt8"]
    commands = "\n".join(report.commands)
    assert "TensorRT 8 (JetPack 6.0): edgesr export out-int8-tensorrt8.onnx --trt int8" in commands
    assert "out-int8-tensorrt.onnx --trt int8 --size 56x40" in commands
    assert "--saveEngine=out-int8-tensorrt8.plan --int8 --fp16 --minShapes" in commands
    assert "there is a file for 8 and one for 10 and 11" in report.log[-1]


def test_an_engine_is_demanded(tmp_path: Path, none: None) -> None:
    net = convolutions(tmp_path / "net.onnx")
    with pytest.raises(BackendError, match="no TensorRT engine can be built here: it is not inst"):
        exported(net, "fp16", tmp_path / "out", require_engine=True)
    assert sorted(path.name for path in tmp_path.glob("*")) == ["net.onnx"]


def test_this_machine_says_why_not() -> None:
    """Nothing is put in its place here: whatever this machine has, the three answers agree."""
    trt, cuda, why = export.find_tensorrt()
    assert (why is None) == (trt is not None and cuda is not None)
    if trt is None:
        assert "TensorRT is not installed" in (why or "")


@pytest.mark.parametrize("kind", [Trt8, Trt10, Trt11])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_with_its_sidecar(tmp_path: Path, kind, precision: str) -> None:
    net = convolutions(tmp_path / "net.onnx")
    trt, cuda, runner = kind("1.2.3"), Cuda(), Computed()
    asked: list = []
    changes = {"quantised": quantised(net, asked)} if precision == "int8" else {}
    report = exported(
        net, precision, tmp_path / "out", trt=trt, cuda=cuda, runner=runner, **changes
    )
    (onnx_file,) = report.files.values()
    assert report.engine is not None
    assert (
        report.engine.name
        == {
            "fp32": "net.plan",  # the file is the user's own already
            "fp16": "out-fp16.plan",
            "int8": "out-int8-tensorrt.plan",
        }[precision]
    )
    assert report.engine.read_bytes() == PLAN + onnx_file.read_bytes()
    sidecar = read_sidecar(report.engine)
    assert sidecar.key == make_key(onnx_file, options=report.options, trt=trt, cuda=cuda)
    assert sidecar.spec.precision == precision
    assert open_plan(report.engine, trt=trt, cuda=cuda)[0] == report.engine.read_bytes()
    assert report.difference is not None
    assert 0 <= report.difference.max_abs < 5e-3
    assert (report.difference.max_abs > 0) == (precision == "fp16")
    assert (runner.round, runner.closed) == (1, 1)
    assert asked == ([("trt8" if kind is Trt8 else "trt", frozenset())] if changes else [])
    assert report.commands == ()
    json.dumps(report.to_dict())


def test_a_typed_file_is_built_as_it_is(tmp_path: Path, none: None) -> None:
    """What the command on the device is given: the file that the export wrote."""
    net = convolutions(tmp_path / "net.onnx")
    first = exported(net, "fp16", tmp_path / "out")
    (path,) = set(first.files.values())
    before = path.read_bytes()
    source = export_source(path)
    options = engine_options(source.spec, **SIZES)
    report = export_tensorrt(source, base=tmp_path / "again", precision="fp16", options=options)
    assert set(report.files.values()) == {path}
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="is fp16 and cannot become int8"):
        export_tensorrt(source, base=tmp_path / "x", precision="int8", options=options)


def test_float16_ends_are_compared_as_a_session_feeds_them(tmp_path: Path) -> None:
    """Typed by hand with float16 ends: float32 batches in and out, cast on the way."""
    source = load_source(str(convolutions(tmp_path / "net.onnx")))
    graph = to_fp16(source.graph, source.spec, io="float16")
    onnx.save(graph, tmp_path / "half.onnx")
    half = export_source(tmp_path / "half.onnx")
    assert half.spec.io.dtype == "float16"
    runtime = open_session(tmp_path / "half.onnx", spec=half.spec, backend="ort")
    inputs = parity_inputs(half.spec, engine_options(half.spec, **SIZES))
    assert {picture.dtype for picture in inputs} == {np.dtype(np.float32)}
    assert parity(runtime, half.graph, inputs).max_abs == 0.0
    assert parity(runtime, source.graph, inputs).max_abs < 5e-3


def export_source(path: Path):
    from edgesr.export.source import Source

    spec = load_file(path).spec
    return Source(graph=onnx.load(path), spec=spec, origin=str(path), module=None)


def test_layers_that_overflow_stay_float(tmp_path: Path) -> None:
    """A layer whose sums leave float16: named before the build, float32 in the file."""
    net = nearest(tmp_path / "net.onnx")
    graph = onnx.load(net)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    large = numpy_helper.to_array(weights["w"]) * 2.0**20
    weights["w"].CopyFrom(numpy_helper.from_array(large, "w"))
    graph.graph.node[1].input[0] = "small"
    down = onnx.helper.make_node("Mul", ["h", "down"], ["small"], name="down")
    graph.graph.node.insert(1, down)
    graph.graph.initializer.append(numpy_helper.from_array(np.float32([2.0**-20]), "down"))
    onnx.save(graph, net)
    notes: list[str] = []
    report = exported(
        net,
        "fp16",
        tmp_path / "out",
        trt=Trt10("10.3.0"),
        cuda=Cuda(),
        runner=Computed(),
        on_note=notes.append,
    )
    assert "down" in report.kept_float
    assert "leave the range of float16 and stay float32" in notes[0]
    assert report.difference is not None
    assert report.difference.max_abs < 1e-3
    assert np.isfinite(report.difference.mean_abs)


@pytest.mark.parametrize("fault", ["nan", "black", "blot"])
def test_a_bad_engine_is_built_again_with_more_float(tmp_path: Path, fault: str) -> None:
    """The first two engines compute nonsense; the third, with more layers in float32, does not."""

    def spoil(result: np.ndarray, round: int) -> np.ndarray:
        result = result.copy()
        if round <= 2:
            match fault:
                case "nan":
                    result[..., 5, 5] = np.nan
                case "black":
                    result[:] = 0.0
                case "blot":
                    result[..., 3:5, 3:5] = 65504.0
        return result

    net = convolutions(tmp_path / "net.onnx")
    runner = Computed(spoil)
    report = exported(
        net, "fp16", tmp_path / "out", trt=Trt10("10.3.0"), cuda=Cuda(), runner=runner
    )
    assert runner.round == runner.closed == 3
    again = [line for line in report.log if "it is built again" in line]
    assert len(again) == 2
    nodes = len(onnx.load(net).graph.node)
    assert len(report.kept_float) == round(nodes / 4)  # an eighth, then a quarter
    assert report.engine is not None
    (path,) = report.files.values()
    assert report.engine.read_bytes() == PLAN + path.read_bytes()


def test_an_engine_that_stays_bad_is_not_handed_over(tmp_path: Path) -> None:
    net = convolutions(tmp_path / "net.onnx")
    for precision, rounds in (("fp16", 4), ("fp32", 1)):
        runner = Computed(lambda result, round: result * np.nan)
        with pytest.raises(BackendError, match=r"does not compute what the graph does: max nan"):
            exported(net, precision, tmp_path / "out", trt=Trt10("1.2"), cuda=Cuda(), runner=runner)
        assert runner.round == rounds
    assert not list(tmp_path.glob("*.plan"))


def test_what_cannot_be_meant(tmp_path: Path, none: None) -> None:
    net = convolutions(tmp_path / "net.onnx")
    source = load_source(str(net))
    options = engine_options(source.spec)
    with pytest.raises(UsageError, match="needs pictures to calibrate with: --calib"):
        export_tensorrt(source, base=tmp_path / "x", precision="int8", options=options)
    with pytest.raises(UsageError, match="there is no folder"):
        export_tensorrt(source, base=tmp_path / "a" / "x", precision="fp16", options=options)
