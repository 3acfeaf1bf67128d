"""A whole training as one call: data, validation set, loop, export, summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesr.distill.cache import sources_of
from edgesr.distill.evaluate import bicubic_scores, load_pairs, mean_score
from edgesr.distill.feed import degraded_pairs, said_of
from edgesr.distill.gan import OF_SECOND_STAGE, fixed_pairs, gan_lesson, psnr_recipe
from edgesr.distill.intake import FRAMES
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
from edgesr.distill.room import (
    Room,
    check_device,
    cut_pairs,
    machine,
    named_kind,
    names_in,
    writing,
)
from edgesr.distill.strips import make_strips
from edgesr.distill.teachers import load_teacher, names_of, needs_training
from edgesr.distill.terms import named_terms, notes_of
from edgesr.distill.train import Progress, choose_device
from edgesr.errors import UsageError
from edgesr.export.onnx import export_onnx
from edgesr.models import shipped
from edgesr.networks import checkpoint, deployed, find

TEACHING = (
    *("teacher", "teacher_steps", "teacher_lr", "teacher_config"),
    *("truth", "response", "feature", "affinity", "vid", "imitation"),
)
"""Settings that only mean something beside a teacher."""

TEACHER_LR = 2e-4  # of RRDBNet's published training, and about that of the other large ones


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a finished training lies and what it reached on its validation set.

    plain_psnr_y    of the same student without a teacher at equal steps, where that was asked for
    data_share      of the time of the steps, spent waiting for batches
    """

    out: Path
    steps: int
    minutes: float
    psnr_y: float
    bicubic_psnr_y: float
    validation: str
    plain_psnr_y: float | None = None
    data_share: float = 0.0


def distill(
    recipe: Recipe,
    *,
    data: Path | Sequence[Path],
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
    """Train a student on photos and footage, leave a run folder with `model.onnx` in it.

    init     checkpoint to start from; None: what `recipe.init` names, if anything
    data     folders and files, see `sources`
    val      folder of test pictures (pairs, or HR alone); None: some photos of `data`, and some
             seconds of its clips, are held out
    compare  train the student without its teacher too, to say what the teacher was worth
    device   "auto", "cpu" or "cuda"
    terms    licence of the photos, recorded in the model's facts

    A teacher without weights is trained first, in a folder of its own inside `out`; one that is
    finished there is taken as it is. Raises UsageError for what cannot be meant, Interrupted when
    `stop` said so: `resume` goes on.
    """
    check_device(device)
    check_student(recipe)
    names = names_of(recipe.teacher)
    if compare and not names:
        raise UsageError("--compare: there is no teacher to compare with")
    if compare and recipe.gan:
        raise UsageError("--compare: not with a discriminator, which changes what is compared")
    named = str(init) if init is not None else recipe.init
    start = starting_tensors(named) if named else None
    data = (data,) if isinstance(data, Path) else tuple(data)
    pairs = load_pairs(val, scale=recipe.scale) if val else []
    sources = sources_of(data, scale=recipe.scale)
    what = val.name if val is not None else ""
    if val is None:
        pairs = cut_pairs(sources, recipe)
        what = f"{len(pairs)} held-out {named_kind(sources)}"
    what += said_of(recipe)
    room = Room(
        data=data,
        sampling=FRAMES if val is not None else replace(FRAMES, part="train"),
        pairs=degraded_pairs(fixed_pairs(pairs, recipe), recipe),
        device=device,
        terms=terms,
        on_decode=on_decode,
        on_progress=on_progress,
        on_note=on_note or (lambda note: None),
        stop=stop,
    )
    with writing(out):
        return learn_all(
            recipe, room, names, out=out, start=start, resume=resume, compare=compare, what=what
        )


def learn_all(
    recipe: Recipe,
    room: Room,
    names: list[str],
    *,
    out: Path,
    start: dict[str, Tensor] | None,
    resume: bool,
    compare: bool,
    what: str,
) -> Result:
    """The trainings of one run, the export and the report. what: the validation set's name."""
    lesson = prepare(recipe, room, names, out=out, start=start)
    state = room.learn(recipe, lesson, out, resume=resume)
    model, spec = checkpoint.load(out / "best.safetensors")
    export_onnx(model, spec, out / "model.onnx")
    plain = None
    if compare:
        alone = recipe.model_copy(update=dict.fromkeys(TEACHING))
        room.on_note("the same student without a teacher, at equal steps")
        lesson = student_lesson(alone, room.pairs, start=start, terms=room.terms)
        plain = room.learn(alone, lesson, out / "plain", resume=True).best
    result = Result(
        out=out,
        steps=state.step,
        minutes=state.seconds / 60,
        psnr_y=state.best,
        bicubic_psnr_y=mean_score(bicubic_scores(room.pairs, scale=recipe.scale)).psnr_y,
        validation=what,
        plain_psnr_y=plain,
        data_share=state.data_share,
    )
    conclude(recipe, room, result)
    return result


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
    named_terms(recipe)  # says which weights are missing, before anything is trained
    for note in notes_of(recipe):
        room.on_note(note)
    if recipe.psnr is not None and start is None:
        before, folder = psnr_recipe(recipe), out / "psnr"
        room.on_note(f"the stage without discriminator is trained first, in {folder}")
        room.learn(before, student_lesson(before, room.pairs), folder, resume=True)
        start = starting_tensors(str(folder / "best.safetensors"))
    if "pisr" in names:
        if len(names) > 1:
            raise UsageError(f"--teacher {recipe.teacher}: pisr teaches alone")
        if recipe.gan or recipe.supervise:
            raise UsageError("--teacher pisr: not with the settings gan or supervise")
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
            reached = room.learn(own, student_lesson(own, room.pairs), folder, resume=True).best
            room.on_note(teacher_note(name, reached, room, scale=recipe.scale))
            name = str(folder / "best.safetensors")
        teachers.append(load_teacher(name, scale=recipe.scale, device=where))
    lesson = student_lesson if recipe.gan is None else gan_lesson
    return lesson(recipe, room.pairs, teachers=teachers, start=start, terms=room.terms)


def teacher_note(name: str, reached: float, room: Room, *, scale: int) -> str:
    """What a teacher that was trained here can do; one below bicubic misleads its student."""
    bicubic = mean_score(bicubic_scores(room.pairs, scale=scale)).psnr_y
    note = f"{name} reaches {reached:.2f} dB, bicubic {bicubic:.2f}"
    if reached > bicubic:
        return note
    return f"warning: {note}: it has nothing to teach yet; give it more with --set teacher_steps=N"


def of_teacher(recipe: Recipe, name: str) -> Recipe:
    """The student's recipe turned into that of a teacher's own training."""
    changes = dict.fromkeys((*TEACHING, *OF_SECOND_STAGE)) | {
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
    line = f"{len(photos)} pictures from {names_in(room.data)}, digest {photos.digest[:16]}"
    facts = environment(machine(room.device))
    strips = make_strips(
        room.pairs,
        {"student": planes if spec.colour == "rgb" else lambda luma: planes(luma[None])[0]},
        scale=scale,
        colour=spec.colour,
    )
    write_report(
        out, rows=rows, strips=strips, environment=facts, data=line, notes=notes_of(recipe)
    )
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
        "data_share": result.data_share,
        "notes": notes_of(recipe),
        "machine": machine(room.device),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
