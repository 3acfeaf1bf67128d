"""Training pairs: aligned, reproducible, decoded once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from media import write_video
from photos import draw_photo, write_photos

from edgesr.bicubic import downscale
from edgesr.distill.cache import Coding, load_photos
from edgesr.distill.codec_draw import CodecSettings, CodecShare
from edgesr.distill.data import draw_batch, to_full_range, turn
from edgesr.distill.scenes import Sampling
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
    monkeypatch.setattr("edgesr.distill.intake.read_rgb", lambda file: pytest.fail("decoded again"))
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
    with pytest.raises(UsageError, match=r"no pictures .* in it"):
        load_photos(tmp_path, scale=2, copies=(1.0,), patch=16)
    with pytest.raises(UsageError, match="all 1 pictures are smaller than a crop of 100"):
        load_photos(write_photos(tmp_path / "p", 1), scale=2, copies=(1.0,), patch=100)
    (tmp_path / "q").mkdir()
    (tmp_path / "q" / "broken.jpg").write_text("not a picture")
    with pytest.raises(MediaError, match=r"nothing in it can be used .*broken\.jpg"):
        load_photos(tmp_path / "q", scale=2, copies=(1.0,), patch=16)
    assert not list((tmp_path / "cache" / "edgesr" / "photos").iterdir())


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


def test_digest_of_a_folder_of_photos_is_that_of_its_files(tmp_path: Path) -> None:
    """By hand, as the shipped weights recorded it; held-out photos are no part of it."""
    folder = write_photos(tmp_path / "p", 5)
    (folder / "more").mkdir()
    (folder / "001.png").rename(folder / "more" / "001.png")
    sampling = Sampling(count=1, part="train")
    photos = load_photos(folder, scale=2, copies=(1.0,), patch=16, sampling=sampling)
    total = hashlib.sha256()
    for name in ("002.png", "003.png", "004.png", "more/001.png"):  # 000.png is held out
        content = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        total.update(f"{content} {name}\n".encode())
    assert photos.digest == total.hexdigest()
    assert len(photos) == 4


def test_given_small_pictures_are_taken(tmp_path: Path) -> None:
    """And enter at their own size alone."""
    for folder in ("HR", "LR/x2"):
        (tmp_path / "p" / folder).mkdir(parents=True)
    for seed in range(2):
        cv2.imwrite(str(tmp_path / "p" / "HR" / f"{seed}.png"), draw_photo(seed))
        small = draw_photo(seed + 50, height=48, width=64)  # anything but a downscale
        cv2.imwrite(str(tmp_path / "p" / "LR" / "x2" / f"{seed}.png"), small)
    photos = load_photos(tmp_path / "p", scale=2, copies=(1.0, 0.5), patch=16, colour="rgb")
    assert photos.shapes == ((48, 64), (48, 64))
    hr, lr = photos.pair(1)
    np.testing.assert_array_equal(hr, draw_photo(1)[:, :, ::-1])
    np.testing.assert_array_equal(lr, draw_photo(51, height=48, width=64)[:, :, ::-1])
    cv2.imwrite(str(tmp_path / "p" / "LR" / "x2" / "1.png"), draw_photo(1, height=40, width=64))
    with pytest.raises(MediaError, match="64x40, which is not 1/2 of 128x96"):
        load_photos(tmp_path / "p", scale=2, copies=(1.0,), patch=16)


def test_photos_and_clips_together(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3)
    clip = write_video(tmp_path / "c.mp4", size=(96, 64), frames=40)
    seen: list[tuple[int, int]] = []
    photos = load_photos(
        [folder, clip],
        scale=2,
        copies=(1.0,),
        patch=16,
        sampling=Sampling(count=4),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert photos.shapes == ((48, 64),) * 3 + ((32, 48),) * 4
    assert (3, 3) in seen
    assert seen[-1][0] <= seen[-1][1]
    fewer = load_photos(
        [folder, clip], scale=2, copies=(1.0,), patch=16, sampling=Sampling(count=2)
    )
    assert fewer.digest != photos.digest


def test_what_cannot_be_read_among_good_ones_is_said_each_time(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 2)
    (folder / "broken.jpg").write_text("not a picture")
    cv2.imwrite(str(folder / "tiny.png"), draw_photo(0, height=20, width=20))
    for _ in range(2):  # decoded, then from the cache
        lines: list[str] = []
        photos = load_photos(folder, scale=2, copies=(1.0,), patch=16, on_warning=lines.append)
        assert len(photos) == 2
        first, second = lines
        assert first.startswith("1 of the --data left out: ")
        assert "broken.jpg" in first
        assert second.startswith("1 of the pictures left out: smaller than a crop of 16")


def test_a_full_disk_is_one_line_and_nothing_stays(tmp_path: Path, cache: Path) -> None:
    """A limit on the size of files is the full disk of one process."""
    folder = write_photos(tmp_path / "p", 3)
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "import sys; from pathlib import Path\n"
        "from edgesr.distill.cache import load_photos; from edgesr.errors import EdgesrError\n"
        "try:\n    load_photos(Path(sys.argv[1]), scale=2, copies=(1.0,), patch=16)\n"
        "except EdgesrError as error:\n    print(error)\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "cannot be written: File too large; XDG_CACHE_HOME=DIR" in line
    assert not list((cache / "edgesr" / "photos").iterdir())


X264 = CodecSettings(shares=(CodecShare(codec="libx264", share=1.0, level=(28, 32)),))


@pytest.mark.parametrize("colour", ["y", "rgb"])
def test_compressed_versions_stand_beside_the_small_picture(tmp_path: Path, colour: str) -> None:
    folder = write_photos(tmp_path / "p", 2)
    plain = load_photos(folder, scale=2, copies=(1.0, 0.5), patch=16, colour=colour)
    coding = Coding(versions=3, settings=X264)
    coded = load_photos(folder, scale=2, copies=(1.0, 0.5), patch=16, colour=colour, coding=coding)
    level = 256 if colour == "y" else 1
    for index in range(4):
        for a, b in zip(plain.pair(index), coded.pair(index), strict=True):
            np.testing.assert_array_equal(a, b)
        clean = coded.pair(index)[1].astype(float) / level
        versions = [coded.version(index, n).astype(float) / level for n in range(3)]
        for version in versions:
            assert version.shape == clean.shape
            assert np.abs(version - clean).mean() > 1  # a poor picture, and its own
            assert np.corrcoef(version.ravel(), clean.ravel())[0, 1] > 0.6
        assert not np.array_equal(versions[0], versions[1])


def test_a_share_of_the_crops_is_clean(tmp_path: Path) -> None:
    photos = load_photos(
        write_photos(tmp_path / "p", 3),
        scale=2,
        copies=(1.0,),
        patch=16,
        coding=Coding(versions=2, settings=X264),
    )
    draw = DRAW | {"batch": 64, "full_range": 0.0}

    def shares_of_clean(clean: float) -> float:
        small, big = draw_batch(photos, seed=0, step=0, clean=clean, **draw)
        shrunk = np.stack([downscale(hr.astype(np.float64), 2) for hr in big[:, 0]])
        inner = (slice(None), slice(4, -4), slice(4, -4))
        return float(np.mean(np.abs(shrunk - small[:, 0])[inner].mean(axis=(1, 2)) < 0.004))

    assert shares_of_clean(1.0) == 1.0
    assert shares_of_clean(0.0) == 0.0
    assert 0.3 < shares_of_clean(0.5) < 0.7
