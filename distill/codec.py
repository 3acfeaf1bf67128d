"""Compressed video as a degradation: LR frames through a real encoder and back, in memory.

What an edge device upscales is decoded video. Frames go as 4:2:0 through x264, x265, VP9 or MPEG-2
(PyAV), without a container. What is drawn, and how photos become clips: `codec_draw.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from edgesr.colour import chroma_of_luma_size, chroma_to_luma_size, rgb_to_ycbcr, ycbcr_to_rgb
from edgesr.errors import MediaError, MissingDependency, UsageError

Array = np.ndarray[Any, Any]

_LEFT = 1  # chroma siting of MPEG-2, H.264, HEVC and VP9


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """How one encoder is asked.

    levels     best and worst value of each way to say the quality: "crf", "qp" (fixed quantiser)
    unit       width and height are padded to multiples of it, and to `least`: x265 corrupts memory
               on some small sizes, and repeats the border up to multiples of 8 by itself
    """

    decoder: str
    levels: dict[str, tuple[int, int]]
    preset_option: str = ""
    presets: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    unit: int = 2
    least: int = 16


_X26X = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)
ENCODERS = {
    "libx264": Encoder(
        decoder="h264",
        levels={"crf": (0, 51), "qp": (0, 51)},
        preset_option="preset",
        presets=_X26X,
        # Its macroblock tree reads past the picture: what lies there would change the result.
        options=(("x264-params", "mbtree=0"),),
    ),
    "libx265": Encoder(
        decoder="hevc",
        levels={"crf": (0, 51), "qp": (0, 51)},
        preset_option="preset",
        presets=_X26X,
        # Its own threads would change the result, and its log goes past FFmpeg's.
        options=(("x265-params", "log-level=none:pools=none:frame-threads=1"),),
        unit=8,
        least=64,
    ),
    "libvpx-vp9": Encoder(
        decoder="vp9",
        levels={"crf": (0, 63)},
        preset_option="cpu-used",
        presets=tuple(str(n) for n in range(8, -1, -1)),
        options=(("b", "0"),),
    ),
    "mpeg2video": Encoder(decoder="mpeg2video", levels={"qp": (1, 31)}, options=(("bf", "2"),)),
}


def degrade_video(
    frames: Array,
    *,
    codec: str,
    crf: int | None = None,
    qp: int | None = None,
    preset: str | None = None,
) -> Array:
    """Encode a clip and decode it again: same number of frames, same size, no container.

    frames  (T, H, W, 3) RGB or (T, H, W) luma (any range, taken as it is), uint8
    codec   FFmpeg's name of the encoder, one of ENCODERS
    crf     or qp, exactly one; mpeg2video knows qp only (1 best to 31), libvpx-vp9 crf only

    RGB passes BT.601 studio range 4:2:0, chroma left-sited. Always the same result for the same
    input. Raises UsageError, MissingDependency, MediaError.
    """
    options = options_of(codec, preset=preset, crf=crf, qp=qp)
    if frames.dtype != np.uint8 or not (
        frames.ndim == 3 or (frames.ndim == 4 and frames.shape[3] == 3)
    ):
        raise UsageError(
            f"frames {frames.shape} {frames.dtype}: give (T, H, W, 3) RGB or (T, H, W) luma, uint8"
        )
    if not frames.size:
        raise UsageError(f"frames {frames.shape}: there is nothing to encode")
    row = ENCODERS[codec]
    height, width = frames.shape[1:3]
    more = [(0, max(row.least, -(-n // row.unit) * row.unit) - n) for n in (height, width)]
    rest = ((0, 0),) * (frames.ndim - 3)
    padded = np.pad(frames, ((0, 0), *more, *rest), mode="edge")
    try:
        decoded = round_trip([to_420(frame) for frame in padded], codec, options)
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError(f"{codec} cannot encode {width}x{height}: {error}") from error
    if len(decoded) != len(frames):
        raise MediaError(f"{codec}: {len(frames)} frames went in, {len(decoded)} came back")
    back = [from_420(picture, colour=frames.ndim == 4) for picture in decoded]
    return np.stack(back)[:, :height, :width]


def options_of(
    codec: str, *, preset: str | None = None, crf: int | None = None, qp: int | None = None
) -> dict[str, str]:
    """FFmpeg's options, checked. Raises UsageError; MissingDependency when PyAV lacks it."""
    if codec not in ENCODERS:
        raise UsageError(f"unknown encoder {codec!r}: it is one of {', '.join(ENCODERS)}")
    row = ENCODERS[codec]
    given = {name: value for name, value in (("crf", crf), ("qp", qp)) if value is not None}
    if len(given) != 1 or not set(given) <= set(row.levels):
        raise UsageError(
            f"{codec}: {given or 'no quality'} given, it takes {' or '.join(row.levels)}"
        )
    [(name, level)] = given.items()
    best, worst = row.levels[name]
    if not best <= level <= worst:
        raise UsageError(f"{codec}: {name} {level}: it takes {best} (best) to {worst}")
    if preset is not None and preset not in row.presets:
        raise UsageError(
            f"{codec}: preset {preset!r}: it is one of {', '.join(row.presets) or '-'}"
        )
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        raise MissingDependency(
            f"this PyAV has no encoder {codec}: pip install --upgrade av, or give it no share"
        ) from None
    options = dict(row.options)
    if preset is not None:
        options[row.preset_option] = preset
    if codec == "libvpx-vp9":  # its "good" mode takes speeds above 5 for 5
        options["deadline"] = "realtime" if int(preset or 0) > 5 else "good"
    # Without the frame's own quality, which PyAV cannot set, MPEG-2 has no fixed quantiser.
    names = ("qmin", "qmax") if codec == "mpeg2video" else (name,)
    return options | dict.fromkeys(names, str(level))


