"""Batches of a recipe as the loop takes them: drawn, degraded, in the student's colour.

Batch k is a pure function of (seed, k); while one is learnt from, the next are made in threads.

bicubic  the small picture as it lies in the cache (`data.draw_batch`)
video    one of its compressed versions, or it itself (`cache.Coding`)
blind    Real-ESRGAN's chain over HR crops (`realesrgan`), `GROUP` samples to a draw. Their pool of
         earlier pairs would make a batch depend on those before; small groups mix as well.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesr.distill.chain import RealEsrganSettings
from edgesr.distill.codec import degrade_video
from edgesr.distill.colours import as_colour, stretched
from edgesr.distill.data import Colour, PhotoSet, draw_batch
from edgesr.distill.pictures import Pair, three_channels
from edgesr.distill.realesrgan import training_pair
from edgesr.distill.recipe import Recipe

Array = np.ndarray[Any, Any]

CLEAN = 0.2  # share of a recipe that does not say `clean`
MARGIN = 4  # LR pixels around a blind crop that pass the chain with it
GROUP = 4
VALIDATION_CRFS = (20, 27, 34)  # of x264: good, usual and poor streams


@dataclass(frozen=True, kw_only=True)
class OwnPairs(PhotoSet):
    """Pictures that make their batches themselves: sequences of frames, several scales."""

    def own_batch(self, recipe: Recipe, *, step: int, rank: int, size: int) -> tuple[Tensor, ...]:
        """As `make_batch`."""
        raise NotImplementedError


def batches(
    photos: PhotoSet,
    recipe: Recipe,
    *,
    colour: Colour,
    start: int = 0,
    rank: int = 0,
    size: int = 1,
    ahead: int = 1,
    pinned: bool = False,
) -> Iterator[tuple[Tensor, ...]]:
    """Small and large crops from batch number `start` on, float32 in 0..1, contiguous.

    Beside them what the teachers have answered, where `photos` have answers; see `make_batch`.

    ahead   batches that are made while one is learnt from, each in a thread
    pinned  in memory that a CUDA device reads by itself
    """

    def make(step: int) -> tuple[Tensor, ...]:
        batch = make_batch(photos, recipe, step=step, colour=colour, rank=rank, size=size)
        return tuple(x.pin_memory() for x in batch) if pinned else batch

    with ThreadPoolExecutor(ahead) as pool:
        steps = iter(range(start, recipe.steps))
        coming = deque(pool.submit(make, step) for step in islice(steps, ahead))
        while coming:
            ready = coming.popleft().result()
            coming.extend(pool.submit(make, step) for step in islice(steps, 1))
            yield ready


class DataClock:
    """How much of the steps' time goes by in waiting for data."""

    def __init__(self) -> None:
        self._waited = self._worked = 0.0
        self._since = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def share(self) -> float:
        """So far, in 0..1."""
        now = time.perf_counter()
        self._worked += now - self._since
        self._since = now
        return round(self._waited / max(self._worked, 1e-9), 4)

    def leave_out(self) -> None:
        """What has gone by since `share` was asked was no step."""
        self._since = time.perf_counter()


def make_batch(
    photos: PhotoSet,
    recipe: Recipe,
    *,
    step: int,
    colour: Colour,
    rank: int = 0,
    size: int = 1,
) -> tuple[Tensor, ...]:
    """Batch number `step`: (N, C, patch, patch) and `scale` times that, and the teachers' answers.

    Of `size` processes number `rank` gets the samples rank, rank + size, ... of that batch.
    """
    if isinstance(photos, OwnPairs):
        return photos.own_batch(recipe, step=step, rank=rank, size=size)
    blind = recipe.degradation == "blind"
    crops = [
        torch.from_numpy(crops)
        for crops in draw_batch(
            photos,
            seed=recipe.seed,
            step=step,
            batch=recipe.batch,
            patch=patch_of(recipe),
            detail=recipe.detail,
            redraw=recipe.redraw,
            full_range=recipe.full_range,
            clean=CLEAN if recipe.clean is None else recipe.clean,
            samples=slice(None) if blind else slice(rank, None, size),
        )
    ]
    if blind:  # samples of a group depend on those before them: all are made, and some are taken
        rng = np.random.default_rng([recipe.seed, step, 1])
        crops[:2] = blind_crops(crops[1], recipe, rng)
        if photos.colour != colour:
            crops = [stretched(as_colour(x, colour), recipe.full_range) for x in crops]
        crops = [x[rank::size].contiguous() for x in crops]
    return tuple(crops)


def patch_of(recipe: Recipe) -> int:
    """LR pixels that are cut from a photo for one sample."""
    return recipe.patch + (2 * MARGIN if recipe.degradation == "blind" else 0)


def colour_of(recipe: Recipe, colour: Colour) -> Colour:
    """In which the photos are needed for a student of that colour: the chain works on RGB."""
    return "rgb" if recipe.degradation == "blind" else colour


def blind_crops(large: Tensor, recipe: Recipe, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """HR (N, 3, s (patch + 2 MARGIN), ...) -> LR and HR crops of `patch`, at drawn places.

    LR is made from the sharpened HR, as published; the HR that is returned is not sharpened.
    """
    scale, patch = recipe.scale, recipe.patch
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    small_crops, large_crops = [], []
    for group in large.split(GROUP):
        small, _, _ = training_pair(
            group, scale=scale, settings=RealEsrganSettings(), generator=generator
        )
        top, left = (int(n) for n in rng.integers(2 * MARGIN + 1, size=2))
        small_crops.append(small[:, :, top : top + patch, left : left + patch])
        rows, columns = (slice(n * scale, (n + patch) * scale) for n in (top, left))
        large_crops.append(group[:, :, rows, columns])
    return torch.cat(small_crops), torch.cat(large_crops)


def degraded_pairs(pairs: list[Pair], recipe: Recipe) -> list[Pair]:
    """Validation pictures with the small ones as the recipe's inputs are; the same every time.

    video  each at `VALIDATION_CRFS`, as one frame of a stream that stands still
    blind  one draw of the chain each
    """
    if recipe.degradation == "video":
        return [
            Pair(name=f"{pair.name}-crf{crf}", lr=through_x264(pair.lr, crf), hr=pair.hr)
            for pair in pairs
            for crf in VALIDATION_CRFS
        ]
    if recipe.degradation == "blind":
        return [
            Pair(name=pair.name, lr=through_chain(pair, recipe.scale, seed=seed), hr=pair.hr)
            for seed, pair in enumerate(pairs)
        ]
    return pairs


def said_of(recipe: Recipe) -> str:
    """What `degraded_pairs` does, to stand behind the name of a validation set."""
    if recipe.degradation == "video":
        return f", each through x264 at CRF {', '.join(map(str, VALIDATION_CRFS))}"
    return ", through Real-ESRGAN's chain" if recipe.degradation == "blind" else ""


def through_x264(picture: Array, crf: int) -> Array:
    still = np.repeat(picture[None], 3, axis=0)
    return degrade_video(still, codec="libx264", crf=crf, preset="medium")[1]


def through_chain(pair: Pair, scale: int, *, seed: int) -> Array:
    large = torch.from_numpy(three_channels(pair.hr).copy()).permute(2, 0, 1)[None].float() / 255
    generator = torch.Generator().manual_seed(seed)
    small, _, _ = training_pair(
        large, scale=scale, settings=RealEsrganSettings(), generator=generator
    )
    return (small[0] * 255).round().byte().permute(1, 2, 0).numpy()
