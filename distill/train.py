"""The one training loop.

A run folder holds `recipe.toml`, `log.csv`, `last.safetensors` and `best.safetensors` (averaged
weights with their facts), `state.safetensors` (raw weights, optimiser, step) and `summary.json`.
Where a rival is trained along, the best weights are the last ones.
Stopped at any moment and resumed, a run on the CPU ends with the same bits as one left alone.
Several processes (`parallel`) are one training: each has its slice of every batch, and the first
alone writes the folder.
"""

from __future__ import annotations

import csv
import math
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from edgesr.distill.data import PhotoSet
from edgesr.distill.evaluate import Score
from edgesr.distill.feed import DataClock, batches
from edgesr.distill.folder import open_together
from edgesr.distill.lesson import Lesson, Parts, Run
from edgesr.distill.optimise import (
    clip_gradients,
    learning_rate,
    make_optimizer,
    set_rate,
    update_average,
)
from edgesr.distill.parallel import Team, require_slices, team
from edgesr.distill.recipe import Recipe
from edgesr.distill.state import Kept, State, load_state, save_state
from edgesr.errors import EdgesrError, UsageError

AHEAD_OF_GPU = 6  # batches in the making: a small network's step is shorter there than a batch's


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


class Journal(Protocol):
    """Who is told of every report, with the mean of each term since the last one."""

    def add(self, report: Progress, terms: Mapping[str, float], *, weights: Path) -> None:
        """weights: the averaged ones as a file, of this step where `report.score` is given."""


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
    open_journal: Callable[[int], Journal | None] = lambda step: None,
) -> State:
    """Train `lesson.model` on `photos`, judging it by `lesson.score`, in the run folder `out`.

    stop          asked after each step; True saves and returns early
    open_journal  called with the step at which the training begins

    Raises UsageError when `out` holds a run and `resume` is False, or another recipe; EdgesrError
    when a term of the loss is no number any more.
    """
    crew = team()
    require_slices(recipe.batch)
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
    open_together(out, recipe, photos, crew, resume=resume)
    if resume and (out / "state.safetensors").is_file():
        state = load_state(out / "state.safetensors", kept)
        if state.data not in ("", photos.digest):
            raise UsageError(f"{out} was trained on other photos: resume with the same --data")
    runs = compiled(raw, where) if recipe.compile and lesson.compilable else lesson.view or raw
    objective = lesson.objective(in_precision(runs, recipe.precision, where))

    journal = open_journal(state.step) if crew.first else None
    source = batches(
        photos,
        recipe,
        colour=lesson.colour,
        start=state.step,
        rank=crew.rank,
        size=crew.size,
        ahead=AHEAD_OF_GPU if where.type == "cuda" else 1,
        pinned=where.type == "cuda",
    )
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
        parts = objective(*(moved(x, where) for x in drawn))
        loss = sum_of(parts)
        optimizer.zero_grad()
        loss.backward()
        crew.average(gradients(trainable))
        clip_gradients(trainable, recipe, lr=lr)
        optimizer.step()
        answers: Parts = {}
        if rival is not None and second is not None:
            set_rate(second, lr * (rival.lr / recipe.lr))
            answers = rival.objective()
            second.zero_grad()
            sum_of(answers).backward()
            crew.average(gradients(rival.module.parameters()))
            second.step()
        state.step += 1
        update_average(average, raw, decay=min(recipe.ema, state.step / (state.step + 10)))
        losses.append({name: term.detach() for name, term in (parts | answers).items()})

        finished = state.step == recipe.steps
        stopping = crew.any(stop())
        validate = finished or state.step % recipe.validate_every == 0
        if not (validate or stopping or state.step % 50 == 0):
            continue
        state.data_share = clock.share()
        elapsed = time.perf_counter() - began
        state.seconds = earlier + elapsed
        rate = (state.step - began_step) / elapsed
        terms = mean_terms(losses, crew)
        require_finite(terms, state.step, recipe)
        score = None
        if validate:
            if crew.first:
                score = lesson.score(average)
                if score.psnr_y > state.best or rival is not None:  # which lowers PSNR by design
                    state.best = score.psnr_y
                    lesson.save(out / "best.safetensors", average, score)
                lesson.save(out / "last.safetensors", average, score)
            score, state.best = crew.given((score, state.best))
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
        losses.clear()
        if crew.first:
            if score is not None:
                append_log(out / "log.csv", report, terms=terms, seconds=state.seconds)
            if finished or stopping or state.step % recipe.save_every == 0:
                save_state(out / "state.safetensors", kept, state)
            if journal is not None:
                journal.add(report, terms, weights=out / "last.safetensors")
            if on_progress is not None:
                on_progress(report)
        if stopping:
            break
    crew.wait()  # for the files, which the next stage of any process may read
    return state


def moved(batch: Tensor, where: torch.device) -> Tensor:
    """Pictures in the order of memory that convolutions like; sequences have one axis more."""
    if batch.ndim != 4:
        return batch.to(where, non_blocking=True)
    return batch.to(where, memory_format=torch.channels_last, non_blocking=True)


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def mean_terms(losses: list[dict[str, Tensor]], crew: Team) -> dict[str, float]:
    """Each term's mean over these steps and all processes."""
    names = list(losses[-1])
    means = torch.stack([torch.stack([p[name] for p in losses]).mean() for name in names])
    crew.average([means])
    return dict(zip(names, means.tolist(), strict=True))


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
    """As torch names it; of several processes each has a CUDA device of its own."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{team().local_rank}" if device == "cuda" and team().size > 1 else device


def compiled(model: nn.Module, where: torch.device) -> nn.Module:
    """The same network through torch.compile: a step takes 0.75 of the time on a CPU.

    On a GPU small networks wait for launches: there they are replayed as CUDA graphs.
    """
    if where.type == "cuda":
        return torch.compile(model, mode="reduce-overhead")  # type: ignore[return-value]
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
