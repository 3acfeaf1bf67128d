"""Small clips, made on the spot with PyAV: what cameras and the internet send, in a second each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.format import VideoFormat

ASS_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,20

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def pattern(width: int, height: int, n: int, *, format: str = "yuv420p") -> av.VideoFrame:
    """Picture n of a moving pattern: gradients that drift, in the full depth of `format`."""
    picture = av.VideoFrame(width, height, format)
    depth = VideoFormat(format).components[0].bits
    dtype, top = (np.uint8, 235) if depth == 8 else (np.uint16, 235 << (depth - 8))
    for k, plane in enumerate(picture.planes):
        rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)
        y, x = np.mgrid[: plane.height, : plane.width]
        wave = np.sin((x * (1 + k) + 3 * n) / 9) + np.cos((y * (2 - k % 2) - 2 * n) / 7)
        rows[:, : plane.width] = ((wave + 2) / 4 * (top * 0.8) + top * 0.1).astype(dtype)
    return picture


def write_video(
    path: Path,
    *,
    size: tuple[int, int] = (64, 48),
    frames: int = 12,
    rate: Fraction | int = 25,
    time_base: Fraction | None = None,
    pts: Sequence[int] | None = None,
    format: str = "yuv420p",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    colour: tuple[int, int, int, int] | None = None,
    sar: Fraction | None = None,
    rotation: int | None = None,
    audio: str | None = None,
    subtitles: str | None = None,
    chapters: bool = False,
    attachment: bytes | None = None,
    muxer: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a clip.

    pts       of each frame in time_base; a steady `rate` when None
    colour    (range, matrix, primaries, transfer) as H.273 numbers
    rotation  degrees counter-clockwise, as a display matrix
    audio, subtitles  codec names; subtitles are "ass" or "subrip", in mkv
    """
    rate = Fraction(rate)
    base = time_base or 1 / rate
    times = list(pts) if pts is not None else [round(n / rate / base) for n in range(frames)]
    with av.open(str(path), "w", format=muxer) as out:
        out.metadata.update(metadata or {})
        stream: Any = out.add_stream(codec, rate=rate, options={"preset": "ultrafast", "bf": "2"})
        if codec != "libx264":
            stream.options = {}
        stream.options.update(options or {})
        stream.width, stream.height = size
        stream.pix_fmt = format
        stream.codec_context.time_base = base
        stream.time_base = base
        tags = ("color_range", "colorspace", "color_primaries", "color_trc")
        for name, value in zip(tags, colour or (), strict=False):
            setattr(stream.codec_context, name, value)
        if sar:
            stream.codec_context.sample_aspect_ratio = sar
        if rotation is not None:
            stream.set_display_rotation(rotation)
        sound = _add_audio(out, audio) if audio else None
        text = _add_subtitles(out, subtitles) if subtitles else None
        if chapters:
            out.set_chapters(_chapters())
        if attachment is not None:
            out.add_attachment("font.ttf", "application/x-truetype-font", attachment)
        packets = _video_packets(stream, size, times, base, format)
        if sound is not None:
            packets += _audio_packets(sound, seconds=float((times[-1] + 1) * base))
        if text is not None:
            packets += _subtitle_packets(text)
        for packet in sorted(packets, key=_when):
            out.mux(packet)
    return path


def _video_packets(
    stream: Any, size: tuple[int, int], times: Iterable[int], base: Fraction, format: str
) -> list[Any]:
    packets = []
    for n, time in enumerate(times):
        picture = pattern(*size, n, format=format)
        picture.pts, picture.time_base = time, base
        packets += stream.encode(picture)
    return [*packets, *stream.encode(None)]


def _add_audio(out: Any, codec: str) -> Any:
    stream = out.add_stream(codec, rate=48000)
    stream.layout = "mono"
    stream.metadata["language"] = "fin"
    stream.metadata["title"] = "Main sound"
    return stream


def _audio_packets(stream: Any, *, seconds: float) -> list[Any]:
    size = 960 if stream.name == "libopus" else 1024
    packets = []
    for n in range(max(2, round(seconds * 48000 / size))):
        wave = np.sin(np.arange(n * size, (n + 1) * size) * 0.05).astype(np.float32)[None] * 0.3
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, n * size, Fraction(1, 48000)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _add_subtitles(out: Any, codec: str) -> Any:
    stream = out.add_stream(codec)
    stream.codec_context.subtitle_header = ASS_HEADER
    stream.time_base = Fraction(1, 1000)
    stream.metadata["language"] = "ger"
    return stream


def _subtitle_packets(stream: Any) -> list[Any]:
    packets = []
    for n in range(3):
        line = b"%d,0,Default,,0,0,0,,Line %d" % (n, n)
        packet = av.Packet(line if stream.name in ("ass", "ssa") else b"Line %d" % n)
        packet.stream, packet.time_base = stream, Fraction(1, 1000)
        packet.pts = packet.dts = 40 + 100 * n
        packet.duration = 80
        packets.append(packet)
    return packets


def _chapters() -> list[Any]:
    base = Fraction(1, 1000)
    return [
        {
            "id": n,
            "start": 200 * n,
            "end": 200 * n + 200,
            "time_base": base,
            "metadata": {"title": t},
        }
        for n, t in enumerate(("One", "Two"), start=0)
    ]


def _when(packet: Any) -> Fraction:
    return Fraction((packet.dts if packet.dts is not None else packet.pts) * packet.time_base)


def truncated(path: Path, *, keep: float) -> Path:
    """The first part of a file: `keep` of its bytes."""
    data = path.read_bytes()
    short = path.with_name(f"short_{path.name}")
    short.write_bytes(data[: round(len(data) * keep)])
    return short


def damaged(path: Path, *, packet: int) -> Path:
    """A copy with the payload of one video packet overwritten."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as source:
        video = source.streams.video[0]
        hit = [p for p in source.demux(video) if p.size][packet]
        assert hit.pos is not None
        data[hit.pos + 4 : hit.pos + hit.size] = b"\xff" * (hit.size - 4)
    bad = path.with_name(f"bad_{path.name}")
    bad.write_bytes(data)
    return bad
