"""Chroma stays where it was, and RGB comes back as it went."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from edgesr.colour import (
    BT601,
    BT709,
    BT2020,
    rgb_to_ycbcr,
    subsampling,
    upscale_chroma,
    ycbcr_to_rgb,
)
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y

Array = np.ndarray[Any, Any]

# Chroma location -> offset from the first luma sample of the pair, (horizontal, vertical).
LOCATIONS = {
    0: (Fraction(0), Fraction(1, 2)),
    1: (Fraction(0), Fraction(1, 2)),
    2: (Fraction(1, 2), Fraction(1, 2)),
    3: (Fraction(0), Fraction(0)),
    4: (Fraction(1, 2), Fraction(0)),
    5: (Fraction(0), Fraction(1)),
    6: (Fraction(1, 2), Fraction(1)),
}


def source_position(index: int, *, scale: int, factor: int, offset: Fraction) -> Fraction:
    """Where output chroma sample `index` looks in the input chroma plane, step by step."""
    new_luma = factor * index + offset
    old_luma = (new_luma + Fraction(1, 2)) / scale - Fraction(1, 2)
    return (old_luma - offset) / factor


def bicubic_line(line: Array, position: Fraction) -> Array:
    """Keys' kernel summed over the 4 nearest rows of `line`, edge rows repeated; float64."""
    first = int(np.floor(float(position))) - 1
    total = np.zeros(line.shape[1:])
    for index in range(first, first + 4):
        x = abs(float(position) - index)
        if x <= 1:
            weight = 1.5 * x**3 - 2.5 * x**2 + 1
        else:
            weight = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0
        total += weight * line[min(max(index, 0), len(line) - 1)]
    return total


def reference(
    plane: Array,
    *,
    scale: int,
    size: tuple[int, int],
    factors: tuple[int, int],
    offsets: tuple[Fraction, Fraction],
) -> Array:
    """Direct evaluation, one output sample at a time, in float64."""
    lines: Array = plane.astype(np.float64)
    for axis in (0, 1):
        lines = np.moveaxis(lines, axis, 0)
        lines = np.stack(
            [
                bicubic_line(
                    lines,
                    source_position(i, scale=scale, factor=factors[axis], offset=offsets[axis]),
                )
                for i in range(size[axis])
            ]
        )
        lines = np.moveaxis(lines, 0, axis)
    return lines


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("siting", list(LOCATIONS))
@pytest.mark.parametrize("factors", [(2, 2), (1, 2), (1, 1)], ids=["420", "422", "444"])
@pytest.mark.parametrize("luma", [(20, 28), (19, 27)], ids=["even", "odd"])
def test_against_direct_evaluation(
    scale: int, siting: int, factors: tuple[int, int], luma: tuple[int, int]
) -> None:
    size = (-(-luma[0] // factors[0]), -(-luma[1] // factors[1]))
    plane = np.random.default_rng(scale).integers(0, 256, size).astype(np.uint8)
    across, down = LOCATIONS[siting]
    offsets = (down * (factors[0] - 1), across * (factors[1] - 1))
    ours = upscale_chroma(plane, scale=scale, luma=luma, siting=siting)
    new_size = (-(-luma[0] * scale // factors[0]), -(-luma[1] * scale // factors[1]))
    exact = reference(plane, scale=scale, size=new_size, factors=factors, offsets=offsets)
    assert ours.shape == new_size
    assert ours.dtype == np.uint8
    # Half a step of rounding, and float32 sums that fall on the other side of a tie.
    assert np.abs(ours - np.clip(exact, 0, 255)).max() < 0.501


def test_uint16_against_direct_evaluation() -> None:
    plane = np.random.default_rng(0).integers(64, 961, (12, 18)).astype(np.uint16)
    ours = upscale_chroma(plane, scale=3, luma=(24, 36), siting=1)
    exact = reference(
        plane, scale=3, size=(36, 54), factors=(2, 2), offsets=(Fraction(1, 2), Fraction(0))
    )
    assert ours.dtype == np.uint16
    assert np.abs(ours - np.clip(exact, 0, 65535)).max() < 0.501


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_tiny_planes(shape: tuple[int, int]) -> None:
    plane = np.full(shape, 77, np.uint8)
    luma = (2 * shape[0], 2 * shape[1])
    ours = upscale_chroma(plane, scale=2, luma=luma)
    assert ours.shape == luma
    assert (ours == 77).all()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("siting", list(LOCATIONS))
def test_chroma_ramp_stays_under_the_luma_ramp(scale: int, siting: int) -> None:
    """A colour that is a linear function of luma position is that function after upscaling too."""
    across, _ = LOCATIONS[siting]
    slope = 4  # a luma pixel, so that samples at half luma pixels are whole numbers
    plane = np.tile(8 + slope * (2 * np.arange(28) + float(across)), (8, 1)).astype(np.uint8)
    ours = upscale_chroma(plane, scale=scale, luma=(16, 56), siting=siting)
    new_luma = 2 * np.arange(ours.shape[1]) + float(across)
    expected = 8 + slope * ((new_luma + 0.5) / scale - 0.5)
    inside = slice(2 * scale, -2 * scale)
    assert np.abs(ours[:, inside] - expected[inside]).max() <= 0.501


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_no_fringe_at_an_edge(scale: int) -> None:
    """The half-way crossing of a left-sited chroma edge is where the upscaled luma has it.

    With cv2.resize it would be (s - 1) / 4 chroma samples to the right.
    """
    plane = np.full((8, 32), 60, np.uint8)
    plane[:, 16:] = 180  # half-way at chroma 15.5, luma 31 (left-sited: chroma c is luma 2c)
    row = upscale_chroma(plane, scale=scale, luma=(16, 64), siting=1)[4].astype(float)
    after = int(np.argmax(row >= 120))
    crossing = after - (row[after] - 120) / (row[after] - row[after - 1])
    assert 2 * crossing == pytest.approx((31 + 0.5) * scale - 0.5, abs=0.1)


# Chroma location -> where swscale is told that chroma sits, in 1/256 luma pixels.
SWSCALE_POSITIONS = {1: (0, 128), 2: (128, 128), 3: (0, 0)}


@pytest.mark.parametrize("siting", list(SWSCALE_POSITIONS))
@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("format", ["yuv420p", "yuv422p", "yuv444p"])
def test_against_swscale(format: str, scale: int, siting: int) -> None:
    """FFmpeg's own scaler on a smooth picture: the same colours at the same places.

    Bicubic with a = -0.5 too. The wrong siting differs by 5 and more.
    """
    frame = av.VideoFrame(96, 64, format)
    y, x = np.mgrid[0:64, 0:96]
    for index, plane in enumerate(frame.planes):
        fx, fy = 96 // plane.width, 64 // plane.height
        wave = 128 + 60 * np.sin(x[::fy, ::fx] / 4 + index) * np.cos(y[::fy, ::fx] / 5)
        buffer = np.zeros((plane.height, plane.line_size), np.uint8)
        buffer[:, : plane.width] = np.rint(wave)
        plane.update(buffer.tobytes())
    big = swscale(frame, scale=scale, positions=SWSCALE_POSITIONS[siting])
    for index in (1, 2):
        plane = to_array(frame.planes[index])
        ours = upscale_chroma(plane, scale=scale, luma=(64, 96), siting=siting)
        theirs = to_array(big.planes[index])
        assert ours.shape == theirs.shape
        inside = (slice(3 * scale, -3 * scale), slice(3 * scale, -3 * scale))
        assert np.abs(ours[inside].astype(int) - theirs[inside]).max() <= 1


def swscale(frame: av.VideoFrame, *, scale: int, positions: tuple[int, int]) -> av.VideoFrame:
    subsampled = "420" in frame.format.name
    across, down = positions[0], positions[1] if subsampled else -513
    if "444" in frame.format.name:
        across = -513  # not subsampled, nothing to say
    places = f"in_h_chr_pos={across}:out_h_chr_pos={across}"
    places += f":in_v_chr_pos={down}:out_v_chr_pos={down}"
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 25)
        ),
        graph.add(
            "scale",
            f"{frame.width * scale}:{frame.height * scale}:flags=bicubic+accurate_rnd"
            f":param0=0:param1=0.5:{places}",
        ),
        graph.add("buffersink"),
    ).configure()
    graph.push(frame)
    big = graph.pull()
    assert isinstance(big, av.VideoFrame)
    return big


def to_array(plane: av.video.plane.VideoPlane) -> Array:
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width].copy()


