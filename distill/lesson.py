"""A lesson: what one training trains, by which terms, and how it is judged and kept.

student_lesson   a student against the truth, alone or beside teachers that see what it sees
privileged.py    PISR's two lessons, whose teacher sees the truth
gan.py           the student's lesson with a rival
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgesr.distill.colours import as_colour, stretched
from edgesr.distill.data import Colour
from edgesr.distill.evaluate import Pair, Score, evaluate, evaluate_rgb, mean_score
from edgesr.distill.features import feature_points, tap_outputs
from edgesr.distill.parallel import own_share
from edgesr.distill.recipe import Recipe
from edgesr.distill.teachers import Teacher
from edgesr.distill.teaching import FeatureAdapters, affinity_loss, feature_loss, response
from edgesr.distill.terms import (
    Clock,
    Shown,
    Supervised,
    distance_to_truth,
    named_terms,
    sharpened,
    split,
)
from edgesr.errors import ModelError, UsageError
from edgesr.networks import build, build_as, checkpoint, deployed

Array = np.ndarray[Any, Any]

Parts = dict[str, Tensor]
"""Terms of the loss by name, with their weights on them; their sum is brought down."""

Run = Callable[[Tensor], Any]
"""A forward pass in the training's precision."""

Objective = Callable[..., Parts]
"""Of one batch (small, truth) in the lesson's colour, float32 in 0..1; the answers of the lesson's
teachers follow where they are kept on disk."""


@dataclass(frozen=True, kw_only=True)
class Rival:
    """The second player: discriminators, with an Adam of their own, that move after the student.

    objective  terms of their own loss on the batch that the student has just been judged on
    lr         rate where the student's is `recipe.lr`; both follow one schedule
    """

    module: nn.Module
    objective: Callable[[], Parts]
    lr: float


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """model       what is kept
    view        what runs in the model's place while training, on the same parameters
    objective   made for what runs the model
    colour      in which batches are drawn
    score       mean score of averaged weights, a state_dict of `model`, in their deployed form
    save        write averaged weights and their score as a file
    helpers     trained along and thrown away: adapters, estimator heads
    compilable  whether the compiled model may run
    rival       trained along, and kept in the state only
    begin       told the number of every step before it, 0 first
    teachers    whose answers to whole pictures will do, in the colour of `model`
    """

    model: nn.Module
    objective: Callable[[Run], Objective]
    colour: Colour
    score: Callable[[dict[str, Tensor]], Score]
    save: Callable[[Path, dict[str, Tensor], Score], None]
    helpers: nn.Module = field(default_factory=nn.Module)
    compilable: bool = True
    view: nn.Module | None = None
    rival: Rival | None = None
    begin: Callable[[int], None] = lambda step: None
    teachers: Sequence[Teacher] = ()


def student_lesson(
    recipe: Recipe,
    pairs: list[Pair],
    *,
    teachers: Sequence[Teacher] = (),
    start: Mapping[str, Tensor] | None = None,
    terms: str | None = None,
    more: Callable[[Shown], Parts] | None = None,
) -> Lesson:
    """start: tensors to begin with, see `take_fitting`; terms: licence, kept with the weights.

    more: further terms of the same output
    """
    torch.manual_seed(recipe.seed)
    model: Any = build_student(recipe)
    require_fixed_size(recipe, model)
    if start:
        take_fitting(model, start)
    colour: Colour = model.colour
    in_colour = colour == "rgb" or any(teacher.colour == "rgb" for teacher in teachers)
    # The data stretches luma to full range by itself; RGB batches are stretched here.
    stretch = in_colour and colour == "y"
    share = own_share(recipe.full_range, recipe.batch) if stretch else 0.0

    def seen(picture: Tensor) -> Tensor:
        picture = as_colour(picture, colour)
        return stretched(picture, share) if share else picture

    bf16 = recipe.precision == "bf16"
    helpers, compare = features_of(recipe, model, teachers)
    view = Supervised(model, recipe.supervise) if recipe.supervise else None
    clock = Clock(model, recipe)
    distance, beside = distance_to_truth(recipe, clock.share), named_terms(recipe)
    weights = {
        "truth": 1.0 if recipe.truth is None else recipe.truth,
        "response": 1.0 if recipe.response is None else recipe.response,
    }

    def objective(run: Run) -> Objective:
        def parts(small: Tensor, truth: Tensor, *kept: Tensor) -> Parts:
            with torch.autocast(small.device.type, torch.bfloat16, enabled=bf16):
                answers = [stretched(x, share) if share else x for x in kept] or [
                    answer_of(teacher, small, colour, share) for teacher in teachers
                ]
            low, high = seen(small), seen(truth)
            output, way = split(run(low))
            shown = Shown(small=low, truth=sharpened(recipe, high), output=output, way=way)
            found = {"truth": weights["truth"] * distance(shown)}
            found |= {name: weight * term(shown) for name, (weight, term) in beside.items()}
            if more is not None:
                found |= more(dataclasses.replace(shown, truth=high))
            if answers and weights["response"]:
                distances = [response(as_luma_like(output, answer), answer) for answer in answers]
                found["response"] = weights["response"] * torch.stack(distances).mean()
            return found | compare()

        return parts

    spec = checkpoint.spec_of(recipe.student, deployed(model), recipe=recipe.digest())
    spec = spec.replace(terms=terms)

    def save(path: Path, weights: dict[str, Tensor], score: Score) -> None:
        facts = spec.replace(metrics={"validation": score_dict(score)})
        checkpoint.save(path, weights, spec=facts, model=model)

    return Lesson(
        model=model,
        objective=objective,
        colour="rgb" if in_colour else "y",
        score=lambda weights: score_student(recipe, weights, pairs),
        save=save,
        helpers=helpers,
        compilable=not list(helpers.children()) and not recipe.affinity and view is None,
        view=view,
        begin=clock.begin,
        teachers=teachers,
    )


