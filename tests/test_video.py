"""What goes into VideoReader comes out of VideoWriter: frames, times, streams, colours, depth."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import media
import numpy as np
import pytest

from edgesr.errors import EdgesrError, MediaError, UsageError
from edgesr.runtime import hdr, pixels, upright
from edgesr.runtime.clock import Clock
from edgesr.runtime.frame import Frame
from edgesr.runtime.partfile import PartFile
from edgesr.runtime.video import Carried, VideoReader, VideoWriter

MS = Fraction(1, 2000)  # mkv and webm store milliseconds
FAST = {"crf": 30, "preset": "ultrafast"}


def grown(frame: Frame, scale: int) -> Frame:
    planes = tuple(p.repeat(scale, 0).repeat(scale, 1) for p in frame.planes)
    return frame.replace(planes=planes)


def copy(
    source: Path, target: Path, *, scale: int = 1, limit: int | None = None, **options: Any
) -> Any:
    """Reader to writer; returns (reader, writer, frames written)."""
    frames: list[Frame] = []
    if target.suffix != ".webm" and "codec" not in options:
        options = {**FAST, **options}
    with VideoReader(source) as reader:
        size = {"width": reader.width * scale, "height": reader.height * scale}
        with VideoWriter(target, like=reader, **size, **options) as writer:
            for item in reader:
                if isinstance(item, Frame):
                    if limit is not None and len(frames) == limit:
                        break
                    frames.append(item.replace(planes=tuple(p[:1, :1] for p in item.planes)))
                    item = grown(item, scale)
                writer.write(item)
    assert not list(target.parent.glob(".*.part"))
    return reader, writer, frames


@dataclass
class Facts:
    """What PyAV alone, without our reader, finds in a file."""

    times: list[Fraction]
    packets: dict[int, list[tuple[Fraction, bytes]]]
    names: list[str]
    streams: list[Any]


def facts(path: Path) -> Facts:
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        kept = [s for s in container.streams if s.type in ("audio", "subtitle")]
        packets: dict[int, list[tuple[Fraction, bytes]]] = {s.index: [] for s in kept}
        times = []
        for packet in container.demux(video, *kept):
            if not packet.size:
                continue
            when = packet.pts * packet.time_base if packet.pts is not None else Fraction(-1)
            if packet.stream_index == video.index:
                times.append(when)
            else:
                packets[packet.stream_index].append((when, bytes(packet)))
        names = [f"{s.type}:{s.codec_context.codec.canonical_name}" for s in kept]
        notes = [(s.type, s.language, int(s.disposition)) for s in kept]
    return Facts(sorted(times), packets, names, notes)


def assert_same_times(ours: list[Fraction], theirs: list[Fraction], tolerance: Fraction) -> None:
    assert len(ours) == len(theirs)
    worst = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    assert worst <= tolerance, f"off by {float(worst) * 1000:.3f} ms"


def assert_same_packets(ours: Facts, theirs: Facts, tolerance: Fraction) -> None:
    assert ours.names == theirs.names
    for a, b in zip(ours.packets.values(), theirs.packets.values(), strict=True):
        assert [data for _, data in a] == [data for _, data in b]
        assert_same_times([time for time, _ in a], [time for time, _ in b], tolerance)


def tolerance_of(path: Path) -> Fraction:
    return Fraction(0) if path.suffix in (".mp4", ".mov") else MS


# Reading


def test_reader_says_what_comes(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "a.mp4", audio="aac", rate=Fraction(30000, 1001))
    with VideoReader(clip) as reader:
        items = list(reader)
    frames = [item for item in items if isinstance(item, Frame)]
    assert (reader.width, reader.height, reader.codec) == (64, 48, "h264")
    assert (reader.format, reader.depth) == ("yuv420p", 8)
    assert reader.rate == Fraction(30000, 1001)
    assert reader.frame_count == len(frames) == 12
    assert [str(other) for other in reader.carried] == ["audio stream 1 (aac)"]
    assert sum(isinstance(item, Carried) for item in items) > 5
    assert [f.time for f in frames] == [n / reader.rate for n in range(12)]
    assert frames[0].planes[1].shape == (24, 32)
    assert not frames[0].planes[0].flags.writeable
    assert reader.warnings == []


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    reader = VideoReader(media.write_video(tmp_path / "a.mp4", audio="aac"))
    items = list(islice(reader, 20))
    reader.close()
    reader.close()
    assert str(reader.carried[0]) == "audio stream 1 (aac)"  # PyAV's own stream crashes here
    assert any(isinstance(item, Frame) and item.planes[0].mean() > 0 for item in items)
    with pytest.raises(ValueError, match="closed"):
        next(reader)


def test_frames_own_their_pixels(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "a.mkv", codec="ffv1", frames=30)
    with VideoReader(clip) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    for n, frame in enumerate(frames):
        expected = pixels.planes_of(media.pattern(64, 48, n))
        for plane, other in zip(frame.planes, expected, strict=True):
            np.testing.assert_array_equal(plane, other)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("yuv420p", "yuv420p"),
        ("yuvj420p", "yuv420p"),
        ("nv12", "yuv420p"),
        ("p010le", "yuv420p10le"),
        ("yuyv422", "yuv422p"),
        ("yuv411p", "yuv422p"),
        ("yuv440p", "yuv440p"),
        ("yuva444p16le", "yuv444p16le"),
        ("rgb24", "yuv444p"),
        ("gbrp10le", "yuv444p10le"),
        ("pal8", "yuv444p"),
        ("gray", "gray"),
        ("ya8", "gray"),
        ("gray12le", "gray12le"),
        ("yuv420p10be", "yuv420p10le"),
    ],
)
def test_native_formats(name: str, nearest: str) -> None:
    assert pixels.native(name) == nearest


def test_rgb_is_converted_with_its_matrix(tmp_path: Path) -> None:
    clip = tmp_path / "a.mov"
    with av.open(str(clip), "w") as out:
        stream: Any = out.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        rgb = np.zeros((48, 64, 3), np.uint8)
        rgb[..., 0] = 255
        for n in range(2):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = n, Fraction(1, 25)
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    with VideoReader(clip) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    assert (frame.format, frame.colour.matrix, frame.colour.range) == ("yuv444p", 6, 1)
    red = [int(plane[20, 20]) for plane in frame.planes]
    np.testing.assert_allclose(red, [81, 90, 240], atol=1)  # BT.601 studio red
    assert any("rgb24" in line for line in reader.warnings)


@pytest.mark.parametrize(
    ("codec", "format", "siting"),
    [("mjpeg", "yuvj420p", 2), ("mpeg1video", "yuv420p", 2), ("mpeg2video", "yuv420p", 0)],
)
def test_chroma_siting_goes_by_the_codec(
    tmp_path: Path, codec: str, format: str, siting: int
) -> None:
    clip = media.write_video(tmp_path / "a.mkv", codec=codec, format=format)
    with VideoReader(clip) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
    assert reader.codec == codec
    assert frame.colour.siting == reader.colour.siting == siting


@pytest.mark.parametrize(
    "case", ["missing", "folder", "text", "empty", "audio", "noise", "picture"]
)
def test_bad_input_is_one_line(tmp_path: Path, case: str) -> None:
    path = tmp_path / "in.mp4"
    if case == "folder":
        path.mkdir()
    elif case == "text":
        path = tmp_path / "in.txt"
        path.write_text("not a video\n" * 200)
    elif case == "empty":
        path.touch()
    elif case == "noise":
        path.write_bytes(bytes(np.random.default_rng(0).integers(0, 255, 5000, np.uint8)))
    elif case == "picture":
        path = tmp_path / "in.png"
        media.write_video(path, codec="png", format="rgb24", frames=1, muxer="image2")
    elif case == "audio":
        with av.open(str(path), "w") as out:
            stream = media._add_audio(out, "aac")
            out.mux(media._audio_packets(stream, seconds=0.3))
    with pytest.raises(MediaError) as caught:
        VideoReader(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_damaged_packet_is_counted_and_the_rest_delivered(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=1:bframes=0"}
    clip = media.write_video(tmp_path / "a.mp4", frames=20, options=options)
    bad = media.damaged(clip, packet=7)
    with VideoReader(bad) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert reader.decode_errors == 1
    assert len(frames) == 19
    assert any("1 decoding error" in line for line in reader.warnings)
    with (
        pytest.raises(MediaError, match="cannot be decoded"),
        VideoReader(bad, strict=True) as reader,
    ):
        list(reader)


def test_a_truncated_file_gives_what_it_holds(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "a.mkv", frames=50)
    with VideoReader(media.truncated(clip, keep=0.6)) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert 10 < len(frames) < 50


def test_a_truncated_mp4_says_so(tmp_path: Path) -> None:
    options = {"x264-params": "keyint=1:bframes=0"}
    clip = media.write_video(tmp_path / "a.mp4", frames=50, options=options)
    data = clip.read_bytes()
    end = data.rindex(b"moov") - 4
    short = tmp_path / "short.mp4"  # the index is whole, half of what it points to is not
    short.write_bytes(data[:end][: end // 2].ljust(end, b"\xff") + data[end:])
    with VideoReader(short) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert 10 < len(frames) < 50
    assert reader.warnings


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


# Pictures


@pytest.mark.parametrize("format", ["yuv420p", "yuv422p", "yuv444p", "gray", "yuv420p10le"])
@pytest.mark.parametrize("size", [(64, 48), (62, 46)])
def test_pixels_arrive_where_they_belong(
    tmp_path: Path, format: str, size: tuple[int, int]
) -> None:
    clip = media.write_video(tmp_path / "in.mkv", codec="ffv1", format=format, size=size, frames=4)
    _, writer, _ = copy(clip, tmp_path / "out.mkv", scale=2, codec="ffv1")
    assert writer.pixel_format == format
    with VideoReader(tmp_path / "out.mkv") as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    for n, frame in enumerate(frames):
        expected = pixels.planes_of(media.pattern(*size, n, format=format))
        for plane, other in zip(frame.planes, expected, strict=True):
            np.testing.assert_array_equal(plane, other.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("format", ["yuv420p", "yuv444p", "yuv420p10le", "yuv422p10le"])
def test_h264_keeps_chroma_and_depth(tmp_path: Path, format: str) -> None:
    clip = media.write_video(tmp_path / "in.mp4", format=format, frames=4)
    _, writer, _ = copy(clip, tmp_path / "out.mp4")
    assert writer.pixel_format == format
    with VideoReader(tmp_path / "out.mp4") as reader:
        assert reader.format == format


def test_lost_depth_is_said(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "in.mp4", format="yuv420p10le", frames=4)
    _, writer, _ = copy(clip, tmp_path / "out.webm")
    assert writer.pixel_format == "yuv420p"
    assert "10 bits become 8" in writer.warnings[0]


def test_odd_sizes_are_filled_up(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "in.mkv", codec="ffv1", size=(63, 47), frames=3)
    _, writer, _ = copy(clip, tmp_path / "out.mp4", crf=1)
    assert "63x47 is written as 64x48" in writer.warnings[0]
    with VideoReader(clip) as a, VideoReader(tmp_path / "out.mp4") as b:
        source = next(item for item in a if isinstance(item, Frame))
        frame = next(item for item in b if isinstance(item, Frame))
    assert (frame.width, frame.height) == (64, 48)
    difference = np.abs(frame.planes[0][:47, :63].astype(int) - source.planes[0])
    assert difference.mean() < 3


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("tags", [(2, 1, 1, 1), (1, 9, 9, 16), (1, 6, 6, 6), (2, 5, 2, 2)])
def test_colour_tags_arrive(tmp_path: Path, tags: tuple[int, ...], ending: str) -> None:
    clip = media.write_video(tmp_path / "in.mp4", colour=tags, frames=4)  # type: ignore[arg-type]
    reader, _, _ = copy(clip, tmp_path / f"out{ending}")
    assert (reader.colour.range, reader.colour.matrix) == tags[:2]
    assert (reader.colour.primaries, reader.colour.transfer) == tags[2:]
    with VideoReader(tmp_path / f"out{ending}") as again:
        assert again.colour == reader.colour


def test_full_range_becomes_studio_range_where_it_cannot_be_said(tmp_path: Path) -> None:
    clip = media.write_video(
        tmp_path / "in.mp4", colour=(2, 1, 1, 1), frames=2, options={"crf": "1"}
    )
    _, writer, _ = copy(clip, tmp_path / "out.mov", codec="prores")
    assert "converted to studio range" in writer.warnings[0]
    with VideoReader(clip) as a, VideoReader(tmp_path / "out.mov") as b:
        full = next(item for item in a if isinstance(item, Frame)).planes[0].astype(float)
        studio = next(item for item in b if isinstance(item, Frame)).planes[0] / 4.0
    assert np.abs(studio - (full * 219 / 255 + 16)).mean() < 2


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
def test_pixel_shape_arrives(tmp_path: Path, ending: str) -> None:
    clip = media.write_video(tmp_path / "in.mp4", sar=Fraction(64, 45), frames=4)
    copy(clip, tmp_path / f"out{ending}")
    with VideoReader(tmp_path / f"out{ending}") as again:
        assert again.sar == Fraction(64, 45)


def test_lost_pixel_shape_is_said(tmp_path: Path) -> None:
    clip = media.write_video(tmp_path / "in.mp4", sar=Fraction(64, 45), frames=4)
    _, writer, _ = copy(clip, tmp_path / "out.webm")
    assert "64:45" in writer.warnings[0]


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_carried(tmp_path: Path, degrees: int, ending: str) -> None:
    clip = media.write_video(tmp_path / "in.mp4", rotation=degrees, frames=3)
    reader, writer, _ = copy(clip, tmp_path / f"out{ending}", scale=2)
    assert reader.rotation == degrees
    assert writer.warnings == []
    with VideoReader(tmp_path / f"out{ending}") as again:
        assert again.rotation == degrees
        assert (again.width, again.height) == (128, 96)


def test_rotation_is_applied_where_it_cannot_be_carried(tmp_path: Path) -> None:
    clip = media.write_video(
        tmp_path / "in.mp4", rotation=90, sar=Fraction(4, 3), frames=3, options={"crf": "1"}
    )
    _, writer, _ = copy(clip, tmp_path / "out.ts", crf=1)
    assert "turned upright" in writer.warnings[0]
    with VideoReader(clip) as a, VideoReader(tmp_path / "out.ts") as b:
        stored = next(item for item in a if isinstance(item, Frame))
        shown = next(item for item in b if isinstance(item, Frame))
    assert (shown.width, shown.height, shown.sar) == (48, 64, Fraction(3, 4))
    for plane, other in zip(shown.planes, stored.planes, strict=True):
        assert np.abs(plane.astype(int) - np.rot90(other)).mean() < 3


def test_rotation_that_can_be_neither_carried_nor_applied(tmp_path: Path) -> None:
    """Half as many columns of chroma would become half as many rows."""
    clip = media.write_video(tmp_path / "in.mp4", format="yuv422p", rotation=90, frames=3)
    with pytest.raises(UsageError, match=r"yuv422p frames cannot be turned.*\.mp4") as caught:
        copy(clip, tmp_path / "out.ts")
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]
    half_turn = media.write_video(tmp_path / "half.mp4", format="yuv422p", rotation=180, frames=3)
    _, writer, _ = copy(half_turn, tmp_path / "out.ts")
    assert "turned upright" in writer.warnings[0]


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_orientation_is_what_the_matrix_says(turns: int, mirror: bool) -> None:
    # By the definition in FFmpeg's display.h: (x, y) is shown at (a x + c y, b x + d y).
    a, b, c, d = {0: (1, 0, 0, 1), 1: (0, -1, 1, 0), 2: (-1, 0, 0, -1), 3: (0, 1, -1, 0)}[turns]
    if mirror:
        a, b = -a, -b
    one = 65536
    orientation = upright.orientation_of([a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
    plane = np.arange(12).reshape(3, 4)
    spots = {}
    for y in range(3):
        for x in range(4):
            spots[a * x + c * y, b * x + d * y] = plane[y, x]
    left, top = min(x for x, _ in spots), min(y for _, y in spots)
    width, height = (3, 4) if turns % 2 else (4, 3)
    expected = [[spots[x + left, y + top] for x in range(width)] for y in range(height)]
    found = plane if orientation is None else orientation.apply(plane)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
def test_hdr_mastering_arrives(tmp_path: Path, codec: str) -> None:
    params = (
        "mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
        "L(10000000,50):cll=1000,400"
    )
    clip = media.write_video(
        tmp_path / "in.mp4",
        format="yuv420p10le",
        colour=(1, 9, 9, 16),
        options={"x264-params": params},
        frames=3,
    )
    reader, writer, _ = copy(clip, tmp_path / "out.mp4", codec=codec)
    assert reader.mastering.light == (1000, 400)
    assert reader.mastering.luminance == (Fraction(5, 1000), 1000)
    assert writer.warnings == []
    with VideoReader(tmp_path / "out.mp4") as again:
        assert again.mastering.light == (1000, 400)
        ours, theirs = again.mastering.primaries, reader.mastering.primaries
        assert ours is not None
        assert theirs is not None
        np.testing.assert_allclose(np.array(ours, float), np.array(theirs, float), atol=1e-3)
        np.testing.assert_allclose(
            [*map(float, again.mastering.luminance)], [0.005, 1000], rtol=0.1
        )


def test_no_mastering_is_false() -> None:
    assert not hdr.mastering_of({})


# Writing


def encode_one(source: Path, target: Path, **options: Any) -> VideoWriter:
    with VideoReader(source) as reader:
        size = {"width": reader.width, "height": reader.height}
        with VideoWriter(target, like=reader, **size, **options) as writer:
            for item in reader:
                writer.write(item)
    return writer


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return media.write_video(tmp_path / "in.mp4", audio="aac")


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        (".mp4", "hevc"),
        (".mkv", "av1"),
        (".mp4", "vp9"),
        (".mp4", "mpeg4"),
        (".mov", "prores"),
        (".mkv", "ffv1"),
        (".ts", "h264"),
        (".m4v", "h264"),
    ],
)
def test_codecs(tmp_path: Path, clip: Path, ending: str, codec: str, capfd: Any) -> None:
    target = tmp_path / f"out{ending}"
    writer = encode_one(clip, target, codec=codec)
    assert writer.codec == codec
    with VideoReader(target) as again:
        assert again.codec == codec
        times = [item.time for item in again if isinstance(item, Frame)]
    shift = times[0] if ending == ".ts" else 0
    assert_same_times([t - shift for t in times], facts(clip).times, tolerance_of(target))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "mpeg4"])
def test_crf_reaches_the_encoder(tmp_path: Path, clip: Path, codec: str) -> None:
    sizes = []
    for crf in (4, 28):
        target = tmp_path / f"{codec}-{crf}.mp4"
        encode_one(clip, target, codec=codec, crf=crf)
        sizes.append(target.stat().st_size)
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.avi", {}, r"\.mp4"),
        ("out", {}, "without an extension"),
        ("out.webm", {"codec": "h264"}, "only vp9, av1"),
        ("out.mp4", {"codec": "h265"}, "unknown codec 'h265'.*hevc"),
        ("out.mp4", {"crf": 99}, "0 .* to 51"),
        ("out.mkv", {"codec": "ffv1", "crf": 1}, "does not apply"),
        ("out.mp4", {"preset": "quick"}, "ultrafast"),
        ("in.mp4", {"overwrite": True}, "the input itself"),
        ("taken.mp4", {}, "--overwrite"),
        ("folder.mp4", {}, "folder"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, clip: Path, name: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "taken.mp4").write_bytes(b"keep me")
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with VideoReader(clip) as reader, pytest.raises(UsageError, match=message) as caught:
        VideoWriter(tmp_path / name, like=reader, width=64, height=48, **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken.mp4").read_bytes() == b"keep me"


@pytest.mark.parametrize("link", ["symlink", "hardlink"])
def test_the_input_is_known_by_other_names(tmp_path: Path, clip: Path, link: str) -> None:
    other = tmp_path / "other.mp4"
    other.symlink_to(clip) if link == "symlink" else os.link(clip, other)
    with VideoReader(clip) as reader, pytest.raises(UsageError, match="the input itself"):
        VideoWriter(other, like=reader, width=64, height=48, overwrite=True)


def test_no_such_folder(tmp_path: Path, clip: Path) -> None:
    with VideoReader(clip) as reader, pytest.raises(MediaError, match="there is no folder"):
        VideoWriter(tmp_path / "no" / "out.mp4", like=reader, width=64, height=48)


def test_the_encoder_refuses_before_any_frame(tmp_path: Path, clip: Path) -> None:
    with VideoReader(clip) as reader, pytest.raises(EdgesrError, match="cannot be written"):
        VideoWriter(tmp_path / "out.mp4", like=reader, width=40000, height=40000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_overwrite_replaces_only_at_the_end(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with VideoReader(clip) as reader:
        writer = VideoWriter(target, like=reader, width=64, height=48, overwrite=True)
        for item in reader:
            writer.write(item)
        assert target.read_bytes() == b"old"
        writer.finish()
    assert len(facts(target).times) == 12


@pytest.mark.parametrize("keep", [False, True])
def test_an_exception_leaves_no_half_file(tmp_path: Path, keep: bool) -> None:
    clip = media.write_video(tmp_path / "in.mp4", audio="aac", frames=60)
    target = tmp_path / "out.mp4"

    def stop_at_20() -> None:
        with VideoReader(clip) as reader:
            size = {"width": 64, "height": 48}
            with VideoWriter(target, like=reader, **size, keep_partial=keep) as writer:
                for item in reader:
                    writer.write(item)
                    if writer.frames_written == 20:
                        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_at_20()
    if keep:
        assert len(facts(target).times) == 20
        target.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_finish_leaves_no_half_file(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def commit(part: PartFile) -> None:
        assert part.path.exists()
        raise error

    monkeypatch.setattr(PartFile, "commit", commit)
    with pytest.raises(error):
        encode_one(clip, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_abort_after_finish_keeps_the_file(tmp_path: Path, clip: Path) -> None:
    writer = encode_one(clip, tmp_path / "out.mp4")
    writer.abort()
    assert len(facts(tmp_path / "out.mp4").times) == 12


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_one_line(tmp_path: Path, clip: Path) -> None:
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(MediaError, match=r"out\.mp4 cannot be written"):
            encode_one(clip, tmp_path / "out.mp4", crf=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_wrong_frame_size(tmp_path: Path, clip: Path) -> None:
    with VideoReader(clip) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
        writer = VideoWriter(tmp_path / "out.mp4", like=reader, width=128, height=96)
        with pytest.raises(ValueError, match="opened for 128x96"):
            writer.write(frame)
        writer.abort()


# Real clips: (clip, ending, frames to copy or None for all, expected words in warnings)

CLIPS = [
    ("bbb_360p24_60s.mp4", ".mp4", 240, []),
    ("bbb_360p24_60s.mp4", ".mkv", 48, []),
    ("live_360p30_17s.mp4", ".mp4", None, []),
    ("sintel_480p_26s_ass_sub.mkv", ".mkv", 150, []),
    ("bbb_720p_vp8_30s.webm", ".webm", 24, []),
    ("no_duration.webm", ".webm", 24, []),
    ("webcam_480p30.mkv", ".mkv", None, []),
    ("foreman_cif.264", ".mp4", None, ["no timestamps"]),
    ("vfr_screen_3026x1386.mp4", ".mp4", 20, []),
    ("hdr10_hevc_1080p.mp4", ".mp4", 12, ["HDR10+"]),
    ("h264_10bit_200.mp4", ".mp4", None, []),
    ("hevc_10bit_200.mp4", ".mkv", None, []),
    ("cockatoo_yuv444_720p_audio.mp4", ".mp4", 20, []),
    ("live_720p30_rot270.mp4", ".mp4", 40, []),
    ("rot90.mov", ".mov", None, []),
    ("sar_64x45_bbb.mp4", ".mp4", 60, []),
    ("derived_interlaced_tff_576i.ts", ".ts", None, ["interlaced"]),
    ("bt709_full_range_720p.mp4", ".mp4", None, []),
    ("nasa_2video_2audio_2sub.mp4", ".mp4", None, ["video stream 3"]),
    ("car_768x432_30s.mp4", ".mov", 100, []),
]


@pytest.mark.parametrize(("name", "ending", "limit", "words"), CLIPS)
def test_real_clip(
    data: Path, tmp_path: Path, name: str, ending: str, limit: int | None, words: list[str]
) -> None:
    clip, target = data / "video" / name, tmp_path / f"out{ending}"
    scale = 2 if limit is None and "rot" not in name else 1
    reader, writer, frames = copy(clip, target, scale=scale, limit=limit)
    said = [*reader.warnings, *writer.warnings]
    for word in words:
        assert any(word in line for line in said), said
    assert len(said) == len(words)
    tolerance = tolerance_of(target)
    after = facts(target)
    assert_same_times(after.times, [frame.time for frame in frames], tolerance)
    before = facts(clip)
    if before.times[0] >= 0:
        assert [frame.time for frame in frames] == before.times[: len(frames)]
    if limit is None:
        assert len(frames) == len(before.times)
        # An MPEG audio track in MP4 or TS counts in other units than the source's.
        assert_same_packets(after, before, tolerance)
    assert after.names == before.names
    assert after.streams == before.streams or ending == ".webm"
    with VideoReader(target) as again:
        assert again.colour.range in (reader.colour.range, reader.colour.range or 1, 0)
        assert (again.colour.range == 2) == (reader.colour.range == 2)
        assert again.colour.matrix == reader.colour.matrix
        assert again.colour.primaries == reader.colour.primaries
        assert again.colour.transfer == reader.colour.transfer
        assert (again.sar or 1) == (reader.sar or 1)
        assert (again.format, again.depth) == (reader.format, reader.depth)
        assert again.rotation == reader.rotation
        assert (again.width, again.height) == (reader.width * scale, reader.height * scale)
        assert again.mastering == reader.mastering


def test_corrupted_clip(data: Path, capfd: Any) -> None:
    clip = data / "video" / "corrupted.mp4"
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        good = 0
        for packet in container.demux(stream):
            try:
                good += len(packet.decode())
            except av.FFmpegError:
                continue
    with VideoReader(clip) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert reader.decode_errors >= 1
    assert len(frames) == good
    assert capfd.readouterr() == ("", "")
    with pytest.raises(MediaError), VideoReader(clip, strict=True) as reader:
        list(reader)


@pytest.mark.parametrize("name", ["broken.mp4", "empty.flv", "multi_audio_only.mp4"])
def test_unusable_clips(data: Path, name: str) -> None:
    with pytest.raises(MediaError) as caught:
        VideoReader(data / "video" / name)
    assert "\n" not in str(caught.value)


def test_reading_can_stop_early(data: Path) -> None:
    with VideoReader(data / "video" / "bbb_360p24_60s.mp4") as reader:
        items = list(islice(reader, 10))
    assert len(items) == 10
