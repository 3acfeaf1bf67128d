"""A whole training as one call: data, validation set, loop, export, summary."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesr.bicubic import downscale
from edgesr.distill.data import PhotoSet, find_photos, load_photos, read_rgb
from edgesr.distill.evaluate import Pair, bicubic_scores, load_pairs, mean_score
from edgesr.distill.recipe import Recipe
from edgesr.distill.train import Progress, train
from edgesr.errors import Interrupted, UsageError
from edgesr.export.onnx import export_onnx
from edgesr.models import shipped
from edgesr.networks import build, checkpoint, find

HELD_OUT = 8
HELD_OUT_SIZE = 480


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a finished training lies and what it reached on its validation set."""

    out: Path
    steps: int
    minutes: float
    psnr_y: float
    bicubic_psnr_y: float
    validation: str


def distill(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    val: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    terms: str | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a student on a folder of photos and leave a run folder with `model.onnx` in it.

    init    checkpoint to start from; None: what `recipe.init` names, if anything
    val     folder of test pictures (pairs, or HR alone); None: some photos of `data` are held out
    device  "auto", "cpu" or "cuda"
    terms   licence of the photos, recorded in the model's facts

    Raises UsageError for what cannot be meant, Interrupted when `stop` said so: `resume` goes on.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device!r}: auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    check_student(recipe)
    named = str(init) if init is not None else recipe.init
    start = starting_tensors(named) if named else None
    held_out = [] if val is not None else choose_held_out(data)
    pairs = load_pairs(val, scale=recipe.scale) if val is not None else cut_pairs(held_out, recipe)
    photos = load_photos(
        data,
        scale=recipe.scale,
        copies=recipe.copies,
        patch=recipe.patch,
        leave_out=held_out,
        progress=on_decode,
    )
    state = train(
        recipe,
        photos,
        pairs,
        out=out,
        resume=resume,
        device=device,
        start=start,
        terms=terms,
        on_progress=on_progress,
        stop=stop,
    )
    if state.step < recipe.steps:
        raise Interrupted(
            f"stopped at step {state.step} of {recipe.steps}, saved in {out}: "
            "the same command with --resume goes on"
        )
    model, spec = checkpoint.load(out / "best.safetensors")
    export_onnx(model, spec, out / "model.onnx")
    result = Result(
        out=out,
        steps=state.step,
        minutes=state.seconds / 60,
        psnr_y=state.best,
        bicubic_psnr_y=mean_score(bicubic_scores(pairs, scale=recipe.scale)).psnr_y,
        validation=str(val.name) if val is not None else f"{len(pairs)} held-out photos",
    )
    write_summary(out / "summary.json", recipe, photos, result, device=device)
    return result


def check_student(recipe: Recipe) -> None:
    """The loop trains networks of single luma pictures so far."""
    builder = find(recipe.student)
    with torch.device("meta"):
        colour = build(recipe.student, recipe.scale).colour
    if builder.kind != "picture" or colour != "y":
        what = "an RGB network" if builder.kind == "picture" else f"a {builder.kind} network"
        raise UsageError(
            f"{recipe.student} is {what}: distill trains those that see one luma picture so far; "
            "`edgesr models` tells which (colour y)"
        )


def starting_tensors(init: str) -> dict[str, Tensor]:
    """Tensors of a checkpoint file, or of a shipped model by name."""
    if not init.endswith(".safetensors"):
        found = {model.name: model.checkpoint for model in shipped()}.get(init)
        if found is None:
            raise UsageError(f"init {init!r}: neither a .safetensors file nor a shipped model")
        init = str(found)
    if not Path(init).is_file():
        raise UsageError(f"init {init}: no such file")
    return dict(checkpoint.load(Path(init))[0].state_dict())


def choose_held_out(data: Path) -> list[Path]:
    """Photos kept from training when no validation folder is given: spread over the list."""
    files = find_photos(data)
    if len(files) < 2:
        raise UsageError(f"--data {data}: one photo is not enough to train and validate; add --val")
    count = min(HELD_OUT, max(1, len(files) // 10))
    return files[:: len(files) // count][:count]


def cut_pairs(files: Sequence[Path], recipe: Recipe) -> list[Pair]:
    """The middle of each photo, with its MATLAB-bicubic LR."""
    pairs = []
    for file in files:
        photo = read_rgb(file)
        height, width = (
            min(side, HELD_OUT_SIZE) // recipe.scale * recipe.scale for side in photo.shape[:2]
        )
        top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
        hr = photo[top : top + height, left : left + width]
        pairs.append(Pair(name=file.stem, lr=downscale(hr, recipe.scale), hr=hr))
    return pairs


def write_summary(
    path: Path, recipe: Recipe, photos: PhotoSet, result: Result, *, device: str
) -> None:
    summary: dict[str, Any] = {
        "schema": 1,
        "recipe": recipe.model_dump(),
        "recipe_digest": recipe.digest(),
        "data_digest": photos.digest,
        "pictures": len(photos),
        "steps": result.steps,
        "minutes": round(result.minutes, 1),
        "validation": result.validation,
        "psnr_y": round(result.psnr_y, 4),
        "bicubic_psnr_y": round(result.bicubic_psnr_y, 4),
        "machine": machine(device),
    }
    path.write_text(json.dumps(summary, indent=1) + "\n")


def machine(device: str) -> str:
    """What trained: processor or GPU, threads, torch version."""
    if device != "cpu" and torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        plural = "" if threads == 1 else "s"
        where = f"{platform.machine()} CPU, {os.cpu_count()} cores, {threads} thread{plural}"
    return f"{where}, torch {torch.__version__}"