def test_subsampling_from_sizes() -> None:
    assert subsampling((180, 320), (90, 160)) == (2, 2)
    assert subsampling((181, 321), (91, 161)) == (2, 2)
    assert subsampling((180, 320), (180, 160)) == (1, 2)
    assert subsampling((180, 320), (180, 320)) == (1, 1)
    assert subsampling((180, 320), (180, 80)) == (1, 4)
    with pytest.raises(MediaError, match="100x90 does not belong to luma of 320x180"):
        subsampling((180, 320), (90, 100))


def test_unknown_siting() -> None:
    with pytest.raises(MediaError, match="unknown chroma location 9"):
        upscale_chroma(np.zeros((2, 2), np.uint8), scale=2, luma=(4, 4), siting=9)


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
@pytest.mark.parametrize("full", [False, True])
def test_rgb_comes_back(matrix: int, full: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    back = ycbcr_to_rgb(rgb_to_ycbcr(rgb, matrix=matrix, full=full), matrix=matrix, full=full)
    np.testing.assert_array_equal(back, rgb)


def test_bt601_luma_is_the_protocols_luma() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    np.testing.assert_allclose(rgb_to_ycbcr(rgb)[..., 0], rgb_to_y(rgb), atol=1e-4)


@pytest.mark.parametrize(("matrix", "name"), [(BT601, "itu601"), (BT709, "itu709")])
@pytest.mark.parametrize("full", [False, True])
def test_rgb_against_swscale(matrix: int, name: str, full: bool) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    theirs = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv444p", dst_colorspace=name, dst_color_range="JPEG" if full else "MPEG"
    )
    ours = np.rint(rgb_to_ycbcr(rgb, matrix=matrix, full=full)).clip(0, 255)
    stacked = np.stack([to_array(plane) for plane in theirs.planes], axis=-1)
    assert np.abs(ours - stacked).max() <= 2


def test_unknown_matrix() -> None:
    with pytest.raises(UsageError, match="unknown colour matrix 2"):
        rgb_to_ycbcr(np.zeros((2, 2, 3), np.uint8), matrix=2)
