"""An .onnx from elsewhere: what it is taken for, and that it runs and is exported like ours."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cv2
import onnx
import onnxruntime
from foreign_models import Compact, Dense, Levels, Pooled, Reflected, Unshuffled, dynamo, legacy
from media import write_video
from photos import write_photos

from edgesr import cli, foreign, models
from edgesr.errors import MissingDependency, ModelError, UsageError
from edgesr.export.source import load_source
from edgesr.onnxmeta import read_slopes

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(*arguments: Any) -> int:
    return cli.run([str(argument) for argument in arguments])


def answers(path: Path, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: picture})[0]


Make = Callable[[Path], Path]


@pytest.mark.parametrize(
    ("make", "facts"),
    [
        (lambda p: legacy(Compact(), p), ("rgb", 4, 1, 1, 5)),
        (lambda p: legacy(Compact(scale=2, convs=1), p, opset=11), ("rgb", 2, 1, 1, 3)),
        # 1 + 2 before the enlargement, then 1 at x2 and 2 at x4: a pixel and its neighbours.
        (lambda p: legacy(Dense(), p, opset=16), ("rgb", 4, 1, 1, 4)),
        (lambda p: dynamo(Compact(), p), ("rgb", 4, 1, 1, 5)),
        (lambda p: legacy(Compact(scale=2, channels=1), p, channels=1), ("y", 2, 1, 1, 5)),
        (lambda p: legacy(Unshuffled(), p), ("rgb", 2, 2, 2, 3)),
        (lambda p: legacy(Pooled(), p), ("rgb", 2, 1, 1, None)),
        (lambda p: legacy(Reflected(), p, channels=1), ("y", 3, 1, 3, 2)),
    ],
    ids=["compact", "opset 11", "dense", "dynamo", "luma", "even", "pooled", "reflected"],
)
def test_facts_are_found_by_running_it(tmp_path: Path, make: Make, facts: tuple[Any, ...]) -> None:
    """Against what is known of the network: its layers were counted by hand."""
    model = models.load_file(make(tmp_path / "net.onnx"))
    spec = model.spec
    assert (spec.colour, spec.scale, spec.multiple, spec.min_size, spec.halo) == facts
    assert (spec.name, spec.network) == (f"net-x{spec.scale}", "foreign")
    assert model.note is not None
    assert model.note.startswith(f"net.onnx carries no facts: {spec.colour}, x{spec.scale}, ")


def test_a_file_of_one_size(tmp_path: Path) -> None:
    path = legacy(Compact(scale=2), tmp_path / "fixed.onnx", dynamic=False)
    model = models.load_file(path)
    assert (model.spec.fixed_size, model.spec.scale) == ((24, 32), 2)
    assert model.note is not None
    assert "32x24 only" in model.note


def test_slopes_that_openvino_runs_slowly_are_told(tmp_path: Path) -> None:
    path = legacy(Compact(), tmp_path / "net.onnx")
    assert read_slopes(path) == [(12, 1, 1)] * 4
    assert "`edgesr export net.onnx` makes it faster" in str(models.load_file(path).note)
    path = legacy(Dense(), tmp_path / "dense.onnx")
    assert read_slopes(path) == []
    assert "faster" not in str(models.load_file(path).note)


def test_the_probe_is_kept_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = legacy(Compact(), tmp_path / "net.onnx")
    first = models.load_file(path)
    measured: list[Path] = []
    real = foreign.measure
    monkeypatch.setattr(foreign, "measure", lambda p: measured.append(p) or real(p))
    assert models.load_file(path) == first
    assert not measured
    legacy(Compact(scale=2), path)
    assert models.load_file(path).spec.scale == 2
    foreign._kept(path).write_text("{damaged")
    assert models.load_file(path).spec.scale == 2
    assert len(measured) == 2


def test_without_onnx_runtime_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = legacy(Compact(), tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match="pip install onnxruntime"):
        models.load_file(path)


def graph_of(**changes: Any) -> onnx.ModelProto:
    """Nearest x2 by Resize, with one thing about it changed."""
    shape = changes.get("shape", ["n", 3, "h", "w"])
    dtype = changes.get("dtype", onnx.TensorProto.FLOAT)
    factors = np.array(changes.get("factors", [1, 1, 2, 2]), np.float32)
    x = onnx.helper.make_tensor_value_info("x", dtype, shape)
    more = [onnx.helper.make_tensor_value_info("z", dtype, shape)] if changes.get("two") else []
    y = onnx.helper.make_tensor_value_info("y", dtype, [None] * 4)
    node = onnx.helper.make_node(
        "Resize", ["x", "", "f"], ["y"], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )  # fmt: skip
    constants = [onnx.numpy_helper.from_array(factors, "f")]
    graph = onnx.helper.make_graph([node], "g", [x, *more], [y], constants)
    opset = onnx.helper.make_opsetid("", 17)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": ["n", "h", "w", 3]}, "height and width are both fixed, or neither"),
        ({"shape": ["n", 24, 24, 3]}, "it is NHWC, NCHW is needed"),
        ({"shape": ["n", 4, "h", "w"]}, "takes 4 channels: 1 or 3"),
        ({"shape": [8, 3, "h", "w"]}, "batches of 8 only"),
        ({"two": True}, "has 2 inputs and 1 outputs"),
        ({"dtype": onnx.TensorProto.FLOAT16}, "float16.*edgesr export"),
        ({"dtype": onnx.TensorProto.UINT8}, r"tensor\(uint8\)"),
        ({"factors": [1, 1, 0.5, 0.5]}, "not an enlarged one"),
        ({"factors": [1, 1, 2, 3]}, "not an enlarged one"),
    ],
)
def test_what_is_no_such_model(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(graph_of(**changes), path)
    with pytest.raises(ModelError, match=message):
        models.load_file(path)


def test_the_unchanged_one_is_taken(tmp_path: Path) -> None:
    onnx.save(graph_of(), tmp_path / "net.onnx")
    assert models.load_file(tmp_path / "net.onnx").spec.halo == 0


def test_0_to_255_is_told_by_gray_and_export_makes_it_0_to_1(tmp_path: Path) -> None:
    path = legacy(Levels(), tmp_path / "levels.onnx")
    with pytest.raises(ModelError, match=r"in 0\.\.255 .*edgesr export"):
        models.load_file(path)
    source = load_source(str(path))
    assert any("0..255" in note for note in source.notes)
    (tmp_path / "one.onnx").write_bytes(source.graph.SerializeToString())
    picture = np.random.default_rng(0).random((1, 3, 9, 14), dtype=np.float32)
    expected = answers(path, picture * 255) / 255
    assert np.abs(answers(tmp_path / "one.onnx", picture) - expected).max() < 1e-5
    assert models.load_file(tmp_path / "one.onnx").spec.io.range == (0.0, 1.0)


@pytest.mark.parametrize("opset", [11, 16, 17])
def test_export_makes_a_deployable_of_it(tmp_path: Path, opset: int) -> None:
    path = legacy(Compact(), tmp_path / "real.onnx", opset=opset)
    source = load_source(str(path))
    graph = source.graph
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert graph.ir_version == 8
    assert ([v.name for v in graph.graph.input], [v.name for v in graph.graph.output]) == (
        ["x"],
        ["y"],
    )
    assert (source.module, source.spec.halo, source.spec.precision) == (None, 5, "fp32")
    assert source.difference is not None
    slopes = {node.input[1] for node in graph.graph.node if node.op_type == "PRelu"}
    assert {tuple(t.dims) for t in graph.graph.initializer if t.name in slopes} == {(1, 12, 1, 1)}
    (tmp_path / "ours.onnx").write_bytes(graph.SerializeToString())
    picture = np.random.default_rng(0).random((3, 3, 17, 23), dtype=np.float32)
    both = answers(tmp_path / "ours.onnx", picture), answers(path, picture)
    assert np.abs(both[0] - both[1]).max() < 1e-5
    assert models.load_file(tmp_path / "ours.onnx").spec == source.spec


def test_float16_becomes_float32(tmp_path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    path = legacy(Compact(), tmp_path / "full.onnx")
    half = convert_float_to_float16(onnx.load(path), keep_io_types=False)
    onnx.save(half, tmp_path / "half.onnx")
    source = load_source(str(tmp_path / "half.onnx"))
    kinds = {t.data_type for t in source.graph.graph.initializer}
    assert onnx.TensorProto.FLOAT16 not in kinds
    assert any("float16" in note for note in source.notes)
    (tmp_path / "ours.onnx").write_bytes(source.graph.SerializeToString())
    picture = np.random.default_rng(0).random((1, 3, 17, 23), dtype=np.float32)
    assert np.abs(answers(tmp_path / "ours.onnx", picture) - answers(path, picture)).max() < 5e-3


def test_operators_of_one_runtime_are_refused(tmp_path: Path) -> None:
    graph = graph_of()
    graph.graph.node[0].domain = "com.microsoft"
    graph.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    (tmp_path / "net.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match=r"com\.microsoft\.Resize"):
        load_source(str(tmp_path / "net.onnx"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_video(tmp_path / "in.mp4", size=(96, 64), frames=24, rate=12)


def test_it_streams_and_enlarges_pictures(tmp_path: Path, clip: Path, capsys: Captured) -> None:
    path = legacy(Compact(scale=2), tmp_path / "net.onnx")
    out = tmp_path / "out.mp4"
    assert run("stream", clip, out, "--model", path, "--backend", "ort", "--json") == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["frames"]["out"], stats["output"]["width"], stats["output"]["height"]) == (
        24,
        192,
        128,
    )
    photo = next(iter(sorted(write_photos(tmp_path / "photos", 1).iterdir())))
    large = tmp_path / "large.png"
    assert run("image", photo, large, "--model", path, "--backend", "ort", "-q") == 0
    rgb = cv2.imread(str(photo))[:, :, ::-1].astype(np.float32) / 255
    expected = answers(path, np.ascontiguousarray(rgb.transpose(2, 0, 1)[None]))[0]
    expected = np.clip(np.rint(expected.transpose(1, 2, 0) * 255), 0, 255)[:, :, ::-1]
    assert np.abs(cv2.imread(str(large)) - expected).max() <= 1


def test_it_goes_through_int8_and_streams_again(
    tmp_path: Path, clip: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgesr.export.report.TIMED", (32, 48))
    path = legacy(Compact(scale=2), tmp_path / "net.onnx")
    words = ["--int8", "--calib", clip, "--max-drop", "2", "--json"]
    assert run("export", path, *words) == 0
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert report["path"] == "net-x2-int8.onnx"
    assert "net.onnx carries no facts: rgb, x2" in " ".join(report["notes"])
    made = models.load_file(tmp_path / "net-x2-int8.onnx")
    assert (made.spec.precision, made.note) == ("int8", None)
    kinds = {node.op_type for node in onnx.load(made.path).graph.node}
    assert "QuantizeLinear" in kinds or "DequantizeLinear" in kinds
    words = ["--model", made.path, "--backend", "ort", "--json"]
    assert run("stream", clip, tmp_path / "out.mp4", *words) == 0
    stats = json.loads(capsys.readouterr().out)
    assert (stats["frames"]["out"], stats["backend"]["precision"]) == (24, "int8")


def test_the_model_itself_is_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    path = legacy(Compact(scale=2), tmp_path / "net-x2.onnx")
    before = path.read_bytes()
    assert run("export", "net-x2.onnx", "--overwrite", "--quiet") == 2
    assert "net-x2.onnx is the model itself: choose another --out" in capsys.readouterr().err
    assert path.read_bytes() == before
    with pytest.raises(UsageError, match="scale 4 was asked for"):
        models.resolve(str(path), scale=4)
