"""The forms of an export beside the float32 graph that they came from, and whether they may go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.errors import EdgesrError
from edgesr.export.forms import SMALL, Made
from edgesr.export.gate import HELD_OUT, Candidate, GateReport, Measured, measure
from edgesr.export.plan import Form, Wish
from edgesr.export.quality import by_graph
from edgesr.runtime.backends import Size
from edgesr.runtime.backends.choose import candidates
from edgesr.runtime.backends.machine import usable_cores
from edgesr.runtime.upscale import padded

if TYPE_CHECKING:
    from edgesr.export.calibrate import Calibration
    from edgesr.export.quality import Pair
    from edgesr.export.source import Source

TIMED: Size = (360, 640)
"""(H, W) that the forms are timed at when no --size is given."""
SLOW = 1.0
"""Seconds for such a frame, beyond which half of each side is taken: there are many to time."""


def judge(
    made: Mapping[Form, Made],
    *,
    wish: Wish,
    canonical: Path,
    source: Source,
    calibration: Calibration | None,
    sets: Mapping[str, Sequence[Pair]],
    on_note: Callable[[str], None],
) -> GateReport:
    """Every way to run every form on this machine, `canonical` (the float32 graph) first.

    TensorRT's graphs are shown with their numbers; their times in another runtime mean nothing.
    """
    spec = source.spec
    size = spec.fixed_size or wish.size or timed_size(source)
    rows: list[Measured] = []
    if not spec.state and spec.precision == "fp32" and spec.io.dtype == "float32":
        common: dict[str, Any] = {
            "reference": source.graph,
            "spec": spec,
            "calibration": calibration,
            "evaluation": sets,
            "on_note": on_note,
        }
        threads = (1, 2) if usable_cores() > 1 else (1,)
        rows = measure(ways(canonical, made), size=size, threads=threads, **common)
        if shown := shown_only(made):
            small = spec.fixed_size or SMALL
            found = measure(shown, size=small, threads=(1,), rounds=1, **common)
            rows += [replace(row, ms={}) for row in found]
    held = len(calibration.held_out) if calibration else 0
    logs = [m.log for m in made.values() if m.log is not None]
    return GateReport(
        model=spec.name,
        origin=Path(source.origin).name,
        size=size,
        measured=tuple(rows),
        max_drop=wish.max_drop,
        pairs={**({HELD_OUT: held} if held else {}), **{k: len(v) for k, v in sets.items()}},
        parity=source.difference,
        calibration=calibration.about if calibration else None,
        repair=logs[0] if logs else None,
    )


def timed_size(source: Source) -> Size:
    """By what a thread of ONNX Runtime takes for a small picture."""
    if source.spec.state:
        return TIMED
    height, width = TIMED[0] // 4, TIMED[1] // 4
    small = padded((height, width), source.spec)
    picture = np.zeros((1, source.spec.channels, *small), np.float32)
    run = by_graph(source.graph, threads=1)
    run(picture)
    started = time.perf_counter()
    run(picture)
    slow = 16 * (time.perf_counter() - started) > SLOW
    return padded((TIMED[0] // 2, TIMED[1] // 2) if slow else TIMED, source.spec)


def ways(canonical: Path, made: Mapping[Form, Made]) -> list[Candidate]:
    """What this machine runs; the float32 form, where it was asked for, is the measure too."""
    asked = {Form("onnx", "fp32"): canonical}
    asked |= {form: m.files[0] for form, m in made.items() if form.kind != "trt"}
    found = []
    for form, file in asked.items():
        for way in candidates(form.precision, suffix=file.suffix):
            name = way.name + (" IR" if form.kind == "openvino" else "")
            if form.precision not in ("fp32", way.precision):
                name += f" of {form.precision}"
            found.append(
                Candidate(name=name, path=file, backend=way.backend, precision=way.precision)
            )
    for form, m in made.items():
        plans = [file for file in m.files if file.suffix == ".plan"]
        found += [
            Candidate(
                name=f"tensorrt {form.precision}",
                path=plan,
                backend="tensorrt",
                precision=form.precision,
            )
            for plan in plans
        ]
    return found


def shown_only(made: Mapping[Form, Made]) -> list[Candidate]:
    return [
        Candidate(name=name, path=file, backend="ort", precision=form.precision)
        for form, m in made.items()
        for name, file in m.shown.items()
    ]


def refuse(report: GateReport, made: Mapping[Form, Made], wish: Wish) -> None:
    """Raises EdgesrError for a form that no runtime here runs within the budget.

    With --io uint8 INT8 was held against it before it got 8-bit ends, which cost a little.
    """
    if wish.io == "uint8":
        return
    for form, m in made.items():
        rows = [row for row in report.measured if row.candidate.path in m.files]
        drops = [row.likely_drop for row in rows if row.likely_drop is not None]
        if drops and min(drops) > wish.max_drop:
            raise EdgesrError(
                f"{form.name} loses {min(drops):.3f} dB, {wish.max_drop:g} are allowed "
                "(--max-drop): nothing was written"
            )
        broken = [row.error for row in rows if row.error is not None]
        if rows and len(broken) == len(rows):
            raise EdgesrError(f"{form.name} does not run: {broken[0]}; nothing was written")
