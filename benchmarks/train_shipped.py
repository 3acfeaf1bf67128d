"""Train, export and measure everything that the wheel carries, in order, resumable.

    python benchmarks/train_shipped.py --photos PHOTOS --bench BENCH [--only NAME] [--no-train]

PHOTOS is the folder of training photos, BENCH holds Set5/ and Set14/ with MATLAB-made LR pictures.
Each model has a run folder below --runs; a run that was stopped goes on, a finished one is only
exported and measured again. --no-train takes the best weights so far of whatever runs there are.
Writes edgesr/weights/<name>.{onnx,safetensors} and index.json. --speed, on a quiet machine, enters
the milliseconds of every model there and does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors import safe_open

from edgesr.distill.data import digest_files, find_photos
from edgesr.distill.evaluate import evaluate, load_pairs, mean_score
from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.room import machine
from edgesr.distill.run import distill
from edgesr.errors import BackendError
from edgesr.export.onnx import export_onnx
from edgesr.models import shipped
from edgesr.networks import build, checkpoint, deployed
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.runtime.backends import Session, open_session

WEIGHTS = Path(__file__).resolve().parent.parent / "edgesr" / "weights"

TERMS = (
    "trained on photos under CC0, CC-BY, CC-BY-SA or the Unsplash licence, collected from "
    "Linux wallpaper packages; the weights are offered under Apache-2.0"
)

# In this order: `init` names an earlier one. The default model is trained in three stages, L1 and
# then MSE (which is what PSNR counts) twice from the best weights before; x3 and x4 start from the
# body of an x2. Stages are not shipped.
TRAININGS: dict[str, dict[str, Any]] = {
    "ecbsr-m4c16-x2-stage1": {"steps": 40_000},
    "ecbsr-m4c16-x2-stage2": {
        "steps": 60_000,
        "lr": 5e-4,
        "loss": "mse",
        "init": "ecbsr-m4c16-x2-stage1",
    },
    "ecbsr-m4c16-x2": {
        "steps": 200_000,
        "lr": 5e-4,
        "loss": "mse",
        "init": "ecbsr-m4c16-x2-stage2",
        "validate_every": 10_000,
    },
    "ecbsr-m4c16-x3": {"steps": 8_000, "lr": 5e-4, "init": "ecbsr-m4c16-x2-stage2"},
    "ecbsr-m4c16-x4": {"steps": 8_000, "lr": 5e-4, "init": "ecbsr-m4c16-x2-stage2"},
    "ecbsr-m10c16-x2": {"steps": 60_000},
    "ecbsr-m10c16-x3": {"steps": 6_000, "lr": 5e-4, "init": "ecbsr-m10c16-x2"},
    "ecbsr-m10c16-x4": {"steps": 6_000, "lr": 5e-4, "init": "ecbsr-m10c16-x2"},
    "espcn-x2": {"steps": 20_000},
    "espcn-x3": {"steps": 8_000, "lr": 5e-4, "init": "espcn-x2"},
    "espcn-x4": {"steps": 8_000, "lr": 5e-4, "init": "espcn-x2"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--bench", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/shipped"))
    parser.add_argument("--only", choices=list(TRAININGS))
    parser.add_argument("--no-train", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    if options.speed:
        enter_speed()
        return
    if options.photos is None or options.bench is None:
        parser.error("--photos and --bench are needed")
    torch.set_num_threads(options.threads)
    files = find_photos(options.photos)
    data_digest = digest_files(files, options.photos)
    for name in [options.only] if options.only else TRAININGS:
        recipe = recipe_of(name)
        out = options.runs / name
        if not options.no_train:
            distill(
                recipe,
                init=options.runs / recipe.init / "best.safetensors" if recipe.init else None,
                data=options.photos,
                val=options.bench / "Set5",
                out=out,
                resume=True,
                device="auto",
                terms=TERMS,
            )
        if "-stage" not in name and (out / "best.safetensors").is_file():
            entry = ship(name, out, options.bench, photos=len(files), data_digest=data_digest)
            print(name, json.dumps(entry["spec"]["metrics"]))


def recipe_of(name: str) -> Recipe:
    student, _, rest = name.rpartition("-x")
    scale = int(rest.partition("-")[0])
    return load_recipe("bicubic", student=student, scale=scale, compile=True, **TRAININGS[name])


def ship(name: str, out: Path, bench: Path, *, photos: int, data_digest: str) -> dict[str, Any]:
    """Export, measure the exported file, and enter it into the index."""
    WEIGHTS.mkdir(exist_ok=True)
    model, spec = checkpoint.load(out / "best.safetensors")
    files = {"onnx": WEIGHTS / f"{name}.onnx", "checkpoint": WEIGHTS / f"{name}.safetensors"}
    # Twice, since the figures of a file are measured on that file and then written into it.
    spec = spec.replace(terms=TERMS, metrics={}, recipe=recipe_of(name).digest())
    export_onnx(model, spec, files["onnx"])
    spec = spec.replace(metrics=measure(files["onnx"], bench, scale=spec.scale))
    export_onnx(model, spec, files["onnx"])
    checkpoint.save(files["checkpoint"], dict(model.state_dict()), spec=spec, model=model)
    entry = {
        "spec": spec.to_dict(),
        "parameters": {
            "training": count_parameters(model),
            "deployed": count_parameters(deployed(model)),
        },
        "macs_640x360": count_macs(
            deployed(build(spec.network, spec.scale)), height=360, width=640
        ),
        **{kind: path.name for kind, path in files.items()},
        "sha256": {
            kind: hashlib.sha256(path.read_bytes()).hexdigest() for kind, path in files.items()
        },
        "training": training_facts(name, out.parent, photos=photos, data_digest=data_digest),
    }
    index_file = WEIGHTS / "index.json"
    index = json.loads(index_file.read_text()) if index_file.is_file() else {"models": {}}
    models = index["models"] | {name: entry}
    ordered = {known: models[known] for known in TRAININGS if known in models}
    index_file.write_text(json.dumps({"schema": 1, "models": ordered}, indent=1) + "\n")
    return entry


def measure(path: Path, bench: Path, *, scale: int) -> dict[str, dict[str, float]]:
    """PSNR-Y and SSIM-Y of an exported file on Set5 and Set14, in ONNX Runtime fp32."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def upscale(luma: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"x": luma[None, None]})[0])[0, 0]

    metrics = {}
    for name in ("Set5", "Set14"):
        score = mean_score(evaluate(upscale, load_pairs(bench / name, scale=scale), scale=scale))
        metrics[name] = {"psnr_y": round(score.psnr_y, 3), "ssim_y": round(score.ssim_y, 4)}
    return metrics


