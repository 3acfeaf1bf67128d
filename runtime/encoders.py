"""Video encoders: one row a codec, and the options that a user may set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from edgesr.errors import MissingDependency, UsageError
from edgesr.runtime import pixels
from edgesr.runtime.frame import ColourTags
from edgesr.runtime.streams import Container

_X26X_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)

_QUANTISER = "quantiser"  # no option of FFmpeg's: the bounds qmin and qmax drawn together
_FRAME_DURATION = 1 << 8  # AV_CODEC_FLAG_FRAME_DURATION: durations reach the packets


@dataclass(frozen=True, kw_only=True)
class Codec:
    """How a codec is written.

    encoder     FFmpeg's name
    crf         default of --crf (lower is better and larger); None: the codec has no such setting
    crf_most    the largest --crf
    preset      default of --preset; `presets` are those allowed, fast ones first
    options     always set
    even_sizes  width and height must be even where chroma is subsampled
    full_range  it is said in the file when levels use the full range
    holds_sar   the bitstream says the shape of a pixel
    counts_frames  times are counted in frames: the codec has no units below 1/65535 s
    """

    encoder: str
    crf: int | None = None
    crf_most: int = 51
    crf_option: str = "crf"
    preset: str | None = None
    preset_option: str = "preset"
    presets: Sequence[str] = ()
    options: dict[str, str] = field(default_factory=dict)
    even_sizes: bool = False
    full_range: bool = True
    holds_sar: bool = False
    counts_frames: bool = False


CODECS = {
    "h264": Codec(
        encoder="libx264",
        crf=18,
        preset="veryfast",
        presets=_X26X_PRESETS,
        even_sizes=True,
        holds_sar=True,
    ),
    "hevc": Codec(
        encoder="libx265",
        crf=20,
        preset="superfast",
        presets=_X26X_PRESETS,
        options={"x265-params": "log-level=none"},  # it prints past FFmpeg's log
        even_sizes=True,
        holds_sar=True,
    ),
    "av1": Codec(
        encoder="libsvtav1",
        crf=28,
        crf_most=63,
        preset="10",
        presets=[str(n) for n in range(13, -1, -1)],
        even_sizes=True,
    ),
    "vp9": Codec(
        encoder="libvpx-vp9",
        crf=24,
        crf_most=63,
        preset="7",
        preset_option="cpu-used",
        presets=[str(n) for n in range(9, -1, -1)],
        options={"deadline": "realtime", "row-mt": "1", "tile-columns": "2"},
    ),
    # Quantiser 2 (best) .. 31, the same for the whole file.
    "mpeg4": Codec(
        encoder="mpeg4",
        crf=3,
        crf_most=31,
        crf_option=_QUANTISER,
        full_range=False,
        holds_sar=True,
        counts_frames=True,
    ),
    "prores": Codec(encoder="prores_ks", full_range=False),
    "ffv1": Codec(encoder="ffv1", options={"level": "3", "slicecrc": "1"}),
}


def choose(codec: str | None, container: Container, path: Path) -> tuple[str, Codec]:
    """The codec asked for, or the container's default; UsageError when it does not fit."""
    name = codec or container.codecs[0]
    allowed = ", ".join(container.codecs)
    if name not in CODECS:
        raise UsageError(f"unknown codec {name!r}; {path.suffix} can hold {allowed}")
    if name not in container.codecs:
        raise UsageError(f"{path.suffix} cannot hold {name} as edgesr writes it, only {allowed}")
    row = CODECS[name]
    if row.encoder not in av.codecs_available:
        raise MissingDependency(
            f"this PyAV has no encoder {row.encoder} for {name}; type: pip install --upgrade av"
        )
    return name, row


def options_for(name: str, row: Codec, *, crf: int | None, preset: str | None) -> dict[str, str]:
    """FFmpeg's options for the user's --crf and --preset; UsageError when they mean nothing."""
    options = dict(row.options)
    if crf is not None and row.crf is None:
        raise UsageError(f"--crf does not apply to {name}")
    if crf is not None and not 0 <= crf <= row.crf_most:
        raise UsageError(f"--crf {crf}: {name} takes 0 (best) to {row.crf_most}")
    if preset is not None and not row.presets:
        raise UsageError(f"--preset does not apply to {name}")
    if preset is not None and preset not in row.presets:
        raise UsageError(f"--preset {preset}: {name} takes {', '.join(row.presets)}")
    if row.crf is not None:
        options[row.crf_option] = str(row.crf if crf is None else crf)
    if row.preset is not None:
        options[row.preset_option] = preset or row.preset
    return options


def merge(options: dict[str, str], more: dict[str, str]) -> dict[str, str]:
    """Both; lists of encoder parameters ("x265-params") are joined."""
    joined = {key: f"{options[key]}:{more[key]}" for key in options.keys() & more.keys()}
    return {**options, **more, **joined}


def size_for(row: Codec, pixel_format: str, width: int, height: int) -> tuple[int, int]:
    """The size in pixels that holds `width` x `height` where only even sizes can be written."""
    if not row.even_sizes:
        return width, height
    layout, _ = pixels.describe(pixel_format)
    odd_x = width % 2 if layout in ("yuv420p", "yuv422p") else 0
    odd_y = height % 2 if layout in ("yuv420p", "yuv440p") else 0
    return width + odd_x, height + odd_y


def add_stream(
    container: Any,
    row: Codec,
    *,
    options: dict[str, str],
    size: tuple[int, int],
    pixel_format: str,
    rate: Fraction,
    time_base: Fraction,
    threads: int | None,
) -> Any:
    """A video stream of an output container, set up and not yet opened."""
    if row.encoder == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # errors only: it prints past FFmpeg's log
    known = dict(options)
    if _QUANTISER in known:  # global_quality does not arrive at the encoder through PyAV
        known["qmin"] = known["qmax"] = str(max(1, int(known.pop(_QUANTISER))))
    stream = container.add_stream(row.encoder, rate=rate, options=known)
    context = stream.codec_context
    context.width, context.height = size
    context.pix_fmt = pixel_format
    context.time_base = time_base
    context.flags |= _FRAME_DURATION
    # PyAV asks for slice threads, by which x264 cuts each frame in slices and compresses less.
    context.thread_type = "AUTO"
    context.thread_count = threads or 0
    return stream


def set_colour(target: Any, colour: ColourTags) -> None:
    """Colour tags of a codec context or a picture."""
    target.color_range = colour.range
    target.colorspace = colour.matrix
    target.color_primaries = colour.primaries
    target.color_trc = colour.transfer


def studio(colour: ColourTags) -> ColourTags:
    """The same colours in studio range."""
    return replace(colour, range=1)
