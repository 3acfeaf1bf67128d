"""What runs where no model is named: of a stream the one trained on compressed video."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from onnx_models import write_index

import edgesr
from edgesr import cli_run, models
from edgesr.cli import run
from edgesr.errors import UsageError
from edgesr.runtime import bench as bench_module

pytest.importorskip("onnxruntime")

VIDEO, PLAIN = models.DEFAULT_STREAM_MODEL, models.DEFAULT_MODEL
NOTE = f"{VIDEO} has no scale 4: {PLAIN}-x4 is taken"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the place of the shipped ones: the plain model at x2 and x4, `-video` at x2."""
    folder = tmp_path / "weights"
    folder.mkdir()
    write_index(folder, {f"{PLAIN}-x2": 2, f"{PLAIN}-x2-video": 2, f"{PLAIN}-x4": 4})
    monkeypatch.setattr(models, "_weights", lambda: folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.mark.parametrize(
    ("asked", "scale", "found", "note"),
    [
        (None, None, f"{PLAIN}-x2-video", None),
        (None, 2, f"{PLAIN}-x2-video", None),
        (None, 4, f"{PLAIN}-x4", NOTE),
        (PLAIN, None, f"{PLAIN}-x2", None),
        (PLAIN, 4, f"{PLAIN}-x4", None),
        (f"{PLAIN}-x2", None, f"{PLAIN}-x2", None),
        (VIDEO, None, f"{PLAIN}-x2-video", None),
    ],
)
def test_what_a_stream_runs(
    weights: Path, asked: str | None, scale: int | None, found: str, note: str | None
) -> None:
    model = models.resolve_for_stream(asked, scale=scale)
    assert (model.spec.name, model.note) == (found, note)


def test_a_scale_that_neither_has(weights: Path) -> None:
    with pytest.raises(UsageError, match=f"'{PLAIN}' has no scale 3: there is --scale 2"):
        models.resolve_for_stream(None, scale=3)
    with pytest.raises(UsageError, match=f"'{VIDEO}' has no scale 4: there is --scale 2"):
        models.resolve_for_stream(VIDEO, scale=4)


def test_without_a_video_model_nothing_is_said(tmp_path: Path) -> None:
    write_index(tmp_path, {f"{PLAIN}-x2": 2})
    model = models.resolve_for_stream(None, folder=tmp_path)
    assert (model.spec.name, model.note) == (f"{PLAIN}-x2", None)


def test_of_what_is_shipped() -> None:
    shipped = {(m.family, m.spec.scale): m.name for m in models.shipped()}
    for scale in (2, 3, 4):
        expected = shipped.get((VIDEO, scale)) or shipped[PLAIN, scale]
        assert models.resolve_for_stream(None, scale=scale).spec.name == expected
        assert models.resolve(PLAIN, scale=scale).spec.name == f"{PLAIN}-x{scale}"


def test_help_names_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert (cli_run.DEFAULT_STREAM_MODEL, cli_run.DEFAULT_MODEL) == (VIDEO, PLAIN)
    for verb, named in (("stream", True), ("bench", True), ("image", False), ("eval", False)):
        assert run([verb, "--help"]) == 0
        assert (VIDEO in capsys.readouterr().out) is named


def test_stream_from_python(weights: Path, clip: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    big = edgesr.stream(clip, tmp_path / "a.mp4", backend="ort", on_note=notes.append)
    assert (big.model["name"], notes) == (f"{PLAIN}-x2-video", [])
    big = edgesr.stream(clip, tmp_path / "b.mp4", scale=4, backend="ort", on_note=notes.append)
    assert (big.model["name"], big.output["width"], notes) == (f"{PLAIN}-x4", 256, [NOTE])
    big = edgesr.stream(clip, tmp_path / "c.mp4", model=PLAIN, backend="ort")
    assert big.model["name"] == f"{PLAIN}-x2"


def test_stream_says_which_one_it_takes(
    weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["stream", str(clip), str(tmp_path / "a.mp4"), "--backend", "ort"]) == 0
    said = capsys.readouterr()
    assert f"{PLAIN}-x2-video on ort fp32" in said.out
    assert "is taken" not in said.err
    line = ["stream", str(clip), str(tmp_path / "b.mp4"), "--scale", "4", "--backend", "ort"]
    assert run(line) == 0
    said = capsys.readouterr()
    assert f"{PLAIN}-x4 on ort fp32" in said.out
    assert said.err.count(NOTE) == 1


def test_bench_measures_what_stream_takes(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_module, "MADE_UP_FRAMES", (3, 3))
    line = ["bench", "--size", "64x48", "--seconds", "0.01", "--json"]
    assert run(line) == 0
    assert json.loads(capsys.readouterr().out)["model"] == f"{PLAIN}-x2-video"
    assert run([*line, "--scale", "4"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == f"{PLAIN}-x4"
    assert said.err.count(NOTE) == 1
    assert run([*line, "--model", PLAIN]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == f"{PLAIN}-x2"


def test_pictures_take_the_plain_one(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    ramp = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64)
    cv2.imwrite(str(folder / "a.png"), ramp)
    assert run(["image", str(folder / "a.png"), str(tmp_path / "b.png"), "--backend", "ort"]) == 0
    assert f"; {PLAIN}-x2 on ort" in capsys.readouterr().out
    assert run(["eval", "--data", str(folder), "--backend", "ort", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == f"{PLAIN}-x2"
    with edgesr.load(backend="ort") as upscale:
        assert upscale.spec.name == f"{PLAIN}-x2"
