"""Containers: what each can hold, and which streams of an input can be carried into it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import lcm
from pathlib import Path
from typing import Any

from edgesr.errors import UsageError

ATTACHED_PICTURE = 1 << 10  # AV_DISPOSITION_ATTACHED_PIC

_TS_CODECS = {
    *("aac", "mp2", "mp3", "ac3", "eac3", "dts", "opus", "dvb_subtitle", "dvb_teletext"),
}

# What libavformat writes itself, or what only names the old file.
_NOT_COPIED = {
    *("major_brand", "minor_version", "compatible_brands", "encoder", "duration"),
    *("vendor_id", "alpha_mode"),
}


@dataclass(frozen=True, kw_only=True)
class Other:
    """A stream of the input beside the video that is enlarged.

    index   in the input
    kind    audio, subtitle, attachment, data, video or "cover picture"
    codec   the codec's own name: "mp3", where the decoder is called "mp3float"
    handle  PyAV's stream: valid while the reader is open, a crash afterwards
    """

    index: int
    kind: str
    codec: str
    handle: Any = field(repr=False)

    @property
    def copyable(self) -> bool:
        """Whether its packets (or its bytes in the header) can be copied at all."""
        if self.kind in ("audio", "subtitle"):
            return self.handle.codec_context is not None
        return self.kind == "attachment"

    def __str__(self) -> str:
        return f"{self.kind} stream {self.index} ({self.codec})"


@dataclass(frozen=True, kw_only=True)
class Container:
    """One kind of output file.

    muxer      FFmpeg's name
    codecs     names of the video codecs it is written with here, the default first
    rotates    it can tell players to turn the picture
    strict     two packets of a stream may not have the same dts
    holds_sar  its header says the shape of a pixel (Matroska could, but PyAV cannot set it)
    """

    muxer: str
    codecs: tuple[str, ...]
    rotates: bool = True
    strict: bool = True
    holds_sar: bool = True


_MP4 = Container(muxer="mp4", codecs=("h264", "hevc", "av1", "vp9", "mpeg4"))
CONTAINERS = {
    ".mp4": _MP4,
    ".m4v": _MP4,
    ".mov": Container(muxer="mov", codecs=("h264", "hevc", "mpeg4", "prores")),
    ".mkv": Container(
        muxer="matroska",
        codecs=("h264", "hevc", "av1", "vp9", "mpeg4", "prores", "ffv1"),
        strict=False,
        holds_sar=False,
    ),
    ".webm": Container(muxer="webm", codecs=("vp9", "av1"), strict=False, holds_sar=False),
    ".ts": Container(muxer="mpegts", codecs=("h264", "hevc"), rotates=False, holds_sar=False),
}


def container_for(path: Path) -> Container:
    """The container that the extension of `path` asks for; UsageError when it is none of ours."""
    try:
        return CONTAINERS[path.suffix.lower()]
    except KeyError:
        got = f"with the extension {path.suffix!r}" if path.suffix else "without an extension"
        allowed = ", ".join(CONTAINERS)
        raise UsageError(f"{path}: cannot write a file {got}; use one of {allowed}") from None


def container_options(container: Container, time_bases: list[Any]) -> dict[str, str]:
    """Options of the muxer so that times arrive as they are."""
    if container.muxer in ("mp4", "mov"):
        # A late start is an edit list in units of the whole file, which are milliseconds unless
        # told otherwise. No +faststart: it writes the whole file twice, and players and browsers
        # find the index at the end of a file well enough.
        unit = lcm(*(base.denominator for base in time_bases))
        return {"movie_timescale": str(unit)} if unit < 2**31 else {}
    if container.muxer in ("matroska", "webm"):
        # Sound that starts before 0 (encoder delay) would move the whole file otherwise.
        return {"avoid_negative_ts": "disabled"}
    return {"mpegts_copyts": "1"}


def fits(other: Other, container: Container, supported: set[str]) -> bool:
    """Whether packets of an input stream can be copied into the container.

    supported   what libavformat says of the muxer (`OutputContainer.supported_codecs`)
    """
    if other.kind == "attachment":
        return container.muxer == "matroska"
    if container.muxer == "mpegts":  # libavformat answers "do not know"
        return other.codec in _TS_CODECS
    return other.handle.codec_context.name in supported


def codec_name(stream: Any) -> str:
    """The codec by its own name: "mp3", where the decoder is called "mp3float"."""
    if stream.codec_context is None:
        return str(getattr(stream, "name", None) or "unknown codec")
    codec = stream.codec_context.codec
    return str(getattr(codec, "canonical_name", codec.name))


def other(stream: Any) -> Other:
    """Describe one of PyAV's input streams."""
    cover = int(stream.disposition) & ATTACHED_PICTURE
    kind = "cover picture" if cover else stream.type
    return Other(index=stream.index, kind=kind, codec=codec_name(stream), handle=stream)


def tags(metadata: dict[str, str]) -> dict[str, str]:
    """Metadata that still holds for a new file."""
    return {key: value for key, value in metadata.items() if key.lower() not in _NOT_COPIED}
