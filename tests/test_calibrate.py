"""Calibration pictures: what the network would see, the same every time, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_models
import pytest
from media import write_video
from photos import draw_photo, write_photos

from edgesr.bicubic import downscale
from edgesr.errors import UsageError
from edgesr.export import calibrate, frames
from edgesr.export.calibrate import Calibration, collect
from edgesr.metrics import rgb_to_y
from edgesr.runtime.reader import VideoReader
from edgesr.runtime.rgb import to_rgb
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def spec(scale: int = 2, **changes: Any) -> ModelSpec:
    return onnx_models.spec(scale, **changes)


def same(a: Calibration, b: Calibration) -> bool:
    pairs = zip(
        (*a.pictures, *sum(a.held_out, ())), (*b.pictures, *sum(b.held_out, ())), strict=True
    )
    return a.digest == b.digest and all(np.array_equal(x, y) for x, y in pairs)


def luma_of(seed: int) -> Array:
    """(1, H, W) of a picture of `write_photos`, which writes R, G, B as B, G, R."""
    luma = rgb_to_y(draw_photo(seed)[..., ::-1])
    return (luma[None].astype(np.float32) / np.float32(255)).astype(np.float32)


def lies_in(crop: Array, whole: Array) -> bool:
    """Whether (1, h, w) stands somewhere in (1, H, W), value by value."""
    height, width = crop.shape[1:]
    return any(
        np.array_equal(crop[0], whole[0, y : y + height, x : x + width])
        for y in range(whole.shape[1] - height + 1)
        for x in range(whole.shape[2] - width + 1)
        if whole[0, y, x] == crop[0, 0, 0]
    )


def cache_files() -> list[Path]:
    return list(calibrate._cache_path([], spec=spec(), frames=1, size=1, seed=0).parent.glob("*"))


def test_pictures_are_studio_luma_of_real_crops(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 6)
    made = collect([folder], spec=spec(), frames=5, size=32)
    wholes = [luma_of(seed) for seed in range(6)]
    assert len(made.pictures) == 5
    for picture in made.pictures:
        assert picture.shape == (1, 1, 32, 32)
        assert picture.dtype == np.float32
        assert any(lies_in(picture[0], whole) for whole in wholes)
    assert made.about["size"] == [32, 32]
    assert 0 <= made.about["min"] < made.about["max"] <= 1
    assert sum(made.about["histogram"]) == 5 * 32 * 32
    assert len(made.about["histogram"]) == 16


def test_held_out_pairs_are_of_other_pictures(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 11)
    made = collect([folder], spec=spec(), frames=9, size=24)
    wholes = [luma_of(seed) for seed in range(11)]
    used = {i for p in made.pictures for i, w in enumerate(wholes) if lies_in(p[0], w)}
    apart = {i for _, high in made.held_out for i, w in enumerate(wholes) if lies_in(high[0], w)}
    assert len(made.held_out) == 2
    assert len(apart) == 2
    assert not used & apart
    for low, high in made.held_out:
        assert low.shape == (1, 1, 24, 24)
        assert high.shape == (1, 1, 48, 48)


def test_held_out_low_is_matlabs_bicubic_of_high(tmp_path: Path) -> None:
    grays = [np.dstack([draw_photo(seed)[..., 0]] * 3) for seed in range(2)]
    for seed, gray in enumerate(grays):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), gray)
    made = collect([tmp_path], spec=spec(2, colour="rgb"), frames=2, size=24)
    (low, high) = made.held_out[0]
    codes = np.rint(np.moveaxis(high[0], 0, 2) * 255).astype(np.uint8)
    np.testing.assert_allclose(low[0] * 255, np.moveaxis(downscale(codes, 2), 2, 0), atol=1e-4)


def test_one_picture_has_nothing_to_hold_out(tmp_path: Path) -> None:
    path = write_photos(tmp_path / "photos", 1) / "000.png"
    made = collect([path], spec=spec(), frames=4, size=32)
    assert made.held_out == ()
    assert len({picture.tobytes() for picture in made.pictures}) > 1, "several crops of it"


@pytest.mark.parametrize("format", ["yuv420p", "yuv420p10le"])
def test_a_clip_gives_luma_as_it_is_stored(tmp_path: Path, format: str) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=20, format=format)
    made = collect([path], spec=spec(), frames=4, size=32)
    with VideoReader(path) as reader:
        items = [frame for frame in reader if hasattr(frame, "planes")]
    white = np.float32(255 if items[0].depth == 8 else 255 << 2)
    planes = [np.clip(f.planes[0].astype(np.float32) / white, 0, 1)[None] for f in items]
    assert len(made.pictures) == 4
    where = [
        next(i for i, plane in enumerate(planes) if lies_in(picture[0], plane))
        for picture in made.pictures
    ]
    assert where == sorted(where)
    assert max(where) < 16, "the last fifth is held out"
    assert max(where) - min(where) >= 4, "spread over the clip"
    assert made.held_out


def test_a_clip_for_an_rgb_model(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=10)
    made = collect([path], spec=spec(2, colour="rgb"), frames=2, size=48)
    with VideoReader(path) as reader:
        items = [frame for frame in reader if hasattr(frame, "planes")]
    wholes = [np.clip(to_rgb(frame), 0, 1) for frame in items]
    for picture in made.pictures:
        assert picture.shape == (1, 3, 48, 48)
        assert any(lies_in(picture[0, 1:2], whole[1:2]) for whole in wholes)


def test_a_clip_that_stands_still_is_taken_once(tmp_path: Path) -> None:
    seen = [np.full((16, 16), 0.5), np.full((16, 16), 0.5), np.full((16, 16), 0.7)]
    assert frames.spread_out(seen, 3) == [0, 2]
    assert frames.spread_out([], 3) == []


def test_a_long_clip_is_sampled_by_seeking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "clip.mp4", frames=60, options={"g": "5"})
    monkeypatch.setattr(frames, "LONG", 30)
    times = [frame.time for frame in frames._frames(path, count=6)]
    assert len(times) == 6
    assert times == sorted(times)
    assert times[-1] - times[0] > 1.5, "of 2.4 seconds"
    assert collect([path], spec=spec(), frames=3, size=32).about["frames"] == 3


def test_sizes_that_the_model_takes(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 3, height=30, width=200)
    wide = collect([folder], spec=spec(multiple=4, min_size=10), frames=2, size=33)
    assert {p.shape for p in wide.pictures} == {(1, 1, 36, 36)}, "reflected below"
    fixed = collect([folder], spec=spec(fixed_size=(20, 60)), frames=2)
    assert {p.shape for p in fixed.pictures} == {(1, 1, 20, 60)}
    assert fixed.held_out == (), "pictures of 30 rows hold no truth of 40"


def test_the_same_again_and_another_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_photos(tmp_path / "photos", 8)
    first = collect([folder], spec=spec(), frames=4, size=24)
    other = collect([folder], spec=spec(), frames=4, size=24, seed=1)
    assert first.digest != other.digest
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert same(first, collect([folder], spec=spec(), frames=4, size=24))


def test_it_is_kept_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "photos", 5)
    first = collect([folder], spec=spec(), frames=3, size=24)
    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "gather", None)  # not called: it comes from the cache
        kept = collect([folder], spec=spec(), frames=3, size=24)
    assert same(first, kept)
    assert kept.about == first.about
    cv2.imwrite(str(folder / "000.png"), draw_photo(99))
    cv2.imwrite(str(folder / "001.png"), draw_photo(98))
    changed = collect([folder], spec=spec(), frames=3, size=24)
    assert changed.digest != first.digest
    assert collect([folder], spec=spec(), frames=2, size=24).about["frames"] == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "numbers"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, damage: str) -> None:
    folder = write_photos(tmp_path / "photos", 5)
    first = collect([folder], spec=spec(), frames=3, size=24)
    (path,) = cache_files()
    data = path.read_bytes()
    if damage == "numbers":  # a whole file with other pictures than its digest says
        with np.load(path) as held:
            arrays = dict(held)
        arrays["pictures"] = arrays["pictures"] * np.float32(0.5)
        with path.open("wb") as file:
            np.savez(file, **arrays)
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "text": b"hello"}[damage])
    assert same(first, collect([folder], spec=spec(), frames=3, size=24))
    assert cache_files() == [path], "nothing unfinished is left beside it"


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    folder = write_photos(tmp_path / "photos", 3)
    assert collect([folder], spec=spec(), frames=2, size=24).about["frames"] == 2


def test_bad_files_among_good_ones_are_named(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", 4)
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "bad.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not looked at")
    made = collect([folder], spec=spec(), frames=6, size=24)
    assert made.about["frames"] == 6
    named = " ".join(made.about["skipped"])
    assert "bad.png" in named
    assert "bad.mp4" in named
    assert "notes" not in named


@pytest.mark.parametrize("level", [0, 128, 255])
def test_one_flat_colour_is_refused(tmp_path: Path, level: int) -> None:
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 64, 3), level, np.uint8))
    with pytest.raises(UsageError, match="one flat colour"):
        collect([tmp_path], spec=spec(), size=32)
    assert cache_files() == []


def test_what_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(UsageError, match="holds no picture"):
        collect([tmp_path / "empty"], spec=spec())
    with pytest.raises(UsageError, match="does not exist"):
        collect([tmp_path / "nowhere"], spec=spec())
    with pytest.raises(UsageError, match=r"could be read: .*bad\.png"):
        collect([tmp_path / "bad.png"], spec=spec())
    with pytest.raises(UsageError, match="--calib"):
        collect([], spec=spec())
    with pytest.raises(UsageError, match="1 or more"):
        collect([tmp_path], spec=spec(), frames=0)