def enter_speed() -> None:
    """Median ms for one 640x360 frame in and out as 8 bits, in every way that runs here."""
    index_file = WEIGHTS / "index.json"
    index = json.loads(index_file.read_text())
    frame = np.random.default_rng(0).integers(0, 256, (1, 1, 360, 640), dtype=np.uint8)
    for model in shipped():
        speed = {}
        for backend, precision in (("ort", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")):
            with (
                contextlib.suppress(BackendError),
                contextlib.closing(
                    open_session(
                        model.onnx,
                        spec=model.spec,
                        backend=backend,
                        precision=precision,
                        size=(360, 640),
                        io="uint8",
                    )
                ) as session,
            ):
                speed[f"{backend} {precision}"] = round(median_ms(session, frame), 1)
        index["models"][model.name]["speed"] = speed
        print(model.name, speed, flush=True)
    index_file.write_text(json.dumps(index, indent=1) + "\n")


def median_ms(session: Session, frame: np.ndarray, *, runs: int = 25) -> float:
    for _ in range(3):
        session(frame)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        session(frame)
        times.append(time.perf_counter() - start)
    return float(np.median(times) * 1e3)


def training_facts(name: str, runs: Path, *, photos: int, data_digest: str) -> dict[str, Any]:
    """How a model was trained, the trainings that it started from first."""
    stages = [stage_facts(stage, runs) for stage in lineage(name)]
    return {
        "command": "python benchmarks/train_shipped.py",
        "photos": photos,
        "data_digest": data_digest,
        "terms": TERMS,
        "seed": stages[-1]["settings"]["seed"],
        "steps": sum(stage["steps"] for stage in stages),
        "minutes": round(sum(stage["minutes"] for stage in stages), 1),
        "chosen_by": "best PSNR-Y on Set5 while training",
        "machine": machine("cpu"),
        "stages": stages,
    }


def lineage(name: str) -> list[str]:
    """The training and those that it starts from, the first one first."""
    init = TRAININGS[name].get("init")
    return [*(lineage(init) if init else []), name]


def stage_facts(name: str, runs: Path) -> dict[str, Any]:
    recipe = recipe_of(name)
    if (runs / name / "recipe.toml").read_text() != recipe.to_toml():
        raise SystemExit(f"{runs / name} was trained by other settings than TRAININGS has now")
    with safe_open(runs / name / "state.safetensors", framework="pt") as file:
        state = json.loads(file.metadata()["state"])
    return {
        "name": name,
        "recipe": "bicubic",
        "recipe_digest": recipe.digest(),
        "settings": recipe.model_dump(),
        "steps": state["step"],
        "minutes": round(state["seconds"] / 60, 1),
    }


if __name__ == "__main__":
    main()
