"""Training pairs: aligned, reproducible, decoded once."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from photos import draw_photo, write_photos

from edgesr.bicubic import downscale
from edgesr.distill.data import draw_batch, load_photos, to_full_range, turn
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y

DRAW = {"batch": 6, "patch": 16, "detail": 0.0, "redraw": 0.0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_luma_is_that_of_the_photo_and_its_matlab_downscale(tmp_path: Path, scale: int) -> None:
    folder = write_photos(tmp_path / "p", 2, height=98, width=131)
    photos = load_photos(folder, scale=scale, copies=(1.0,), patch=8)
    hr, lr = photos.pair(1)
    truth = cv2.imread(str(folder / "001.png"))[:, :, ::-1]
    truth = truth[: 98 // scale * scale, : 131 // scale * scale]
    assert hr.shape == truth.shape[:2]
    assert np.abs(hr / 256 - rgb_to_y(truth)).max() <= 1 / 512
    assert np.abs(lr / 256 - rgb_to_y(downscale(truth, scale))).max() <= 1 / 512


def test_half_size_copies_stand_beside_the_photos(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3)
    photos = load_photos(folder, scale=2, copies=(1.0, 0.5), patch=16)
    assert photos.shapes[:2] == ((48, 64), (24, 32))
    assert len(photos) == 6
    assert (
        len(load_photos(folder, scale=2, copies=(1.0, 0.5), patch=30)) == 3
    )  # too small: left out


def test_batch_is_a_function_of_seed_and_step(tmp_path: Path) -> None:
    photos = load_photos(write_photos(tmp_path / "p", 3), scale=2, copies=(1.0,), patch=16)
    first = draw_batch(photos, seed=1, step=7, full_range=0.5, **DRAW)
    again = draw_batch(photos, seed=1, step=7, full_range=0.5, **DRAW)
    other = draw_batch(photos, seed=1, step=8, full_range=0.5, **DRAW)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (6, 1, 16, 16)
    assert first[1].shape == (6, 1, 32, 32)
    assert first[0].dtype == first[1].dtype == np.float32


def test_crops_are_aligned_and_turned_alike(tmp_path: Path) -> None:
    """The HR crop shrunk is the LR crop, whatever the turn and the range."""
    photos = load_photos(write_photos(tmp_path / "p", 3), scale=2, copies=(1.0,), patch=16)
    for step in range(8):
        small, big = draw_batch(photos, seed=0, step=step, full_range=0.5, **DRAW)
        for lr, hr in zip(small[:, 0], big[:, 0], strict=True):
            shrunk = downscale(hr.astype(np.float64), 2)
            inner = slice(4, -4)
            assert np.abs(shrunk - lr)[inner, inner].mean() < 0.004  # a shift gives 0.02


def test_full_range_is_a_stretch_of_studio_range(tmp_path: Path) -> None:
    assert to_full_range(np.float32([16 / 255, 235 / 255])) == pytest.approx([0, 1], abs=1e-6)
    photos = load_photos(write_photos(tmp_path / "p", 2), scale=2, copies=(1.0,), patch=16)
    studio = draw_batch(photos, seed=3, step=0, full_range=0.0, **DRAW)[0]
    full = draw_batch(photos, seed=3, step=0, full_range=1.0, **DRAW)[0]
    assert np.allclose((studio - 16 / 255) * 255 / 219, full, atol=1e-6)


def test_eight_turns_are_all_different() -> None:
    crop = np.arange(16).reshape(4, 4)
    assert len({turn(crop, which).tobytes() for which in range(8)}) == 8


def test_flat_crops_are_mostly_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    picture = draw_photo(0, height=256, width=256)
    picture[:, :200] = 90  # three quarters of it flat
    cv2.imwrite(str(folder / "a.png"), picture)
    photos = load_photos(folder, scale=2, copies=(1.0,), patch=16)

    def flat(redraw: float) -> float:
        draw = {"batch": 64, "patch": 16, "detail": 0.01, "redraw": redraw, "full_range": 0.0}
        return float(
            np.mean(np.ptp(draw_batch(photos, seed=0, step=0, **draw)[0], axis=(2, 3)) == 0)
        )

    assert flat(1.0) == 0
    assert flat(0.7) < flat(0.0) - 0.1


def test_photos_without_detail_are_taken_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    cv2.imwrite(str(tmp_path / "p" / "gray.png"), np.full((64, 64, 3), 99, np.uint8))
    photos = load_photos(tmp_path / "p", scale=2, copies=(1.0,), patch=16)
    draw = {"batch": 2, "patch": 16, "detail": 0.5, "redraw": 1.0, "full_range": 0.0}
    assert np.ptp(draw_batch(photos, seed=0, step=0, **draw)[0]) == 0


def test_an_interrupted_decoding_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "p", 2)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_photos(folder, scale=2, copies=(1.0,), patch=16, progress=interrupt)
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    folder = write_photos(tmp_path / "p", 2)
    before = load_photos(folder, scale=2, copies=(1.0,), patch=16)
    monkeypatch.setattr("edgesr.distill.data.read_rgb", lambda file: pytest.fail("decoded again"))
    after = load_photos(folder, scale=2, copies=(1.0,), patch=16)
    assert np.array_equal(before.hr, after.hr)
    assert not list(cache.rglob("*.part"))
    assert before.digest == after.digest


def test_other_photos_have_another_digest(tmp_path: Path) -> None:
    a = load_photos(write_photos(tmp_path / "a", 2), scale=2, copies=(1.0,), patch=16)
    b = load_photos(write_photos(tmp_path / "b", 3), scale=2, copies=(1.0,), patch=16)
    assert a.digest != b.digest


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_photos(tmp_path / "no", scale=2, copies=(1.0,), patch=16)
    with pytest.raises(UsageError, match="no photos in it"):
        load_photos(tmp_path, scale=2, copies=(1.0,), patch=16)
    with pytest.raises(UsageError, match="smaller than a crop of 100"):
        load_photos(write_photos(tmp_path / "p", 1), scale=2, copies=(1.0,), patch=100)
    (tmp_path / "p" / "broken.jpg").write_text("not a picture")
    with pytest.raises(MediaError, match=r"broken\.jpg"):
        load_photos(tmp_path / "p", scale=2, copies=(1.0,), patch=16)


@pytest.mark.parametrize("scale", [2, 3])
def test_rgb_is_the_photo_itself(tmp_path: Path, scale: int) -> None:
    folder = write_photos(tmp_path / "p", 2, height=98, width=131)
    photos = load_photos(folder, scale=scale, copies=(1.0,), patch=8, colour="rgb")
    hr, lr = photos.pair(1)
    truth = cv2.imread(str(folder / "001.png"))[:, :, ::-1]
    truth = truth[: 98 // scale * scale, : 131 // scale * scale]
    np.testing.assert_array_equal(hr, truth)
    np.testing.assert_array_equal(lr, downscale(truth, scale))


def test_rgb_batches_are_the_luma_batches_in_colour(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3)
    batches = {}
    for colour in ("y", "rgb"):
        photos = load_photos(folder, scale=2, copies=(1.0,), patch=16, colour=colour)
        batches[colour] = draw_batch(photos, seed=1, step=7, full_range=0.0, **DRAW)
    for luma, rgb in zip(batches["y"], batches["rgb"], strict=True):
        assert rgb.shape == (luma.shape[0], 3, *luma.shape[2:])
        assert rgb.flags.c_contiguous
        as_luma = np.stack([rgb_to_y(np.moveaxis(crop, 0, 2) * 255) for crop in rgb])
        assert np.abs(as_luma - luma[:, 0] * 255).max() <= 1 / 128
