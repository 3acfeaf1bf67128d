"""Terms of the loss that a recipe names beside the plain distance to the truth, and the view of a
network that is supervised on its way to the picture.

The perceptual term needs a VGG file of the user's own; a random one (`perceptual_random`) is for
trials, and `notes_of` says so wherever the result is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgesr.distill.bebygan import back_projection, best_buddy
from edgesr.distill.gradients import branch_loss
from edgesr.distill.kernels import usm_sharpen
from edgesr.distill.losses import LOSSES, Loss, level_truths, multi_level, recursive
from edgesr.distill.perceptual import PERCEPTUAL, load_vgg, perceptual, random_vgg
from edgesr.distill.recipe import Recipe
from edgesr.errors import UsageError

BRANCH = 0.5


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One batch as losses see it, float32 in 0..1; output and truth (N, C, sH, sW).

    way  what came out on the way to the output: pictures of levels or recursions, a gradient map
    """

    small: Tensor
    truth: Tensor
    output: Tensor
    way: Sequence[Tensor] = ()


class Clock:
    """How far a training has come, and what is trained in its first `only_steps` steps."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.step = 0
        self.recipe = recipe
        self.later: list[nn.Parameter] = []
        if recipe.only_steps is None or recipe.only is None:
            return
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.later = [p for n, p in named if recipe.only not in n]
        if len(self.later) == len(named):
            raise UsageError(f"recipe: only = {recipe.only!r}: no parameter has that in its name")

    def begin(self, step: int) -> None:
        self.step = step
        for parameter in self.later:
            parameter.requires_grad_(step >= (self.recipe.only_steps or 0))

    def share(self) -> float:
        """0 at the first step, 1 at the last."""
        return self.step / max(1, self.recipe.steps - 1)


Term = Callable[[Shown], Tensor]


class Supervised(nn.Module):
    """(N, C, H, W) -> the picture and what came on the way; the parameters are the network's."""

    def __init__(self, model: Any, kind: str) -> None:
        super().__init__()
        method = {"levels": "levels", "recursions": "predictions", "gradient": "with_gradient"}
        if not hasattr(model, method[kind]) or (kind == "recursions" and not weighted(model)):
            raise UsageError(f"recipe: supervise = {kind!r}: {type(model).__name__} has no {kind}")
        self.model = model
        self.kind = kind

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.kind == "gradient":
            picture, gradient = self.model.with_gradient(x)
            return picture, [gradient]
        if self.kind == "levels":
            levels = self.model.levels(x)
            return self.model.fit(levels[-1]), levels
        predictions = self.model.predictions(x)
        weights = self.model.weights.view(1, -1, 1, 1)
        return (torch.cat(predictions, dim=1) * weights).sum(dim=1, keepdim=True), predictions


def weighted(model: Any) -> bool:
    return isinstance(getattr(model, "weights", None), Tensor)


def split(answer: Any) -> tuple[Tensor, list[Tensor]]:
    """What a network or its view gave, in float32."""
    if isinstance(answer, Tensor):
        return answer.float(), []
    picture, way = answer
    return picture.float(), [tensor.float() for tensor in way]


def distance_to_truth(recipe: Recipe, share: Callable[[], float]) -> Term:
    """share: how far the training has come, 0..1."""
    loss: Loss = LOSSES[recipe.loss]

    def levels(shown: Shown) -> Tensor:
        return multi_level(shown.way, level_truths(shown.truth, shown.way), loss=loss)

    def recursions(shown: Shown) -> Tensor:
        return recursive(shown.way, shown.output, shown.truth, alpha=1 - share())

    if recipe.supervise == "recursions" and recipe.loss != "mse":
        raise UsageError(
            f"recipe: supervise = 'recursions' goes with loss = 'mse', not {recipe.loss!r}"
        )
    if recipe.supervise == "recursions":
        return recursions
    return levels if recipe.supervise == "levels" else lambda x: loss(x.output, x.truth)


def named_terms(recipe: Recipe) -> dict[str, tuple[float, Term]]:
    """Weight and term by name, whatever the recipe has beside `loss`. Raises UsageError where it
    names a loss that is not there, ModelError where VGG's weights are missing."""
    terms: dict[str, tuple[float, Term]] = {}
    for name, weight in (recipe.extra or {}).items():
        if name not in LOSSES:
            raise UsageError(f"recipe: extra.{name}: no such loss; known are {', '.join(LOSSES)}")
        terms[name] = weight, of_picture(LOSSES[name])
    if recipe.supervise == "gradient":
        weight = BRANCH if recipe.branch is None else recipe.branch
        terms["branch"] = weight, lambda x: branch_loss(x.way[0], x.truth)
    if recipe.best_buddy:
        terms["best_buddy"] = recipe.best_buddy, of_picture(best_buddy)
    if recipe.back_projection:
        scale = recipe.scale
        terms["back_projection"] = (
            recipe.back_projection,
            lambda x: back_projection(x.output, x.small, scale=scale),
        )
    if recipe.perceptual is not None:
        weight = 1.0 if recipe.perceptual_weight is None else recipe.perceptual_weight
        terms["perceptual"] = weight, perceptual_term(recipe)
    return terms


def of_picture(loss: Loss) -> Term:
    return lambda shown: loss(shown.output, shown.truth)


def perceptual_term(recipe: Recipe) -> Term:
    setting = PERCEPTUAL[str(recipe.perceptual)]
    if recipe.perceptual_random is None:
        vgg = load_vgg(depth=setting.depth)
    else:
        vgg = random_vgg(depth=setting.depth, width=recipe.perceptual_random)

    def term(shown: Shown) -> Tensor:
        if vgg.mean.device != shown.output.device:
            vgg.to(shown.output.device)
        return perceptual(shown.output, shown.truth, vgg=vgg, setting=setting)

    return term


def sharpened(recipe: Recipe, truth: Tensor) -> Tensor:
    return usm_sharpen(truth) if recipe.usm else truth


def notes_of(recipe: Recipe) -> list[str]:
    """What has to be said wherever the result of such a training is told."""
    notes = []
    if recipe.perceptual is not None and recipe.perceptual_random is not None:
        notes.append(
            "The perceptual loss had a VGG of random weights: a trial of the training, "
            "no picture quality to judge by."
        )
    if recipe.student.startswith("glean") and recipe.init is None:
        notes.append(
            "GLEAN's latent bank had random weights: a trial of the training, "
            "no picture quality to judge by."
        )
    if recipe.gan is not None:
        notes.append("Trained against a discriminator: the last weights are kept, not the best.")
    return notes
