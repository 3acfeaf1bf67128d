"""Frames for RGB models: against swscale, and there and back."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import onnx_models
import pytest
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from edgesr import stream
from edgesr.colour import chroma_of_luma_size, chroma_to_luma_size
from edgesr.errors import UsageError
from edgesr.runtime.clip import make_clip
from edgesr.runtime.frame import ColourTags, Frame
from edgesr.runtime.pixels import planes_of
from edgesr.runtime.rgb import from_rgb, matrix_of, to_rgb

Array = np.ndarray[Any, Any]

MATRICES = {1: Colorspace.ITU709, 6: Colorspace.ITU601}
RANGES = {1: ColorRange.MPEG, 2: ColorRange.JPEG}


def smooth_rgb(height: int, width: int) -> Array:
    """(H, W, 3) uint8 with slow colours: what subsampled chroma can hold."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / 17 + 1), np.cos(y / 13), np.sin((x + y) / 23)]
    return np.dstack([np.rint(128 + 90 * wave) for wave in waves]).astype(np.uint8)


def made_by_swscale(rgb: Array, format: str, matrix: int, range: int) -> Frame:
    picture = VideoReformatter().reformat(
        av.VideoFrame.from_ndarray(rgb, format="rgb24"),
        format=format,
        src_color_range=ColorRange.JPEG,
        dst_colorspace=MATRICES[matrix],
        dst_color_range=RANGES[range],
    )
    return Frame(
        planes=planes_of(picture),
        format=format,
        depth=picture.format.components[0].bits,
        pts=0,
        time_base=Fraction(1, 25),
        colour=ColourTags(matrix=matrix, range=range, siting=2 if "420" in format else 0),
    )


@pytest.mark.parametrize("range", [1, 2])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("format", ["yuv444p", "yuv420p", "yuv420p10le"])
def test_colours_are_those_that_swscale_made(format: str, matrix: int, range: int) -> None:
    rgb = smooth_rgb(64, 96)
    back = np.moveaxis(to_rgb(made_by_swscale(rgb, format, matrix, range)), 0, 2) * 255
    inner = (slice(4, -4), slice(4, -4))  # borders of subsampled chroma are filled differently
    assert np.abs(back - rgb)[inner].mean() < 1.0
    assert np.abs(back - rgb)[inner].max() < 5.0


def test_the_wrong_matrix_is_far_off() -> None:
    """The test above can fail."""
    rgb = smooth_rgb(64, 96)
    frame = made_by_swscale(rgb, "yuv444p", 1, 1)
    wrong = to_rgb(frame.replace(colour=ColourTags(matrix=6, range=1)))
    assert np.abs(np.moveaxis(wrong, 0, 2) * 255 - rgb).max() > 8


@pytest.mark.parametrize("range", [1, 2])
@pytest.mark.parametrize("depth", [8, 10, 16])
def test_there_and_back_at_444(depth: int, range: int) -> None:
    """Legal colours come back as they were; deep ones within float32's reach."""
    rgb = np.random.default_rng(0).random((3, 20, 30), dtype=np.float32)
    dtype = np.uint8 if depth == 8 else np.uint16
    blank = Frame(
        planes=(np.zeros((20, 30), dtype),) * 3,
        format="yuv444p" if depth == 8 else f"yuv444p{depth}le",
        depth=depth,
        pts=0,
        time_base=Fraction(1, 25),
        colour=ColourTags(matrix=1, range=range),
    )
    once = blank.replace(planes=from_rgb(rgb, like=blank))
    twice = blank.replace(planes=from_rgb(to_rgb(once), like=blank))
    for a, b in zip(once.planes, twice.planes, strict=True):
        assert np.abs(a.astype(int) - b).max() <= (1 if depth == 8 else 2)
        assert a.dtype == dtype


@pytest.mark.parametrize("siting", [0, 1, 2, 3, 6])
def test_chroma_sits_where_it_did(siting: int) -> None:
    """A ramp, up to luma's size and down again, is the same ramp: nothing moved."""
    ramp = np.add.outer(np.arange(24, dtype=np.float32), 2 * np.arange(36, dtype=np.float32))
    big = chroma_to_luma_size(ramp, luma=(48, 72), siting=siting)
    back = chroma_of_luma_size(big, factors=(2, 2), siting=siting)
    inner = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(back[inner], ramp[inner], atol=1e-3)
    offset = {0: (0, 0.5), 1: (0, 0.5), 2: (0.5, 0.5), 3: (0, 0), 6: (0.5, 1)}[siting]
    # Luma sample (Y, X) shows chroma position ((Y - oy) / 2, (X - ox) / 2).
    assert big[20, 30] == pytest.approx((20 - offset[1]) / 2 + 2 * (30 - offset[0]) / 2, abs=1e-3)


def test_gray_stays_gray() -> None:
    plane = np.random.default_rng(0).integers(16, 236, (9, 11), dtype=np.uint8)
    frame = Frame(planes=(plane,), format="gray", depth=8, pts=0, time_base=Fraction(1, 25))
    rgb = to_rgb(frame)
    assert np.ptp(rgb, axis=0).max() < 1e-5
    np.testing.assert_array_equal(from_rgb(rgb, like=frame)[0], plane)


def test_matrix_that_is_not_said() -> None:
    assert matrix_of(ColourTags(), height=480) == 6
    assert matrix_of(ColourTags(), height=720) == 1
    assert matrix_of(ColourTags(matrix=9), height=480) == 9
    frame = made_by_swscale(smooth_rgb(16, 16), "yuv444p", 1, 1)
    with pytest.raises(UsageError, match="unknown colour matrix 8"):
        to_rgb(frame.replace(colour=ColourTags(matrix=8)))


def test_a_video_through_an_rgb_model(tmp_path: Path) -> None:
    """Nearest neighbour as an RGB model: every frame keeps its mean colour."""
    model = onnx_models.nearest(tmp_path / "rgb.onnx", scale=2, colour="rgb")
    clip = make_clip(tmp_path / "in.mp4", width=64, height=48, frames=5, rate=25)
    stats = stream(clip, tmp_path / "out.mkv", model=str(model), codec="ffv1")
    assert (stats.frames_out, stats.output["width"]) == (5, 128)

    def planes(path: Path) -> list[tuple[Array, ...]]:
        with av.open(str(path)) as container:
            return [planes_of(frame) for frame in container.decode(video=0)]

    for small, big in zip(planes(clip), planes(tmp_path / "out.mkv"), strict=True):
        for a, b in zip(small, big, strict=True):
            assert abs(a.mean() - b.mean()) < 1.0
        luma = small[0].repeat(2, axis=0).repeat(2, axis=1)
        assert np.abs(luma.astype(int) - big[0]).mean() < 1.0
