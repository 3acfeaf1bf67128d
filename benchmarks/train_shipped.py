"""Train, export and measure everything that the wheel carries, in order, resumable.

    python benchmarks/train_shipped.py --photos PHOTOS --bench BENCH [--only NAME ...]

PHOTOS is the folder of training photos, BENCH holds Set5/ and Set14/ with MATLAB-made LR pictures.
What is trained, and how, stands in `plan.py`. A model that is shipped and was trained as the plan
says is left alone (--again trains it from nothing); each other one has a run folder below --runs.
A run that was stopped goes on, and --budget-minutes stops cleanly when they are over; a finished
one is only exported and measured again. --no-train takes the best weights so far of the runs that
there are. Writes edgesr/weights/<name>.{onnx,safetensors} and index.json.

    python benchmarks/train_shipped.py --photos PHOTOS --check

trains one model for 200 steps twice, compares the weights bit by bit and changes nothing. --speed,
on a quiet machine, enters the milliseconds of every model (or of --only) and does nothing else.
--int8 makes the INT8 forms that ship (OpenVINO's, calibrated on PHOTOS, held against BENCH/Set5) of
the models in `plan.EIGHT_BITS`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shipped_forms
import torch
from plan import EIGHT_BITS, TRAININGS, as_listed, is_shipped, lineage, recipe_of
from safetensors import safe_open
from safetensors.torch import load_file

from edgesr.distill.data import digest_files, find_photos
from edgesr.distill.evaluate import evaluate_model, mean_score
from edgesr.distill.feed import said_of
from edgesr.distill.recipe import Recipe
from edgesr.distill.room import machine
from edgesr.distill.run import distill
from edgesr.distill.sanity import complaint, range_on_noise
from edgesr.distill.train import Progress
from edgesr.errors import Interrupted
from edgesr.export.onnx import export_onnx
from edgesr.networks import build, checkpoint, deployed
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.spec import ModelSpec

TERMS = (
    "trained on photos under CC0, CC-BY, CC-BY-SA or the Unsplash licence, collected from "
    "Linux wallpaper packages; the weights are offered under Apache-2.0"
)

CHECKED, CHECK_STEPS = "ecbsr-m4c16-x2-stage1", 200


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--only", nargs="+", choices=list(TRAININGS))
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--budget-minutes", type=float, default=math.inf)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    if options.speed:
        shipped_forms.enter_speed(options.only or list(TRAININGS))
        return
    if options.photos is None or (options.bench is None and not options.check):
        parser.error("--photos and --bench are needed")
    torch.set_num_threads(options.threads)
    if options.check:
        check(options.photos)
        return
    if options.int8:
        shipped_forms.enter_int8(options.photos, options.bench, options.only or EIGHT_BITS)
        return
    end = time.monotonic() + 60 * options.budget_minutes
    Plant(options.photos, options.bench, options.runs, end=end).make(
        options.only or list(TRAININGS), train=not options.no_train, again=options.again
    )


@dataclass(frozen=True)
class Plant:
    """Where photos, test pictures and runs lie, and until when (monotonic seconds) to train."""

    photos: Path
    bench: Path
    runs: Path
    end: float = math.inf
    gpu: bool = field(default_factory=torch.cuda.is_available)

    def make(self, names: list[str], *, train: bool, again: bool) -> None:
        files = find_photos(self.photos)
        data = {"photos": len(files), "data_digest": digest_files(files, self.photos)}
        wanted = names if again else [name for name in names if not self.is_made(name)]
        for name in self.with_starts(wanted, again=again) if train else wanted:
            if train and not self.train(name):
                print(f"{name}: stopped; the same command goes on", flush=True)
            if is_shipped(name) and (self.runs / name / "best.safetensors").is_file():
                entry = ship(name, self, data)
                print(name, json.dumps(entry["spec"]["metrics"]), flush=True)
            if time.monotonic() > self.end:
                break

    def is_made(self, name: str) -> bool:
        """Whether its weights are the ones that ship, or led to those of everything after it."""
        if not is_shipped(name):
            return True  # `with_starts` adds what is needed
        stages = shipped_forms.index()["models"].get(name, {}).get("training", {}).get("stages", [])
        return bool(stages) and same_settings(stages[-1]["settings"], self.recipe(name))

    def with_starts(self, names: list[str], *, again: bool) -> list[str]:
        """And the trainings that these start from, but for those whose weights are there."""
        needed: list[str] = []
        for name in names:
            chain = [name]
            while init := TRAININGS[chain[-1]].get("init"):
                if not again and self.start_of(init) is not None:
                    break
                chain.append(init)
            needed += [n for n in reversed(chain) if n not in needed]
        return needed

    def recipe(self, name: str) -> Recipe:
        return recipe_of(name, gpu=self.gpu)

    def train(self, name: str) -> bool:
        """Whether it came to its end."""
        recipe = self.recipe(name)
        try:
            distill(
                recipe,
                init=self.start_of(recipe.init) if recipe.init else None,
                data=self.photos,
                val=self.bench / "Set5",
                out=self.runs / name,
                resume=True,
                device="auto",
                terms=TERMS,
                on_progress=lambda progress: print_progress(name, progress),
                on_note=lambda note: print(f"{name}: {note}", flush=True),
                stop=lambda: time.monotonic() > self.end,
            )
        except Interrupted:
            return False
        return True

    def start_of(self, name: str) -> Path | None:
        """Weights of a finished training: in its run folder, or shipped."""
        if self.state_of(name).get("step") == self.recipe(name).steps:
            return self.runs / name / "best.safetensors"
        for entry in shipped_forms.index()["models"].values():
            if same_settings(entry["training"]["stages"][-1]["settings"], self.recipe(name)):
                return shipped_forms.WEIGHTS / entry["checkpoint"]
        return None

    def state_of(self, name: str) -> dict[str, Any]:
        """Of the run folder; empty where there is none."""
        folder = self.runs / name
        if not (folder / "state.safetensors").is_file():
            return {}
        if (folder / "recipe.toml").read_text() != self.recipe(name).to_toml():
            raise SystemExit(f"{folder} was trained by other settings than plan.py has now")
        with safe_open(folder / "state.safetensors", framework="pt") as file:
            return dict(json.loads(file.metadata()["state"]))

    def stage_facts(self, name: str) -> dict[str, Any]:
        """What the index says of one training; of one whose run folder is gone, what it said."""
        recipe, state = self.recipe(name), self.state_of(name)
        if not state:
            for entry in shipped_forms.index()["models"].values():
                for stage in entry["training"]["stages"]:
                    if same_settings(stage["settings"], recipe):
                        return dict(stage) | {"name": name}
            raise SystemExit(
                f"{name}: neither a run folder in {self.runs} nor an entry in the index"
            )
        return {
            "name": name,
            "recipe": TRAININGS[name].get("recipe", "bicubic"),
            "recipe_digest": recipe.digest(),
            "settings": recipe.model_dump(exclude_none=True),
            "steps": state["step"],
            "minutes": round(state["seconds"] / 60, 1),
        }


def same_settings(recorded: dict[str, Any], recipe: Recipe) -> bool:
    """Of one training; what it started from may have had another name."""
    mine = recipe.model_dump(mode="json", exclude_none=True, exclude={"init"})
    return mine == {k: v for k, v in recorded.items() if v is not None and k != "init"}


def print_progress(name: str, progress: Progress) -> None:
    if progress.score is not None:
        print(
            f"{name}: step {progress.step} of {progress.steps}, {progress.score.psnr_y:.3f} dB "
            f"(best {progress.best:.3f}), {progress.steps_per_second:.1f} steps/s, "
            f"{progress.eta / 60:.0f} min left",
            flush=True,
        )


def check(photos: Path) -> None:
    """Raises SystemExit when the same training gives other weights the second time."""
    recipe = recipe_of(CHECKED).model_copy(update={"steps": CHECK_STEPS, "validate_every": 100})
    tensors = []
    with tempfile.TemporaryDirectory() as folder:
        for run in ("first", "second"):
            out = Path(folder) / run
            distill(recipe, data=photos, out=out, terms=TERMS)
            tensors.append(load_file(out / "last.safetensors"))
            digest = hashlib.sha256(
                b"".join(t.numpy().tobytes() for _, t in sorted(tensors[-1].items()))
            )
            print(f"{CHECKED}, {CHECK_STEPS} steps, {run} run: {digest.hexdigest()}", flush=True)
    if not all(torch.equal(t, tensors[1][name]) for name, t in tensors[0].items()):
        raise SystemExit("the weights differ")
    print("identical weights")


def ship(name: str, plant: Plant, data: dict[str, Any]) -> dict[str, Any]:
    """Export, measure the exported file, and enter it into the index. data: facts of the photos."""
    shipped_forms.WEIGHTS.mkdir(exist_ok=True)
    model, spec = checkpoint.load(plant.runs / name / "best.safetensors")
    require_sane(name, model, spec)
    files = {
        "onnx": shipped_forms.WEIGHTS / f"{name}.onnx",
        "checkpoint": shipped_forms.WEIGHTS / f"{name}.safetensors",
    }
    # Twice, since the figures of a file are measured on that file and then written into it.
    spec = spec.replace(name=name, terms=TERMS, metrics={}, recipe=plant.recipe(name).digest())
    export_onnx(model, spec, files["onnx"])
    spec = spec.replace(metrics=measure(files["onnx"], plant.bench))
    export_onnx(model, spec, files["onnx"])
    checkpoint.save(files["checkpoint"], dict(model.state_dict()), spec=spec, model=model)
    entry = {
        "spec": spec.to_dict(),
        "parameters": {
            "training": count_parameters(model),
            "deployed": count_parameters(deployed(model)),
        },
        "macs_640x360": count_macs(
            deployed(build(spec.network, spec.scale)),
            height=360,
            width=640,
            channels=spec.channels,
        ),
        **{kind: path.name for kind, path in files.items()},
        "sha256": {
            kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in files.items()
        },
        "training": training_facts(name, plant, data),
    }
    models = shipped_forms.index()["models"]
    if "speed" in models.get(name, {}):  # the weights are others, the network is the same
        entry["speed"] = models[name]["speed"]
    models[name] = entry
    shipped_forms.write_index(
        {"schema": 1, "models": {known: models[known] for known in as_listed(models)}}
    )
    return entry


def require_sane(name: str, model: torch.nn.Module, spec: ModelSpec) -> None:
    """Raises SystemExit for a network that explodes on noise, whatever it scores on photos."""
    if wrong := complaint(range_on_noise(model, spec)):
        raise SystemExit(f"{name}: {wrong}")


def measure(path: Path, bench: Path) -> dict[str, dict[str, float]]:
    """PSNR-Y and SSIM-Y of an exported file on Set5 and Set14, in ONNX Runtime fp32."""
    metrics = {}
    for name in ("Set5", "Set14"):
        score = mean_score(evaluate_model(str(path), bench / name, backend="ort").scores)
        metrics[name] = {"psnr_y": round(score.psnr_y, 3), "ssim_y": round(score.ssim_y, 4)}
    return metrics


def training_facts(name: str, plant: Plant, data: dict[str, Any]) -> dict[str, Any]:
    """How a model was trained, the trainings that it started from first."""
    stages = [plant.stage_facts(stage) for stage in lineage(name)]
    return {
        "command": "python benchmarks/train_shipped.py",
        **data,
        "terms": TERMS,
        "seed": stages[-1]["settings"]["seed"],
        "steps": sum(stage["steps"] for stage in stages),
        "minutes": round(sum(stage["minutes"] for stage in stages), 1),
        "chosen_by": f"best PSNR-Y on Set5{said_of(plant.recipe(name))} while training",
        "machine": machine("cuda" if plant.gpu else "cpu"),
        "stages": stages,
    }


if __name__ == "__main__":
    main()
