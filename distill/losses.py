"""Losses between the network's output and the truth, both (N, C, H, W) in 0..1."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def charbonnier(output: Tensor, truth: Tensor) -> Tensor:
    """mean sqrt(d^2 + eps^2) with eps = 1e-3 (Lai et al., CVPR 2017, there summed)."""
    return torch.sqrt((output - truth) ** 2 + 1e-6).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "charbonnier": charbonnier,
}
