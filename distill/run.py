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
from edgesr.distill.data import Colour, PhotoSet, find_photos, load_photos, read_rgb
from edgesr.distill.evaluate import Pair, bicubic_scores, load_pairs, mean_score
from edgesr.distill.lesson import (
    Lesson,
    build_student,
    planes_function,
    score_network,
    student_lesson,
)
from edgesr.distill.privileged import load_privileged, privileged_lesson, teacher_lesson
from edgesr.distill.recipe import Recipe
from edgesr.distill.report import Row, environment, write_report
from edgesr.distill.strips import make_strips
from edgesr.distill.teachers import load_teacher, names_of, needs_training
from edgesr.distill.train import Progress, State, choose_device, train
from edgesr.errors import Interrupted, UsageError
from edgesr.export.onnx import export_onnx
from edgesr.models import shipped
from edgesr.networks import checkpoint, deployed, find

TEACHING = (
    *("teacher", "teacher_steps", "teacher_lr", "teacher_config"),
    *("truth", "response", "feature", "affinity", "vid", "imitation"),
)
"""Settings that only mean something beside a teacher."""

TEACHER_LR = 2e-4  # of RRDBNet's published training, and about that of the other large ones

HELD_OUT = 8
HELD_OUT_SIZE = 480


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a finished training lies and what it reached on its validation set.

    plain_psnr_y    of the same student without a teacher at equal steps, where that was asked for
    """

    out: Path
    steps: int
    minutes: float
    psnr_y: float
    bicubic_psnr_y: float
    validation: str
    plain_psnr_y: float | None = None


def distill(
    recipe: Recipe,
    *,
    data: Path,
    out: Path,
    val: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    compare: bool = False,
    device: str = "auto",
    terms: str | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train a student on a folder of photos and leave a run folder with `model.onnx` in it.

    init     checkpoint to start from; None: what `recipe.init` names, if anything
    val      folder of test pictures (pairs, or HR alone); None: some photos of `data` are held out
    compare  train the student without its teacher too, to say what the teacher was worth
    device   "auto", "cpu" or "cuda"
    terms    licence of the photos, recorded in the model's facts

    A teacher without weights is trained first, in a folder of its own inside `out`; one that is
    finished there is taken as it is. Raises UsageError for what cannot be meant, Interrupted when
    `stop` said so: `resume` goes on.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device!r}: auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    check_student(recipe)
    names = names_of(recipe.teacher)
    if compare and not names:
        raise UsageError("--compare: there is no teacher to compare with")
    named = str(init) if init is not None else recipe.init
    start = starting_tensors(named) if named else None
    held_out = [] if val is not None else choose_held_out(data)
    room = Room(
        data=data,
        held_out=tuple(held_out),
        pairs=load_pairs(val, scale=recipe.scale) if val else cut_pairs(held_out, recipe),
        device=device,
        terms=terms,
        on_decode=on_decode,
        on_progress=on_progress,
        on_note=on_note or (lambda note: None),
        stop=stop,
    )
    lesson = prepare(recipe, room, names, out=out, start=start)
    state = room.learn(recipe, lesson, out, resume=resume)
    model, spec = checkpoint.load(out / "best.safetensors")
    export_onnx(model, spec, out / "model.onnx")
    plain = None
    if compare:
        alone = recipe.model_copy(update=dict.fromkeys(TEACHING))
        room.on_note("the same student without a teacher, at equal steps")
        lesson = student_lesson(alone, room.pairs, start=start, terms=terms)
        plain = room.learn(alone, lesson, out / "plain", resume=True).best
    result = Result(
        out=out,
        steps=state.step,
        minutes=state.seconds / 60,
        psnr_y=state.best,
        bicubic_psnr_y=mean_score(bicubic_scores(room.pairs, scale=recipe.scale)).psnr_y,
        validation=str(val.name) if val is not None else f"{len(room.pairs)} held-out photos",
        plain_psnr_y=plain,
    )
    conclude(recipe, room, result)
    return result


@dataclass(frozen=True, kw_only=True)
class Room:
    """What all trainings of one run share: pictures, device, and who is told."""

    data: Path
    held_out: tuple[Path, ...]
    pairs: list[Pair]
    device: str
    terms: str | None
    on_decode: Callable[[int, int], None] | None
    on_progress: Callable[[Progress], None] | None
    on_note: Callable[[str], None]
    stop: Callable[[], bool]

    def photos(self, recipe: Recipe, colour: Colour) -> PhotoSet:
        return load_photos(
            self.data,
            scale=recipe.scale,
            copies=recipe.copies,
            patch=recipe.patch,
            colour=colour,
            leave_out=self.held_out,
            progress=self.on_decode,
        )

    def learn(self, recipe: Recipe, lesson: Lesson, out: Path, *, resume: bool) -> State:
        """Train to the end. Raises Interrupted when stopped before."""
        state = train(
            recipe,
            self.photos(recipe, lesson.colour),
            lesson,
            out=out,
            resume=resume,
            device=self.device,
            on_progress=self.on_progress,
            stop=self.stop,
        )
        if state.step < recipe.steps:
            raise Interrupted(
                f"stopped at step {state.step} of {recipe.steps}, saved in {out}: "
                "the same command with --resume goes on"
            )
        return state


def prepare(
    recipe: Recipe,
    room: Room,
    names: list[str],
    *,
    out: Path,
    start: dict[str, Tensor] | None,
) -> Lesson:
    """The student's lesson, its teachers trained first where they have no weights."""
    where = torch.device(choose_device(room.device))
    if "pisr" in names:
        if len(names) > 1:
            raise UsageError(f"--teacher {recipe.teacher}: pisr teaches alone")
        first = recipe.model_copy(
            update=dict.fromkeys(TEACHING)
            | {"imitation": recipe.imitation, "steps": recipe.teacher_steps or recipe.steps}
        )
        folder = out / "teacher-pisr"
        room.on_note(f"step 1: the privileged teacher of {recipe.student}, in {folder}")
        room.learn(first, teacher_lesson(first, room.pairs), folder, resume=True)
        room.on_note(f"step 2: {recipe.student}, started from the teacher's decoder")
        teacher = load_privileged(folder / "last.safetensors", recipe)  # the last, as published
        return privileged_lesson(
            recipe, room.pairs, teacher=teacher, device=where, start=start, terms=room.terms
        )
    teachers = []
    for name in names:
        if needs_training(name, scale=recipe.scale):
            folder = out / f"teacher-{name}"
            own = of_teacher(recipe, name)
            room.on_note(f"{name} has no weights: it is trained first, in {folder}")
            room.learn(own, student_lesson(own, room.pairs), folder, resume=True)
            name = str(folder / "best.safetensors")
        teachers.append(load_teacher(name, scale=recipe.scale, device=where))
    return student_lesson(recipe, room.pairs, teachers=teachers, start=start, terms=room.terms)


