"""Training against a discriminator: the second stage of the same loop.

The lesson is the student's with one more term, and a rival that answers each of its steps. SRGAN,
ESRGAN, SPSR, Beby-GAN, Real-ESRGAN and GLEAN differ by what their recipes name. The stage before,
without discriminator, is the recipe's `psnr` table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgesr.distill.adversarial import ADVERSARIAL
from edgesr.distill.bebygan import flat_regions, for_discriminator
from edgesr.distill.evaluate import Pair
from edgesr.distill.gradients import framed_gradient_map
from edgesr.distill.lesson import Lesson, Parts, Rival, build_student, student_lesson
from edgesr.distill.recipe import Recipe, checked
from edgesr.distill.teachers import Teacher
from edgesr.distill.terms import Shown
from edgesr.errors import UsageError
from edgesr.networks.discriminators import DISCRIMINATORS
from edgesr.networks.stylegan2_discriminator import (
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
)

KINDS: dict[str, Callable[[], nn.Module]] = {
    **DISCRIMINATORS,
    "stylegan2": lambda: StyleGan2Discriminator(StyleGan2DiscriminatorConfig(in_size=256)),
}

GAN_WEIGHT = 5e-3

OF_SECOND_STAGE = (
    *("gan", "gan_weight", "gan_gradient", "discriminator", "discriminator_config"),
    *("discriminator_lr", "mask_flat", "only", "only_steps", "psnr"),
    *("perceptual", "perceptual_weight", "perceptual_random"),
    *("extra", "best_buddy", "back_projection", "supervise", "branch", "truth"),
    *("schedule", "milestones", "decay", "cycle", "warmup_from"),
    *("optimizer", "weight_decay", "clip_theta"),
)
"""Settings that the stage before, or a teacher, does not have unless its own table says so."""


def gan_lesson(
    recipe: Recipe,
    pairs: list[Pair],
    *,
    teachers: Sequence[Teacher] = (),
    start: Mapping[str, Tensor] | None = None,
    terms: str | None = None,
) -> Lesson:
    """As `student_lesson`, with the discriminator that the recipe names."""
    torch.manual_seed(recipe.seed + 1)
    views = {"picture": three_channels}
    weights = {"picture": GAN_WEIGHT if recipe.gan_weight is None else recipe.gan_weight}
    if recipe.gan_gradient:
        views["gradient"] = lambda picture: framed_gradient_map(three_channels(picture))
        weights["gradient"] = recipe.gan_gradient
    frames = {"picture": 0, "gradient": 2}
    judges = nn.ModuleDict({name: build_discriminator(recipe, frames[name]) for name in views})
    game = ADVERSARIAL[str(recipe.gan)]
    seen: dict[str, tuple[Tensor, Tensor]] = {}  # real and fake of the batch, as each judge sees it

    def generator_terms(shown: Shown) -> Parts:
        judges.requires_grad_(False)
        real, fake = shown.truth, shown.output
        if recipe.mask_flat:
            flat = flat_regions(shown.small, scale=recipe.scale)
            real, fake = for_discriminator(real, flat), for_discriminator(fake, flat)
        found: Parts = {}
        for name, view in views.items():
            with torch.no_grad():
                shown_real = view(real)
                logits = judges[name](shown_real) if game.needs_real else shown_real
            shown_fake = view(fake)
            seen[name] = shown_real, shown_fake.detach()
            term = game.generator(logits, judges[name](shown_fake))
            found[named("gan", name)] = weights[name] * term
        return found

    def rival_terms() -> Parts:
        judges.requires_grad_(True)
        found: Parts = {}
        for name, (real, fake) in seen.items():
            term = game.discriminator(judges[name](real), judges[name](fake))
            found[named("discriminator", name)] = term
        return found

    lesson = student_lesson(
        recipe, pairs, teachers=teachers, start=start, terms=terms, more=generator_terms
    )
    rival = Rival(module=judges, objective=rival_terms, lr=recipe.discriminator_lr or recipe.lr)
    return dataclasses.replace(lesson, rival=rival)


def named(term: str, judge: str) -> str:
    return term if judge == "picture" else f"{term}_{judge}"


def three_channels(picture: Tensor) -> Tensor:
    return picture.expand(-1, 3, -1, -1) if picture.shape[1] == 1 else picture


def build_discriminator(recipe: Recipe, frame: int = 0) -> nn.Module:
    """The named one, for crops of the recipe's size and `frame` more pixels. Raises UsageError."""
    name = recipe.discriminator
    if name not in KINDS:
        raise UsageError(
            f"recipe: gan = {recipe.gan!r} needs discriminator = one of {', '.join(KINDS)}, "
            f"not {name!r}"
        )
    with torch.device("meta"):
        example: Any = KINDS[str(name)]()
    given = recipe.discriminator_config or {}
    settings = dataclasses.asdict(example.config) | given
    unknown = [key for key in given if not hasattr(example.config, key)]
    if unknown:
        raise UsageError(
            f"recipe: discriminator_config.{unknown[0]}: {name} has no such setting; it has "
            f"{', '.join(dataclasses.asdict(example.config))}"
        )
    crop = recipe.patch * recipe.scale
    if name == "stylegan2":
        settings["in_size"] = crop
    elif settings.get("size", crop) != crop:
        raise UsageError(
            f"recipe: {name} is built for {settings['size']} pixels, crops have {crop} "
            f"(patch {recipe.patch} x scale {recipe.scale}): patch = "
            f"{settings['size'] // recipe.scale}, or discriminator_config = {{size = {crop}}}"
        )
    if "size" in settings:
        settings["size"] += frame
    return type(example)(type(example.config)(**settings))


def psnr_recipe(recipe: Recipe) -> Recipe:
    """The recipe of the stage before. Raises UsageError."""
    values = recipe.model_dump(exclude_none=True)
    plain = {name: value for name, value in values.items() if name not in OF_SECOND_STAGE}
    return checked(plain | (recipe.psnr or {}))


def fixed_pairs(pairs: list[Pair], recipe: Recipe) -> list[Pair]:
    """The middle of each pair, where the student takes one size only. Raises UsageError."""
    with torch.device("meta"):
        model: Any = build_student(recipe)
    size = getattr(model, "fixed_size", None)
    if size is None:
        return pairs
    (height, width), scale = size, recipe.scale
    found = []
    for pair in pairs:
        top, left = (pair.lr.shape[0] - height) // 2, (pair.lr.shape[1] - width) // 2
        if min(top, left) < 0:
            continue
        lr = pair.lr[top : top + height, left : left + width]
        hr = pair.hr[top * scale :, left * scale :][: height * scale, : width * scale]
        found.append(Pair(name=pair.name, lr=lr, hr=hr))
    if not found:
        raise UsageError(
            f"{recipe.student} takes pictures of {width}x{height}: no test picture has "
            f"{width * scale}x{height * scale} pixels"
        )
    return found
