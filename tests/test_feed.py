"""Degraded batches: a pure function of (seed, k), aligned, in the student's colour; trained on."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from media import write_video
from photos import draw_photo, write_photos

from edgesr.bicubic import downscale, imresize
from edgesr.distill.cache import Coding, load_photos
from edgesr.distill.data import PhotoSet, draw_batch
from edgesr.distill.feed import (
    MARGIN,
    VALIDATION_CRFS,
    DataClock,
    batches,
    colour_of,
    degraded_pairs,
    make_batch,
    patch_of,
)
from edgesr.distill.pictures import Pair
from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.run import distill
from edgesr.errors import Interrupted
from edgesr.metrics import psnr

TINY = {
    "student": "ecbsr-m4c8",
    "steps": 12,
    "batch": 6,
    "patch": 16,
    "warmup": 2,
    "validate_every": 6,
    "save_every": 6,
    "copies": [1.0],
    "detail": 0.0,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


def tiny(**changes: object) -> Recipe:
    return Recipe(**{**TINY, **changes})


def photos_for(folder: Path, recipe: Recipe) -> PhotoSet:
    video = recipe.degradation == "video"
    return load_photos(
        folder,
        scale=recipe.scale,
        copies=recipe.copies,
        patch=patch_of(recipe),
        colour=colour_of(recipe, "y"),
        coding=Coding(versions=2) if video else None,
    )


@pytest.mark.parametrize("degradation", [None, "video", "blind"])
def test_batch_k_is_the_same_wherever_one_starts(folder: Path, degradation: str | None) -> None:
    recipe = tiny(degradation=degradation, steps=5)
    photos = photos_for(folder, recipe)
    whole = list(batches(photos, recipe, colour="y"))
    later = list(batches(photos, recipe, colour="y", start=3, ahead=4))
    assert (len(whole), len(later)) == (5, 2)
    for (a, b), (c, d) in zip(whole[3:], later, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
        assert (a.shape, b.shape) == ((6, 1, 16, 16), (6, 1, 32, 32))
    assert not torch.equal(whole[0][0], whole[1][0])


def test_plain_batches_are_the_drawn_ones(folder: Path) -> None:
    recipe = tiny()
    photos = photos_for(folder, recipe)
    drawn = draw_batch(
        photos, seed=1, step=3, batch=6, patch=16, detail=0.0, redraw=0.7, full_range=0.5
    )
    for ours, theirs in zip(make_batch(photos, recipe, step=3, colour="y"), drawn, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_blind_crops_are_aligned_and_not_sharpened(folder: Path, colour: str) -> None:
    """HR is as photographed; HR shrunk is nearer to the LR crop than one that is shifted."""
    recipe = tiny(degradation="blind", full_range=0.0, batch=24)
    photos = photos_for(folder, recipe)
    small, large = make_batch(photos, recipe, step=0, colour=colour)
    assert small.shape == (24, 1 if colour == "y" else 3, 16, 16)
    whole = draw_batch(
        photos,
        seed=1,
        step=0,
        batch=24,
        patch=16 + 2 * MARGIN,
        detail=0.0,
        redraw=0.7,
        full_range=0.0,
    )[1]
    if colour == "rgb":
        found = cv2.matchTemplate(
            np.moveaxis(whole[0], 0, 2).copy(),
            np.moveaxis(large[0].numpy(), 0, 2).copy(),
            cv2.TM_SQDIFF,
        )
        assert found.min() < 1e-3
    shrunk = np.stack([downscale(np.float64(hr.mean(axis=0)), 2) for hr in large.numpy()])
    lr = small.numpy().mean(axis=1)
    inner = (slice(None), slice(4, -4), slice(4, -4))

    def distance(rows: int, columns: int) -> float:
        return float(np.abs(shrunk - np.roll(lr, (rows, columns), axis=(1, 2)))[inner].mean())

    assert distance(0, 0) == min(distance(r, c) for r in (-2, 0, 2) for c in (-2, 0, 2))
    assert distance(0, 0) > 0.005  # and it is degraded


def test_a_luma_student_gets_luma_of_the_degraded_colours(folder: Path) -> None:
    recipe = tiny(degradation="blind", full_range=0.0)
    photos = photos_for(folder, recipe)
    luma, rgb = (make_batch(photos, recipe, step=1, colour=c) for c in ("y", "rgb"))
    weights = np.array([65.481, 128.553, 24.966]) / 255
    for y, colours in zip(luma, rgb, strict=True):
        by_hand = np.einsum("nchw,c->nhw", colours.numpy(), weights) + 16 / 255
        assert np.abs(y.numpy()[:, 0] - by_hand).max() < 1e-5
    full = make_batch(photos, recipe.model_copy(update={"full_range": 1.0}), step=1, colour="y")
    assert np.allclose((luma[1].numpy() - 16 / 255) * 255 / 219, full[1].numpy(), atol=1e-5)


def test_validation_pictures_are_degraded_and_the_same_every_time() -> None:
    hr = draw_photo(3)
    pairs = [Pair(name="a", lr=downscale(hr, 2), hr=hr)]
    assert degraded_pairs(pairs, tiny()) is pairs
    video = degraded_pairs(pairs, tiny(degradation="video"))
    assert [pair.name for pair in video] == [f"a-crf{crf}" for crf in VALIDATION_CRFS]
    distances = [psnr(pair.lr, pairs[0].lr) for pair in video]
    assert distances == sorted(distances, reverse=True)  # a higher CRF is a worse picture
    for degradation in ("video", "blind"):
        first, again = (degraded_pairs(pairs, tiny(degradation=degradation)) for _ in range(2))
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a.lr, b.lr)
            assert a.lr.shape == pairs[0].lr.shape
            assert psnr(imresize(a.lr, 2), hr) < psnr(imresize(pairs[0].lr, 2), hr)


@pytest.mark.parametrize("degradation", ["video", "blind"])
def test_degraded_training_resumes_bit_for_bit(
    folder: Path, tmp_path: Path, degradation: str
) -> None:
    from safetensors.torch import load_file

    recipe = tiny(degradation=degradation, versions=1 if degradation == "video" else None)
    distill(recipe, data=folder, out=tmp_path / "whole", device="cpu")
    asked = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        distill(recipe, data=folder, out=tmp_path / "parts", device="cpu", stop=lambda: next(asked))
    distill(recipe, data=folder, out=tmp_path / "parts", device="cpu", resume=True)
    whole, parts = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_training_on_a_clip_and_photos_holds_out_parts_of_both(
    folder: Path, tmp_path: Path
) -> None:
    clip = write_video(tmp_path / "c.mp4", size=(96, 64), frames=100)
    out = tmp_path / "run"
    result = distill(tiny(), data=[folder, clip], out=out, device="cpu")
    assert result.validation.endswith("held-out photos and frames")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["data_share"] == result.data_share
    rows = list(csv.DictReader((out / "log.csv").read_text().splitlines()))
    assert 0 <= float(rows[-1]["data_share"]) <= 1


def test_data_clock_counts_waiting_and_leaves_out_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("edgesr.distill.feed.time.perf_counter", lambda: now[0])
    clock = DataClock()
    with clock.waiting():
        now[0] += 1
    now[0] += 3
    assert clock.share() == 0.25
    now[0] += 50  # a validation
    clock.leave_out()
    with clock.waiting():
        now[0] += 2
    now[0] += 2
    assert clock.share() == pytest.approx(3 / 8)


def test_shipped_recipes_and_old_digests() -> None:
    assert load_recipe("video").degradation == "video"
    assert load_recipe("blind").degradation == "blind"
    assert load_recipe("specialise", overrides=["quick=true"]).steps < 1000
    assert "degradation" not in load_recipe("bicubic").to_toml()
    assert load_recipe("bicubic").digest() == Recipe(**BICUBIC).digest()


BICUBIC = {"steps": 80000, "batch": 12, "patch": 48, "precision": "bf16"}
