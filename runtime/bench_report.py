"""What `edgesr bench` found, for a reader and for a script.

`BenchReport.to_dict()` is schema 1:

    machine, versions   as in the statistics of a stream
    model, size         name; width x height of the input
    runs                one for each backend, precision and device: these, file (name of what ran,
                        NAME-int8.onnx where that was measured too), threads, frames,
                        p50_ms p95_ms p99_ms (one frame, 8-bit luma in and out), fps (at p50),
                        psnr_to_fp32 (dB of its 8-bit output to that of the first fp32 run; null:
                        the same in every pixel, or there is none)
    left_out            what could not be measured, and why
    remembered          file in which `auto` finds the times; null when not kept
    pipeline            clip, backend, precision, why, frames, fps (sustained), stages, slowest and
                        peak_rss_mb as in the statistics of a stream
    keeps_up            with (frames a second), yes (true or false)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgesr.runtime.backends import Size
from edgesr.runtime.stats import Stats

SCHEMA = 1
COSTS = {
    "bf16": "bf16 costs about 0.005 dB of quality; --precision fp32 does without",
    "int8": "int8 costs quality, what the export's report says; --precision fp32 does without",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One way of running the network; see `runs` in the module."""

    backend: str
    precision: str
    threads: int
    device: str
    file: str
    frames: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    psnr_to_fp32: float | None

    @property
    def fps(self) -> float:
        return 1e3 / self.p50_ms

    @property
    def name(self) -> str:
        """As `edgesr.runtime.backends.choose.Way.name`: the key of a record."""
        on = "" if self.device == "cpu" else f" {self.device}"
        return f"{self.backend} {self.precision}{on}"


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Everything that was measured; see the module."""

    model: str
    size: Size
    runs: Sequence[Run]
    left_out: Sequence[str]
    remembered: Path | None
    clip: str
    pipeline: Stats
    wanted_fps: float
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def keeps_up(self) -> bool:
        return (self.pipeline.fps or 0.0) >= self.wanted_fps

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        whole = self.pipeline.to_dict()
        return {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "model": self.model,
            "size": f"{self.size[1]}x{self.size[0]}",
            "runs": [{**asdict(run), "fps": run.fps} for run in self.runs],
            "left_out": list(self.left_out),
            "remembered": None if self.remembered is None else str(self.remembered),
            "pipeline": {
                "clip": self.clip,
                **{key: whole["backend"][key] for key in ("backend", "precision", "why")},
                "frames": self.pipeline.frames_out,
                **{key: whole[key] for key in ("fps", "stages", "slowest", "peak_rss_mb")},
            },
            "keeps_up": {"with": self.wanted_fps, "yes": self.keeps_up},
        }

    def text(self) -> str:
        """The same in about fifteen lines."""
        height, width = self.size
        machine, ran, whole = self.machine, self.pipeline.backend, self.pipeline
        used = {name: self.versions.get(name) for name in ("onnxruntime", "openvino")}
        brought = ", ".join(f"{name} {value}" for name, value in used.items() if value)
        lines = [
            f"{machine['cpu']}, {machine['cores']} cores; edgesr {self.versions['edgesr']}, "
            f"{brought}, PyAV {self.versions['av']}",
            "",
            *_table(
                [f"{self.model}, {width}x{height}", "p50 ms", "p95 ms", "p99 ms", "fps", "to fp32"],
                [
                    [
                        f"{run.name}, {run.threads} threads",
                        *(f"{ms:.1f}" for ms in (run.p50_ms, run.p95_ms, run.p99_ms)),
                        f"{run.fps:.1f}",
                        "-" if run.psnr_to_fp32 is None else f"{run.psnr_to_fp32:.1f} dB",
                    ]
                    for run in self.runs
                ],
            ),
            *(f"left out: {line}" for line in self.left_out),
            *(COSTS[p] for p in COSTS if any(run.precision == p for run in self.runs)),
            "",
            *_table(
                [f"stream, {self.clip}", "p50 ms", "p95 ms", "p99 ms", "busy"],
                [
                    [
                        name,
                        *(
                            "-" if ms is None else f"{ms:.1f}"
                            for ms in (stage.p50_ms, stage.p95_ms, stage.p99_ms)
                        ),
                        f"{100 * stage.share:.0f} %",
                    ]
                    for name, stage in whole.stages.items()
                ],
            ),
            f"{whole.frames_out} frames on {ran['backend']} {ran['precision']} ({ran['why']}): "
            f"{whole.fps or 0:.1f} fps sustained, slowest: {whole.slowest}",
            f"keeps up with {self.wanted_fps:.4g} fps: {'yes' if self.keeps_up else 'no'}",
        ]
        return "\n".join(lines)


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        )
        for row in [heads, *rows]
    ]
