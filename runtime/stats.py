"""What a stream did and how fast, as figures that can be held against another run.

`Stats.to_dict()`, which `--stats FILE.json` writes, is schema 1:

    schema          1
    input           path, width, height, rate (frames a second as "24/1", null: not said), codec,
                    format (FFmpeg's pixel format), duration (seconds or null)
    output          path, width, height (as written), codec, format, options (of the encoder, as it
                    was opened)
    frames          in (decoded), out (written), duplicates (of `out`: equal to the frame before,
                    its result was used again), decode_errors (packets that gave no frame)
    seconds         total: the whole call, opening and completing the file included
                    first_frame: from the start of the call until the first encoded frame was
                    in the file; null when the encoder gave none
                    sustained: from the first frame handed to the encoder until the file was
                    complete
    fps             sustained frames a second, (out - 1) / seconds.sustained; null below 2 frames
    stages          decode, infer, encode, each with
                    frames      how many it worked on
                    busy_s      seconds of wall time inside it; the rest it waited for the others.
                                infer: the frames' times / the frames that it works on at once
                    share       busy_s / the wall time of the pipeline, 0..1; the stages overlap,
                                so the shares do not add up to 1
                    p50_ms p95_ms p99_ms max_ms mean_ms   of one frame, in ms (within 1 %); null
                                without frames. `infer` is the time from start to end of a
                                frame, while others run beside it (0 for a duplicate); `encode` is
                                the time to hand a frame over: an encoder with threads of its own
                                works on after that
    slowest         the stage with the largest share; null without frames
    peak_rss_mb     largest resident memory of the process so far, 10^6 bytes
    model           name, scale, network, colour, precision, recipe, file
    backend         what really ran: backend, version, device, precision, threads, why
    versions        edgesr, python, numpy, opencv, av, ffmpeg (its libraries)
    machine         cpu, arch, cores (usable by this process), system
    warnings        lines, as shown
"""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesr.runtime.frame import Frame
from edgesr.runtime.pipeline import SINK, SOURCE

SCHEMA = 1


class Histogram:
    """Durations in bins that grow by 2 %: percentiles within 1 % in 8 kB, however long a stream.

    A live stream runs for weeks, so the durations themselves are not kept. Below 1 microsecond
    and above 1000 seconds the end bins take them all.
    """

    _LEAST, _GROWTH, _BINS = 1e-6, 1.02, 1048

    def __init__(self) -> None:
        self._counts = array("Q", [0]) * self._BINS
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def add(self, seconds: float) -> None:
        steps = math.log(max(seconds, self._LEAST) / self._LEAST) / math.log(self._GROWTH)
        self._counts[min(int(steps), self._BINS - 1)] += 1
        self.count += 1
        self.total += seconds
        self.largest = max(self.largest, seconds)

    def percentile(self, percent: float) -> float | None:
        """The duration in seconds that `percent` of them do not exceed (nearest rank)."""
        rank = math.ceil(self.count * percent / 100)
        below = 0
        for step, count in enumerate(self._counts):
            below += count
            if count and below >= rank:
                middle = self._LEAST * self._GROWTH ** (step + 0.5)
                return min(middle, self.largest)
        return None


@dataclass(frozen=True, kw_only=True)
class StageStats:
    """One stage; see the keys of `stages` in the module."""

    frames: int
    busy_s: float
    share: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    mean_ms: float | None


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The result of `edgesr.stream`; the module explains every figure."""

    input: Mapping[str, Any]
    output: Mapping[str, Any]
    frames_in: int
    frames_out: int
    duplicates: int
    decode_errors: int
    seconds_total: float
    seconds_first_frame: float | None
    seconds_sustained: float
    fps: float | None
    stages: Mapping[str, StageStats]
    slowest: str | None
    peak_rss_mb: float
    model: Mapping[str, Any]
    backend: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON, in the documented schema."""
        return {
            "schema": SCHEMA,
            "input": dict(self.input),
            "output": dict(self.output),
            "frames": {
                "in": self.frames_in,
                "out": self.frames_out,
                "duplicates": self.duplicates,
                "decode_errors": self.decode_errors,
            },
            "seconds": {
                "total": self.seconds_total,
                "first_frame": self.seconds_first_frame,
                "sustained": self.seconds_sustained,
            },
            "fps": self.fps,
            "stages": {name: dataclasses.asdict(stage) for name, stage in self.stages.items()},
            "slowest": self.slowest,
            "peak_rss_mb": self.peak_rss_mb,
            "model": dict(self.model),
            "backend": dict(self.backend),
            "versions": dict(self.versions),
            "machine": dict(self.machine),
            "warnings": list(self.warnings),
        }


