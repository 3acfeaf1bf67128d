"""`--on`: a student trained on with one clip, measured on seconds that it never saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from media import write_video
from safetensors.torch import load_file

from edgesr.distill.footage import survey
from edgesr.distill.recipe import Recipe
from edgesr.distill.scenes import in_part
from edgesr.distill.specialise import MEASURED, TRAINING, origin_of, specialise
from edgesr.errors import MediaError, UsageError
from edgesr.models import shipped
from edgesr.onnxmeta import read_metadata

TINY = {
    "student": "ecbsr-m4c16",
    "steps": 60,
    "batch": 4,
    "patch": 16,
    "lr": 5e-4,
    "warmup": 5,
    "ema": 0.9,
    "validate_every": 30,
    "save_every": 30,
    "copies": [1.0],
    "full_range": 0.0,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Ten seconds of waves: nothing that a network for photos knows best."""
    return write_video(tmp_path / "film.mp4", size=(128, 96), frames=100, rate=10)


def tiny(**changes: object) -> Recipe:
    return Recipe(**{**TINY, **changes})


def checkpoint_of(name: str) -> Path:
    return next(m.checkpoint for m in shipped() if m.name == name and m.checkpoint is not None)


def test_a_gain_is_measured_and_kept(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = specialise(tiny(), on=[film], out=out, device="cpu")
    assert result.kept
    assert result.gain > 0.01
    assert result.verdict.startswith(f"gain measured on the held-out parts: {result.gain:+.3f} dB")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["kept"] == "specialised"
    assert summary["before"]["psnr_y"] == pytest.approx(result.before.psnr_y, abs=1e-3)
    assert summary["gain_psnr_y"] == pytest.approx(result.gain, abs=1e-3)
    page = (out / "report.html").read_text()
    assert result.verdict in page
    assert "before" in page
    for name, tensor in load_file(out / "last.safetensors").items():
        assert torch.equal(tensor, load_file(out / "best.safetensors")[name])
    assert read_metadata(out / "model.onnx")
    before, after = result.table()[3], result.table()[4]
    assert f"{result.before.psnr_y:.3f}" in before
    assert f"{result.after.psnr_y:.3f}" in after


def test_without_a_gain_the_shipped_model_is_kept(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = tiny(steps=4, lr=1e-9, lr_end=0.0, validate_every=2)
    result = specialise(recipe, on=[film], out=out, device="cpu")
    assert not result.kept
    assert result.verdict.startswith("no gain measured on the held-out parts")
    assert result.verdict.endswith("the shipped model is kept")
    assert result.verdict in (out / "report.html").read_text()
    origin = checkpoint_of("ecbsr-m4c16-x2")
    assert (out / "best.safetensors").read_bytes() == origin.read_bytes()


def test_a_loss_is_said_with_its_size(film: Path, tmp_path: Path) -> None:
    result = specialise(
        tiny(steps=8, lr=0.1, warmup=0, ema=0.0), on=[film], out=tmp_path / "run", device="cpu"
    )
    assert result.gain < -1
    assert f"({result.gain:+.3f} dB, 0 of {result.pictures} pictures better)" in result.verdict
    assert not result.kept


def test_measured_frames_are_seconds_apart_from_the_trained_ones(film: Path) -> None:
    found = survey(film)
    trained, measured = (in_part(found, s, clip=film) for s in (TRAINING, MEASURED))
    assert trained.any()
    assert measured.any()
    nearest = np.abs(np.flatnonzero(trained)[:, None] - np.flatnonzero(measured)[None]).min()
    assert nearest > TRAINING.gap


def test_a_checkpoint_of_ones_own_is_the_start(film: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    shutil.copyfile(checkpoint_of("ecbsr-m4c16-x2"), mine)
    assert origin_of(tiny(init=str(mine))) == mine
    recipe = tiny(steps=2, lr=1e-9, lr_end=0.0, init=str(mine))
    result = specialise(recipe, on=[film], out=tmp_path / "run", device="cpu")
    assert result.verdict.endswith("the model it began as is kept")


def test_what_cannot_be_specialised(film: Path, tmp_path: Path) -> None:
    def on(path: Path, **changes: object) -> None:
        specialise(tiny(**changes), on=[path], out=tmp_path / "run", device="cpu")

    with pytest.raises(UsageError, match=r"no shipped rrdb-x2 .*there is ecbsr-m4c16-x2"):
        on(film, student="rrdb")
    with pytest.raises(UsageError, match="without teacher"):
        on(film, teacher="edsr")
    with pytest.raises(UsageError, match="no such folder or file"):
        on(tmp_path / "no.mp4")
    photo = tmp_path / "a.png"
    photo.write_bytes(b"")
    with pytest.raises(UsageError, match="photos go to --data"):
        on(photo)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(MediaError, match=r"empty\.mp4"):
        on(tmp_path / "empty.mp4")
    with pytest.raises(MediaError, match="too few to hold out"):
        on(write_video(tmp_path / "short.mp4", frames=6))
    assert not (tmp_path / "run").exists()


def test_degraded_frames_are_called_so(film: Path, tmp_path: Path) -> None:
    recipe = tiny(steps=2, degradation="video", versions=1)
    result = specialise(recipe, on=[film], out=tmp_path / "run", device="cpu")
    count = int(result.frames.split()[0])
    assert result.frames.endswith("held-out frames, each through x264 at CRF 20, 27, 34")
    assert result.pictures == 3 * count
    assert f"of {result.pictures} pictures better" in result.verdict
