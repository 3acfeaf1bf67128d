"""Batches between RGB and luma, for a teacher of one and a student of the other."""

from __future__ import annotations

import torch
from torch import Tensor

from edgesr.distill.data import Colour
from edgesr.metrics import LUMA_WEIGHTS


def as_colour(x: Tensor, colour: Colour) -> Tensor:
    """(N, 1 or 3, H, W) in 0..1 as studio luma / 255 ("y") or RGB; luma alone stays luma.

    BT.601 as in the published protocol: Y = 16 + 65.481 R + 128.553 G + 24.966 B. Raises
    ValueError where luma would have to become RGB.
    """
    channels = 1 if colour == "y" else 3
    if x.shape[1] == channels:
        return x
    if colour == "rgb":
        raise ValueError("luma holds no colours: load the photos as RGB")
    weights = torch.tensor(LUMA_WEIGHTS, dtype=x.dtype, device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True) + 16 / 255


def stretched(x: Tensor, share: float) -> Tensor:
    """The first `share` of a batch of studio luma stretched to full range, as streams may have."""
    count = round(share * len(x))
    full = (x[:count] - 16 / 255) * (255 / 219)
    return torch.cat([full, x[count:]])
