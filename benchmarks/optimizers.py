"""Adam against SOAP: small students at x2, from nothing, at equal steps and in equal time.

    python benchmarks/optimizers.py --photos PHOTOS --bench BENCH --out FILE.json

PHOTOS is a folder of training photos, BENCH holds Set5/ and Set14/. Each optimiser has the best
rate known for it. Both learn for --steps, of one seed from the same weights and crops; then Adam
once more, for as many steps as fit in SOAP's time, with a cosine of its own. A step's time is that
of the processor on one thread (a busy machine changes it little), the median of runs of 50 steps,
so without compilation and validation. Figures are of the last weights, never of the best; `curve`
is Set5 on the way. A run that was stopped goes on, a finished one is not repeated: `--runs` keeps
them, and FILE.json the rows of students that --students does not name.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import common
import torch
from distillation import SAVED, SETS, pairs_of, score, spread
from plan import SOAP

from edgesr.distill.recipe import load_recipe
from edgesr.distill.run import distill
from edgesr.distill.train import Progress

STUDENTS: dict[str, dict[str, Any]] = {
    "ecbsr-m4c16": {"batch": 12, "patch": 48},
    "fsrcnn-pisr": {"batch": 16, "patch": 24},
    "espcn": {"batch": 12, "patch": 48},
}
SHARED: dict[str, Any] = {"compile": True, "warmup": 100, "ema": 0.99}
"""What differs from the recipe `bicubic`, by which plan.py trains them: the steps are few."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"lr": 1e-3},
    "soap": SOAP,
}
OWN: dict[tuple[str, str], dict[str, Any]] = {("fsrcnn-pisr", "adam"): {"lr": 8e-3}}
Mark = tuple[int, float, bool]
"""A step, the processor's seconds until then, and whether a validation is among them."""
TOLD = 50  # steps from one report of the training loop to the next


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 2000])
    parser.add_argument("--validate-every", type=int, default=250)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = kept_rows(options)
    for student in options.students:
        for steps in options.steps:
            adam, soap = (measured(options, student, name, steps) for name in OPTIMIZERS)
            share = soap["ms_per_step"] / adam["ms_per_step"]
            longer = max(TOLD, round(steps * share / TOLD) * TOLD)
            again = measured(options, student, "adam", longer)
            soap["passes_adam_after"] = passed(soap, adam)
            found = ((adam, "steps"), (soap, "steps"), (again, "time"))
            rows += [row | {"equal": equal, "beside": steps} for row, equal in found]
            print("\n".join(line_of(row) for row in rows[-3:]), flush=True)
            common.write(result_of(options, rows), options.out)


def result_of(options: argparse.Namespace, rows: list[Any]) -> dict[str, Any]:
    """As far as it has come."""
    order = list(STUDENTS)
    return common.head(
        "optimizers",
        scale=2,
        threads=1,
        steps=options.steps,
        seeds=options.seeds,
        shared=SHARED,
        students=STUDENTS,
        rows=sorted(rows, key=lambda row: order.index(row["student"])),
    )


def kept_rows(options: argparse.Namespace) -> list[Any]:
    """Of other students, from an earlier run with the same settings."""
    before = common.rows_before(
        options.out, steps=options.steps, seeds=options.seeds, shared=SHARED, students=STUDENTS
    )
    return [row for row in before if row["student"] not in options.students]


def measured(options: argparse.Namespace, student: str, optimizer: str, steps: int) -> Any:
    """One row: the trainings of all seeds."""
    runs = [learn(options, student, optimizer, steps, seed) for seed in options.seeds]
    ms = statistics.fmean(run["ms_per_step"] for run in runs)
    curves = [run["curve"] for run in runs]
    return {
        "name": f"{student}-x2, {optimizer}, {steps} steps",
        "student": student,
        "optimizer": optimizer,
        **settings_of(student, optimizer),
        "steps": steps,
        "ms_per_step": round(ms, 2),
        "seconds": round(steps * ms / 1000, 1),
        "sets": {name: spread([run["psnr_y"][name] for run in runs]) for name in SETS},
        "curve": {
            step: round(statistics.fmean(curve[step] for curve in curves), 3) for step in curves[0]
        },
    }


def settings_of(student: str, optimizer: str) -> dict[str, Any]:
    return OPTIMIZERS[optimizer] | OWN.get((student, optimizer), {})


def learn(
    options: argparse.Namespace, student: str, optimizer: str, steps: int, seed: int
) -> dict[str, Any]:
    """Train, or take what is finished."""
    print(f"{student}, {optimizer}, {steps} steps, seed {seed}", flush=True)
    recipe = load_recipe(
        "bicubic",
        student=student,
        scale=2,
        seed=seed,
        steps=steps,
        validate_every=options.validate_every,
        save_every=SAVED,
        **SHARED | STUDENTS[student] | settings_of(student, optimizer),
    )
    out = options.runs / f"{student}-{optimizer}-{steps}-{seed}"
    marks: list[Mark] = []

    def told(report: Progress) -> None:
        marks.append((report.step, time.process_time(), report.score is not None))

    distill(
        recipe,
        data=options.photos,
        val=options.bench / "Set5",
        out=out,
        resume=True,
        device="cpu",
        on_progress=told,
    )
    if marks:
        (out / "ms.json").write_text(json.dumps(ms_of(marks)))
    with (out / "log.csv").open(newline="") as file:
        curve = {int(row["step"]): float(row["psnr_y"]) for row in csv.DictReader(file)}
    return {
        "psnr_y": score(out / "last.safetensors", pairs_of(options.bench, 2), scale=2),
        "ms_per_step": json.loads((out / "ms.json").read_text()),
        "curve": curve,
    }


def ms_of(marks: list[Mark]) -> float:
    """Processor time of a step: the median of the runs of 50 that no validation ended."""
    spent = [
        (end - begin) / TOLD * 1000
        for (first, begin, _), (last, end, validated) in itertools.pairwise(marks)
        if last - first == TOLD and not validated
    ]
    return statistics.median(spent)


def passed(soap: dict[str, Any], adam: dict[str, Any]) -> int | None:
    """The first validated step at which SOAP is not below Adam's last weights on Set5."""
    last = list(adam["curve"].values())[-1]
    return next((step for step, psnr in soap["curve"].items() if psnr >= last), None)


def line_of(row: dict[str, Any]) -> str:
    sets = " ".join(f"{name} {found['mean']:.3f}" for name, found in row["sets"].items())
    return f"{row['name']:36} {row['ms_per_step']:6.1f} ms {row['seconds']:6.1f} s  {sets}"


if __name__ == "__main__":
    main()
