"""Students with state: sequences out of footage, the loss over time, run, resume and export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo, write_photos

torch = pytest.importorskip("torch")

from edgesr.bicubic import downscale
from edgesr.distill.cache import Coding
from edgesr.distill.feed import batches, make_batch
from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.run import distill
from edgesr.distill.scenes import Sampling, Survey
from edgesr.distill.sequences import load_sequences
from edgesr.distill.shots import shots_of
from edgesr.distill.sources import Source
from edgesr.distill.spans import spans_of
from edgesr.distill.temporal import coherence, temporal_lesson
from edgesr.errors import Interrupted, UsageError
from edgesr.metrics import crop_border, flicker, psnr, rgb_to_y

Array = np.ndarray[Any, Any]
CUT, FRAMES = 37, 100

TINY = (
    *("quick=true", "steps=12", "validate_every=6", "save_every=6", "batch=3", "patch=12"),
    *("frames=4", "config={blocks=1,width=4}", "full_range=0.0", "detail=0.0"),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of numbered frames: a pan over one picture, a cut, a pan over another."""
    folder = tmp_path_factory.mktemp("footage")
    wide = [cv2.GaussianBlur(draw_photo(s, height=64, width=240), (0, 0), 1) for s in (1, 2)]
    wide[1] = 255 - wide[1] // 2
    for n in range(FRAMES):
        grain = np.random.default_rng(n).integers(0, 4, (64, 96, 1))  # no two frames are equal
        picture = np.clip(wide[n >= CUT][:, n : n + 96] + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"frame_{n:04}.png"), picture)
    return folder


def tiny(*more: str) -> Recipe:
    return load_recipe("causal", overrides=[*TINY, *more])


def source_of(folder: Path) -> list[Source]:
    return [Source(kind="frames", path=folder, files=tuple(sorted(folder.iterdir())))]


def survey_by_hand(scene: list[int], *, usable: list[bool] | None = None) -> Survey:
    count = len(scene)
    return Survey(
        times=np.arange(count) / 25,
        index=np.arange(count),
        scene=np.array(scene),
        usable=np.array(usable or [True] * count),
        cells=np.zeros((count, 576), np.uint8),
        scenes=max(scene) + 1,
    )


def test_spans_lie_in_one_scene_and_one_part() -> None:
    scene = [0] * 10 + [1] * 70 + [2] * 4 + [3] * 16
    usable = [n != 60 for n in range(100)]
    found = survey_by_hand(scene, usable=usable)
    every = spans_of(found, Sampling(count=1), frames=5, clip=Path("c"))
    assert every == [(0, 10), (10, 34), (34, 58), (61, 80), (84, 100)]
    for part in ("train", "held-out"):
        sampling = Sampling(count=1, part=part)  # type: ignore[arg-type]
        spans = spans_of(found, sampling, frames=5, clip=Path("c"))
        held = {n for n in range(100) if n / 25 % 2 >= 1.5}
        for first, end in spans:
            assert len(set(scene[first:end])) == 1
            assert 5 <= end - first <= 24
            inside = held & set(range(first, end))
            assert inside == (set(range(first, end)) if part == "held-out" else set())
    with pytest.raises(UsageError, match="80 frames follow each other without a cut"):
        spans_of(found, Sampling(count=1), frames=80, clip=Path("c"))


def located(crop: Array, frames: list[Array]) -> tuple[int, int, int, int]:
    """Which frame, flip and place a crop comes from; exact, or it fails."""
    for which in range(8):
        turned = crop.T if which & 4 else crop
        turned = turned[::-1] if which & 2 else turned
        turned = np.ascontiguousarray(turned[:, ::-1] if which & 1 else turned)
        for number, frame in enumerate(frames):
            misses = cv2.matchTemplate(frame, turned, cv2.TM_SQDIFF)
            top, left = np.unravel_index(int(misses.argmin()), misses.shape)
            part = frame[top : top + len(turned), left : left + turned.shape[1]]
            if np.abs(part - turned).max() < 1e-5:
                return number, which, int(top), int(left)
    raise AssertionError("not a crop of any frame")


