"""Frames out of clips: cuts where they are, scenes evenly, nothing twice, parts that never meet."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from photos import draw_photo

from edgesr.distill import scenes
from edgesr.distill.footage import digest_footage, frames_of, sample_frames, survey
from edgesr.distill.scenes import Glimpse, Sampling, choose, in_part, survey_glimpses
from edgesr.errors import MediaError, UsageError

Array = np.ndarray[Any, Any]
WIDTH, HEIGHT = 160, 96


def pan(seed: int, frames: int, *, speed: int = 2) -> list[Array]:
    """A camera that moves over one drawn picture."""
    wide = draw_photo(seed, height=HEIGHT, width=WIDTH + frames * speed)
    return [wide[:, n * speed : n * speed + WIDTH] for n in range(frames)]


def black(frames: int) -> list[Array]:
    return [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * frames


def write_clip(
    path: Path,
    pictures: Sequence[Array],
    *,
    rate: int = 25,
    format: str = "yuv420p",
    colour: tuple[int, int] | None = None,
    crf: int = 18,
) -> Path:
    """H.264 of RGB pictures; colour = (range, matrix) as H.273 numbers."""
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("libx264", rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = format
        stream.options = {"preset": "ultrafast", "crf": str(crf)}
        if colour is not None:
            stream.codec_context.color_range, stream.codec_context.colorspace = colour
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(
                format=format,
                dst_color_range=colour[0] if colour else 1,
                dst_colorspace=colour[1] if colour else 5,
                interpolation="ACCURATE_RND",
            )
            frame.pts, frame.time_base = index, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of 30, 12 and 60 frames, ten black ones before the last."""
    pictures = [*pan(1, 30), *pan(2, 12), *black(10), *pan(3, 60)]
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", pictures)


def scene_of(index: int) -> int:
    return 0 if index < 30 else 1 if index < 42 else 2


def test_cuts_are_found_where_they_are(film: Path) -> None:
    found = survey(film)
    starts = [int(found.index[0]), *found.index[1:][np.diff(found.scene) > 0].tolist()]
    assert starts == [0, 30, 42, 52]  # the black stretch is a scene without a usable frame
    assert found.scenes == 4
    assert np.flatnonzero(~found.usable).tolist() == list(range(42, 52))
    assert found.times[-1] == pytest.approx(111 / 25)


def test_scenes_give_equally_many_frames(film: Path) -> None:
    stills = list(sample_frames(film, Sampling(count=12)))
    assert [scene_of(still.index) for still in stills] == [0] * 4 + [1] * 4 + [2] * 4
    for part in (stills[:4], stills[8:]):  # spread: the least gap is half of an even one
        assert min(b.index - a.index for a, b in itertools.pairwise(part)) >= 30 / 4 / 2
    short = [still.index for still in sample_frames(film, Sampling(count=45))]
    assert [scene_of(index) for index in short].count(1) == 12  # all it has; the others make up
    assert len(short) == 45
    assert short == sorted(set(short))


def test_fewer_frames_than_scenes_come_from_the_middle_of_different_ones(film: Path) -> None:
    three = [scene_of(still.index) for still in sample_frames(film, Sampling(count=3))]
    assert three == [0, 1, 2]
    (one,) = sample_frames(film, Sampling(count=1))
    assert one.index == 36


def test_pictures_are_those_of_the_file(film: Path) -> None:
    """Against PyAV's own decoding, RGB and luma."""
    with av.open(str(film)) as source:
        truth = list(source.decode(video=0))
    rgb = list(sample_frames(film, Sampling(count=5)))
    luma = list(sample_frames(film, Sampling(count=5), colour="y"))
    assert [still.index for still in rgb] == [still.index for still in luma]
    for still, y in zip(rgb, luma, strict=True):
        frame = truth[still.index]
        assert still.picture.shape == (HEIGHT, WIDTH, 3)
        assert still.picture.dtype == np.uint8
        assert still.time == pytest.approx(still.index / 25)
        assert np.array_equal(y.picture, frame.to_ndarray()[:HEIGHT].astype(np.float32))
        assert y.picture.dtype == np.float32
        theirs, ours = (  # swscale leaves chroma half a pixel off: not compared pixel by pixel
            cv2.GaussianBlur(rgb.astype(np.float32), (0, 0), 3)
            for rgb in (frame.to_ndarray(format="rgb24"), still.picture)
        )
        assert np.abs(theirs - ours).mean() < 3


