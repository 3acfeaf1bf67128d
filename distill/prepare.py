"""What is ready before a student learns: its lesson, and teachers that were trained first."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from edgesr.distill.evaluate import bicubic_scores, mean_score
from edgesr.distill.gan import OF_SECOND_STAGE, gan_lesson, psnr_recipe
from edgesr.distill.lesson import Lesson, student_lesson
from edgesr.distill.privileged import load_privileged, privileged_lesson, teacher_lesson
from edgesr.distill.recipe import Recipe
from edgesr.distill.room import Room
from edgesr.distill.teachers import load_teacher, needs_training
from edgesr.distill.terms import named_terms, notes_of
from edgesr.distill.train import choose_device
from edgesr.errors import UsageError
from edgesr.models import shipped
from edgesr.networks import checkpoint

TEACHING = (
    *("teacher", "teacher_steps", "teacher_lr", "teacher_config", "cache_teacher"),
    *("truth", "response", "feature", "affinity", "vid", "imitation"),
)
"""Settings that only mean something beside a teacher."""

TEACHER_LR = 2e-4  # of RRDBNet's published training, and about that of the other large ones
TEACHER_SOAP_LR = 3e-3  # a small RRDB is at 32.6 dB after 160 steps so, with Adam's 1e-3 at 26.1


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
            | {
                "imitation": recipe.imitation,
                "steps": recipe.teacher_steps or recipe.steps,
                "lr": recipe.teacher_lr or recipe.lr,
            }
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
        "lr": recipe.teacher_lr or (TEACHER_SOAP_LR if recipe.optimizer == "soap" else TEACHER_LR),
        "loss": "l1",
    }
    return recipe.model_copy(update=changes)


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