def round_trip(pictures: list[Array], codec: str, options: dict[str, str]) -> list[Array]:
    """Planar 4:2:0 pictures (3 H / 2, W) through encoder and decoder."""
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = pictures[0].shape[1], pictures[0].shape[0] * 2 // 3
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, 25)
    encoder.framerate = Fraction(25)
    encoder.options = options
    encoder.thread_count = 1
    decoder: Any = av.CodecContext.create(ENCODERS[codec].decoder, "r")
    decoder.thread_count = 1
    packets = []
    for index, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.pts, frame.time_base = index, Fraction(1, 25)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    decoded = [frame for packet in packets for frame in decoder.decode(packet)]
    decoded += decoder.decode(None)
    return [frame.to_ndarray() for frame in decoded]


def to_420(frame: Array) -> Array:
    """RGB or luma of even size -> planar 4:2:0, (3 H / 2, W) uint8; luma gets gray chroma."""
    height, width = frame.shape[:2]
    out = np.full((height * 3 // 2, width), 128, np.uint8)
    if frame.ndim == 2:
        out[:height] = frame
        return out
    ycbcr = rgb_to_ycbcr(frame)
    out[:height] = to_bytes(ycbcr[:, :, 0])
    chroma = [
        chroma_of_luma_size(np.ascontiguousarray(ycbcr[:, :, c]), factors=(2, 2), siting=_LEFT)
        for c in (1, 2)
    ]
    out[height:] = to_bytes(np.stack(chroma)).reshape(height // 2, width)
    return out


def from_420(picture: Array, *, colour: bool) -> Array:
    """The way back: (H, W, 3) RGB or (H, W) luma."""
    height, width = picture.shape[0] * 2 // 3, picture.shape[1]
    luma = picture[:height]
    if not colour:
        return luma
    planes = picture[height:].reshape(2, height // 2, width // 2)
    chroma = [chroma_to_luma_size(p, luma=(height, width), siting=_LEFT) for p in planes]
    return ycbcr_to_rgb(np.stack([luma, *chroma], axis=2))


def to_bytes(values: Array) -> Array:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
