"""The gate of an export: what the measured candidates say, printed and kept beside the file.

`measure` runs every candidate beside the float32 graph. `GateReport` holds the rows, what repair
tried, the machine, and the verdict: which candidate `auto` may take, and why INT8 is or is not it.

`GateReport.to_dict()`, which `write` puts into `<file>.report.json`, is schema 1:

    schema       1
    model        name of the model; origin: what it was exported from
    machine      cpu, arch, cores; versions: of what the figures went through
    size         "WxH" of the timed input; max_drop: dB, the budget
    measured_on  set -> number of pairs with a truth; empty: drop is null in all rows
    parity       max_abs and mean_abs of the float32 graph to torch; null: not from a checkpoint
    calibration  where its pictures came from; null: there was none
    candidates   a row each: name, file, backend, precision, runs, max_abs, mean_abs,
                 psnr_to_fp32 (dB), drop (dB), ssim_drop, sets, ms (threads -> ms), size_bytes,
                 within (the budget), error
    repairs      what was tried for each INT8 graph, see `repairlog.Log`; those that were refused
                 are not `within`
    ranges       of each INT8 graph not refused: flavour, method, frames (pictures they are from),
                 values (name -> `histograms.Histogram`)
    auto         name of the candidate that `auto` takes, or null; verdict: a sentence
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesr.export.candidates import Candidate, Measured, facts_of
from edgesr.export.measure import measure, pairs_in
from edgesr.export.reference import HELD_OUT
from edgesr.export.verify import Difference
from edgesr.files import replacing
from edgesr.runtime.backends import Size
from edgesr.runtime.backends.choose import remember
from edgesr.runtime.backends.machine import machine, usable_cores
from edgesr.runtime.backends.siblings import sibling

if TYPE_CHECKING:
    from edgesr.export.repairlog import Log

__all__ = [
    "HELD_OUT",
    "Candidate",
    "GateReport",
    "Measured",
    "choose_auto",
    "facts_of",
    "keep_speeds",
    "measure",
    "pairs_in",
]

SCHEMA = 1
MAX_DROP = 0.1
"""dB that an artefact may lose, unless the user says otherwise."""
NEAR = 1.05
"""Candidates within this factor of the fastest are as fast; then the one that loses least wins."""

_PACKAGES = "edgesr numpy onnx onnxruntime onnxruntime-gpu openvino nncf torch"


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """See the module. `pairs`: set -> number of pairs that were scored, see `pairs_in`."""

    model: str
    origin: str
    size: Size
    measured: tuple[Measured, ...]
    max_drop: float = MAX_DROP
    pairs: Mapping[str, int] = field(default_factory=dict)
    parity: Difference | None = None
    calibration: Mapping[str, Any] | None = None
    repairs: tuple[Log, ...] = ()

    @property
    def auto(self) -> Measured | None:
        return choose_auto(self.measured, max_drop=self.max_drop)

    @property
    def verdict(self) -> str:
        return _verdict(self.measured, self.max_drop)

    def to_dict(self) -> dict[str, Any]:
        auto = self.auto
        return {
            "schema": SCHEMA,
            "model": self.model,
            "origin": self.origin,
            "machine": asdict(machine()),
            "versions": _versions(),
            "size": f"{self.size[1]}x{self.size[0]}",
            "max_drop": self.max_drop,
            "measured_on": dict(self.pairs),
            "parity": asdict(self.parity) if self.parity else None,
            "calibration": dict(self.calibration) if self.calibration is not None else None,
            "candidates": [_row(m, self.max_drop) for m in self.measured],
            "repairs": [log.to_dict() for log in self.repairs],
            "ranges": [log.ranges_to_dict() for log in self.repairs if log.ranges],
            "auto": auto.candidate.name if auto else None,
            "verdict": self.verdict,
        }

    def lines(self) -> list[str]:
        """A compact table with what stands around it, for a terminal of 100 columns."""
        here = machine()
        head = f"{self.model} at {self.size[1]}x{self.size[0]} on {here.cpu}, {here.cores} cores"
        lines = [head, *_table(self.measured, self.max_drop)]
        if self.pairs:
            of = ", ".join(f"{name} ({count})" for name, count in self.pairs.items())
            lines.append(f"drop: dB of PSNR-Y lost to float32 on {of}; the largest where several")
        else:
            lines.append(
                "drop: no pictures with a truth were given; ~ is what the distance to float32 "
                "likely costs"
            )
        if self.calibration and "size" in self.calibration:
            height, width = self.calibration["size"]
            lines.append(f"calibrated on {self.calibration['frames']} crops of {width}x{height}")
        if self.parity:
            lines.append(f"float32 graph to torch: {self.parity}")
        for log in self.repairs:
            lines += log.lines()
        return [*lines, self.verdict]

    def write(self, artefact: Path) -> Path:
        """`<file>.report.json` beside the artefact; returns its path."""
        path = artefact.with_name(f"{artefact.name}.report.json")
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        with replacing(path) as part:
            part.write_text(text + "\n", encoding="utf-8")
        return path


def choose_auto(
    measured: Sequence[Measured], *, max_drop: float, threads: int | None = None
) -> Measured | None:
    """The candidate that `auto` should take: the fastest that loses no more than `max_drop` dB.

    Of those within `NEAR` of it, the one that loses least: INT8 has to be worth its loss. Where no
    truth was measured, `Measured.likely_drop` counts. None: no candidate was timed and is within.

    threads  whose ms are compared; None: as many as this machine has, or the next fewer measured
    """
    count = threads or _threads(measured)
    fits = [m for m in measured if m.within(max_drop) and count in m.ms]
    if not fits:
        return None
    fastest = min(m.ms[count] for m in fits)
    near = [m for m in fits if m.ms[count] <= NEAR * fastest]
    return min(near, key=lambda m: (round(max(m.likely_drop or 0.0, 0.0), 3), m.ms[count]))


def keep_speeds(report: GateReport, model: Path) -> Path | None:
    """Let `--backend auto` know the times of every way to run the float32 model at `model`.

    That is the file itself and of its forms beside it (`NAME-int8.onnx`, ...) the one that each
    backend takes, in the threads that `auto` uses. What did not run is left out, and of the forms
    what is past the budget, or INT8 that is not worth its loss, so that `auto` does not take it.
    Returns the file written; None where there was nothing to keep. Raises OSError.
    """
    count, auto = _threads(report.measured), report.auto
    quantised = auto is not None and auto.candidate.precision == "int8"
    spec = facts_of(model)
    speeds: dict[str, float] = {}
    for m in report.measured:
        path, precision = m.candidate.path, m.candidate.precision
        if path != model:
            form = sibling(model, spec=spec, precision=precision, backend=m.candidate.backend)
            if form is None or form.path != path or not m.within(report.max_drop):
                continue
            if precision == "int8" and not quantised:
                continue
        if count in m.ms:
            speeds[f"{m.candidate.backend} {precision}"] = m.ms[count]
    if not speeds:
        return None
    about = {
        "model": report.model,
        "size": f"{report.size[1]}x{report.size[0]}",
        "threads": count,
        "measured by": "edgesr export",
    }
    return remember(model, speeds, about=about)


def _threads(measured: Sequence[Measured]) -> int:
    counts = sorted({count for m in measured for count in m.ms})
    fitting = [count for count in counts if count <= usable_cores()]
    return (fitting or counts or [1])[-1]


def _verdict(measured: Sequence[Measured], max_drop: float) -> str:
    auto = choose_auto(measured, max_drop=max_drop)
    count = _threads(measured)
    quantised = [m for m in measured if m.candidate.precision == "int8"]
    floats = [m for m in measured if m.candidate.precision != "int8"]
    plain = choose_auto(floats, max_drop=max_drop, threads=count)
    taken = f"auto takes {auto.candidate.name}" if auto else "auto takes none of these"
    if not quantised:
        return taken
    ran = [m for m in quantised if m.error is None and count in m.ms]
    if not ran:
        return f"int8 could not be run here: {taken}"
    fits = [m for m in ran if m.within(max_drop)]
    if not fits:
        least = min(ran, key=lambda m: m.likely_drop or 0.0)
        return (
            f"int8 loses {_drop(least)} dB, {max_drop:g} are allowed: "
            f"auto will not choose it; {taken}"
        )
    best = min(fits, key=lambda m: m.ms[count])
    if plain is None:
        return taken
    ratio = plain.ms[count] / best.ms[count]
    if auto is None or auto.candidate.precision != "int8":
        how = "not faster" if ratio <= 1 else f"only {ratio:.2f} times as fast"
        than = "than" if ratio <= 1 else "as"
        return (
            f"int8 is {how} {than} {plain.candidate.name} here "
            f"({best.ms[count]:.1f} and {plain.ms[count]:.1f} ms): auto will not choose it; {taken}"
        )
    return (
        f"int8 ({auto.candidate.name}) is {plain.ms[count] / auto.ms[count]:.2f} times as fast as "
        f"{plain.candidate.name}, for {_drop(auto)} dB: {taken}"
    )


def _drop(m: Measured) -> str:
    """~: likely, there was no truth."""
    if m.likely_drop is None:
        return "-"
    return f"{m.likely_drop:.3f}" if m.drop is not None else f"~{m.likely_drop:.3f}"


def _row(m: Measured, max_drop: float) -> dict[str, Any]:
    return {
        "name": m.candidate.name,
        "file": m.candidate.path.name,
        "backend": m.candidate.backend,
        "precision": m.candidate.precision,
        "runs": m.runs,
        "max_abs": m.max_abs,
        "mean_abs": m.mean_abs,
        "psnr_to_fp32": m.psnr_to_fp32,
        "drop": m.drop,
        "likely_drop": m.likely_drop,
        "ssim_drop": m.ssim_drop,
        "sets": {name: {"drop": drop, "ssim_drop": ssim} for name, (drop, ssim) in m.sets.items()},
        "ms": {str(count): round(ms, 3) for count, ms in m.ms.items()},
        "size_bytes": m.size_bytes,
        "within": m.within(max_drop),
        "error": m.error,
    }


def _table(measured: Sequence[Measured], max_drop: float) -> list[str]:
    """Columns; the first to the left. The last says what is wrong, over its own width."""
    counts = sorted({count for m in measured for count in m.ms})
    header = ["", "max", "mean", "dB to fp32", "drop", "SSIM"]
    header += [f"ms, {count} thr" for count in counts] + ["kB"]
    rows, notes = [header], [""]
    for m in measured:
        name = m.candidate.name
        if m.error is not None:
            rows.append([name, *["-"] * (len(header) - 1)])
            notes.append(m.error)
            continue
        cells = [f"{m.max_abs:.1e}", f"{m.mean_abs:.1e}", f"{m.psnr_to_fp32:.1f}", _drop(m)]
        cells.append("-" if m.ssim_drop is None else f"{-m.ssim_drop:+.4f}")
        cells += [f"{m.ms[count]:.1f}" if count in m.ms else "-" for count in counts]
        cells.append("-" if m.size_bytes is None else f"{m.size_bytes / 1000:.0f}")
        rows.append([name, *cells])
        notes.append("" if m.within(max_drop) else "past the budget")
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            + [note]
        ).rstrip()
        for row, note in zip(rows, notes, strict=True)
    ]


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES.split():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