@pytest.mark.parametrize(
    ("format", "colour"),
    [("yuv444p", (2, 1)), ("yuv444p", (1, 1)), ("yuv444p", (1, 5)), ("yuv444p10le", (1, 9))],
)
def test_range_depth_and_matrix_are_read_from_the_stream(
    tmp_path: Path, format: str, colour: tuple[int, int]
) -> None:
    pictures = pan(7, 3)
    clip = write_clip(tmp_path / "c.mp4", pictures, format=format, colour=colour, crf=1)
    sampling = Sampling(every=0)
    for still in sample_frames(clip, sampling):
        wanted = cv2.GaussianBlur(pictures[still.index].astype(np.float32), (0, 0), 2)
        ours = cv2.GaussianBlur(still.picture.astype(np.float32), (0, 0), 2)
        assert np.abs(wanted - ours).mean() < 2  # a wrong range gives 10, a wrong matrix 4
    kr, kb = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}[colour[1]]
    for still in sample_frames(clip, sampling, colour="y"):
        studio = 16 + 219 / 255 * (pictures[still.index] @ np.array([kr, 1 - kr - kb, kb]))
        assert np.abs(studio - still.picture).mean() < 1.5


def test_same_frames_are_taken_once(tmp_path: Path) -> None:
    """A frozen camera, and a scene that comes back later."""
    still = pan(1, 1) * 20
    clip = write_clip(tmp_path / "still.mp4", [*still, *pan(2, 6), *still])
    chosen = [frame.index for frame in sample_frames(clip, Sampling(count=40))]
    frozen = [index for index in chosen if index < 20 or index >= 26]
    assert len(frozen) == 1
    assert [index for index in chosen if 20 <= index < 26] == list(range(20, 26))


def test_a_small_thing_that_moves_makes_a_different_frame(tmp_path: Path) -> None:
    scene = pan(1, 1)[0]
    pictures = []
    for n in range(20):
        picture = scene.copy()
        cv2.circle(picture, (8 + 7 * n, 50), 5, (255, 40, 40), -1)
        pictures.append(picture)
    clip = write_clip(tmp_path / "ball.mp4", pictures, crf=23)
    assert len(list(sample_frames(clip, Sampling(count=40)))) == 20


def test_a_fast_pan_and_a_fade_are_no_cuts(tmp_path: Path) -> None:
    fast = pan(5, 30, speed=30)
    assert survey(write_clip(tmp_path / "pan.mp4", fast)).scenes == 1
    first, last = (pan(seed, 1)[0].astype(float) for seed in (1, 2))
    fade = [(first * (1 - a) + last * a).astype(np.uint8) for a in np.linspace(0, 1, 25)]
    assert survey(write_clip(tmp_path / "fade.mp4", fade)).scenes == 1


def test_one_frame_in_so_many_seconds(film: Path) -> None:
    taken = list(sample_frames(film, Sampling(every=0.4)))  # 10 frames
    assert [still.index for still in taken] == [0, 10, 20, 30, 40, 52, 62, 72, 82, 92, 102]


@pytest.mark.parametrize("gap", [0, 3, 9])
def test_no_held_out_frame_is_near_a_training_one(tmp_path: Path, gap: int) -> None:
    clip = write_clip(tmp_path / "c.mp4", pan(4, 100, speed=1), rate=10)
    sampling = Sampling(count=1000, part="train", gap=gap)
    held_out = dataclasses.replace(sampling, part="held-out")
    train = [still.index for still in sample_frames(clip, sampling)]
    kept = [still.index for still in sample_frames(clip, held_out)]
    assert kept == [n for n in range(100) if n % 40 >= 30]  # the last second of every four
    assert min(abs(a - b) for a in train for b in kept) == gap + 1
    assert set(train) == {n for n in range(100) if all(abs(n - k) > gap for k in kept)}


def test_a_short_clip_is_split_in_proportion(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "c.mp4", pan(4, 48, speed=2), rate=24)  # 2 s: periods of 1 s
    found = survey(clip)
    held_out = in_part(found, Sampling(count=1, part="held-out"), clip=clip)
    assert np.flatnonzero(held_out).tolist() == [*range(18, 24), *range(42, 48)]
    with pytest.raises(UsageError, match=r"5 frames, 0.2 s, are too few"):
        list(
            sample_frames(
                write_clip(tmp_path / "tiny.mp4", pan(4, 5)), Sampling(count=1, part="train")
            )
        )


def test_digest_names_content_and_settings(film: Path, tmp_path: Path) -> None:
    sampling = Sampling(count=3)
    name = digest_footage(film, sampling)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(film.read_bytes())
    assert digest_footage(copy, Sampling(count=3)) == name
    for other in (Sampling(count=4), Sampling(every=1.0), Sampling(count=3, part="train")):
        assert digest_footage(film, other) != name
    copy.write_bytes(film.read_bytes() + b"\0")
    assert digest_footage(copy, sampling) != name


