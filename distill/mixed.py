"""Several scales in one training, for networks with one set of weights for all of them.

VDSR (Kim et al., CVPR 2016) sees the enlarged picture, so every sample of a batch has a scale of
its own; DRCN and SRCNN can do the same. MS-LapSRN (Lai et al., TPAMI 2018) starts from the small
one: there the batches take turns. Judged by the mean over the scales; at the end the weights are
written for each, those of the recipe's as `best.safetensors` and `model.onnx`, others with -x3, ...
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields as fields_of
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesr.distill.cache import sources_of
from edgesr.distill.conclude import Result, write_summary
from edgesr.distill.evaluate import Pair, bicubic_scores, load_pairs, mean_score
from edgesr.distill.lesson import (
    Lesson,
    Objective,
    Run,
    build_student,
    planes_function,
    score_dict,
    score_student,
    student_lesson,
)
from edgesr.distill.parallel import team
from edgesr.distill.prepare import starting_tensors
from edgesr.distill.recipe import Recipe
from edgesr.distill.report import Row, environment, write_report
from edgesr.distill.room import Room, cut_pairs, machine, named_kind, names_in, writing
from edgesr.distill.scaleset import ScaleRoom, scales_of
from edgesr.distill.scores import Score
from edgesr.distill.strips import make_strips
from edgesr.distill.terms import Supervised
from edgesr.errors import UsageError
from edgesr.export.onnx import export_onnx
from edgesr.networks import build, checkpoint, deployed
from edgesr.networks.blocks import BicubicUpscale
from edgesr.networks.lapsrn import count_levels, fitting

Array = np.ndarray[Any, Any]
Pairs = Mapping[int, list[Pair]]

ALONE = ("teacher", "gan", "back_projection", "perceptual", "feature", "affinity", "usm")


def distill_scales(
    recipe: Recipe, room: Room, *, out: Path, val: Path | None, init: Path | None, resume: bool
) -> Result:
    """`run.distill` for a recipe with `scales`; room: without its pictures."""
    enlarged = check_scales(recipe)
    named = str(init) if init is not None else recipe.init
    start = starting_tensors(named) if named else None
    pairs: dict[int, list[Pair]] = {}
    for scale in scales_of(recipe):
        sources = sources_of(room.data, scale=scale)
        if val is not None:
            pairs[scale] = load_pairs(val, scale=scale)
        else:
            pairs[scale] = cut_pairs(sources, recipe.model_copy(update={"scale": scale}))
    what = val.name if val is not None else f"{len(pairs[recipe.scale])} held-out "
    what += "" if val is not None else named_kind(sources)
    room = replace(room, pairs=pairs[recipe.scale])
    base = {item.name: getattr(room, item.name) for item in fields_of(Room)}
    photos = ScaleRoom(**base, enlarged=enlarged)
    with writing(out):
        lesson = scales_lesson(recipe, pairs, enlarged=enlarged, start=start, terms=room.terms)
        state = photos.learn(recipe, lesson, out, resume=resume)
        rows = final_rows(recipe, pairs, out, what)
        scores = rows[0].scores
        result = Result(
            out=out,
            steps=state.step,
            minutes=state.seconds / 60,
            psnr_y=scores["student"].psnr_y,
            bicubic_psnr_y=scores["bicubic"].psnr_y,
            validation=what,
            data_share=state.data_share,
        )
        if team().first:
            write_scales(recipe, out)
            conclude(recipe, photos, result, rows)
    return result


def check_scales(recipe: Recipe) -> bool:
    """Whether the network starts from an enlarged picture. Raises UsageError."""
    scales = scales_of(recipe)
    if recipe.scale not in scales or len(scales) < 2:
        raise UsageError(
            f"recipe: scales = {list(recipe.scales or ())}: two or more, and the scale "
            f"{recipe.scale} of the recipe among them"
        )
    for name in ALONE:
        if getattr(recipe, name):
            raise UsageError(f"recipe: {name}: not with scales, which trains several at once")
    if recipe.degradation not in (None, "bicubic"):
        raise UsageError("recipe: scales goes with degradation = 'bicubic'")
    with torch.device("meta"):
        models: list[Any] = [build(recipe.student, scale) for scale in scales]
    shapes = [{name: t.shape for name, t in model.state_dict().items()} for model in models]
    enlarged = isinstance(getattr(models[0], "upscale", None), BicubicUpscale)
    pyramid = hasattr(models[0], "levels") and hasattr(models[0], "count")
    if not (enlarged or pyramid) or any(shape != shapes[0] for shape in shapes):
        raise UsageError(
            f"recipe: scales: {recipe.student} has other weights for each scale; vdsr, drcn, srcnn "
            "and mslapsrn have one set for all"
        )
    return enlarged


def scales_lesson(
    recipe: Recipe,
    pairs: Pairs,
    *,
    enlarged: bool,
    start: Mapping[str, Tensor] | None = None,
    terms: str | None = None,
) -> Lesson:
    """The student's lesson on batches of a ScaleSet, judged by the mean over the scales."""
    lesson = student_lesson(recipe, [], start=start, terms=terms)
    model: Any = lesson.model
    plain = lesson.objective
    view, objective = lesson.view, plain
    if enlarged:
        direct = without_upscale(model)
        view = Supervised(direct, recipe.supervise) if recipe.supervise else direct
    else:
        objective = in_turn(model, plain)
    found: dict[int, Score] = {}

    def score(weights: dict[str, Tensor]) -> Score:
        for scale, own in pairs.items():
            found[scale] = score_student(at_scale(recipe, scale), weights, own)
        return mean_score(list(found.values()))

    def save(path: Path, weights: dict[str, Tensor], mean: Score) -> None:
        lesson.save(path, weights, found.get(recipe.scale, mean))

    return replace(lesson, view=view, objective=objective, score=score, save=save, compilable=False)


