"""The forms of an export beside the float32 graph that they came from, and whether they may go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.errors import EdgesrError
from edgesr.export.forms import Made
from edgesr.export.gate import HELD_OUT, Candidate, GateReport, Measured, measure
from edgesr.export.measure import SMALL
from edgesr.export.plan import FOR_CPUS, FOR_OPENVINO, Form, Wish
from edgesr.export.quality import by_graph
from edgesr.runtime.backends import Size
from edgesr.runtime.backends.choose import candidates
from edgesr.runtime.backends.machine import usable_cores
from edgesr.runtime.upscale import padded

if TYPE_CHECKING:
    from edgesr.export.calibrate import Calibration
    from edgesr.export.quality import Pair
    from edgesr.export.reference import Reference
    from edgesr.export.repairlog import Log
    from edgesr.export.source import Source

TIMED: Size = (360, 640)
"""(H, W) that the forms are timed at when no --size is given."""
PARTS = (1, 2, 4)
"""What each side is divided by for slow networks; of the smallest with all threads alone."""
SLOW = 0.5
"""Seconds for a frame beyond which a smaller one is timed: there are many ways to time."""


def judge(
    made: Mapping[Form, Made],
    *,
    wish: Wish,
    canonical: Path,
    source: Source,
    calibration: Calibration | None,
    sets: Mapping[str, Sequence[Pair]],
    known: Reference | None,
    logs: Sequence[Log],
    on_note: Callable[[str], None],
) -> GateReport:
    """Every way to run every form on this machine, `canonical` (the float32 graph) first.

    known   what the float32 graph makes of the pictures; None: it is not measured here
    logs    what was tried for INT8

    TensorRT's graphs are shown with their numbers; their times in another runtime mean nothing.
    """
    spec = source.spec
    part = 1 if spec.fixed_size or wish.size else part_timed(source)
    size = spec.fixed_size or wish.size or padded((TIMED[0] // part, TIMED[1] // part), spec)
    rows: list[Measured] = []
    if known is not None:
        common: dict[str, Any] = {
            "reference": source.graph,
            "spec": spec,
            "calibration": calibration,
            "evaluation": sets,
            "known": known,
            "on_note": on_note,
        }
        threads = (1, 2) if usable_cores() > 1 else (1,)
        threads = threads[-1:] if part == PARTS[-1] else threads
        rows = measure(ways(canonical, made), size=size, threads=threads, **common)
        if shown := shown_only(made):
            small = spec.fixed_size or SMALL
            found = measure(shown, size=small, threads=(1,), rounds=1, **common)
            rows += [replace(row, ms={}) for row in found]
    held = len(calibration.held_out) if calibration else 0
    return GateReport(
        model=spec.name,
        origin=Path(source.origin).name,
        size=size,
        measured=tuple(rows),
        max_drop=wish.max_drop,
        pairs={**({HELD_OUT: held} if held else {}), **{k: len(v) for k, v in sets.items()}},
        parity=source.difference,
        calibration=calibration.about if calibration else None,
        repairs=tuple(logs),
    )


def part_timed(source: Source) -> int:
    """Of `PARTS`, by what a thread of ONNX Runtime takes for a small picture."""
    if source.spec.state:
        return PARTS[0]
    height, width = (side // PARTS[-1] for side in TIMED)
    small = padded((height, width), source.spec)
    picture = np.zeros((1, source.spec.channels, *small), np.float32)
    run = by_graph(source.graph, threads=1)
    run(picture)
    started = time.perf_counter()
    run(picture)
    seconds = time.perf_counter() - started
    fitting = (part for part in PARTS if seconds * (PARTS[-1] / part) ** 2 <= SLOW)
    return next(fitting, PARTS[-1])


def ways(canonical: Path, made: Mapping[Form, Made]) -> list[Candidate]:
    """What this machine runs; the float32 form, where it was asked for, is the measure too."""
    asked = {Form("onnx", "fp32"): canonical}
    asked |= {form: m.files[0] for form, m in made.items() if form.kind != "trt"}
    found = []
    for form, file in asked.items():
        for way in candidates(form.precision, suffix=file.suffix):
            if not _is_for(form, way.backend, made):
                continue
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


def _is_for(form: Form, backend: str, made: Mapping[Form, Made]) -> bool:
    """INT8 for CPUs runs where it is for; OpenVINO takes the other where it has none of its own."""
    if form == FOR_OPENVINO:
        return backend == "openvino"
    return form not in FOR_CPUS or backend != "openvino" or FOR_OPENVINO not in made


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
