"""Candidates of an export beside the float32 graph that they came from.

Differences, PSNR to the float32 output, PSNR-Y/SSIM-Y change on pictures with a truth, ms on this
machine, size of the file. What cannot run is a row with its error. What follows from the figures
stands in gate.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.errors import ModelError, UsageError
from edgesr.export.candidates import Candidate, Measured, failed, open_candidate
from edgesr.export.quality import (
    Distance,
    Pair,
    Run,
    Scores,
    distance,
    fitted,
    from_bytes,
    to_bytes,
)
from edgesr.export.reference import HELD_OUT, Reference
from edgesr.export.timing import ROUNDS, timed
from edgesr.runtime.backends import Session, Size
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration

Array = np.ndarray[Any, Any]
OnNote = Callable[[str], None]

SMALL: Size = (64, 64)
"""(H, W) where only numbers are asked for, not times."""


def measure(
    candidates: Sequence[Candidate],
    *,
    reference: onnx.ModelProto,
    spec: ModelSpec,
    calibration: Calibration | None,
    size: Size,
    threads: Sequence[int] = (1, 2),
    evaluation: Mapping[str, Sequence[Pair]] | None = None,
    rounds: int = ROUNDS,
    known: Reference | None = None,
    on_note: OnNote = lambda line: None,
) -> list[Measured]:
    """Run every candidate over the held-out pairs and time it, in rounds that take turns.

    reference    the float32 graph that all of them came from
    calibration  whose held-out pairs are scored; None, or none held out: then there is no truth,
                 and differences are taken on its pictures, or on a photo that edgesr carries
    size         (H, W) of the timed input in pixels
    threads      numbers of threads to time with; the outputs are those of the last one
    evaluation   more sets with a truth: name -> pairs, e.g. Set5 in the published protocol
                 (unrounded studio luma / 255 of the 8-bit LR and HR)
    rounds       timed runs of each candidate for each number of threads, after a warm-up
    known        what `reference` makes of these pictures, where it has run already

    One `Measured` for each candidate, in their order; never raises for what one of them does.
    Raises UsageError for a size or pictures that the model cannot take.
    """
    if rounds < 1 or not threads or min(threads) < 1:
        raise UsageError(f"rounds {rounds} and threads {list(threads)}: 1 or more of each")
    if spec.state:
        reason = "it keeps state between frames: it is compared with torch, and not measured here"
        return [Measured(candidate=candidate, error=reason) for candidate in candidates]
    size = spec.fixed_size or size
    bench = known or Reference(reference, spec, calibration, evaluation)
    found = [_quality(candidate, bench, threads[-1], on_note) for candidate in candidates]
    return timed(found, spec=spec, size=size, threads=threads, rounds=rounds, on_note=on_note)


def pairs_in(
    calibration: Calibration | None, evaluation: Mapping[str, Sequence[Pair]] | None = None
) -> dict[str, int]:
    """How many pairs with a truth `measure` scores of each set; what `GateReport.pairs` says."""
    held = {HELD_OUT: len(calibration.held_out)} if calibration and calibration.held_out else {}
    return held | {name: len(pairs) for name, pairs in (evaluation or {}).items()}


def _quality(candidate: Candidate, bench: Reference, threads: int, on_note: OnNote) -> Measured:
    try:
        session, spec = open_candidate(candidate, threads=threads, size=None)
        with closing(session):
            run = fitted(_float_run(session, spec), spec)
            outputs = []
            for number, picture in enumerate(bench.pictures, 1):
                on_note(f"{candidate.name}: picture {number} of {len(bench.pictures)}")
                outputs.append(run(picture))
            facts = session.facts
        if not all(np.isfinite(output).all() for output in outputs):
            raise ModelError("its output holds values that are not finite")
        apart = distance(outputs, bench.expected)
        after = bench.scores_of(outputs)
        bytes_of = _size_of(candidate.path)
    except Exception as error:  # whatever a runtime raises: the row is kept, and says it
        return failed(candidate, error)
    return _measured(
        candidate,
        apart,
        before=bench.scored,
        after=after,
        size_bytes=bytes_of,
        runs=f"{facts.backend} {facts.version} {facts.precision} on {facts.device}",
    )


def _measured(
    candidate: Candidate,
    apart: Distance,
    *,
    before: Mapping[str, Scores],
    after: Mapping[str, Scores],
    size_bytes: int,
    runs: str,
) -> Measured:
    sets = {
        name: (ours.psnr_y - after[name].psnr_y, ours.ssim_y - after[name].ssim_y)
        for name, ours in before.items()
    }
    return Measured(
        candidate=candidate,
        max_abs=apart.max_abs,
        mean_abs=apart.mean_abs,
        psnr_to_fp32=apart.psnr,
        drop=max((drop for drop, _ in sets.values()), default=None),
        ssim_drop=max((drop for _, drop in sets.values()), default=None),
        sets=sets,
        size_bytes=size_bytes,
        runs=runs,
    )


def _float_run(session: Session, spec: ModelSpec) -> Run:
    if spec.io.dtype == "uint8":
        return lambda batch: from_bytes(session(to_bytes(batch)))
    return lambda batch: np.asarray(session(batch), dtype=np.float32)


def _size_of(path: Path) -> int:
    """With the weights file of an OpenVINO IR."""
    weights = path.with_suffix(".bin")
    beside = path.suffix == ".xml" and weights.is_file()
    return path.stat().st_size + (weights.stat().st_size if beside else 0)