def test_frames_are_the_same_ones_every_time(film: Path) -> None:
    found = survey(film)
    first = choose(found, Sampling(count=9), clip=film)
    assert choose(survey(film), Sampling(count=9), clip=film) == first
    again = [still.index for still in sample_frames(film, Sampling(count=9), found=found)]
    assert again == first


def test_a_folder_of_frames_is_a_clip(tmp_path: Path) -> None:
    pictures = [*pan(1, 13), *pan(2, 7)]
    for n, picture in enumerate(pictures):  # not padded: 9 comes before 10
        cv2.imwrite(str(tmp_path / f"f{n}.png"), picture[:, :, ::-1])
    (tmp_path / "f4.png").write_bytes(b"no picture")
    assert [file.stem for file in frames_of(tmp_path)] == [f"f{n}" for n in range(20)]
    warnings: list[str] = []
    found = survey(tmp_path, on_warning=warnings.append)
    assert found.scenes == 2
    assert len(warnings) == 1
    assert "f4.png" in warnings[0]
    stills = list(sample_frames(tmp_path, Sampling(count=100)))
    assert len(stills) == 19
    readable = [picture for n, picture in enumerate(pictures) if n != 4]
    for still in stills:
        assert np.array_equal(still.picture, readable[still.index])


def test_a_long_clip_is_remembered_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "MOST", 64)

    def glimpses() -> Iterator[Glimpse]:
        rng = np.random.default_rng(0)
        few = rng.integers(16, 236, (20, 30)).astype(np.uint8)
        for n in range(1000):
            cells = rng.uniform(16, 235, (18, 32)).astype(np.float32)
            yield Glimpse(time=n / 25, cells=cells, few=few)

    found = survey_glimpses(glimpses())
    assert len(found.index) <= 64
    assert found.index.tolist() == list(range(0, 1000, 16))
    assert len(found.times) == 1000


def test_progress_counts_both_passes_and_never_goes_back(film: Path) -> None:
    told: list[tuple[int, int | None]] = []
    list(
        sample_frames(
            film, Sampling(count=3), progress=lambda done, total: told.append((done, total))
        )
    )
    done = [count for count, _ in told]
    assert done == sorted(set(done))
    assert done[0] == 1
    assert told[-1][0] == told[-1][1] > 112


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give one"),
        ({"count": 3, "every": 1.0}, "give one"),
        ({"count": 0}, "count of frames = 0"),
        ({"every": -1.0}, "every = -1.0"),
        ({"count": 3, "part": "test"}, "part 'test': all, train or held-out"),
        ({"count": 3, "held_out": 4.0}, "held out 4.0 of 4.0"),
        ({"count": 3, "gap": -1}, "gap of -1"),
    ],
)
def test_settings_are_checked_at_the_door(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Sampling(**settings)


def test_what_holds_no_frame_says_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        list(sample_frames(tmp_path / "no.mp4", Sampling(count=1)))
    dark = write_clip(tmp_path / "dark.mp4", black(8))
    with pytest.raises(MediaError, match="every frame is black or flat"):
        list(sample_frames(dark, Sampling(count=1)))
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="none of its pictures can be read"):
        list(sample_frames(folder, Sampling(count=1)))


CUTS = {  # seen by eye on contact sheets
    "bbb_360p24_60s.mp4": [1, 285, 378, 553, 1145, 1346],
    "sintel_480p_26s_ass_sub.mkv": [76, 121, 319, 457, 545, 611],
    "live_360p30_17s.mp4": [18],
    "car_768x432_30s.mp4": [],
    "foreman_cif.264": [],
}


@pytest.mark.parametrize("name", CUTS)
def test_real_clips(data: Path, name: str) -> None:
    clip = data / "video" / name
    found = survey(clip)
    assert found.index[1:][np.diff(found.scene) > 0].tolist() == CUTS[name]
    train = choose(found, Sampling(count=60, part="train"), clip=clip)
    held_out = choose(found, Sampling(count=12, part="held-out"), clip=clip)
    assert (len(train), len(held_out)) == (60, 12)
    assert min(abs(a - b) for a in train for b in held_out) > 6


@pytest.mark.parametrize(
    ("name", "words"),
    [("broken.mp4", "cannot be read"), ("multi_audio_only.mp4", "no video"), ("empty.flv", "read")],
)
def test_real_files_without_pictures(data: Path, name: str, words: str) -> None:
    with pytest.raises(MediaError, match=words):
        list(sample_frames(data / "video" / name, Sampling(count=1)))
