"""What is a teacher worth? Students, plain and with each teacher, at equal steps.

    python benchmarks/distillation.py --photos PHOTOS --bench BENCH --out FILE.json

PHOTOS is a folder of training photos, BENCH holds Set5/ and Set14/. Every student is trained once
for each scale, seed and teacher; of one seed all see the same crops in the same order and, but for
the student of `pisr` (which starts from its teacher's decoder, as published), start from the same
weights. What a seed gained is with minus without. A run that was stopped goes on, a finished one is
not repeated: `--runs` keeps them, and FILE.json the rows of students and scales that are not named.
Figures are of the last weights (their running average), never of the best. Equal steps are not
equal time: a step beside a teacher takes longer, and the steps of `pisr` itself come before.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import statistics
from pathlib import Path
from typing import Any

import common
import torch
from plan import SOAP
from published import PISR, PISR_STEPS

from edgesr.distill.evaluate import Pair, load_pairs
from edgesr.distill.lesson import score_network
from edgesr.distill.recipe import QUICK_TEACHERS, Recipe, load_recipe
from edgesr.distill.run import distill
from edgesr.models import shipped
from edgesr.networks import checkpoint, deployed

SETS = ("Set5", "Set14")
STUDENTS: dict[str, dict[str, Any]] = {
    "fsrcnn-pisr": {"source": "pisr", "lr": 8e-3},  # at 1e-3 it is below bicubic after 2,500 steps
    "ecbsr-m4c16": {"source": "bicubic"},
    "espcn": {"source": "bicubic"},
    "bsrn-s": {"source": "bicubic"},
}
"""And the recipe that each is trained by, with what differs from SHARED."""
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "soap": SOAP,
}
"""What differs from all that, of teachers that are trained here too."""
TEACHERS = ("none", "rrdb", "ecbsr-m10c16", "bsrn-s", "pisr")
SHARED: dict[str, Any] = {
    "batch": 16,
    "patch": 24,
    "copies": [1.0],
    "full_range": 0.0,
    "lr": 1e-3,
    "lr_end": 1e-5,
    "warmup": 100,
    "ema": 0.99,
    "precision": "fp32",
}
SAVED = 500  # steps between the states from which a stopped run goes on
RRDB: dict[str, Any] = {"student": "rrdb", "config": QUICK_TEACHERS["rrdb"], "lr": 1e-3, "batch": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--steps", type=int, default=2000, help="of every student")
    parser.add_argument("--teacher-steps", type=int, default=2000, help="of rrdb and of pisr's own")
    parser.add_argument("--scales", type=int, nargs="+", default=[2])
    parser.add_argument("--optimizer", default="adam", choices=list(OPTIMIZERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = Place(options)
    rows = kept_rows(options)
    for scale, student in itertools.product(options.scales, options.students):
        plain: dict[int, Any] = {}
        for teacher in ["none", *(name for name in options.teachers if name != "none")]:
            runs = {seed: place.run(student, scale, teacher, seed) for seed in options.seeds}
            plain = plain or runs
            rows.append(row_of(student, scale, teacher, runs, plain))
            print(line_of(rows[-1]), flush=True)
            common.write(result_of(options, place, rows), options.out)


def result_of(options: argparse.Namespace, place: Place, rows: list[Any]) -> dict[str, Any]:
    """As far as it has come."""
    order = list(STUDENTS)
    rows = sorted(rows, key=lambda row: (row["scale"], order.index(row["student"])))
    scales = sorted({row["scale"] for row in rows})
    seen = {row["teacher"] for row in rows}
    return common.head(
        options.out.stem if options.out else "distillation",
        scales=scales,
        steps=options.steps,
        teacher_steps=options.teacher_steps,
        seeds=options.seeds,
        optimizer=options.optimizer,
        shared=SHARED,
        students={name: STUDENTS[name] | OPTIMIZERS[options.optimizer] for name in STUDENTS},
        teachers={name: place.known(name, scales) for name in TEACHERS[1:] if name in seen},
        published={
            "steps": PISR_STEPS,
            "rows": [row for row in PISR if row["scale"] in scales and "pisr" in seen],
        },
        rows=rows,
    )


def kept_rows(options: argparse.Namespace) -> list[Any]:
    """Of other students and scales, from an earlier run with the same settings."""
    same = {key: getattr(options, key) for key in ("steps", "teacher_steps", "seeds", "optimizer")}
    before = common.rows_before(options.out, **same, shared=SHARED)
    asked = set(itertools.product(options.scales, options.students))
    return [row for row in before if (row["scale"], row["student"]) not in asked]


class Place:
    """Where the trainings lie, and what they are given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options

    def run(self, student: str, scale: int, teacher: str, seed: int) -> dict[str, float]:
        """Train, or take what is finished: set -> PSNR-Y of the last weights."""
        print(f"{student}-x{scale}, teacher {teacher}, seed {seed}", flush=True)
        recipe = load_recipe(
            student=student,
            scale=scale,
            seed=seed,
            steps=self.options.steps,
            validate_every=self.options.steps,
            save_every=SAVED,
            teacher=self.file_of(teacher, scale),
            **SHARED | STUDENTS[student] | OPTIMIZERS[self.options.optimizer],
            **({"teacher_steps": self.options.teacher_steps} if teacher == "pisr" else {}),
        )
        if teacher == "none":
            recipe = recipe.model_copy(update={"teacher": None, "teacher_steps": None})
        return self.learn(recipe, self.options.runs / f"{student}-x{scale}-{teacher}-{seed}")

    def file_of(self, teacher: str, scale: int) -> str:
        """As the recipe names it; rrdb is trained once for all."""
        if teacher != "rrdb":
            return teacher
        out = self.rrdb(scale)
        steps = self.options.teacher_steps
        settings = SHARED | RRDB | OPTIMIZERS[self.options.optimizer]
        settings |= {"steps": steps, "validate_every": steps}
        self.learn(load_recipe("bicubic", scale=scale, **settings), out.parent)
        return str(out)

    def rrdb(self, scale: int) -> Path:
        return self.options.runs / f"rrdb-x{scale}" / "last.safetensors"

    def learn(self, recipe: Recipe, out: Path) -> dict[str, float]:
        distill(
            recipe,
            data=self.options.photos,
            val=self.options.bench / "Set5",
            out=out,
            resume=True,
            device="cpu",
        )
        return self.score(out / "last.safetensors", recipe.scale)

    def known(self, teacher: str, scales: list[int]) -> dict[str, Any]:
        """A teacher's own figures; pisr sees the truth and has none that compare."""
        if teacher == "pisr":
            return {"sees": "the truth", "steps": self.options.teacher_steps}
        if teacher == "rrdb":
            facts = {"config": RRDB["config"], "steps": self.options.teacher_steps}
            files = {s: self.rrdb(s) for s in scales}
        else:
            facts = {"shipped": teacher}
            files = {s: checkpoint_of(f"{teacher}-x{s}") for s in scales}
        return facts | {"psnr_y": {f"x{s}": self.score(path, s) for s, path in files.items()}}

    def score(self, path: Path, scale: int) -> dict[str, float]:
        return score(path, pairs_of(self.options.bench, scale), scale=scale)