def without_upscale(model: nn.Module) -> nn.Module:
    """A view of the network, on the same parameters, that is given the enlarged picture."""
    view = copy.copy(model)
    view._modules = {**model._modules, "upscale": nn.Identity()}
    return view


def in_turn(model: Any, plain: Callable[[Run], Objective]) -> Callable[[Run], Objective]:
    """The objective of a pyramid: as many levels as a batch needs."""

    def objective(run: Run) -> Objective:
        parts = plain(run)

        def of_batch(small: Tensor, truth: Tensor) -> dict[str, Tensor]:
            scale = truth.shape[-1] // small.shape[-1]
            model.count, model.fit = count_levels(scale), fitting(scale).to(small.device)
            return parts(small, truth)

        return of_batch

    return objective


def at_scale(recipe: Recipe, scale: int) -> Recipe:
    config = None if recipe.config is None else {**recipe.config, "scale": scale}
    return recipe.model_copy(update={"scale": scale, "config": config})


def final_rows(recipe: Recipe, pairs: Pairs, out: Path, what: str) -> list[Row]:
    """A row for each scale, that of the recipe first."""
    weights = dict(checkpoint.load(out / "best.safetensors")[0].state_dict())
    rows = []
    for scale in sorted(pairs, key=lambda scale: scale != recipe.scale):
        scores = {
            "bicubic": mean_score(bicubic_scores(pairs[scale], scale=scale)),
            "student": score_student(at_scale(recipe, scale), weights, pairs[scale]),
        }
        rows.append(Row(name=f"{what}, x{scale}", pictures=len(pairs[scale]), scores=scores))
    return rows


def write_scales(recipe: Recipe, out: Path) -> None:
    """Checkpoint and deployable of every scale from the best weights."""
    best, spec = checkpoint.load(out / "best.safetensors")
    export_onnx(best, spec, out / "model.onnx")
    for scale in scales_of(recipe):
        if scale == recipe.scale:
            continue
        model = build_student(at_scale(recipe, scale))
        model.load_state_dict(best.state_dict())
        facts = checkpoint.spec_of(recipe.student, deployed(model), recipe=recipe.digest())
        facts = facts.replace(terms=spec.terms)
        checkpoint.save(
            out / f"best-x{scale}.safetensors", model.state_dict(), spec=facts, model=model
        )
        export_onnx(model, facts, out / f"model-x{scale}.onnx")


def conclude(recipe: Recipe, room: Room, result: Result, rows: Sequence[Row]) -> None:
    """Write `summary.json` and `report.html`."""
    out = result.out
    photos = room.photos(recipe, "y")
    planes = planes_function(deployed(checkpoint.load(out / "best.safetensors")[0]))
    students = {"student": lambda luma: planes(luma[None])[0]}
    line = f"{len(photos)} pictures from {names_in(room.data)}, digest {photos.digest[:16]}"
    strips = make_strips(room.pairs, students, scale=recipe.scale)
    facts = environment(machine(room.device))
    write_report(out, rows=rows, strips=strips, environment=facts, data=line)
    summary: dict[str, Any] = {
        "pictures": len(photos),
        "validation": result.validation,
        "psnr_y": round(result.psnr_y, 4),
        "bicubic_psnr_y": round(result.bicubic_psnr_y, 4),
        "scales": {
            row.name.rpartition("x")[2]: {n: score_dict(s) for n, s in row.scores.items()}
            for row in rows
        },
    }
    write_summary(out, recipe, result, digest=photos.digest, device=room.device, more=summary)
