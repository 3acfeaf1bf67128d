"""One export from the first file to the report: every form made, measured, and only then named.

The forms are made in a folder beside their places, measured there, and renamed when all of them
stay within the budget. No torch here unless the model is a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgesr.errors import MediaError
from edgesr.export.calibrate import collect, crop_side
from edgesr.export.candidates import facts_of
from edgesr.export.eight import EightBits
from edgesr.export.forms import FLOAT32, Made, Maker, is_given, make_all, profile, save
from edgesr.export.gate import GateReport, keep_speeds
from edgesr.export.plan import (
    Form,
    Wish,
    check,
    check_all,
    check_places,
    check_spec,
    deliver,
    places,
    staging,
)
from edgesr.export.reference import reference_of
from edgesr.export.report import judge, refuse
from edgesr.export.source import Source, load_source
from edgesr.export.typed import convolutions
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    from edgesr.export.quality import Pair

Evaluation = Callable[[ModelSpec], Mapping[str, Sequence["Pair"]]]

WEIGHTS = {"network": 10.0, "pictures": 2.0, "fp16": 3.0, "int8": 12.0, "tensorrt": 10.0}
WEIGHTS |= {"openvino": 3.0, "measuring": 20.0}
"""How long the stages take, roughly and relative to each other: for the time that is left."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where an export stands. left: seconds, guessed from how long it took so far; None: unknown"""

    name: str
    number: int
    total: int
    elapsed: float
    left: float | None


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """One form on disk; files: `path` first, then what belongs to it."""

    form: Form
    path: Path
    files: tuple[Path, ...]
    report: Path

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        return {
            "target": self.form.kind,
            "precision": self.form.precision,
            "runtime": self.form.runtime or None,
            "path": str(self.path),
            "files": [str(file) for file in self.files],
            "size_bytes": self.size_bytes,
            "report": str(self.report),
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an export made.

    spec     facts of the first artefact
    refused  forms that stay past the budget and were not written, and why: only where another
             form of the same wish was
    engines  one entry for each --trt form, see `edgesr.export.tensorrt.TensorRtReport.to_dict`:
             `engine` is None where none could be built here, `commands` finish it on the device
    """

    source: Source
    spec: ModelSpec
    artefacts: tuple[Artefact, ...]
    refused: Mapping[Form, str]
    report: GateReport
    engines: tuple[Mapping[str, Any], ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        difference = self.source.difference
        return {
            "schema": 1,
            "path": str(self.artefacts[0].path),
            "spec": self.spec.to_dict(),
            "difference": None if difference is None else asdict(difference),
            "size_bytes": self.artefacts[0].size_bytes,
            "artefacts": [artefact.to_dict() for artefact in self.artefacts],
            "refused": [{"name": form.name, "why": why} for form, why in self.refused.items()],
            "engines": [dict(engine) for engine in self.engines],
            "notes": list(self.source.notes),
            "seconds": round(self.seconds, 2),
            "gate": self.report.to_dict(),
        }


class _Clock:
    """Says which stage begins, and how long the rest may take."""

    def __init__(self, stages: Sequence[str], on_stage: Callable[[Stage], None]) -> None:
        self._weights = [WEIGHTS.get(stage.split()[0], 0.5) for stage in stages]
        self._stages, self._on_stage = stages, on_stage
        self._started = time.perf_counter()
        self._done = 0

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._started

    def next(self) -> None:
        before, after = sum(self._weights[: self._done]), sum(self._weights[self._done :])
        left = self.elapsed * after / before if before else None
        name = self._stages[self._done]
        self._done += 1
        self._on_stage(
            Stage(
                name=name,
                number=self._done,
                total=len(self._stages),
                elapsed=self.elapsed,
                left=left,
            )
        )


def run(
    wish: Wish,
    *,
    evaluation: Evaluation | None = None,
    on_stage: Callable[[Stage], None] = lambda stage: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Make, measure, report, write.

    evaluation  gives pairs with a truth for the model's facts: set -> (LR, HR) as in
                `edgesr.export.measure.measure`
    on_note     called with what is found and decided on the way

    Raises UsageError for a wish that cannot be meant, ExportRefused where INT8 stays past the
    budget (of the two files of --int8 where both do), EdgesrError for another form past it; then
    nothing is written.
    """
    check(wish)
    clock = _Clock(stages_of(wish), on_stage)
    clock.next()
    typed = all(form.kind == "trt" for form in wish.forms)
    source = load_source(wish.model, typed=typed, on_note=on_note)
    for note in source.notes:
        on_note(note)
    check_spec(wish, source.spec)
    if wish.trt:
        profile(wish, source.spec)
    paths = places(wish, source.spec.name)
    new = [not is_given(form, source, wish) for form in wish.forms]
    check_all(wish, paths, new)
    with staging(paths) as folder:
        calibration = None
        if wish.calib:
            clock.next()
            side = crop_side(convolutions(source.graph))
            on_note(f"crops of {side}x{side} pixels")
            clips = [path.expanduser() for path in wish.calib]
            calibration = collect(clips, spec=source.spec, size=side)
        sets = evaluation(source.spec) if evaluation is not None else {}
        known = reference_of(source, calibration, sets)
        eight = None
        if calibration is not None and known is not None:
            eight = EightBits(
                source,
                calibration,
                known=known,
                max_drop=wish.max_drop,
                qat=wish.qat,
                method=wish.calib_method,
                on_note=on_note,
            )
        maker = Maker(
            wish=wish, source=source, calibration=calibration, eight=eight, on_note=on_note
        )
        canonical = folder / "float32.onnx"
        save(canonical, source.graph)
        made, refused = make_all(maker, paths, folder, begin=clock.next)
        clock.next()
        report = judge(
            made,
            wish=wish,
            canonical=canonical,
            source=source,
            calibration=calibration,
            sets=sets,
            known=known,
            logs=eight.logs if eight else (),
            on_note=on_note,
        )
        refuse(report, made, wish)
        final = [path for form, path in zip(wish.forms, paths, strict=True) if form in made]
        artefacts, report = hand_over(made, report, wish, final, canonical)
    if wish.io == "float32" and wish.size is None and FLOAT32 in made:
        with suppress(OSError):  # it only costs `auto` what was measured
            keep_speeds(report, artefacts[list(made).index(FLOAT32)].path)
    return Outcome(
        source=source,
        spec=facts_of(artefacts[0].path),
        artefacts=artefacts,
        refused={form: error.reason for form, error in refused.items()},
        report=report,
        engines=tuple(m.engine for m in made.values() if m.engine is not None),
        seconds=clock.elapsed,
    )


def stages_of(wish: Wish) -> list[str]:
    words = {"onnx": "", "openvino": "openvino ", "trt": "tensorrt "}
    forms = [
        f"{words[f.kind]}{f.precision}" + (" for openvino" if f.runtime else "")
        for f in wish.forms
        if f != FLOAT32
    ]
    return ["network", *(["pictures"] if wish.calib else []), *forms, "measuring"]


def hand_over(
    made: Mapping[Form, Made],
    report: GateReport,
    wish: Wish,
    paths: Sequence[Path],
    canonical: Path,
) -> tuple[tuple[Artefact, ...], GateReport]:
    """Out of the staging folder, each under its name and with the report beside it."""
    final = {
        file: path.with_name(file.name)
        for m, path in zip(made.values(), paths, strict=True)
        for file in m.files
    }
    check_places(wish, list(final.values()))
    deliver(list(final.items()))
    if FLOAT32 in made:  # which ran as the canonical graph
        final[canonical] = final[made[FLOAT32].files[0]]
    report = replace(
        report,
        measured=tuple(
            replace(
                row,
                candidate=replace(
                    row.candidate, path=final.get(row.candidate.path, row.candidate.path)
                ),
            )
            for row in report.measured
        ),
    )
    try:
        artefacts = tuple(
            Artefact(
                form=form,
                path=final[m.files[0]],
                files=tuple(final[file] for file in m.files),
                report=report.write(final[m.files[0]]),
            )
            for form, m in made.items()
        )
    except OSError as error:
        raise MediaError(f"the report cannot be written: {error.strerror or error}") from error
    return artefacts, report
