"""What `--data` is, and what of it can be learnt from; every wrong folder says so in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from media import write_video
from photos import draw_photo, write_photos
from PIL import Image

from edgesr.bicubic import downscale
from edgesr.distill.intake import digest_sources, photos_of_part, read_pictures
from edgesr.distill.scenes import Sampling
from edgesr.distill.sources import are_frames, find_source, find_sources
from edgesr.errors import MediaError, UsageError

Array = np.ndarray[Any, Any]


def write(file: Path, picture: Array) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), picture[:, :, ::-1])
    return file


def write_pairs(folder: Path, *, scale: int = 2, small: str = "LR/x2/{}.png") -> Path:
    for n in range(3):
        photo = draw_photo(n, height=96, width=128)
        write(folder / f"HR/{n}.png", photo)
        write(folder / small.format(n), downscale(photo, scale))
    return folder


def write_frames(folder: Path, count: int = 14, *, first: int = 1, seed: int = 3) -> Path:
    wide = draw_photo(seed, height=96, width=128 + 3 * count)
    for n in range(count):
        write(folder / f"f_{first + n}.png", wide[:, 3 * n : 3 * n + 128])
    return folder


def kinds(path: Path, scale: int = 2) -> list[tuple[str, int]]:
    return [(source.kind, len(source.files)) for source in find_source(path, scale=scale)]


def test_photos_also_in_subfolders(tmp_path: Path) -> None:
    write_photos(tmp_path / "a", 3)
    write_photos(tmp_path / "a/b", 2)
    (tmp_path / "a/._000.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "a/notes.txt").write_text("no picture")
    assert kinds(tmp_path) == [("photos", 5)]
    assert kinds(tmp_path / "a/000.png") == [("photos", 1)]


def test_a_folder_of_frames_is_told_from_numbered_photos(tmp_path: Path) -> None:
    write_frames(tmp_path / "clip")
    assert kinds(tmp_path / "clip") == [("frames", 14)]
    write_photos(tmp_path / "photos", 14)  # 000.png ... 013.png of one size, all different
    assert kinds(tmp_path / "photos") == [("photos", 14)]
    assert sorted(kinds(tmp_path)) == [("frames", 14), ("photos", 14)]
    (tmp_path / "clip/f_7.png").unlink()  # a gap
    assert kinds(tmp_path / "clip") == [("photos", 13)]
    assert not are_frames([])


def test_frames_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    (source,) = find_source(write_frames(tmp_path / "clip", first=5), scale=2)
    assert [file.stem for file in source.files] == [f"f_{n}" for n in range(5, 19)]


def test_videos_and_folders_with_videos(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    assert kinds(write_video(tmp_path / "clips/a.mp4", frames=3)) == [("video", 1)]
    write_video(tmp_path / "clips/b.mkv", frames=3)
    write_photos(tmp_path / "clips/stills", 2)
    assert kinds(tmp_path / "clips") == [("photos", 2), ("video", 1), ("video", 1)]


@pytest.mark.parametrize("small", ["LR/x2/{}.png", "LR/X2/{}x2.png", "LR_bicubic/X2/{}x2.png"])
def test_pairs_in_two_folders(tmp_path: Path, small: str) -> None:
    folder = write_pairs(tmp_path / "p", small=small)
    (source,) = find_source(folder, scale=2)
    assert (source.kind, len(source.files)) == ("pairs", 3)
    pictures = list(read_pictures([source], scale=2, patch=16))
    for n, picture in enumerate(pictures):
        with Image.open(folder / f"HR/{n}.png") as hr, Image.open(folder / small.format(n)) as lr:
            assert np.array_equal(picture.hr, np.asarray(hr))
            assert picture.lr is not None
            assert np.array_equal(picture.lr, np.asarray(lr))


def test_pairs_by_name(tmp_path: Path) -> None:
    photo = draw_photo(1)
    for folder in (tmp_path / "x2", tmp_path / "flat"):
        write(folder / "baby_HR.png", photo)
        write(folder / "baby_LR.png", downscale(photo, 2))
    assert kinds(tmp_path) == [("pairs", 1)]
    assert kinds(tmp_path / "flat") == [("pairs", 1)]
    (picture,) = read_pictures(find_source(tmp_path, scale=2), scale=2, patch=16)
    assert picture.lr is not None
    assert picture.lr.shape == (48, 64, 3)


def test_hr_with_a_few_pixels_more_is_cut_to_its_partner(tmp_path: Path) -> None:
    photo = draw_photo(1, height=97, width=131)
    write(tmp_path / "HR/a.png", photo)
    write(tmp_path / "LR/x3/a.png", downscale(photo[:96, :129], 3))
    (picture,) = read_pictures(find_source(tmp_path, scale=3), scale=3, patch=8)
    assert np.array_equal(picture.hr, photo[:96, :129])


def test_pairs_of_wrong_size_are_refused(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path, scale=4)
    with pytest.raises(MediaError, match=r"is 32x24, which is not 1/2 of 128x96"):
        list(read_pictures(find_source(folder, scale=2), scale=2, patch=8))


def test_half_of_a_pair_is_refused(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "p")
    with pytest.raises(UsageError, match=r"LR/ has x2, the scale is 4; --data .*HR makes"):
        find_source(folder, scale=4)
    (folder / "LR/x2/1.png").unlink()
    with pytest.raises(UsageError, match=r"1.png has no partner in LR/x2 \(1 or 1x2\)"):
        find_source(folder, scale=2)
    for file in (folder / "HR").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="no pictures in HR/"):
        find_source(folder, scale=2)


def test_what_is_no_data_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"empty: no pictures \(.png .*\) or videos \(.mp4 .*\)"):
        find_sources([write_photos(tmp_path / "good", 1), tmp_path / "empty"], scale=2)
    with pytest.raises(UsageError, match="nowhere: no such folder or file"):
        find_sources([tmp_path / "nowhere"], scale=2)
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(UsageError, match=r"table.csv: neither a picture \(.* nor a video"):
        find_sources([tmp_path / "table.csv"], scale=2)


def test_several_data_are_read_one_after_the_other(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    frames = write_frames(tmp_path / "clip")
    sources = find_sources([photos, frames, write_pairs(tmp_path / "pairs")], scale=2)
    told: list[tuple[str, int, int | None]] = []
    pictures = list(
        read_pictures(
            sources,
            scale=2,
            patch=16,
            sampling=Sampling(count=5),
            progress=lambda *line: told.append(line),
        )
    )
    names = [picture.name for picture in pictures]
    assert names == ["000", "001", *(name for name in names if "clip@" in name), "0", "1", "2"]
    assert len(names) == 10
    assert [picture.lr is None for picture in pictures] == [True] * 7 + [False] * 3
    assert [line for line in told if line[0] == "photos"] == [("photos", 1, 2), ("photos", 2, 2)]
    assert {line[0] for line in told} == {"photos", "clip", "pairs"}


def test_unreadable_and_small_ones_among_good_ones_are_counted(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 not much of a JPEG")
    content = (folder / "001.png").read_bytes()
    (folder / "half.png").write_bytes(content[: len(content) // 2])
    write(folder / "tiny.png", draw_photo(5, height=31, width=200))
    write_video(folder / "no.mp4", frames=2).write_bytes(b"not a video at all")
    warnings: list[str] = []
    sources = find_sources([folder], scale=2)
    pictures = list(read_pictures(sources, scale=2, patch=16, on_warning=warnings.append))
    assert [picture.name for picture in pictures] == ["000", "001", "002"]
    assert len(warnings) == 2
    assert "3 of the --data left out: " in warnings[0]
    assert all(name in warnings[0] for name in ("bad.jpg", "half.png", "no.mp4"))
    assert warnings[1] == (
        "1 of the pictures left out: smaller than a crop of 16 pixels at x2 (32x32)"
    )


def test_nothing_but_small_or_unreadable_ones_is_an_error(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3, height=40, width=60)
    sources = find_sources([folder], scale=2)
    with pytest.raises(UsageError) as caught:
        list(read_pictures(sources, scale=2, patch=40))
    assert str(caught.value) == (
        f"--data {folder}: all 3 pictures are smaller than a crop of 40 pixels at x2 (80x80), the "
        "largest is 60x40: give larger pictures, or --set patch=20"
    )
    assert len(list(read_pictures(sources, scale=2, patch=20))) == 3  # the advice is right
    for file in folder.iterdir():
        file.write_bytes(b"nothing")
    with pytest.raises(MediaError, match=r"nothing in it can be used \(.*000.png"):
        list(read_pictures(sources, scale=2, patch=16))


def test_a_part_of_photos_is_spread_and_never_in_both(tmp_path: Path) -> None:
    sources = find_sources([write_photos(tmp_path / "p", 25, height=20, width=24)], scale=2)
    names = {
        part: [
            picture.name
            for picture in read_pictures(
                sources, scale=2, patch=8, sampling=Sampling(count=1, part=part)
            )
        ]
        for part in ("train", "held-out", "all")
    }
    assert names["held-out"] == ["000", "012"]
    assert sorted(names["train"] + names["held-out"]) == names["all"]
    (one,) = find_sources([tmp_path / "p/000.png"], scale=2)
    with pytest.raises(UsageError, match="one picture is not enough"):
        photos_of_part(one, "train")


def test_left_out_photos_are_not_read(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "p", 3)
    sources = find_sources([folder], scale=2)
    pictures = read_pictures(sources, scale=2, patch=16, leave_out=[folder / "001.png"])
    assert [picture.name for picture in pictures] == ["000", "002"]


def test_digest_names_the_pictures_and_the_choice(tmp_path: Path) -> None:
    photos, frames = write_photos(tmp_path / "p", 3), write_frames(tmp_path / "clip")
    sources = find_sources([photos, frames], scale=2)
    sampling = Sampling(count=4)
    name = digest_sources(sources, sampling=sampling)
    assert digest_sources(find_sources([photos, frames], scale=2), sampling=sampling) == name
    assert digest_sources(sources, sampling=Sampling(count=5)) != name
    write(photos / "001.png", draw_photo(99))
    assert digest_sources(sources, sampling=sampling) != name


def test_real_data(data: Path) -> None:
    assert kinds(data / "train/t91") == [("photos", 91)]
    assert kinds(data / "train/bsds") == [("photos", 399)]
    assert kinds(data / "bench/Set5", scale=3) == [("pairs", 5)]
    (set5,) = find_source(data / "bench/Set5", scale=2)
    for picture in read_pictures([set5], scale=2, patch=16):
        assert picture.lr is not None
        assert np.array_equal(downscale(picture.hr, 2), picture.lr)
    clip = find_sources([data / "video/car_768x432_30s.mp4"], scale=2)
    frames = list(read_pictures(clip, scale=2, patch=40, sampling=Sampling(count=6, part="train")))
    assert [frame.hr.shape for frame in frames] == [(432, 768, 3)] * 6
