"""Times of frames, and sound, subtitles, chapters and attachments, come out as they went in."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import media
import pytest
from video_copies import assert_same_packets, assert_same_times, copy, facts, tolerance_of

from edgesr.runtime.clock import Clock
from edgesr.runtime.video import VideoReader

# Times


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("case", ["odd rate", "ntsc", "vfr", "late start", "60 in 1/90000"])
def test_times_go_through(tmp_path: Path, case: str, ending: str) -> None:
    if case == "vfr":
        times = [0, 500, 700, 2000, 2100, 5000, 5400, 9000, 9100, 30000]
        kind: dict[str, Any] = {"time_base": Fraction(1, 12800), "pts": times}
    elif case == "late start":
        kind = {"time_base": Fraction(1, 12800), "pts": [12345 + 512 * n for n in range(12)]}
    elif case == "60 in 1/90000":
        kind = {"time_base": Fraction(1, 90000), "rate": 60}
    else:
        kind = {"rate": Fraction(24000, 1001) if case == "ntsc" else Fraction(23040000, 767849)}
    clip = media.write_video(tmp_path / "in.mp4", audio="aac", **kind)
    target = tmp_path / f"out{ending}"
    reader, writer, frames = copy(clip, target)
    before, after = facts(clip), facts(target)
    assert writer.frames_written == len(frames) == len(before.times)
    assert [frame.time for frame in frames] == before.times
    assert_same_times(after.times, before.times, tolerance_of(target))
    assert_same_packets(after, before, tolerance_of(target))
    assert reader.warnings == writer.warnings == []
    assert writer.first_frame_at is not None


def test_the_last_frame_of_a_vfr_clip_keeps_its_duration(tmp_path: Path) -> None:
    clip = media.write_video(
        tmp_path / "in.mkv", time_base=Fraction(1, 1000), pts=[0, 40, 50, 90, 700, 710, 2000]
    )
    _, _, frames = copy(clip, tmp_path / "out.mp4", preset="medium")
    with VideoReader(tmp_path / "out.mp4") as again:
        assert again.duration == frames[-1].time + frames[-1].duration * frames[-1].time_base


def test_raw_stream_counts_frames(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "a.264", muxer="h264", frames=15)
    reader, _, frames = copy(clip, tmp_path / "a.mp4")
    assert [frame.time for frame in frames] == [Fraction(n, 25) for n in range(15)]
    assert facts(tmp_path / "a.mp4").times == [Fraction(n, 25) for n in range(15)]
    assert reader.warnings == ["a.264 has no timestamps: frames are 25 a second"]


@pytest.mark.parametrize(
    ("given", "placed", "moved"),
    [
        ([0, 512, 1024], [0, 512, 1024], 0),
        ([0, None, 1024], [0, 512, 1024], 1),
        ([700, None, None, 2300], [700, 1212, 1724, 2300], 2),
        ([0, 512, 512, 1024], [0, 512, 513, 1024], 1),  # rounded to the same millisecond
        ([90000, 90512, 0, 512], [90000, 90512, 91024, 91536], 2),  # the source jumps back
    ],
)
def test_missing_and_repeated_times(given: list[Any], placed: list[int], moved: int) -> None:
    pictures = [av.VideoFrame(16, 16, "yuv420p") for _ in given]
    for picture, pts in zip(pictures, given, strict=True):
        picture.pts = pts
    clock = Clock(pictures[0], rate=Fraction(25), time_base=Fraction(1, 12800))
    assert [clock.place(picture)[0] for picture in pictures] == placed
    assert clock.moved == moved


def test_avi_stores_no_pts(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "a.avi", codec="mpeg4", frames=9, options={"bf": "2"})
    reader, _, frames = copy(clip, tmp_path / "a.mp4")
    # The muxer delays by the one reordered frame; what counts is that order and distance are right.
    assert [frame.time - frames[0].time for frame in frames] == [Fraction(n, 25) for n in range(9)]
    assert frames[0].time <= Fraction(1, 25)
    assert reader.warnings == []


# Streams


def test_everything_of_a_matroska_file_is_carried(tmp_path: Path) -> None:
    clip = media.write_video(
        tmp_path / "in.mkv",
        audio="libopus",
        subtitles="ass",
        chapters=True,
        attachment=b"font" * 50,
        metadata={"title": "Hé, title"},
    )
    _, writer, _ = copy(clip, tmp_path / "out.mkv", scale=2)
    before, after = facts(clip), facts(tmp_path / "out.mkv")
    assert before.names == ["audio:opus", "subtitle:ass"]
    assert_same_packets(after, before, Fraction(0))
    assert after.streams == before.streams
    assert writer.warnings == []
    with av.open(str(clip)) as a, av.open(str(tmp_path / "out.mkv")) as b:
        assert b.metadata["title"] == "Hé, title"
        assert a.streams[1].metadata["title"] == b.streams[1].metadata["title"] == "Main sound"
        assert a.streams[2].codec_context.extradata == b.streams[2].codec_context.extradata
        assert a.streams[2].codec_context.extradata
        assert b.streams.attachments[0].data == b"font" * 50
        spans = [[(c["start"], c["end"], c["metadata"]) for c in f.chapters()] for f in (a, b)]
        assert spans[0] == spans[1]
        assert len(spans[0]) == 2


def test_what_cannot_be_carried_is_said(tmp_path: Path) -> None:
    clip = media.write_video(
        tmp_path / "in.mkv", audio="aac", subtitles="ass", attachment=b"x" * 20
    )
    _, writer, _ = copy(clip, tmp_path / "out.mp4")
    assert writer.warnings == [
        "subtitle stream 2 (ass) is not carried: mp4 cannot hold it",
        "attachment stream 3 (font.ttf) is not carried: mp4 cannot hold it",
    ]
    _, writer, _ = copy(clip, tmp_path / "out.webm")
    assert writer.warnings[0] == "audio stream 1 (aac) is not carried: webm cannot hold it"


def test_chapters_of_mp4(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "in.mp4", chapters=True)
    _, writer, _ = copy(clip, tmp_path / "out.mp4")
    assert writer.warnings == []  # the text track that mirrors them is no lost stream
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert [c["metadata"]["title"] for c in out.chapters()] == ["One", "Two"]
