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

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgesr.distill.data import PhotoSet, draw_batch
from edgesr.distill.evaluate import Score
from edgesr.distill.lesson import Lesson, Parts, Run
from edgesr.distill.recipe import Recipe
from edgesr.errors import EdgesrError, UsageError
from edgesr.files import replacing


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
    lesson: Lesson,
    *,
    out: Path,
    resume: bool = False,
    device: str = "auto",
    on_progress: Callable[[Progress], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Train `lesson.model` on `photos`, judging it by `lesson.score`, in the run folder `out`.

    stop    asked after each step; True saves and returns early
    Raises UsageError when `out` holds a run and `resume` is False, or another recipe; EdgesrError
    when a term of the loss is no number any more.
    """
    where = torch.device(choose_device(device))
    raw = lesson.model.to(where).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    helpers = lesson.helpers.to(where)
    trainable = [p for p in (*raw.parameters(), *helpers.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=recipe.lr, betas=(0.9, 0.99), fused=True)
    average = {name: t.detach().clone() for name, t in raw.state_dict().items()}
    state = State(data=photos.digest)
    open_run(out, recipe, resume=resume)
    if resume and (out / "state.safetensors").is_file():
        state = load_state(out / "state.safetensors", raw, helpers, optimizer, average)
        if state.data not in ("", photos.digest):
            raise UsageError(f"{out} was trained on other photos: resume with the same --data")
    runs = compiled(raw) if recipe.compile and lesson.compilable else raw
    objective = lesson.objective(in_precision(runs, recipe.precision, where))

    raw.train()
    losses: list[dict[str, Tensor]] = []
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
        parts = objective(small, truth)
        loss = sum_of(parts)
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip is not None:
            torch.nn.utils.clip_grad_norm_(trainable, recipe.clip)
        optimizer.step()
        state.step += 1
        update_average(average, raw, decay=min(recipe.ema, state.step / (state.step + 10)))
        losses.append({name: term.detach() for name, term in parts.items()})

        finished = state.step == recipe.steps
        stopping = stop()
        validate = finished or state.step % recipe.validate_every == 0
        if not (validate or stopping or state.step % 50 == 0):
            continue
        elapsed = time.perf_counter() - began
        state.seconds = earlier + elapsed
        rate = (state.step - began_step) / elapsed
        terms = {name: float(torch.stack([p[name] for p in losses]).mean()) for name in parts}
        require_finite(terms, state.step, recipe)
        score = None
        if validate:
            score = lesson.score(average)
            if score.psnr_y > state.best:
                state.best = score.psnr_y
                lesson.save(out / "best.safetensors", average, score)
            lesson.save(out / "last.safetensors", average, score)
        report = Progress(
            step=state.step,
            steps=recipe.steps,
            loss=sum(terms.values()),
            lr=lr,
            steps_per_second=rate,
            eta=(recipe.steps - state.step) / rate,
            score=score,
            best=state.best,
        )
        if score is not None:
            append_log(out / "log.csv", report, terms=terms, seconds=state.seconds)
        losses.clear()
        if finished or stopping or state.step % recipe.save_every == 0:
            save_state(out / "state.safetensors", raw, helpers, optimizer, average, state)
        if on_progress is not None:
            on_progress(report)
        if stopping:
            break
    return state


def sum_of(parts: Parts) -> Tensor:
    terms = list(parts.values())
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def require_finite(terms: dict[str, float], step: int, recipe: Recipe) -> None:
    """Raises EdgesrError, naming the term that is no number any more."""
    for name, value in terms.items():
        if not math.isfinite(value):
            raise EdgesrError(
                f"training diverged before step {step} (the loss {name!r} is {value}): "
                f"try a smaller rate, for example --set lr={recipe.lr / 4:g}"
            )


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


def in_precision(model: nn.Module, precision: str, where: torch.device) -> Run:
    """The network alone runs in bf16; losses are computed in what they are given, float32."""

    def run(x: Tensor) -> Any:
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            return model(x)

    return run


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
    floats = [(a, t) for a, t in pairs if t.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [t for _, t in floats], 1 - decay)
    for a, t in pairs:
        if not t.is_floating_point():  # batch normalisation counts its batches
            a.copy_(t)


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


def append_log(path: Path, report: Progress, *, terms: dict[str, float], seconds: float) -> None:
    row = asdict(report) | {"seconds": seconds}
    score = row.pop("score")
    row |= {"psnr_y": score["psnr_y"], "ssim_y": score["ssim_y"]}
    if len(terms) > 1:
        row |= {f"loss_{name}": value for name, value in terms.items()}
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


def save_state(
    path: Path,
    model: nn.Module,
    helpers: nn.Module,
    optimizer: Any,
    average: dict[str, Tensor],
    state: State,
) -> None:
    """Everything that the next step depends on, in one file, written beside and renamed."""
    tensors = {f"model/{n}": t for n, t in model.state_dict().items()}
    tensors |= {f"helper/{n}": t for n, t in helpers.state_dict().items()}
    tensors |= {f"average/{n}": t for n, t in average.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        tensors |= {f"adam/{index}/{n}": t for n, t in entry.items()}
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={"state": json.dumps(asdict(state))})


def load_state(
    path: Path,
    model: nn.Module,
    helpers: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> State:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        state = State(**json.loads(file.metadata()["state"]))

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    model.load_state_dict(part("model/"))
    helpers.load_state_dict(part("helper/"))
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
