"""Event files, read back by TensorBoard's own reader; without the package nothing is missed."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from photos import draw_photo, write_photos

from edgesr.bicubic import downscale
from edgesr.distill import events
from edgesr.distill.events import MARGIN, detail
from edgesr.distill.pictures import Pair
from edgesr.distill.recipe import Recipe
from edgesr.distill.run import distill
from edgesr.distill.strips import CROP
from edgesr.errors import Interrupted, MissingDependency

TINY: dict[str, Any] = {
    "student": "ecbsr-m4c8",
    "steps": 12,
    "batch": 4,
    "patch": 16,
    "warmup": 2,
    "validate_every": 4,
    "save_every": 4,
    "copies": [1.0],
}

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 5)


def tiny(**changes: object) -> Recipe:
    return Recipe(**{**TINY, **changes})


def read_back(run: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tb"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


@needs_tensorboard
def test_numbers_and_pictures_are_read_back(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(tiny(extra={"tv": 1e-3}), data=folder, out=out, device="cpu")
    found = read_back(out)
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    columns = {"loss": "loss", "loss/truth": "loss_truth", "loss/tv": "loss_tv", "lr": "lr"}
    for tag, column in (columns | {"psnr_y": "psnr_y", "ssim_y": "ssim_y"}).items():
        points = found.Scalars(tag)
        assert [p.step for p in points] == [4, 8, 12]
        expected = [float(row[column]) for row in rows]
        assert [p.value for p in points] == pytest.approx(expected, rel=1e-5)
    (tag,) = found.Tags()["images"]
    shown = found.Images(tag)
    assert [image.step for image in shown] == [4, 8, 12]
    strips = [
        cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        for image in shown
    ]
    height, width = strips[0].shape[:2]
    assert (shown[0].height, shown[0].width) == (height, width)
    bicubic, student, truth = (
        [s[:, k * width // 3 : (k + 1) * width // 3].astype(float) for s in strips]
        for k in range(3)
    )
    assert np.array_equal(bicubic[0], bicubic[2])
    assert np.array_equal(truth[0], truth[2])
    assert not np.array_equal(student[0], student[2])  # it learns
    name = tag.split("/")[-1]
    whole = cv2.imread(str(next(folder.rglob(f"{name}*")))).astype(np.float32)
    match = cv2.matchTemplate(whole, truth[0].astype(np.float32), cv2.TM_SQDIFF)
    assert match.min() == 0


@needs_tensorboard
def test_a_resumed_run_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    """Steps after the last saved one, which are made again, are there once."""
    out = tmp_path / "run"
    asked = iter([False] * 5 + [True])
    recipe = tiny(save_every=100)
    with pytest.raises(Interrupted):
        distill(recipe, data=folder, out=out, device="cpu", stop=lambda: next(asked))
    late = events.Events(out / "tb", [], scale=2, step=6)  # and a run that came further and died
    report: Any = type("Report", (), {"step": 8, "loss": 9.0, "lr": 9.0})()
    report.data_share, report.score = 0.0, None
    late.add(report, {}, weights=out)
    distill(recipe, data=folder, out=out, device="cpu", resume=True)
    points = read_back(out).Scalars("loss")
    assert [p.step for p in points] == [4, 6, 8, 12]
    assert max(p.value for p in points) < 1


@needs_tensorboard
def test_privileged_teacher_has_numbers_alone(folder: Path, tmp_path: Path) -> None:
    recipe = tiny(student="espcn", teacher="pisr", teacher_steps=4, steps=4)
    distill(recipe, data=folder, out=tmp_path / "run", device="cpu")
    teacher = read_back(tmp_path / "run" / "teacher-pisr")
    assert teacher.Tags()["images"] == []
    assert "loss/imitation" in teacher.Tags()["scalars"]
    student = read_back(tmp_path / "run")
    assert len(student.Tags()["images"]) == 1
    assert "loss/vid" in student.Tags()["scalars"]


def test_without_the_package_nothing_is_said_unless_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events.importlib.util, "find_spec", lambda name: None)
    notes: list[str] = []
    out = tmp_path / "run"
    distill(tiny(steps=4), data=folder, out=out, device="cpu", on_note=notes.append)
    assert not any("tensorboard" in note.lower() for note in notes)
    assert (out / "log.csv").is_file()
    assert not (out / "tb").exists()
    with pytest.raises(MissingDependency, match="pip install tensorboard"):
        distill(tiny(tensorboard=True), data=folder, out=tmp_path / "asked", device="cpu")


def test_it_can_be_switched_off(folder: Path, tmp_path: Path) -> None:
    distill(tiny(steps=4, tensorboard=False), data=folder, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run" / "tb").exists()


@pytest.mark.parametrize("scale", [2, 3])
def test_a_detail_is_aligned(scale: int) -> None:
    hr = draw_photo(2, height=96 * 4, width=120 * 4)
    hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
    pair = Pair(name="a", lr=downscale(hr, scale), hr=hr)
    part = detail(pair, scale=scale)
    assert part.hr.shape[0] == part.lr.shape[0] * scale
    assert part.hr.shape[0] >= CROP + MARGIN * scale
    shrunk = downscale(part.hr, scale)[8:-8, 8:-8].astype(int)
    assert np.abs(shrunk - part.lr[8:-8, 8:-8]).max() <= 1
