"""What is a teacher worth? Students at x2, plain and with each teacher, at equal steps.

    python benchmarks/distillation.py --photos PHOTOS --bench BENCH --out FILE.json

PHOTOS is a folder of training photos, BENCH holds Set5/ and Set14/. Every student is trained once
for each seed and teacher; of one seed all see the same crops in the same order and, but for the
student of `pisr` (which starts from its teacher's decoder, as published), start from the same
weights. What a seed gained is with minus without. A run that was stopped goes on, a finished one is
not repeated: `--runs` keeps them, and FILE.json the rows of students that --students does not name.
Figures are of the last weights (their running average), never of the best.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import common
import torch

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
}
"""And the recipe that each is trained by, with what differs from SHARED."""
TEACHERS = ("none", "rrdb", "ecbsr-m10c16", "pisr")
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
RRDB: dict[str, Any] = {"student": "rrdb", "config": QUICK_TEACHERS["rrdb"], "lr": 1e-3, "batch": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--steps", type=int, default=2000, help="of every student")
    parser.add_argument("--teacher-steps", type=int, default=2000, help="of rrdb and of pisr's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--students", nargs="+", default=list(STUDENTS), choices=list(STUDENTS))
    parser.add_argument("--teachers", nargs="+", default=list(TEACHERS), choices=list(TEACHERS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    place = Place(options)
    rows = kept_rows(options)
    for student in options.students:
        plain: dict[int, Any] = {}
        for teacher in ["none", *(name for name in options.teachers if name != "none")]:
            runs = {seed: place.run(student, teacher, seed) for seed in options.seeds}
            plain = plain or runs
            rows.append(row_of(student, teacher, runs, plain))
            print(line_of(rows[-1]), flush=True)
            common.write(result_of(options, place, rows), options.out)


def result_of(options: argparse.Namespace, place: Place, rows: list[Any]) -> dict[str, Any]:
    """As far as it has come."""
    seen = {row["teacher"] for row in rows} - {"none"}
    rows = sorted(rows, key=lambda row: list(STUDENTS).index(row["student"]))
    return common.head(
        "distillation",
        scale=2,
        steps=options.steps,
        teacher_steps=options.teacher_steps,
        seeds=options.seeds,
        shared=SHARED,
        students=STUDENTS,
        teachers={name: place.known(name) for name in TEACHERS if name in seen},
        rows=rows,
    )


def kept_rows(options: argparse.Namespace) -> list[Any]:
    """Of other students, from an earlier run with the same settings."""
    if options.out is None or not options.out.is_file():
        return []
    before = json.loads(options.out.read_text(encoding="utf-8"))
    same = (options.steps, options.teacher_steps, options.seeds, SHARED)
    if same != tuple(before[key] for key in ("steps", "teacher_steps", "seeds", "shared")):
        return []
    return [row for row in before["rows"] if row["student"] not in options.students]


class Place:
    """Where the trainings lie, and what they are given."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.pairs = {name: load_pairs(options.bench / name, scale=2) for name in SETS}

    def run(self, student: str, teacher: str, seed: int) -> dict[str, float]:
        """Train, or take what is finished: set -> PSNR-Y of the last weights."""
        print(f"{student}, teacher {teacher}, seed {seed}", flush=True)
        recipe = load_recipe(
            student=student,
            scale=2,
            seed=seed,
            steps=self.options.steps,
            validate_every=self.options.steps,
            teacher=self.file_of(teacher),
            **SHARED | STUDENTS[student],
            **({"teacher_steps": self.options.teacher_steps} if teacher == "pisr" else {}),
        )
        if teacher == "none":
            recipe = recipe.model_copy(update={"teacher": None, "teacher_steps": None})
        return self.learn(recipe, self.options.runs / f"{student}-{teacher}-{seed}")

    def file_of(self, teacher: str) -> str:
        """As the recipe names it; rrdb is trained once for all."""
        if teacher != "rrdb":
            return teacher
        out = self.options.runs / "rrdb"
        steps = self.options.teacher_steps
        self.learn(
            load_recipe("bicubic", scale=2, steps=steps, validate_every=steps, **SHARED | RRDB), out
        )
        return str(out / "last.safetensors")

    def learn(self, recipe: Recipe, out: Path) -> dict[str, float]:
        distill(
            recipe,
            data=self.options.photos,
            val=self.options.bench / "Set5",
            out=out,
            resume=True,
            device="cpu",
        )
        return score(out / "last.safetensors", self.pairs)

    def known(self, teacher: str) -> dict[str, Any]:
        """A teacher's own figures; pisr sees the truth and has none that compare."""
        if teacher == "pisr":
            return {"sees": "the truth", "steps": self.options.teacher_steps}
        if teacher == "rrdb":
            psnr = score(self.options.runs / "rrdb" / "last.safetensors", self.pairs)
            return {"config": RRDB["config"], "steps": self.options.teacher_steps, "psnr_y": psnr}
        model = next(m for m in shipped() if m.name == f"{teacher}-x2")
        assert model.checkpoint is not None
        return {"shipped": model.name, "psnr_y": score(model.checkpoint, self.pairs)}


def score(path: Path, pairs: dict[str, list[Pair]]) -> dict[str, float]:
    model, spec = checkpoint.load(path)
    network = deployed(model)
    return {
        name: round(score_network(network, spec.colour, of, scale=2).psnr_y, 4)
        for name, of in pairs.items()
    }


def row_of(student: str, teacher: str, runs: dict[int, Any], plain: dict[int, Any]) -> Any:
    sets = {}
    for name in SETS:
        values = [run[name] for run in runs.values()]
        gains = [run[name] - plain[seed][name] for seed, run in runs.items()]
        sets[name] = {"psnr_y": spread(values), "gain": spread(gains)}
    gains = [gain for name in SETS for gain in sets[name]["gain"]["each"]]
    return {
        "name": f"{student}, teacher {teacher}",
        "student": student,
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
    parts = [f"{row['student']:12} {row['teacher']:13}"]
    for name in SETS:
        psnr, gain = row["sets"][name]["psnr_y"], row["sets"][name]["gain"]
        parts.append(f"{name} {psnr['mean']:.3f}")
        if row["teacher"] != "none":
            parts.append(f"({gain['mean']:+.3f}, stdev {gain['stdev'] or 0:.3f})")
    return " ".join([*parts, row["verdict"]])


if __name__ == "__main__":
    main()
