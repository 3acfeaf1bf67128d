"""What every benchmark shares: machine facts, the check of an output, spread, JSON, a table."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter

from edgesr.metrics import psnr
from edgesr.runtime.stats import machine_facts, versions

Array = np.ndarray[Any, Any]

ROOT = Path(__file__).resolve().parent.parent
LOOKED_AT = (0.1, 0.3, 0.5, 0.7, 0.9)  # which frames of a clip are compared, by position
LEAST_PSNR = 28.0  # green, gray or shifted frames are far below, every real upscaler is above
EQUAL_PSNR = 99.0  # stands for infinity, which JSON has not

_PACKAGES = (
    *("onnxruntime", "openvino", "torch"),
    *("opencv-python-headless", "opencv-contrib-python-headless"),
)


def head(benchmark: str, **facts: Any) -> dict[str, Any]:
    """The first keys of every result file: what ran, when, on what."""
    return {
        "schema": 1,
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "machine": machine_facts(),
        "load_before": round(os.getloadavg()[0], 2),  # of the machine; above ~0.3 it was not quiet
        "versions": versions() | _versions(),
        **facts,
    }


def lanczos(luma: Array, *, scale: int) -> Array:
    """FFmpeg's swscale: (H, W) uint8 -> (sH, sW)."""
    frame = av.VideoFrame.from_ndarray(luma, format="gray")
    size = {"width": frame.width * scale, "height": frame.height * scale}
    big = VideoReformatter().reformat(frame, **size, format="gray", interpolation="LANCZOS")
    return big.to_ndarray()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten: {out}")


def rows_before(out: Path | None, **settings: Any) -> list[Any]:
    """Of an earlier run that was written to `out`; none where a setting in its head was another."""
    if out is None or not out.is_file():
        return []
    before = json.loads(out.read_text(encoding="utf-8"))
    if any(before[key] != value for key, value in settings.items()):
        return []
    return list(before["rows"])


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain columns, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        first, *rest = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def run(command: Sequence[str], *, cwd: Path, patience: float) -> tuple[float, str]:
    """Run a command to its end: seconds from its start, imports included, and its stdout.

    Raises RuntimeError when it fails, or has not ended after `patience` seconds: one row that
    hangs must not take the others with it.
    """
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=patience
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"hung: it had not ended after {patience:.0f} s") from None
    seconds = time.perf_counter() - started
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return seconds, done.stdout


def interleaved(
    names: Sequence[str], rounds: int, measure: Callable[[str], None], what: str = "round"
) -> None:
    """A B C A B C ...: a busy moment of the machine hits all of them, not one."""
    for number in range(rounds):
        for name in names:
            print(f"{what} {number + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            measure(name)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A source clip, and its bicubic enlargements at a few places to hold outputs against.

    size    (width, height)
    bicubic frame number -> luma of the enlarged frame, (sH, sW) uint8
    """

    path: Path
    frames: int
    size: tuple[int, int]
    scale: int
    bicubic: dict[int, Array]

    def check(self, output: Path) -> dict[str, Any]:
        """Decode an output: frame count, size and likeness. Raises ValueError when it is broken."""
        width, height = self.size[0] * self.scale, self.size[1] * self.scale
        frames, likeness = 0, []
        for luma in lumas(output):
            if luma.shape != (height, width):
                raise ValueError(f"frame {frames} is {luma.shape[1]}x{luma.shape[0]}")
            if frames in self.bicubic:
                likeness.append(min(psnr(luma, self.bicubic[frames]), EQUAL_PSNR))
            frames += 1
        if frames != self.frames:
            raise ValueError(f"{frames} frames came out, {self.frames} went in")
        if min(likeness) < LEAST_PSNR:
            raise ValueError(f"only {min(likeness):.1f} dB beside bicubic: a broken picture")
        return {
            "frames": frames,
            "size": f"{width}x{height}",
            "psnr_y_beside_bicubic": spread(likeness),
        }


def open_clip(path: Path, *, scale: int) -> Clip:
    frames = sum(1 for _ in lumas(path))
    wanted = {round((frames - 1) * place) for place in LOOKED_AT}
    bicubic = {}
    size = (0, 0)
    for number, luma in enumerate(lumas(path)):
        size = (luma.shape[1], luma.shape[0])
        if number in wanted:
            bicubic[number] = np.asarray(
                cv2.resize(luma, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            )
    return Clip(path=path, frames=frames, size=size, scale=scale, bicubic=bicubic)


def lumas(path: Path) -> Iterator[Array]:
    """(H, W) uint8 luma of every frame."""
    with closing(av.open(str(path))) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="yuv420p")[: frame.height]


def cut(path: Path, target: Path, *, frames: int) -> Path:
    """The first `frames` frames of a clip, copied as they are: nothing is encoded again."""
    with av.open(str(path)) as source, av.open(str(target), "w") as copy:
        video = source.streams.video[0]
        stream = copy.add_stream_from_template(video)
        left = frames
        for packet in source.demux(video):
            if packet.dts is None or left == 0:
                break
            packet.stream = stream
            copy.mux(packet)
            left -= 1
    return target


def facts(path: Path) -> dict[str, Any]:
    """What a clip is; its name only, since the folder is nobody's business."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        audio = container.streams.audio
        return {
            "name": path.name,
            "width": video.width,
            "height": video.height,
            "frames": video.frames,
            "rate": str(video.average_rate),
            "codec": video.codec_context.name,
            "audio": audio[0].codec_context.name if audio else None,
        }