def score(path: Path, pairs: dict[str, list[Pair]], *, scale: int) -> dict[str, float]:
    model, spec = checkpoint.load(path)
    network = deployed(model)
    return {
        name: round(score_network(network, spec.colour, of, scale=scale).psnr_y, 4)
        for name, of in pairs.items()
    }


@functools.cache
def pairs_of(bench: Path, scale: int) -> dict[str, list[Pair]]:
    return {name: load_pairs(bench / name, scale=scale) for name in SETS}


def checkpoint_of(name: str) -> Path:
    found = next(model.checkpoint for model in shipped() if model.name == name)
    assert found is not None
    return found


def row_of(
    student: str, scale: int, teacher: str, runs: dict[int, Any], plain: dict[int, Any]
) -> Any:
    sets = {}
    for name in SETS:
        values = [run[name] for run in runs.values()]
        gains = [run[name] - plain[seed][name] for seed, run in runs.items()]
        sets[name] = {"psnr_y": spread(values), "gain": spread(gains)}
    gains = [gain for name in SETS for gain in sets[name]["gain"]["each"]]
    return {
        "name": f"{student}-x{scale}, teacher {teacher}",
        "student": student,
        "scale": scale,
        "teacher": teacher,
        "sets": sets,
        "verdict": "" if teacher == "none" else verdict(gains),
    }


def spread(values: list[float]) -> dict[str, Any]:
    return {
        "mean": round(statistics.fmean(values), 4),
        "stdev": round(statistics.stdev(values), 4) if len(values) > 1 else None,
        "each": [round(value, 4) for value in values],
    }


def verdict(gains: list[float]) -> str:
    """A gain that changes its sign from seed to seed, or from set to set, is none."""
    if all(gain > 0 for gain in gains):
        return "helps"
    return "harms" if all(gain < 0 for gain in gains) else "no difference that holds"


def line_of(row: dict[str, Any]) -> str:
    parts = [f"{row['student']:12} x{row['scale']} {row['teacher']:13}"]
    for name in SETS:
        psnr, gain = row["sets"][name]["psnr_y"], row["sets"][name]["gain"]
        parts.append(f"{name} {psnr['mean']:.3f}")
        if row["teacher"] != "none":
            parts.append(f"({gain['mean']:+.3f}, stdev {gain['stdev'] or 0:.3f})")
    return " ".join([*parts, row["verdict"]])


if __name__ == "__main__":
    main()
