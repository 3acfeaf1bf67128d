"""What a frame shows comes out of VideoWriter: pixels, depth, colours, shape, rotation, HDR."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import media
import numpy as np
import pytest
from video_copies import copy

from edgesr.errors import UsageError
from edgesr.runtime import hdr, pixels, upright
from edgesr.runtime.frame import Frame
from edgesr.runtime.video import VideoReader


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
