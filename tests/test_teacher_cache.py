"""Answers that are kept: the same as a live teacher's, asked for once, damaged ones made again."""

from __future__ import annotations

import errno
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from photos import write_photos
from safetensors.torch import load_file
from torch import Tensor

from edgesr.distill import answers
from edgesr.distill.answers import KeptAnswers, answer_in_tiles, kept_answers
from edgesr.distill.cache import Coding, load_photos
from edgesr.distill.data import PhotoSet, to_full_range
from edgesr.distill.feed import make_batch
from edgesr.distill.lesson import student_lesson
from edgesr.distill.parallel import ALONE
from edgesr.distill.prepare import of_teacher
from edgesr.distill.recipe import Recipe
from edgesr.distill.run import distill
from edgesr.distill.teachers import Teacher, load_teacher
from edgesr.errors import EdgesrError, Interrupted, UsageError
from edgesr.networks import build, checkpoint, deployed

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "student": "ecbsr-m4c8",
    "teacher": "espcn-x2",
    "cache_teacher": True,
    "steps": 8,
    "batch": 4,
    "patch": 16,
    "warmup": 2,
    "validate_every": 4,
    "save_every": 4,
    "copies": [1.0],
    "detail": 0.0,
    "full_range": 0.0,
    "tensorboard": False,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


def tiny(**changes: object) -> Recipe:
    return Recipe(**{**TINY, **changes})


class Counted:
    """A teacher's `run` that counts the pictures that it is given."""

    def __init__(self, teacher: Teacher) -> None:
        self.asked = 0
        self.inner = teacher.run

    def __call__(self, small: Tensor) -> Tensor:
        self.asked += len(small)
        return self.inner(small)


def keep(teacher: Teacher, photos: PhotoSet, folder: Path, **changes: Any) -> KeptAnswers:
    options: dict[str, Any] = {
        "recipe": tiny(),
        "colour": "y",
        "device": CPU,
        "crew": ALONE,
        "on_note": lambda line: None,
        "stop": lambda: False,
    } | changes
    recipe = options.pop("recipe")
    return kept_answers(teacher, photos, recipe, folder=folder, **options)


def rgb_teacher(tmp_path: Path) -> Teacher:
    torch.manual_seed(4)
    model = build("espcn-rgb", 2).eval()
    file = tmp_path / "rgb.safetensors"
    spec = checkpoint.spec_of("espcn-rgb", deployed(model))
    checkpoint.save(file, model.state_dict(), spec=spec, model=model)
    return load_teacher(str(file), scale=2, device=CPU)