class Recorder:
    """Collects the times of one run: pass `observe` to `pipeline.run`.

    Each stage's figures are written by that stage's thread alone, so there is no lock; a reader in
    another thread may see a frame a moment late.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        self.started = time.perf_counter()
        self.frames_in = 0
        self.frames_out = 0
        self._frames = {name: Histogram() for name in (SOURCE, *stages, SINK)}
        self._busy = dict.fromkeys(self._frames, 0.0)
        self._before_frame = dict.fromkeys(self._frames, 0.0)
        self._first_out: float | None = None
        self._last_out = self.started

    def observe(self, stage: str, item: Any, seconds: float, *, at_once: int = 1) -> None:
        """at_once: items that the stage works on at the same time, `seconds` on each."""
        self._busy[stage] += seconds / at_once
        if not isinstance(item, Frame):
            # A copied packet comes out of the same demuxer: its time belongs to the next frame.
            self._before_frame[stage] += seconds
            if stage == SINK and item is None:
                self._last_out = time.perf_counter()
            return
        self._frames[stage].add(seconds + self._before_frame[stage])
        self._before_frame[stage] = 0.0
        if stage == SOURCE:
            self.frames_in += 1
        elif stage == SINK:
            self.frames_out += 1
            self._last_out = time.perf_counter()
            if self._first_out is None:
                self._first_out = self._last_out

    @property
    def seconds_sustained(self) -> float:
        return 0.0 if self._first_out is None else self._last_out - self._first_out

    @property
    def fps(self) -> float | None:
        """Frames after the first, by the time that they took; not frames by ticks."""
        if self.frames_out < 2 or self.seconds_sustained <= 0:
            return None
        return (self.frames_out - 1) / self.seconds_sustained

    @property
    def slowest(self) -> str | None:
        """The stage that was busy longest."""
        if self.frames_out == 0:
            return None
        return max(self._busy, key=lambda name: self._busy[name])

    def stages(self, *, elapsed: float) -> dict[str, StageStats]:
        """elapsed: wall time of the pipeline in seconds."""
        return {
            name: _stage_stats(times, self._busy[name], elapsed)
            for name, times in self._frames.items()
        }


def _stage_stats(times: Histogram, busy: float, elapsed: float) -> StageStats:
    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else 1e3 * seconds

    return StageStats(
        frames=times.count,
        busy_s=busy,
        share=busy / elapsed if elapsed > 0 else 0.0,
        p50_ms=ms(times.percentile(50)),
        p95_ms=ms(times.percentile(95)),
        p99_ms=ms(times.percentile(99)),
        max_ms=ms(times.largest) if times.count else None,
        mean_ms=ms(times.total / times.count) if times.count else None,
    )


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in 10^6 bytes."""
    # ru_maxrss of a child starts with the size of the process that started it; VmHWM does not.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def versions() -> dict[str, str]:
    """Of everything that pixels went through here, the backend aside."""
    import av
    import cv2
    import numpy as np

    from edgesr import __version__

    libraries = {name: ".".join(map(str, v)) for name, v in sorted(av.library_versions.items())}
    return {
        "edgesr": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
        "ffmpeg": " ".join(f"{name} {v}" for name, v in libraries.items()),
    }


def machine_facts() -> dict[str, Any]:
    from edgesr.runtime.backends.machine import machine

    return {**dataclasses.asdict(machine()), "system": platform.platform()}
