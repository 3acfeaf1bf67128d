"""The one training loop.

A run folder holds `recipe.toml`, `log.csv`, `last.safetensors` and `best.safetensors` (averaged
weights with their facts), `state.safetensors` (raw weights, optimiser, step) and `summary.json`.
Where a rival is trained along, the best weights are the last ones.
Stopped at any moment and resumed, a run on the CPU ends with the same bits as one left alone.
"""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgesr.distill.data import PhotoSet
from edgesr.distill.evaluate import Score
from edgesr.distill.feed import DataClock, batches
from edgesr.distill.lesson import Lesson, Parts, Run
from edgesr.distill.recipe import Recipe
from edgesr.distill.state import Kept, State, load_state, save_state
from edgesr.errors import EdgesrError, UsageError

MOMENTUM = 0.9  # of SGD


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a training stands. `loss` is the mean since the last report; times in seconds.

    data_share  of the time of the steps so far, spent waiting for batches
    """

    step: int
    steps: int
    loss: float
    lr: float
    steps_per_second: float
    eta: float
    score: Score | None
    best: float
    data_share: float = 0.0


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
    raw = placed(lesson.model, where)
    helpers = lesson.helpers.to(where)
    trainable = [p for p in (*raw.parameters(), *helpers.parameters()) if p.requires_grad]
    optimizer = make_optimizer(trainable, recipe)
    average = {name: t.detach().clone() for name, t in raw.state_dict().items()}
    modules, optimizers = {"model": raw, "helper": helpers}, {"adam": optimizer}
    rival, second = lesson.rival, None
    if rival is not None:
        modules["rival"] = placed(rival.module, where)
        second = optimizers["rival_adam"] = make_optimizer(rival.module.parameters(), recipe)
    kept = Kept(modules=modules, optimizers=optimizers, average=average)
    state = State(data=photos.digest)
    open_run(out, recipe, resume=resume)
    if resume and (out / "state.safetensors").is_file():
        state = load_state(out / "state.safetensors", kept)
        if state.data not in ("", photos.digest):
            raise UsageError(f"{out} was trained on other photos: resume with the same --data")
    runs = compiled(raw) if recipe.compile and lesson.compilable else lesson.view or raw
    objective = lesson.objective(in_precision(runs, recipe.precision, where))

    source = batches(photos, recipe, colour=lesson.colour, start=state.step)
    clock = DataClock()
    raw.train()
    losses: list[dict[str, Tensor]] = []
    began, began_step = time.perf_counter(), state.step
    earlier = state.seconds
    while state.step < recipe.steps:
        lr = learning_rate(state.step, recipe)
        set_rate(optimizer, lr)
        lesson.begin(state.step)
        with clock.waiting():
            drawn = next(source)
        small, truth = (x.to(where, memory_format=torch.channels_last) for x in drawn)
        parts = objective(small, truth)
        loss = sum_of(parts)
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(trainable, recipe, lr=lr)
        optimizer.step()
        answers: Parts = {}
        if rival is not None and second is not None:
            set_rate(second, lr * (rival.lr / recipe.lr))
            answers = rival.objective()
            second.zero_grad()
            sum_of(answers).backward()
            second.step()
        state.step += 1
        update_average(average, raw, decay=min(recipe.ema, state.step / (state.step + 10)))
        losses.append({name: term.detach() for name, term in (parts | answers).items()})

        finished = state.step == recipe.steps
        stopping = stop()
        validate = finished or state.step % recipe.validate_every == 0
        if not (validate or stopping or state.step % 50 == 0):
            continue
        state.data_share = clock.share()
        elapsed = time.perf_counter() - began
        state.seconds = earlier + elapsed
        rate = (state.step - began_step) / elapsed
        terms = {name: float(torch.stack([p[name] for p in losses]).mean()) for name in losses[-1]}
        require_finite(terms, state.step, recipe)
        score = None
        if validate:
            score = lesson.score(average)
            if score.psnr_y > state.best or rival is not None:  # which lowers PSNR by design
                state.best = score.psnr_y
                lesson.save(out / "best.safetensors", average, score)
            lesson.save(out / "last.safetensors", average, score)
            clock.leave_out()
        report = Progress(
            step=state.step,
            steps=recipe.steps,
            loss=sum(terms[name] for name in parts),
            lr=lr,
            steps_per_second=rate,
            eta=(recipe.steps - state.step) / rate,
            score=score,
            best=state.best,
            data_share=state.data_share,
        )
        if score is not None:
            append_log(out / "log.csv", report, terms=terms, seconds=state.seconds)
        losses.clear()
        if finished or stopping or state.step % recipe.save_every == 0:
            save_state(out / "state.safetensors", kept, state)
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


def placed(module: nn.Module, where: torch.device) -> nn.Module:
    """On the device, in the order of memory that convolutions like."""
    module = module.to(where)
    if any(t.ndim == 5 for t in module.state_dict().values()):  # StyleGAN2 has such weights
        return module
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    decay = recipe.weight_decay or 0.0
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=MOMENTUM, weight_decay=decay, fused=True
        )
    betas = recipe.betas or (0.9, 0.99)
    return torch.optim.Adam(parameters, lr=recipe.lr, betas=betas, weight_decay=decay, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: list[nn.Parameter], recipe: Recipe, *, lr: float) -> None:
    """By the norm of all, and element by element to +-theta / rate, so that no step of plain
    gradient descent moves a weight by more than theta (Kim et al., "VDSR", CVPR 2016)."""
    if recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
    if recipe.clip_theta is not None:
        torch.nn.utils.clip_grad_value_(parameters, recipe.clip_theta / lr)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear rise over `warmup` steps, then what `schedule` says: one cosine down to `lr_end`."""
    length = recipe.steps
    if recipe.schedule == "restarts":
        length = recipe.cycle or recipe.steps
        step %= length
    if step < recipe.warmup:
        if recipe.warmup_from is None:
            return recipe.lr * (step + 1) / recipe.warmup
        return recipe.lr * (
            recipe.warmup_from + (1 - recipe.warmup_from) * (step + 1) / recipe.warmup
        )
    if recipe.schedule == "steps":
        passed = sum(step >= milestone for milestone in recipe.milestones or ())
        return max(recipe.lr_end, recipe.lr * (recipe.decay or 0.5) ** passed)
    done = (step - recipe.warmup) / max(1, length - recipe.warmup)
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
