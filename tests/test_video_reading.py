"""VideoReader: what it says of a clip, whose pixels these are, and what is wrong with a file."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import media
import numpy as np
import pytest

from edgesr.errors import MediaError
from edgesr.runtime import pixels
from edgesr.runtime.frame import Frame
from edgesr.runtime.video import Carried, VideoReader


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
