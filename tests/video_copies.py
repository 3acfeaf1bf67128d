"""Clips copied from VideoReader to VideoWriter, and what PyAV alone finds in them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from edgesr.runtime.frame import Frame
from edgesr.runtime.video import VideoReader, VideoWriter

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