def of_teacher(recipe: Recipe, name: str) -> Recipe:
    """The student's recipe turned into that of a teacher's own training."""
    changes = dict.fromkeys(TEACHING) | {
        "student": name,
        "config": recipe.teacher_config,
        "init": None,
        "steps": recipe.teacher_steps or recipe.steps,
        "lr": recipe.teacher_lr or TEACHER_LR,
        "loss": "l1",
    }
    return recipe.model_copy(update=changes)


def check_student(recipe: Recipe) -> None:
    builder = find(recipe.student)
    if builder.kind != "picture":
        raise UsageError(
            f"{recipe.student} is a {builder.kind} network: distill trains networks of single "
            "pictures so far; `edgesr models --json` tells the kind of each"
        )
    build_student(recipe)  # says what does not fit


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


def conclude(recipe: Recipe, room: Room, result: Result) -> None:
    """Write `summary.json` and `report.html`."""
    out, scale = result.out, recipe.scale
    model, spec = checkpoint.load(out / "best.safetensors")
    planes = planes_function(deployed(model))
    scores = {"bicubic": mean_score(bicubic_scores(room.pairs, scale=scale))}
    if result.plain_psnr_y is not None:
        plain, _ = checkpoint.load(out / "plain" / "best.safetensors")
        scores["without teacher"] = score_network(
            deployed(plain), spec.colour, room.pairs, scale=scale
        )
    scores["student"] = score_network(deployed(model), spec.colour, room.pairs, scale=scale)
    rows = [Row(name=result.validation, pictures=len(room.pairs), scores=scores)]
    photos = room.photos(recipe, spec.colour)
    line = f"{len(photos)} pictures from {room.data.name}, digest {photos.digest[:16]}"
    facts = environment(machine(room.device))
    strips = make_strips(
        room.pairs,
        {"student": planes if spec.colour == "rgb" else lambda luma: planes(luma[None])[0]},
        scale=scale,
        colour=spec.colour,
    )
    write_report(out, rows=rows, strips=strips, environment=facts, data=line)
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
        "plain_psnr_y": None if result.plain_psnr_y is None else round(result.plain_psnr_y, 4),
        "bicubic_psnr_y": round(result.bicubic_psnr_y, 4),
        "machine": machine(room.device),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


def machine(device: str) -> str:
    """What trained: processor or GPU, threads, torch version."""
    if device != "cpu" and torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        plural = "" if threads == 1 else "s"
        where = f"{platform.machine()} CPU, {os.cpu_count()} cores, {threads} thread{plural}"
    return f"{where}, torch {torch.__version__}"