def require_fixed_size(recipe: Recipe, model: Any) -> None:
    size = getattr(model, "fixed_size", None)
    if size is not None and size != (recipe.patch, recipe.patch):
        raise UsageError(
            f"recipe: {recipe.student} takes pictures of {size[1]}x{size[0]} only: "
            f"patch = {size[0]}, or another config.in_size"
        )


def answer_of(teacher: Teacher, small: Tensor, colour: Colour, share: float) -> Tensor:
    answer = teacher.answer(small, colour)
    return stretched(answer, share) if share else answer


def as_luma_like(output: Tensor, answer: Tensor) -> Tensor:
    """An RGB output beside the answer of a teacher that knows luma only: its luma."""
    return as_colour(output, "y") if answer.shape[1] == 1 else output


def features_of(
    recipe: Recipe, model: Any, teachers: Sequence[Teacher]
) -> tuple[nn.Module, Callable[[], Parts]]:
    """Adapters to train along, and the terms between the features of the last forward passes."""
    if not (recipe.feature or recipe.affinity):
        return nn.Module(), dict
    modules = [teacher for teacher in teachers if teacher.module is not None]
    if not modules:
        raise UsageError("recipe: feature and affinity need a teacher that is no .onnx file")
    ours = feature_points(model, example(model.colour))
    mine = tap_outputs(model, list(ours))
    taps, adapters = [], []
    for teacher in modules:
        assert teacher.module is not None
        theirs = feature_points(teacher.module, example(teacher.colour, teacher.module))
        taps.append(tap_outputs(teacher.module, list(theirs)))
        channels = list(zip(ours.values(), theirs.values(), strict=False))
        adapters.append(FeatureAdapters(channels))
    helpers = nn.ModuleList(adapters) if recipe.feature else nn.Module()

    def compare() -> Parts:
        found: Parts = {}
        both = [
            (list(zip(mine, tap, strict=False)), a) for tap, a in zip(taps, adapters, strict=True)
        ]
        for pairs, adapter in both:
            a, b = [s.float() for s, _ in pairs], [t.float() for _, t in pairs]
            if recipe.feature:
                term = recipe.feature / len(modules) * feature_loss(a, b, adapters=adapter)
                found["feature"] = found["feature"] + term if "feature" in found else term
            if recipe.affinity:
                term = recipe.affinity / len(modules) * affinity_loss(a, b)
                found["affinity"] = found["affinity"] + term if "affinity" in found else term
        return found

    return helpers, compare


def example(colour: Colour, model: nn.Module | None = None) -> Tensor:
    """A picture to look inside a network with, where its parameters are."""
    device = next(model.parameters()).device if model is not None else torch.device("cpu")
    return torch.zeros(1, 1 if colour == "y" else 3, 32, 40, device=device)


def build_student(recipe: Recipe) -> nn.Module:
    """The named network, `recipe.config` in place of its own settings. Raises UsageError."""
    if not recipe.config:
        return build(recipe.student, recipe.scale)
    with torch.device("meta"):  # for its settings only: a full RRDB takes half a second
        model: Any = build(recipe.student, recipe.scale)
    settings = dataclasses.asdict(model.config)
    unknown = [key for key in recipe.config if key not in settings]
    if unknown:
        raise UsageError(
            f"recipe: config.{unknown[0]}: {recipe.student} has no such setting; it has "
            f"{', '.join(settings)}"
        )
    return build_as(recipe.student, settings | recipe.config)


def take_fitting(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Copy every tensor whose name and shape fit; the names of those that did not."""
    own = model.state_dict()
    fitting = {n: t for n, t in tensors.items() if n in own and own[n].shape == t.shape}
    if not fitting:
        raise ModelError("init: no tensor of that checkpoint fits this network")
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


def score_student(recipe: Recipe, weights: dict[str, Tensor], pairs: list[Pair]) -> Score:
    model: Any = build_student(recipe)
    model.load_state_dict(weights)
    return score_network(deployed(model), model.colour, pairs, scale=recipe.scale)


def score_network(model: nn.Module, colour: Colour, pairs: list[Pair], *, scale: int) -> Score:
    """By the published protocol, on the CPU in float32."""
    planes = planes_function(model)
    if colour == "rgb":
        return mean_score(evaluate_rgb(planes, pairs, scale=scale))
    return mean_score(evaluate(lambda luma: planes(luma[None])[0], pairs, scale=scale))


def planes_function(model: nn.Module) -> Callable[[Array], Array]:
    """A network as a function (C, H, W) -> (C, sH, sW) of float32 planes in 0..1.

    Sizes that the network does not take are padded, as they are when it runs on a device.
    """
    multiple, least = getattr(model, "multiple", 1), getattr(model, "min_size", 1)

    @torch.no_grad()
    def upscale(planes: Array) -> Array:
        height, width = planes.shape[1:]
        below, right = (-(-max(n, least) // multiple) * multiple - n for n in (height, width))
        padded = np.pad(planes, ((0, 0), (0, below), (0, right)), mode="reflect")
        picture = torch.from_numpy(np.ascontiguousarray(padded))[None]
        large = model(picture.to(memory_format=torch.channels_last))[0].numpy()
        scale = large.shape[1] // padded.shape[1]
        return large[:, : height * scale, : width * scale]

    return upscale


def score_dict(score: Score) -> dict[str, float]:
    return {"psnr_y": round(score.psnr_y, 4), "ssim_y": round(score.ssim_y, 5)}
