"""Training of a student that keeps state from frame to frame, on short sequences out of footage.

Each frame is compared with its truth, and the change from frame to frame with the truth's change:
the temporal coherence loss of video matting (Lin et al., "Robust High-Resolution Video Matting with
Temporal Guidance", WACV 2022), as L1; `edgesr.metrics.flicker` is its measure. Gradients go back
through all frames of a sequence. Judged as it is deployed: held-out seconds frame by frame, with
state, PSNR-Y and SSIM-Y of every frame and the flicker between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesr.distill.cache import Coding, sources_of
from edgesr.distill.conclude import Result, write_summary
from edgesr.distill.data import Colour
from edgesr.distill.feed import said_of
from edgesr.distill.lesson import Lesson, Objective, Parts, Run, build_student, take_fitting
from edgesr.distill.losses import LOSSES
from edgesr.distill.parallel import team
from edgesr.distill.prepare import starting_tensors
from edgesr.distill.recipe import Recipe
from edgesr.distill.report import Row, environment, write_report
from edgesr.distill.room import VERSIONS, Room, machine, names_in, writing
from edgesr.distill.scores import Score, mean_score
from edgesr.distill.sequences import SequenceSet, frames_in, load_sequences
from edgesr.distill.shots import Shot, bicubic_shot, figures, score_shots, shots_of, strips_of
from edgesr.distill.sources import Source
from edgesr.distill.teachers import Teacher, load_teacher, names_of, needs_training
from edgesr.distill.teaching import response
from edgesr.distill.train import choose_device
from edgesr.errors import UsageError
from edgesr.export.onnx import export_onnx
from edgesr.networks import NETWORKS, checkpoint, deployed, find

Array = np.ndarray[Any, Any]

HELD_OUT_SPANS = 3  # of each clip
FOR_PICTURES = (
    *("gan", "supervise", "feature", "affinity", "vid", "imitation", "perceptual", "best_buddy"),
    *("back_projection", "usm", "psnr", "only", "scales", "cache_teacher"),
)
"""Settings that a temporal student has no use for."""


@dataclass(frozen=True, kw_only=True)
class SequenceRoom(Room):
    """A room whose pictures are sequences."""

    sources: tuple[Source, ...] = ()

    def photos(self, recipe: Recipe, colour: Colour) -> SequenceSet:
        video = recipe.degradation == "video"
        return load_sequences(
            self.sources,
            recipe,
            part="train",
            coding=Coding(versions=recipe.versions or VERSIONS) if video else None,
            progress=self.on_decode,
            on_warning=self.warn,
        )


def has_state(student: str) -> bool:
    """Whether it is a network that streams frames with a state."""
    builder = find(student)
    if builder.kind != "video":
        return False
    with torch.device("meta"):
        return bool(getattr(builder.make(builder.scales[0]), "state_shapes", ()))


def distill_sequences(
    recipe: Recipe, room: Room, *, out: Path, init: Path | None, resume: bool
) -> Result:
    """`run.distill` for a student with state; room: without its pictures."""
    check_temporal(recipe)
    where = torch.device(choose_device(room.device))
    teachers = load_teachers(recipe, where)
    named = str(init) if init is not None else recipe.init
    start = starting_tensors(named) if named else None
    sources = tuple(sources_of(room.data, scale=recipe.scale))
    require_clips(sources)
    held_out = team().in_turn(
        lambda: load_sequences(
            sources,
            recipe,
            part="held-out",
            most=HELD_OUT_SPANS,
            progress=room.on_decode,
            on_warning=room.warn,
        )
    )
    shots = list(shots_of(held_out, recipe))
    sequences = SequenceRoom(
        **{name: getattr(room, name) for name in Room.__dataclass_fields__}, sources=sources
    )
    with writing(out):
        lesson = temporal_lesson(recipe, shots, teachers=teachers, start=start, terms=room.terms)
        state = sequences.learn(recipe, lesson, out, resume=resume)
        if team().first:
            model, spec = checkpoint.load(out / "best.safetensors")
            export_onnx(model, spec, out / "model.onnx")
        bicubic = mean_score([bicubic_shot(shot, scale=recipe.scale) for shot in shots])
        count = sum(len(shot.lr) for shot in shots)
        result = Result(
            out=out,
            steps=state.step,
            minutes=state.seconds / 60,
            psnr_y=state.best,
            bicubic_psnr_y=bicubic.psnr_y,
            validation=f"{count} held-out frames in {len(shots)} shots{said_of(recipe)}",
            data_share=state.data_share,
        )
        if team().first:
            conclude(recipe, sequences, result, shots, bicubic)
    return result


def check_temporal(recipe: Recipe) -> None:
    if not has_state(recipe.student):
        streaming = ", ".join(name for name in NETWORKS if has_state(name))
        raise UsageError(
            f"{recipe.student} is a {find(recipe.student).kind} network that waits for later "
            f"frames, or sees the truth: distill trains networks of pictures and {streaming}"
        )
    for name in FOR_PICTURES:
        if getattr(recipe, name):
            raise UsageError(f"recipe: {name}: not for {recipe.student}, which keeps state")
    build_student(recipe)


def require_clips(sources: Sequence[Source]) -> None:
    for source in sources:
        if source.kind not in ("video", "frames"):
            raise UsageError(
                f"--data {source.path}: {source.kind} have no frames before and after: a student "
                "with state learns from clips, or folders of numbered frames"
            )


def load_teachers(recipe: Recipe, where: torch.device) -> list[Teacher]:
    """Picture teachers, which answer frame by frame. Raises UsageError."""
    teachers = []
    for name in names_of(recipe.teacher):
        if name == "pisr" or needs_training(name, scale=recipe.scale):
            raise UsageError(
                f"--teacher {name}: a student with state learns from finished networks of luma "
                "pictures: give a checkpoint, an .onnx file or a shipped model"
            )
        teacher = load_teacher(name, scale=recipe.scale, device=where)
        if teacher.colour != "y":
            raise UsageError(f"--teacher {name}: it sees RGB, footage is learnt as luma")
        teachers.append(teacher)
    return teachers


def temporal_lesson(
    recipe: Recipe,
    shots: Sequence[Shot],
    *,
    teachers: Sequence[Teacher] = (),
    start: dict[str, Tensor] | None = None,
    terms: str | None = None,
) -> Lesson:
    """Batches are (N, T, h, w) and (N, T, sh, sw) of luma: `sequences.SequenceSet`."""
    torch.manual_seed(recipe.seed)
    model: Any = build_student(recipe)
    if start:
        take_fitting(model, start)
    loss = LOSSES[recipe.loss]
    extra = {name: (weight, LOSSES.get(name)) for name, weight in (recipe.extra or {}).items()}
    for name, (_, term) in extra.items():
        if term is None:
            raise UsageError(f"recipe: extra.{name}: no such loss; known are {', '.join(LOSSES)}")
    weight = 1.0 if recipe.truth is None else recipe.truth
    heard = 1.0 if recipe.response is None else recipe.response

    def objective(run: Run) -> Objective:
        def parts(small: Tensor, truth: Tensor) -> Parts:
            clip = small.contiguous()[:, :, None]  # (N, T, 1, h, w)
            output = run(clip).float()[:, :, 0]  # (N, T, sh, sw)
            flat, flat_truth = as_pictures(output), as_pictures(truth)
            found = {"truth": weight * loss(flat, flat_truth)}
            if recipe.temporal:
                found["temporal"] = recipe.temporal * coherence(output, truth)
            for name, (share, term) in extra.items():
                assert term is not None
                found[name] = share * term(flat, flat_truth)
            if teachers and heard:
                frames = as_pictures(small)
                answers = [teacher.answer(frames, "y") for teacher in teachers]
                far = torch.stack([response(flat, answer) for answer in answers]).mean()
                found["response"] = heard * far
            return found

        return parts

    spec = checkpoint.spec_of(recipe.student, deployed(model), recipe=recipe.digest())
    spec = spec.replace(terms=terms)

    def score(weights: dict[str, Tensor]) -> Score:
        student: Any = build_student(recipe)
        student.load_state_dict(weights)
        return score_shots(deployed(student), shots, scale=recipe.scale)

    def save(path: Path, weights: dict[str, Tensor], score: Score) -> None:
        facts = spec.replace(metrics={"validation": figures(score)})
        checkpoint.save(path, weights, spec=facts, model=model)

    return Lesson(
        model=model, objective=objective, colour="y", score=score, save=save, compilable=False
    )


def as_pictures(frames: Tensor) -> Tensor:
    """(N, T, h, w) -> (N T, 1, h, w)."""
    return frames.contiguous().view(-1, 1, *frames.shape[2:])


def coherence(output: Tensor, truth: Tensor) -> Tensor:
    """Mean |change of the output - change of the truth| from frame to frame, (N, T, H, W)."""
    return (output.diff(dim=1) - truth.diff(dim=1)).abs().mean()


def conclude(
    recipe: Recipe, room: Room, result: Result, shots: Sequence[Shot], bicubic: Score
) -> None:
    """Write `summary.json` and `report.html`."""
    out = result.out
    model = deployed(checkpoint.load(out / "best.safetensors")[0])
    ours = score_shots(model, shots, scale=recipe.scale)
    sequences = room.photos(recipe, "y")
    assert isinstance(sequences, SequenceSet)
    line = (
        f"{sum(sequences.lengths)} frames in {len(sequences)} spans from {names_in(room.data)}, "
        f"digest {sequences.digest[:16]}"
    )
    row = Row(
        name=result.validation, pictures=len(shots), scores={"bicubic": bicubic, "student": ours}
    )
    facts, strips = environment(machine(room.device)), strips_of(shots, model, scale=recipe.scale)
    write_report(out, rows=[row], strips=strips, environment=facts, data=line)
    summary: dict[str, Any] = {
        "spans": len(sequences),
        "frames": sum(sequences.lengths),
        "frames_in_sequence": frames_in(recipe),
        "validation": result.validation,
        **figures(ours),
        **{f"bicubic_{name}": value for name, value in figures(bicubic).items()},
    }
    write_summary(out, recipe, result, digest=sequences.digest, device=room.device, more=summary)