@pytest.mark.parametrize("kind", ["y", "rgb", "both"])
def test_unturned_batches_give_the_same_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Crops as large as the photos, not turned: the teacher sees the same. With an RGB teacher the
    lesson stretches a share to full range."""
    photo_folder = write_photos(tmp_path / "square", 3, height=48, width=48)
    monkeypatch.setattr("edgesr.distill.data.turn", lambda crop, which: crop)
    luma = load_teacher("espcn-x2", scale=2, device=CPU)
    teachers = {"y": [luma], "rgb": [rgb_teacher(tmp_path)]}
    teachers["both"] = [*teachers["y"], *teachers["rgb"]]
    recipe = tiny(patch=24, full_range=0.0 if kind == "y" else 0.5)
    lesson = student_lesson(recipe, [], teachers=teachers[kind])
    photos = load_photos(photo_folder, scale=2, copies=[1.0], patch=24, colour=lesson.colour)
    kept = [keep(t, photos, tmp_path / "kept", recipe=recipe) for t in lesson.teachers]
    assert all(k.path(i, v).is_file() for k in kept for i, v in k.pictures())
    batch = make_batch(replace(photos, answers=tuple(kept)), recipe, step=0, colour=lesson.colour)
    assert len(batch) == 2 + len(kept)
    objective = lesson.objective(lesson.model)
    with torch.no_grad():
        live, cached = objective(*batch[:2]), objective(*batch)
    assert float(live["response"]) > 0.01
    assert cached["truth"] == live["truth"]
    assert float(cached["response"]) == pytest.approx(float(live["response"]), abs=2e-5)


def test_what_turning_stretching_and_the_border_cost(folder: Path, tmp_path: Path) -> None:
    """The figures in the module's docstring, bounded: in levels of 255, RMS."""
    teacher = load_teacher("ecbsr-m4c16-x2", scale=2, device=CPU)
    photos = load_photos(folder, scale=2, copies=[1.0], patch=16)
    kept = keep(teacher, photos, tmp_path / "kept")
    hr, lr = (x.astype(np.float32) / (255 * 256) for x in photos.pair(0))
    height, width = hr.shape
    answer = kept.crop(0, None, slice(0, height), slice(0, width))

    def live(luma: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        picture = torch.from_numpy(np.ascontiguousarray(luma))[None, None]
        return teacher.answer(picture, "y")[0, 0].numpy()

    def rms(difference: np.ndarray[Any, Any]) -> float:
        return float(np.sqrt(np.mean(difference**2)) * 255)

    error = rms(answer - hr)
    assert rms(live(lr) - answer) < 0.01  # two bytes a value cost nothing that can be seen
    turned = rms(live(lr[:, ::-1])[:, ::-1] - answer)
    stretched = rms(live(to_full_range(lr)) - to_full_range(answer))
    assert 0.01 < turned < 0.5 * error
    assert 0.01 < stretched < 0.2 * error
    crop = live(lr[8:32, 8:32])
    around = answer[16:64, 16:64]
    assert rms(crop - around) > 0.1  # zeros around the crop, and not the photo
    halo = 2 * (teacher.spec.halo if teacher.spec and teacher.spec.halo else 0)
    assert rms((crop - around)[halo:-halo, halo:-halo]) < 0.01


def test_crops_are_cut_and_turned_as_the_truth(folder: Path, tmp_path: Path) -> None:
    """A teacher that answers with the truth itself is the truth in every batch."""
    photos = load_photos(folder, scale=2, copies=[1.0], patch=16)
    kept = KeptAnswers(folder=tmp_path, photos=photos, channels=1)
    for index, version in kept.pictures():
        kept.write(index, version, photos.pair(index)[0].astype(np.float32) / (255 * 256))
    recipe = tiny(full_range=0.5, batch=24)
    small, truth, answer = make_batch(replace(photos, answers=(kept,)), recipe, step=1, colour="y")
    assert answer.shape == truth.shape == (24, 1, 32, 32)
    assert float((answer - truth).abs().max()) < 3e-5
    for mine, plain in zip(
        (small, truth), make_batch(photos, recipe, step=1, colour="y"), strict=True
    ):
        assert torch.equal(mine, plain)  # what is drawn does not depend on it


def test_a_teacher_is_asked_once_a_picture(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[Counted] = []

    def counting(name: str, **options: Any) -> Teacher:
        teacher = load_teacher(name, **options)
        teachers.append(Counted(teacher))
        return replace(teacher, run=teachers[-1])

    monkeypatch.setattr("edgesr.distill.prepare.load_teacher", counting)
    for name, kept in (("live", None), ("kept", True)):
        distill(tiny(cache_teacher=kept), data=folder, out=tmp_path / name, device="cpu")
    live, cached = teachers
    assert live.asked == 8 * 4  # every sample of every step
    assert cached.asked == 3  # photos that are not held out
    assert len(list((tmp_path / "kept" / "teacher-answers").rglob("*.u16"))) == 3
    shared = tmp_path / "shared"
    for seed in (2, 3):  # another seed asks nothing new
        recipe = tiny(seed=seed)
        distill(recipe, data=folder, out=tmp_path / f"s{seed}", device="cpu", answers=shared)
    assert [teacher.asked for teacher in teachers[2:]] == [3, 0]
    assert not (tmp_path / "s2" / "teacher-answers").exists()


def test_resumed_with_kept_answers_is_bit_for_bit_the_same(folder: Path, tmp_path: Path) -> None:
    distill(tiny(), data=folder, out=tmp_path / "whole", device="cpu")
    asked = iter([False] * (3 + 2) + [True])  # three pictures, then steps
    with pytest.raises(Interrupted, match="stopped at step 3 of 8"):
        distill(tiny(), data=folder, out=tmp_path / "parts", device="cpu", stop=lambda: next(asked))
    (file, *_) = sorted((tmp_path / "parts" / "teacher-answers").rglob("*.u16"))
    content = bytearray(file.read_bytes())
    content[-7] ^= 0x40
    file.write_bytes(content)  # damaged meanwhile: it is made again
    distill(tiny(), data=folder, out=tmp_path / "parts", device="cpu", resume=True)
    whole, parts = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts"))
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_interrupted_and_damaged_answers_are_made_again(folder: Path, tmp_path: Path) -> None:
    photos = load_photos(folder, scale=2, copies=[1.0, 0.5], patch=16)
    assert len(photos) == 8
    teacher = load_teacher("espcn-x2", scale=2, device=CPU)
    counted = Counted(teacher)
    teacher = replace(teacher, run=counted)
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted, match="answers of espcn-x2 to 3 of 8 pictures"):
        keep(teacher, photos, tmp_path / "a", stop=lambda: next(asked))
    notes: list[str] = []
    kept = keep(teacher, photos, tmp_path / "a", on_note=notes.append)
    assert counted.asked == 8
    assert "answers to 8 pictures" in notes[-1]
    assert "5 of them new" in notes[-1]
    first, second, third = (kept.path(i, None) for i in range(3))
    good = first.read_bytes(), second.read_bytes(), third.read_bytes()
    first.write_bytes(good[0][:-2])  # cut off
    second.write_bytes(good[1][:40] + bytes([good[1][40] ^ 1]) + good[1][41:])  # a bit
    third.unlink()
    keep(teacher, photos, tmp_path / "a")
    assert counted.asked == 11
    assert (first.read_bytes(), second.read_bytes(), third.read_bytes()) == good
    assert kept.bytes() == sum(f.stat().st_size for f in kept.folder.iterdir())


def test_answers_have_the_name_of_what_they_answer(folder: Path, tmp_path: Path) -> None:
    photos = load_photos(folder, scale=2, copies=[1.0], patch=16)
    teacher = load_teacher("espcn-x2", scale=2, device=CPU)
    names = {
        keep(t, p, tmp_path / "a", recipe=r).folder.name
        for t, p, r in [
            (teacher, photos, tiny()),
            (teacher, photos, tiny(seed=9, batch=7)),  # the same
            (replace(teacher, digest="other"), photos, tiny()),
            (teacher, replace(photos, digest="other"), tiny()),
            (teacher, photos, tiny(precision="bf16")),
        ]
    }
    assert len(names) == 4


def test_compressed_versions_have_answers_of_their_own(folder: Path, tmp_path: Path) -> None:
    photos = load_photos(folder, scale=2, copies=[1.0], patch=16, coding=Coding(versions=2))
    recipe = tiny(degradation="video", versions=2)
    teacher = load_teacher("espcn-x2", scale=2, device=CPU)
    kept = keep(teacher, photos, tmp_path / "a", recipe=recipe)
    assert len(kept.pictures()) == 4 * 3
    whole = slice(None), slice(None)
    small = torch.from_numpy(photos.version(1, 1).astype(np.float32) / (255 * 256))[None, None]
    expected = teacher.answer(small, "y")[0, 0].numpy()
    assert np.abs(kept.crop(1, 1, *whole) - expected).max() < 2e-5
    assert np.abs(kept.crop(1, None, *whole) - expected).max() > 1e-3


@pytest.mark.parametrize("name", ["espcn-x2", "ecbsr-m4c16-x2"])
def test_tiles_answer_as_the_whole(name: str) -> None:
    teacher = load_teacher(name, scale=2, device=CPU)
    picture = torch.rand(1, 1, 61, 83, generator=torch.Generator().manual_seed(1))
    whole = teacher.answer(picture, "y")
    assert torch.allclose(answer_in_tiles(teacher, picture, "y", largest=32), whole, atol=1e-5)


def test_sizes_that_a_teacher_does_not_take_are_padded() -> None:
    """And one that pools over the whole picture is not cut."""
    teacher = load_teacher("espcn-x2", scale=2, device=CPU)
    assert teacher.spec is not None
    seen: list[tuple[int, ...]] = []

    def run(small: Tensor) -> Tensor:
        seen.append(tuple(small.shape))
        return F.interpolate(small, scale_factor=2)

    facts = teacher.spec.replace(halo=None, multiple=8, min_size=16)
    pooling = replace(teacher, run=run, spec=facts)
    answer = answer_in_tiles(pooling, torch.rand(1, 1, 9, 70), "y", largest=16)
    assert answer.shape == (1, 1, 18, 140)
    assert seen == [(1, 1, 16, 72)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "there is no teacher"),
        ({"teacher": "pisr"}, "pisr's teacher teaches by a feature"),
        ({"feature": 0.1}, "feature and affinity ask the teacher at every step"),
        ({"affinity": 1.0}, "feature and affinity ask the teacher at every step"),
        ({"response": 0.0}, "not asked for pictures"),
        ({"degradation": "blind"}, "makes new small pictures all the time"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=f"--cache-teacher: .*{message}"):
        distill(tiny(**changes), data=folder, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_one_size_is_refused(folder: Path, tmp_path: Path) -> None:
    photos = load_photos(folder, scale=2, copies=[1.0], patch=16)
    teacher = load_teacher("espcn-x2", scale=2, device=CPU)
    assert teacher.spec is not None
    fixed = replace(teacher, spec=teacher.spec.replace(fixed_size=(16, 16)))
    with pytest.raises(UsageError, match="cannot answer pictures of any size"):
        keep(fixed, photos, tmp_path / "a")
    with pytest.raises(UsageError, match="cannot answer pictures of any size"):
        keep(replace(teacher, spec=None), photos, tmp_path / "a")


def test_full_disk_is_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(answers.shutil, "disk_usage", lambda path: usage(9, 9, 1000))
    with pytest.raises(EdgesrError, match=r"need 0\.. MB, and .* has 0\.0 MB left: --cache-t"):
        distill(recipe, data=folder, out=tmp_path / "a", device="cpu")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(KeptAnswers, "write", full)
    with pytest.raises(EdgesrError, match=r"cannot be written: No space left.*--cache-teacher-in"):
        distill(recipe, data=folder, out=tmp_path / "b", device="cpu")
    assert not list((tmp_path / "b").rglob("*.u16"))


def test_a_teachers_own_training_keeps_nothing() -> None:
    recipe = tiny(teacher="rrdb")
    assert of_teacher(recipe, "rrdb").cache_teacher is None


def test_option_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    from edgesr.cli import run

    arguments = ["distill", "--teacher", "espcn-x2", "--student", "ecbsr-m4c8", "--data", folder]
    arguments += [
        "--set",
        "steps=2",
        "--set",
        "patch=16",
        "--set",
        "copies=[1.0]",
        "--device",
        "cpu",
    ]
    kept = tmp_path / "kept"
    arguments += ["--set", "batch=2", "--out", tmp_path / "run", "--cache-teacher-in", kept]
    assert run([str(argument) for argument in arguments]) == 0
    assert len(list(kept.rglob("*.u16"))) == 3
    assert "cache_teacher = true" in (tmp_path / "run" / "recipe.toml").read_text()
