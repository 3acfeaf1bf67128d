"""Photos at several scales, and batches of them for one training (`mixed`)."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesr.distill.cache import load_photos
from edgesr.distill.data import (
    Colour,
    PhotoSet,
    draw_place,
    large_crops,
    to_full_range,
    turn,
)
from edgesr.distill.feed import OwnPairs, make_batch
from edgesr.distill.losses import resize_matrix
from edgesr.distill.recipe import Recipe
from edgesr.distill.room import Room

Array = np.ndarray[Any, Any]


EDGE = 3  # LR pixels around a crop that is enlarged: the kernel reaches 2


@dataclass(frozen=True, kw_only=True)
class ScaleSet(OwnPairs):
    """Photos at several scales; itself it is the set of the recipe's scale.

    enlarged  samples are of mixed scales, the small picture in the size of the truth; else batch k
              is of one scale, in turn
    """

    sets: tuple[PhotoSet, ...] = ()
    enlarged: bool = True

    def own_batch(self, recipe: Recipe, *, step: int, rank: int, size: int) -> tuple[Tensor, ...]:
        if not self.enlarged:
            photos = self.sets[step % len(self.sets)]
            return make_batch(photos, recipe, step=step, colour="y", rank=rank, size=size)
        rng = np.random.default_rng([recipe.seed, step])
        drawn = [self.draw(recipe, rng) for _ in range(recipe.batch)][rank::size]
        large, truth = (np.stack(crops)[:, None] for crops in zip(*drawn, strict=True))
        return torch.from_numpy(large), torch.from_numpy(truth)

    def draw(self, recipe: Recipe, rng: np.random.Generator) -> tuple[Array, Array]:
        """One sample of a drawn scale: enlarged (P, P) and truth (P, P) luma in 0..1."""
        photos = self.sets[int(rng.integers(len(self.sets)))]
        scale, side = photos.scale, recipe.patch * recipe.scale
        patch = small_patch(recipe, scale)
        place, small = draw_place(
            photos, rng, patch=patch, detail=recipe.detail, redraw=recipe.redraw, clean=0.0
        )
        truth = large_crops(photos, place, patch=patch)[0]
        grow = resize_matrix(patch, patch * scale)
        large = grow @ small @ grow.T
        last = (patch - EDGE) * scale - side
        top, left = (int(rng.integers(EDGE * scale, last + 1)) for _ in range(2))
        crops = [x[top : top + side, left : left + side] for x in (large, truth)]
        if rng.random() < recipe.full_range:
            crops = [to_full_range(crop) for crop in crops]
        flips = int(rng.integers(8))
        large, truth = (np.ascontiguousarray(turn(crop, flips)) for crop in crops)
        return large, truth


def small_patch(recipe: Recipe, scale: int) -> int:
    """LR pixels that a crop of `patch` * `recipe.scale` large pixels needs, with its edges."""
    return -(-recipe.patch * recipe.scale // scale) + 2 * EDGE


@dataclass(frozen=True, kw_only=True)
class ScaleRoom(Room):
    """A room with the photos at several scales."""

    enlarged: bool = True

    def photos(self, recipe: Recipe, colour: Colour) -> ScaleSet:
        sets = {
            scale: load_photos(
                self.data,
                scale=scale,
                copies=recipe.copies,
                patch=small_patch(recipe, scale) if self.enlarged else recipe.patch,
                sampling=self.sampling,
                progress=self.on_decode,
                on_warning=self.warn,
            )
            for scale in scales_of(recipe)
        }
        main = sets[recipe.scale]
        base = {item.name: getattr(main, item.name) for item in fields_of(PhotoSet)}
        return ScaleSet(**base, sets=tuple(sets.values()), enlarged=self.enlarged)


def scales_of(recipe: Recipe) -> tuple[int, ...]:
    return tuple(sorted(set(recipe.scales or ())))
