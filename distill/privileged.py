"""PISR's two lessons (Lee et al., ECCV 2020): a teacher that sees the truth, then its student.

Step 1 trains an encoder, which squeezes the large picture into the size of the small one, together
with a decoder, which is the student's own network. Step 2 starts the student from the decoder and
lets it predict what goes into the decoder's last layer: where it is and how uncertain that is.
With student `fsrcnn-pisr` this is the published method to the layer; with any other network of
pictures it is the same idea (last layer = the one that makes the picture).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgesr.distill.evaluate import Pair, Score, mean_score, score
from edgesr.distill.features import last_layer, tap_input
from edgesr.distill.lesson import (
    Lesson,
    Objective,
    Parts,
    Run,
    build_student,
    example,
    planes_function,
    student_lesson,
)
from edgesr.distill.losses import LOSSES
from edgesr.distill.recipe import Recipe
from edgesr.distill.teaching import imitation, variational
from edgesr.errors import ModelError
from edgesr.files import replacing
from edgesr.metrics import rgb_to_y
from edgesr.networks.pisr import encoder, head

IMITATION, VARIATIONAL = 1e-4, 1e-6
"""Published weights of the two steps."""


class Privileged(nn.Module):
    """The LARGE picture (N, C, sH, sW) in 0..1 -> it again, and what it was squeezed to.

    That compact feature is (N, C, H, W).
    """

    decoder: Any

    def __init__(self, decoder: Any, *, scale: int, channels: int) -> None:
        super().__init__()
        self.encoder = encoder(scale, channels=channels)
        self.decoder = decoder

    def forward(self, large: Tensor) -> tuple[Tensor, Tensor]:
        compact = self.encoder(large)
        return self.decoder(compact), compact


class Estimators(nn.Module):
    """Location and Laplace scale of the teacher's feature, from the student's: two 1x1 each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expanding_mean = head(channels, channels)
        self.expanding_var = head(channels, channels)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        scale = 0.1 * F.softplus(self.expanding_var(feature)) + 1e-8
        return self.expanding_mean(feature), scale


def build_privileged(recipe: Recipe) -> Privileged:
    decoder: Any = build_student(recipe)
    channels = 1 if decoder.colour == "y" else 3
    return Privileged(decoder, scale=recipe.scale, channels=channels)


def teacher_lesson(recipe: Recipe, pairs: list[Pair]) -> Lesson:
    """Step 1: L1 to the large picture, and a little of the compact feature to the small one."""
    torch.manual_seed(recipe.seed)
    model = build_privileged(recipe)
    colour = model.decoder.colour
    weight = IMITATION if recipe.imitation is None else recipe.imitation

    def objective(run: Run) -> Objective:
        def parts(small: Tensor, truth: Tensor) -> Parts:
            output, compact = run(truth)
            return {
                "truth": LOSSES[recipe.loss](output.float(), truth),
                "imitation": weight * imitation(compact.float(), small),
            }

        return parts

    def judge(weights: dict[str, Tensor]) -> Score:
        judged = build_privileged(recipe)
        judged.load_state_dict(weights)
        return score_privileged(judged.eval(), pairs, scale=recipe.scale)

    def save(path: Path, weights: dict[str, Tensor], _: Score) -> None:
        facts = {"student": recipe.student, "scale": recipe.scale, "config": recipe.config}
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}
        with replacing(path) as part:
            save_file(tensors, part, metadata={"privileged": json.dumps(facts)})

    return Lesson(model=model, objective=objective, colour=colour, score=judge, save=save)


def score_privileged(model: Privileged, pairs: list[Pair], *, scale: int) -> Score:
    """Of the decoder's picture when the encoder sees the truth: no figure of super-resolution."""
    planes = planes_function(nn.Sequential(model, First()))
    scores = []
    for pair in pairs:
        if model.decoder.colour == "y":
            large = (rgb_to_y(pair.hr) / 255.0).astype(np.float32)[None]
            luma = np.round(np.clip(planes(large)[0] * 255.0, 0, 255))
        else:
            rgb = pair.hr if pair.hr.ndim == 3 else np.dstack([pair.hr] * 3)
            big = planes(np.moveaxis(rgb, 2, 0).astype(np.float32) / 255.0)
            luma = rgb_to_y(
                np.round(np.clip(np.moveaxis(big, 0, 2) * 255, 0, 255)).astype(np.uint8)
            )
        scores.append(score(pair, luma, scale=scale))
    return mean_score(scores)


class First(nn.Module):
    def forward(self, outputs: tuple[Tensor, ...]) -> Tensor:
        return outputs[0]


def load_privileged(path: Path, recipe: Recipe) -> Privileged:
    """A finished teacher. Raises ModelError when its decoder is another network."""
    model = build_privileged(recipe)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{path} does not fit a privileged {recipe.student}: {reason}") from error
    return model.eval().requires_grad_(False)


def privileged_lesson(
    recipe: Recipe,
    pairs: list[Pair],
    *,
    teacher: Privileged,
    device: torch.device,
    start: Mapping[str, Tensor] | None = None,
    terms: str | None = None,
) -> Lesson:
    """Step 2: L1 to the truth, and the variational loss on what enters the last layer."""
    lesson = student_lesson(recipe, pairs, start=start or teacher.decoder.state_dict(), terms=terms)
    student: Any = lesson.model
    name, channels = last_layer(student, example(student.colour))
    ours, theirs = tap_input(student, name), tap_input(teacher.decoder, name)
    heads = Estimators(channels)
    weight = VARIATIONAL if recipe.vid is None else recipe.vid
    teacher.to(device)
    plain = lesson.objective

    def objective(run: Run) -> Objective:
        against_truth = plain(run)

        def parts(small: Tensor, truth: Tensor) -> Parts:
            with torch.no_grad():
                teacher(truth)
            found = against_truth(small, truth)
            location, scale = heads(ours[0].float())
            return found | {"vid": weight * variational(location, scale, theirs[0].float())}

        return parts

    return Lesson(
        model=student,
        objective=objective,
        colour=lesson.colour,
        score=lesson.score,
        save=lesson.save,
        helpers=heads,
        compilable=False,
    )
