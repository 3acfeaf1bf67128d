"""The one training loop.

A run folder holds `recipe.toml`, `log.csv`, `last.safetensors` and `best.safetensors` (averaged
weights with their facts), `state.safetensors` (raw weights, optimiser, step) and `summary.json`.
Stopped at any moment and resumed, a run on the CPU ends with the same bits as one left alone.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgesr.distill.data import PhotoSet, draw_batch
from edgesr.distill.evaluate import Pair, Score, evaluate, mean_score
from edgesr.distill.losses import LOSSES
from edgesr.distill.recipe import Recipe
from edgesr.errors import EdgesrError, ModelError, UsageError
from edgesr.files import replacing
from edgesr.networks import build, checkpoint, deployed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands. `loss` is the mean since the last report; times in seconds."""

    step: int
    steps: int
    loss: float
    lr: float
    steps_per_second: float
    eta: float
    score: Score | None
    best: float


@dataclass(kw_only=True)
class State:
    """What changes from step to step, beside the tensors."""

    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0
    data: str = ""  # digest of the photos


def train(
    recipe: Recipe,
    photos: PhotoSet,
    pairs: list[Pair],
    *,
    out: Path,
    resume: bool = False,
    device: str = "auto",
    start: dict[str, Tensor] | None = None,
    terms: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Train `recipe.student` on `photos`, validating on `pairs`, in the run folder `out`.

    start   tensors to begin with, by name; those that do not fit are left at random
    terms   licence of the photos, recorded with the weights
    stop    asked after each step; True saves and returns early
    Raises UsageError when `out` holds a run and `resume` is False, or another recipe.
    """
    torch.manual_seed(recipe.seed)
    where = torch.device(choose_device(device))
    raw = build(recipe.student, recipe.scale)
    if start:
        take_fitting(raw, start)
    raw = raw.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainable = [p for p in raw.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=recipe.lr, betas=(0.9, 0.99), fused=True)
    average = {name: t.detach().clone() for name, t in raw.state_dict().items()}
    state = State(data=photos.digest)
    open_run(out, recipe, resume=resume)
    if resume and (out / "state.safetensors").is_file():
        state = load_state(out / "state.safetensors", raw, optimizer, average)
        if state.data not in ("", photos.digest):
            raise UsageError(f"{out} was trained on other photos: resume with the same --data")
    spec = checkpoint.spec_of(recipe.student, deployed(raw), recipe=recipe.digest())
    spec = spec.replace(terms=terms)
    model = compiled(raw) if recipe.compile else raw
    loss_of = LOSSES[recipe.loss]
    bf16 = torch.autocast(where.type, torch.bfloat16, enabled=recipe.precision == "bf16")

    model.train()
    losses: list[Tensor] = []
    began, began_step = time.perf_counter(), state.step
    earlier = state.seconds
    while state.step < recipe.steps:
        lr = learning_rate(state.step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = lr
        small, truth = (
            torch.from_numpy(a).to(where, memory_format=torch.channels_last)
            for a in draw_batch(
                photos,
                seed=recipe.seed,
                step=state.step,
                batch=recipe.batch,
                patch=recipe.patch,
                detail=recipe.detail,
                redraw=recipe.redraw,
                full_range=recipe.full_range,
            )
        )
        with bf16:
            output = model(small)
        loss = loss_of(output.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state.step += 1
        update_average(average, raw, decay=min(recipe.ema, state.step / (state.step + 10)))
        losses.append(loss.detach())

        finished = state.step == recipe.steps
        stopping = stop()
        validate = finished or state.step % recipe.validate_every == 0
        if not (validate or stopping or state.step % 50 == 0):
            continue
        elapsed = time.perf_counter() - began
        state.seconds = earlier + elapsed
        rate = (state.step - began_step) / elapsed
        score = None
        if validate and math.isfinite(float(loss.detach())):
            score = validate_average(recipe, average, pairs)
            facts = spec.replace(metrics={"validation": asdict_score(score)})
            if score.psnr_y > state.best:
                state.best = score.psnr_y
                checkpoint.save(out / "best.safetensors", average, spec=facts, model=raw)
            checkpoint.save(out / "last.safetensors", average, spec=facts, model=raw)
        report = Progress(
            step=state.step,
            steps=recipe.steps,
            loss=float(torch.stack(losses).mean()),
            lr=lr,
            steps_per_second=rate,
            eta=(recipe.steps - state.step) / rate,
            score=score,
            best=state.best,
        )
        if not math.isfinite(report.loss):
            raise EdgesrError(
                f"training diverged before step {state.step} (the loss is {report.loss}): "
                f"try a smaller rate, for example --set lr={recipe.lr / 4:g}"
            )
        if score is not None:
            append_log(out / "log.csv", report, seconds=state.seconds)
        losses.clear()
        if finished or stopping or state.step % recipe.save_every == 0:
            save_state(out / "state.safetensors", raw, optimizer, average, state)
        if on_progress is not None:
            on_progress(report)
        if stopping:
            break
    return state


def choose_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def compiled(model: nn.Module) -> nn.Module:
    """The same network through torch.compile: a step takes 0.75 of the time on a CPU."""
    if shutil.which("g++") is None:
        raise UsageError(
            "compile = true needs a C++ compiler (g++): install it, or --set compile=false"
        )
    return torch.compile(model)  # type: ignore[return-value]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear rise over `warmup` steps, then one cosine down to `lr_end`."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr_end + (recipe.lr - recipe.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, *, decay: float) -> None:
    """Exponential moving average of the weights, the ones that are kept."""
    pairs = [(average[name], t) for name, t in model.state_dict().items()]
    torch._foreach_lerp_([a for a, _ in pairs], [t for _, t in pairs], 1 - decay)


def validate_average(recipe: Recipe, average: dict[str, Tensor], pairs: list[Pair]) -> Score:
    """Mean score of the averaged weights in their deployed form, in float32."""
    model = build(recipe.student, recipe.scale)
    model.load_state_dict(average)
    return mean_score(evaluate(luma_function(deployed(model)), pairs, scale=recipe.scale))


def luma_function(model: nn.Module) -> Callable[[Array], Array]:
    """A network as a function of one (H, W) float32 luma plane in 0..1."""

    @torch.no_grad()
    def upscale(luma: Array) -> Array:
        picture = torch.from_numpy(np.ascontiguousarray(luma))[None, None]
        return model(picture.to(memory_format=torch.channels_last))[0, 0].numpy()

    return upscale


def take_fitting(model: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Copy every tensor whose name and shape fit; the names of those that did not."""
    own = model.state_dict()
    fitting = {n: t for n, t in tensors.items() if n in own and own[n].shape == t.shape}
    if not fitting:
        raise ModelError("init: no tensor of that checkpoint fits this network")
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def open_run(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the run folder, or check that it holds the same training."""
    written = out / "recipe.toml"
    if written.is_file():
        if not resume:
            raise UsageError(
                f"{out} holds a training already: add --resume, or choose another --out"
            )
        if written.read_text() != recipe.to_toml():
            raise UsageError(
                f"{written} is another recipe than the one asked for: resume with the same options"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        written.write_text(recipe.to_toml())
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error


def append_log(path: Path, report: Progress, *, seconds: float) -> None:
    row = asdict(report) | {"seconds": seconds}
    score = row.pop("score")
    row |= {"psnr_y": score["psnr_y"], "ssim_y": score["ssim_y"]}
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def asdict_score(score: Score) -> dict[str, float]:
    return {"psnr_y": round(score.psnr_y, 4), "ssim_y": round(score.ssim_y, 5)}


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: Any,
    average: dict[str, Tensor],
    state: State,
) -> None:
    """Everything that the next step depends on, in one file, written beside and renamed."""
    tensors = {f"model/{n}": t for n, t in model.state_dict().items()}
    tensors |= {f"average/{n}": t for n, t in average.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{n}": t for n, t in entry.items()}
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={"state": json.dumps(asdict(state))})


def load_state(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]
) -> State:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        state = State(**json.loads(file.metadata()["state"]))

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    model.load_state_dict(part("model/"))
    for name, tensor in part("average/").items():
        average[name].copy_(tensor)
    parameters = optimizer.param_groups[0]["params"]
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("adam/").items():
        index, key = int(name.split("/")[0]), name.split("/")[1]
        if tensor.ndim:  # in the memory order of the weight: the fused step sums in that order
            tensor = torch.empty_like(parameters[index]).copy_(tensor)
        entries.setdefault(index, {})[key] = tensor
    optimizer.load_state_dict(
        {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return state
