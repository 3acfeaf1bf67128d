"""Video codecs as a degradation: against PyAV through a real file, and what is drawn."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

from edgesr.distill import codec as codec_module
from edgesr.distill.codec import ENCODERS, degrade_video, options_of
from edgesr.errors import MissingDependency, UsageError

Array = np.ndarray[Any, Any]

WAYS: dict[str, dict[str, Any]] = {
    "libx264": {"crf": 27, "preset": "veryfast"},
    "libx265": {"crf": 27, "preset": "ultrafast"},
    "libvpx-vp9": {"crf": 36, "preset": "8"},
    "mpeg2video": {"qp": 5},
}
CODECS = pytest.mark.parametrize("codec", list(ENCODERS))


def clip(frames: int = 5, *, height: int = 64, width: int = 80, blur: float = 1) -> Array:
    """(T, H, W, 3): a drawn photo that moves by (2, 1) pixels a frame."""
    big = cv2.GaussianBlur(draw_photo(0, height=height + 20, width=width + 20), (0, 0), blur)
    return np.stack([big[t : t + height, 2 * t : 2 * t + width] for t in range(frames)])


def luma_clip(frames: int = 5, **size: int) -> Array:
    return np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in clip(frames, **size)])


def psnr(a: Array, b: Array) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, ((a.astype(float) - b) ** 2).mean())))


def through_file(
    path: Path, pictures: list[Array], codec: str, options: dict[str, str], *, form: str
) -> list[Any]:
    """Written to and read from a Matroska file; the decoded frames."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = pictures[0].shape[1], pictures[0].shape[0]
        if form == "yuv420p":
            stream.height = stream.height * 2 // 3
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=form)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def given_options(codec: str) -> dict[str, str]:
    """FFmpeg's options for WAYS, written out."""
    return {
        "libx264": {"crf": "27", "preset": "veryfast", "x264-params": "mbtree=0"},
        "libx265": {
            "crf": "27",
            "preset": "ultrafast",
            "x265-params": "log-level=none:pools=none:frame-threads=1",
        },
        "libvpx-vp9": {"crf": "36", "cpu-used": "8", "b": "0", "deadline": "realtime"},
        "mpeg2video": {"bf": "2", "qmin": "5", "qmax": "5"},
    }[codec]


@CODECS
def test_luma_is_what_a_file_gives_back(codec: str, tmp_path: Path) -> None:
    frames = luma_clip()
    gray = np.full((5, 32, 80), 128, np.uint8)
    planes = list(np.concatenate([frames, gray], axis=1))
    read = through_file(tmp_path / "a.mkv", planes, codec, given_options(codec), form="yuv420p")
    truth = np.stack([frame.to_ndarray()[:64] for frame in read])
    got = degrade_video(frames, codec=codec, **WAYS[codec])
    assert np.array_equal(got, truth)
    assert 25 < psnr(got, frames) < 45
    kinds = {av.video.frame.PictureType(frame.pict_type).name for frame in read}
    assert "P" in kinds
    assert ("B" in kinds) == (codec != "libvpx-vp9")


