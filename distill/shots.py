"""Held-out seconds of footage, and what a student with state scores on them frame by frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from edgesr.bicubic import imresize
from edgesr.distill.chain import RealEsrganSettings
from edgesr.distill.codec import degrade_video
from edgesr.distill.feed import VALIDATION_CRFS
from edgesr.distill.realesrgan import degrade, draw_chain, for_frames, sharpen
from edgesr.distill.recipe import Recipe
from edgesr.distill.room import HELD_OUT_SIZE
from edgesr.distill.scores import MOST_DB, Score, clip_score, mean_score
from edgesr.distill.sequences import SequenceSet
from edgesr.distill.strips import Strip, most_detailed
from edgesr.metrics import crop_border, flicker, psnr, ssim

Array = np.ndarray[Any, Any]


STRIP = 128


@dataclass(frozen=True, kw_only=True)
class Shot:
    """Held-out consecutive frames, uint8 luma: lr (T, H, W), hr (T, sH, sW)."""

    name: str
    lr: Array
    hr: Array


def shots_of(held_out: SequenceSet, recipe: Recipe) -> Iterator[Shot]:
    """The middle of each held-out span, the small frames as the recipe's inputs are.

    video  each at `VALIDATION_CRFS`, through x264 as a clip; blind: one draw of the chain each
    """
    scale = recipe.scale
    for index in range(len(held_out)):
        hr, lr = held_out.span(index)
        sides = [
            min(side, most // scale) for side, most in zip(lr.shape[1:], HELD_OUT_SIZE, strict=True)
        ]
        top, left = ((side - kept) // 2 for side, kept in zip(lr.shape[1:], sides, strict=True))
        hr = hr[:, top * scale :, left * scale :][:, : sides[0] * scale, : sides[1] * scale]
        lr = lr[:, top : top + sides[0], left : left + sides[1]]
        if recipe.degradation == "video":
            for crf in VALIDATION_CRFS:
                small = degrade_video(
                    np.ascontiguousarray(lr), codec="libx264", crf=crf, preset="medium"
                )
                yield Shot(name=f"{index}-crf{crf}", lr=small, hr=hr)
            continue
        if recipe.degradation == "blind":
            lr = degraded_shot(hr, scale=scale, seed=index)
        yield Shot(name=str(index), lr=lr, hr=hr)


def degraded_shot(hr: Array, *, scale: int, seed: int) -> Array:
    settings, generator = RealEsrganSettings(), torch.Generator().manual_seed(seed)
    draw = for_frames(draw_chain(1, settings, generator=generator), len(hr))
    large = sharpen(torch.from_numpy(hr.astype(np.float32) / 255)[:, None], settings)
    small = degrade(large, draw, scale=scale, settings=settings)[:, 0].numpy()
    return np.rint(small * 255).astype(np.uint8)


def score_shots(model: nn.Module, shots: Sequence[Shot], *, scale: int) -> Score:
    """Frame by frame with state, as a stream: means over the frames of all shots."""
    return mean_score([score_shot(shot, stepped(model, shot.lr), scale=scale) for shot in shots])


@torch.no_grad()
def stepped(model: Any, lr: Array) -> Iterator[Array]:
    """(H, W) luma of 0..255, clipped and rounded, of each frame in turn."""
    state = None
    for plane in lr:
        frame = torch.from_numpy(plane.astype(np.float32) / 255)[None, None]
        state = model.start(frame) if state is None else state
        picture, state = model.step(frame, state)
        yield np.rint(np.clip(picture[0, 0].numpy() * 255, 0, 255)).astype(np.float64)


def score_shot(shot: Shot, outputs: Iterator[Array], *, scale: int) -> Score:
    frames: list[Score] = []
    before: tuple[Array, Array] | None = None
    for output, truth in zip(outputs, shot.hr, strict=True):
        ours, kept = (crop_border(p, border=scale) for p in (output, truth.astype(np.float64)))
        score = Score(
            name=str(len(frames)),
            psnr_y=min(psnr(ours, kept), MOST_DB),
            ssim_y=ssim(ours, kept),
        )
        if before is not None:
            moved = flicker(before[0], ours, truth_before=before[1], truth_after=kept)
            score = score.replace(flicker=moved)
        frames.append(score)
        before = ours, kept
    return clip_score(frames, name=shot.name)


def bicubic_shot(shot: Shot, *, scale: int) -> Score:
    large = (np.float64(np.rint(np.clip(imresize(p, scale), 0, 255))) for p in shot.lr)
    return score_shot(shot, large, scale=scale)


def figures(score: Score) -> dict[str, float]:
    found = {"psnr_y": round(score.psnr_y, 4), "ssim_y": round(score.ssim_y, 5)}
    return found if score.flicker is None else found | {"flicker": round(score.flicker, 4)}


def strips_of(shots: Sequence[Shot], model: nn.Module, *, scale: int) -> list[Strip]:
    """The last frame of the first shots, in gray, where it has most detail."""
    strips = []
    for shot in shots[:3]:
        *_, ours = stepped(model, shot.lr)
        truth = shot.hr[-1]
        pictures = {"bicubic": imresize(shot.lr[-1], scale), "student": ours, "truth": truth}
        top, left = most_detailed(truth.astype(np.float64), size=STRIP)
        strips.append(
            Strip(
                name=f"shot {shot.name}, frame {len(shot.lr)}",
                pictures={name: shown(p, top, left) for name, p in pictures.items()},
            )
        )
    return strips


def shown(luma: Array, top: int, left: int) -> Array:
    """Studio luma as an (H, W, 3) uint8 picture."""
    cut = luma[top : top + STRIP, left : left + STRIP].astype(np.float64)
    gray = np.rint(np.clip((cut - 16) * 255 / 219, 0, 255)).astype(np.uint8)
    return np.dstack([gray] * 3)