def test_a_sequence_is_consecutive_frames_of_one_window(footage: Path) -> None:
    recipe = tiny()
    sequences = load_sequences(source_of(footage), recipe, part="train")
    small, truth = make_batch(sequences, recipe, step=2, colour="y")
    assert (small.shape, truth.shape) == ((3, 4, 12, 12), (3, 4, 24, 24))
    pictures = [cv2.imread(str(f))[:, :, ::-1] for f in sorted(footage.iterdir())]
    luma = [np.rint(rgb_to_y(p)).astype(np.uint8) for p in pictures]
    large = [plane.astype(np.float32) / 255 for plane in luma]
    little = [downscale(plane, 2).astype(np.float32) / 255 for plane in luma]
    for n in range(3):
        first, which, top, left = located(truth[n, 0].numpy(), large)
        for t in range(4):
            if which & 4:
                shown = truth[n, t].numpy().T, small[n, t].numpy().T
            else:
                shown = truth[n, t].numpy(), small[n, t].numpy()
            rows, columns = (slice(None, None, -1 if which & bit else 1) for bit in (2, 1))
            big, lr = (plane[rows, columns] for plane in shown)
            frame = large[first + t][top : top + 24, left : left + 24]
            assert np.abs(big - frame).max() < 1e-5
            there = little[first + t][top // 2 : top // 2 + 12, left // 2 : left // 2 + 12]
            assert np.abs(lr - there).max() < 1e-5
        assert (first < CUT) == (first + 3 < CUT)


@pytest.mark.parametrize("degradation", ["bicubic", "video", "blind"])
def test_batch_k_is_the_same_wherever_one_starts(footage: Path, degradation: str) -> None:
    recipe = tiny(f"degradation={degradation}", "steps=4")
    coding = Coding(versions=2) if degradation == "video" else None
    sequences = load_sequences(source_of(footage), recipe, part="train", coding=coding)
    whole = list(batches(sequences, recipe, colour="y"))
    later = list(batches(sequences, recipe, colour="y", start=2))
    for ours, theirs in zip(whole[2:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    halves = [list(batches(sequences, recipe, colour="y", rank=r, size=3))[1][0] for r in range(3)]
    assert torch.equal(torch.cat(halves), whole[1][0])
    assert not torch.equal(whole[0][0], whole[1][0])


def test_compressed_spans_are_whole_clips(footage: Path) -> None:
    recipe = tiny("degradation=video")
    sequences = load_sequences(source_of(footage), recipe, part="train", coding=Coding(versions=2))
    for index in range(len(sequences)):
        lr = sequences.span(index)[1]
        for number in range(2):
            coded = sequences.coded_span(index, number)
            assert coded.shape == lr.shape
            assert 0 < np.abs(coded.astype(int) - lr).mean() < 20
    shots = list(shots_of(load_sequences(source_of(footage), recipe, part="held-out"), recipe))
    assert {shot.name.partition("-")[2] for shot in shots} == {"crf20", "crf27", "crf34"}


def test_coherence_is_the_flicker_between_frames() -> None:
    rng = np.random.default_rng(0)
    output, truth = (torch.from_numpy(rng.random((2, 3, 5, 6))) for _ in range(2))
    by_frames = [
        flicker(
            output[n, t].numpy() * 255,
            output[n, t + 1].numpy() * 255,
            truth_before=truth[n, t].numpy() * 255,
            truth_after=truth[n, t + 1].numpy() * 255,
        )
        for n in range(2)
        for t in range(2)
    ]
    assert float(coherence(output, truth)) * 255 == pytest.approx(np.mean(by_frames))
    assert float(coherence(truth + 0.1, truth)) < 1e-12  # a constant error does not flicker


def test_gradients_go_back_to_the_first_frame() -> None:
    recipe = tiny("temporal=0.5")
    lesson = temporal_lesson(recipe, [])
    with torch.no_grad():
        for parameter in lesson.model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    objective = lesson.objective(lesson.model)
    small = torch.rand(2, 4, 12, 12, requires_grad=True)
    truth = torch.rand(2, 4, 24, 24)
    parts = objective(small, truth)
    assert set(parts) == {"truth", "temporal"}
    output = lesson.model(small[:, :, None])[:, :, 0]
    assert parts["temporal"].item() == pytest.approx(
        0.5 * coherence(output, truth).item(), rel=1e-5
    )
    grown = torch.autograd.grad((output[:, -1] - truth[:, -1]).square().sum(), small)[0]
    assert all(float(grown[:, t].abs().max()) > 0 for t in range(4))


def test_run_export_and_report(footage: Path, tmp_path: Path) -> None:
    """The dB that is told is that of model.onnx, run frame by frame with its state."""
    onnxruntime = pytest.importorskip("onnxruntime")
    recipe = tiny("steps=40", "validate_every=20", "save_every=20", "ema=0.5", "warmup=2")
    out = tmp_path / "run"
    result = distill(recipe, data=footage, out=out, device="cpu")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["psnr_y"] == pytest.approx(result.psnr_y, abs=1e-3)
    assert (out / "report.html").is_file()
    log = (out / "log.csv").read_text().splitlines()
    assert "loss_temporal" in log[0]
    assert len(log) == 3
    held_out = load_sequences(source_of(footage), recipe, part="held-out", most=3)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    scores, moves = [], []
    for shot in shots_of(held_out, recipe):
        _, height, width = shot.lr.shape
        state = [np.zeros((1, c, height, width), np.float32) for c in (1, 4)]
        own, before = [], None
        for lr, hr in zip(shot.lr, shot.hr, strict=True):
            names = [i.name for i in session.get_inputs()]
            frame = lr.astype(np.float32)[None, None] / 255
            picture, *state = session.run(None, dict(zip(names, [frame, *state], strict=True)))
            luma = np.rint(np.clip(picture[0, 0] * 255, 0, 255)).astype(np.float64)
            luma, truth = (crop_border(p, border=2) for p in (luma, hr.astype(np.float64)))
            own.append(psnr(luma, truth))
            if before is not None:
                moves.append(np.abs((luma - before[0]) - (truth - before[1])).mean())
            before = luma, truth
        scores.append(np.mean(own))
    assert np.mean(scores) == pytest.approx(result.psnr_y, abs=2e-2)
    assert np.mean(moves) == pytest.approx(summary["flicker"], rel=0.05)


def test_resumes_bit_for_bit(footage: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    distill(tiny(), data=footage, out=tmp_path / "whole", device="cpu")
    asked = iter([False] * 4 + [True])
    parts = {"data": footage, "out": tmp_path / "parts", "device": "cpu"}
    with pytest.raises(Interrupted):
        distill(tiny(), stop=lambda: next(asked), **parts)  # type: ignore[arg-type]
    distill(tiny(), resume=True, **parts)  # type: ignore[arg-type]
    whole, again = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts"))
    assert whole.keys() == again.keys()
    for name in whole:
        assert torch.equal(whole[name], again[name]), name


def test_a_picture_teacher_answers_frame_by_frame(footage: Path, tmp_path: Path) -> None:
    recipe = tiny("teacher=espcn-x2", "steps=4", "validate_every=4")
    distill(recipe, data=footage, out=tmp_path / "run", device="cpu")
    assert "loss_response" in (tmp_path / "run" / "log.csv").read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "photos have no frames before and after"),
        (("student=basicvsr", "config={}"), "basicvsr is a video network that waits"),
        (("gan=vanilla",), "gan: not for causal-r5c16"),
        (("teacher=rrdb",), "learns from finished networks of luma"),
        (("teacher=pisr",), "learns from finished networks of luma"),
        (("extra={what=1.0}",), "known are l1"),
    ],
)
def test_what_cannot_be(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    folder = write_photos(tmp_path / "photos", 3)
    if overrides and overrides[0].startswith("extra"):
        with pytest.raises(UsageError, match=message):
            temporal_lesson(tiny(*overrides), [])
        return
    with pytest.raises(UsageError, match=message):
        distill(tiny(*overrides), data=folder, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_settings_of_sequences_are_not_for_pictures(footage: Path, tmp_path: Path) -> None:
    recipe = Recipe(student="ecbsr-m4c8", frames=5)
    with pytest.raises(UsageError, match="frames: ecbsr-m4c8 sees single pictures"):
        distill(recipe, data=footage, out=tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match="--val: not for causal-r5c16"):
        distill(tiny(), data=footage, val=footage, out=tmp_path / "run", device="cpu")


def test_frames_smaller_than_the_crop(footage: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="frames of 96x64 are smaller than a crop of 80 pixels"):
        distill(tiny("patch=40"), data=footage, out=tmp_path / "run", device="cpu")
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_short_name() -> None:
    assert load_recipe("bicubic", student="causal").student == "causal-r5c16"