def planes_by_hand(rgb: Array) -> tuple[Array, Array]:
    """BT.601 studio range: Y (T, H, W), and CbCr (T, 2, H / 2, W / 2) as means of 2x2."""
    r, g, b = (rgb[..., k] / 255.0 for k in range(3))
    luma = 16 + 65.481 * r + 128.553 * g + 24.966 * b
    cb = 128 - 37.797 * r - 74.203 * g + 112.0 * b
    cr = 128 + 112.0 * r - 93.786 * g - 18.214 * b
    chroma = np.stack([cb, cr], axis=1)
    frames, _, height, width = chroma.shape
    return luma, chroma.reshape(frames, 2, height // 2, 2, width // 2, 2).mean(axis=(3, 5))


@CODECS
def test_rgb_is_what_swscale_and_a_file_give_back(codec: str, tmp_path: Path) -> None:
    """Smooth colours, as swscale halves chroma by another filter and another siting."""
    frames = clip(blur=4)
    read = through_file(tmp_path / "a.mkv", list(frames), codec, given_options(codec), form="rgb24")
    raw = np.stack([frame.to_ndarray() for frame in read])
    luma, chroma = planes_by_hand(degrade_video(frames, codec=codec, **WAYS[codec]))
    assert np.abs(luma - raw[:, :64]).mean() < 1.5
    assert np.abs(chroma - raw[:, 64:].reshape(5, 2, 32, 40)).mean() < 2.5
    assert abs((luma - raw[:, :64]).mean()) < 0.5


def test_colour_stays_in_place() -> None:
    """At the best quality nothing but 4:2:0 is lost; a chroma shift of a pixel costs far more."""
    frames = cv2.GaussianBlur(draw_photo(1, height=64, width=80), (0, 0), 2)[None]
    got = degrade_video(frames, codec="libx264", crf=1)
    assert psnr(got, frames) > 40
    for index in range(3):
        ours, theirs = got[0, :, :, index], frames[0, :, :, index]
        assert psnr(ours[:, 1:], theirs[:, :-1]) < psnr(ours, theirs) - 10


@CODECS
@pytest.mark.parametrize("size", [(1, 1), (17, 34), (33, 49), (64, 130)])
def test_odd_and_small_sizes(codec: str, size: tuple[int, int]) -> None:
    for frames in (
        clip(3, height=size[0], width=size[1]),
        luma_clip(4, height=size[0], width=size[1]),
    ):
        got = degrade_video(frames, codec=codec, **WAYS[codec])
        assert got.shape == frames.shape
        assert got.dtype == np.uint8
        assert psnr(got, frames) > 22


@CODECS
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_all_frames_come_back_in_order(codec: str, frames: int) -> None:
    levels = np.linspace(30, 220, frames).astype(np.uint8)
    got = degrade_video(
        np.broadcast_to(levels[:, None, None], (frames, 64, 64)), codec=codec, **WAYS[codec]
    )
    assert np.abs(got.mean(axis=(1, 2)) - levels).max() < 4


@CODECS
def test_a_worse_quality_is_worse(codec: str) -> None:
    frames = luma_clip()
    by = "qp" if codec == "mpeg2video" else "crf"
    values = [
        psnr(degrade_video(frames, codec=codec, **{by: level}), frames)
        for level in ((2, 8, 20) if by == "qp" else (18, 28, 38))
    ]
    assert values[0] > values[1] + 1 > values[2] + 2


def test_a_fixed_quantiser() -> None:
    frames = luma_clip()
    for codec in ("libx264", "libx265"):
        fine, coarse = (degrade_video(frames, codec=codec, qp=qp) for qp in (15, 40))
        assert psnr(fine, frames) > psnr(coarse, frames) + 8


@CODECS
def test_always_the_same(codec: str) -> None:
    frames = clip()
    one, two = (degrade_video(frames, codec=codec, **WAYS[codec]) for _ in range(2))
    assert np.array_equal(one, two)


def test_x264_does_not_read_what_lies_beside_the_picture() -> None:
    """With its macroblock tree, a third of such encodings differed."""
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (25, 40), np.uint8), (330, 220))
    frames = np.stack([picture[i : i + 200, i : i + 300] for i in range(8)])
    results = {
        degrade_video(frames, codec="libx264", crf=28, preset="medium").tobytes() for _ in range(20)
    }
    assert len(results) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"codec": "libx266", "crf": 20}, "unknown encoder 'libx266': it is one of libx264"),
        ({"codec": "libx264"}, "libx264: no quality given, it takes crf or qp"),
        ({"codec": "libx264", "crf": 20, "qp": 20}, "it takes crf or qp"),
        ({"codec": "mpeg2video", "crf": 20}, "it takes qp"),
        ({"codec": "libx264", "crf": 52}, r"crf 52: it takes 0 \(best\) to 51"),
        ({"codec": "libx264", "crf": 20, "preset": "quick"}, "it is one of ultrafast"),
        ({"codec": "mpeg2video", "qp": 4, "preset": "fast"}, "preset 'fast'"),
    ],
)
def test_encodings_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        degrade_video(luma_clip(2), **given)


def test_frames_that_cannot_be() -> None:
    for frames in (np.zeros((2, 8, 8)), np.zeros((8, 8), np.uint8), np.zeros((2, 8, 8, 4), "u1")):
        with pytest.raises(UsageError, match=r"give \(T, H, W, 3\) RGB or \(T, H, W\) luma"):
            degrade_video(frames, codec="libx264", crf=20)
    with pytest.raises(UsageError, match="nothing to encode"):
        degrade_video(np.zeros((0, 8, 8), np.uint8), codec="libx264", crf=20)


def test_an_encoder_that_pyav_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    row = codec_module.Encoder(decoder="h264", levels={"crf": (0, 51)})
    monkeypatch.setitem(codec_module.ENCODERS, "libnone", row)
    with pytest.raises(MissingDependency, match="no encoder libnone: pip install --upgrade av"):
        options_of("libnone", crf=20)
