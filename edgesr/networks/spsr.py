"""SPSR (Ma et al., "Structure-Preserving Super Resolution with Gradient Guidance", CVPR 2020).

ESRGAN's RRDBNet with a second branch that super-resolves the gradient map of the picture, fed on
the way with features of the first; the features of both are fused into the picture. x4 only.
Range 0..1.

The SR branch has the parameter names of `rrdb.py`, so that a PSNR-trained RRDBNet initialises it,
as published. Names with `b_` are the gradient branch; names with `f_` are the fusion, and only
those are trained in the first 5000 steps. The official file has other names for the same tensors,
one layer twice, and the two fixed masks of the gradient map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import UsageError
from edgesr.networks.blocks import RRDB, start_small


@dataclass(frozen=True, kw_only=True)
class SpsrConfig:
    """The gradient branch takes the features behind the blocks numbered `taps`, from 1."""

    scale: int = 4
    width: int = 64
    growth: int = 32
    blocks: int = 23
    taps: tuple[int, ...] = (5, 10, 15, 20)


class Spsr(nn.Module):
    """(N, 3, H, W) in 0..1 -> (N, 3, 4H, 4W)."""

    colour = "rgb"

    def __init__(self, config: SpsrConfig) -> None:
        super().__init__()
        if config.scale != 4:
            raise UsageError(f"SPSR has no scale {config.scale}: 4 is its only scale")
        self.config = config
        width, growth, taps = config.width, config.growth, config.taps

        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*[RRDB(width, growth) for _ in range(config.blocks)])
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_features = nn.Conv2d(width, width, 3, padding=1)

        self.b_first = nn.Conv2d(3, width, 3, padding=1)
        self.b_blocks = nn.ModuleList(RRDB(2 * width, growth) for _ in taps)
        self.b_merges = nn.ModuleList(nn.Conv2d(2 * width, width, 3, padding=1) for _ in taps)
        self.b_body = nn.Conv2d(width, width, 3, padding=1)
        self.b_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.b_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.b_hr = nn.Conv2d(width, width, 3, padding=1)
        self.b_features = nn.Conv2d(width, width, 3, padding=1)
        self.b_last = nn.Conv2d(width, 3, 1)

        self.f_block = RRDB(2 * width, growth)
        self.f_merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.f_hr = nn.Conv2d(width, width, 3, padding=1)
        self.f_last = nn.Conv2d(width, 3, 3, padding=1)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start_small(module)

    def forward(self, x: Tensor) -> Tensor:
        return self.with_gradient(x)[0]

    def with_gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The picture and its gradient map as the gradient branch sees it, (N, 3, 4H, 4W) each."""
        picture, tapped = self.sr_features(x)
        gradient = self.gradient_features(x, tapped)
        y = self.f_block(torch.cat([gradient, picture], dim=1))  # (N, 2*width, 4H, 4W)
        y = F.leaky_relu(self.f_hr(self.f_merge(y)), 0.2)  # (N, width, 4H, 4W)
        return self.f_last(y), self.b_last(gradient)

    def sr_features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (N, width, 4H, 4W) of the picture, and those (N, width, H, W) behind `taps`."""
        first = y = self.conv_first(x)  # (N, width, H, W)
        tapped = []
        for number, block in enumerate(self.body, start=1):
            y = block(y)
            if number in self.config.taps:
                tapped.append(y)
        y = first + self.conv_body(y)
        y = F.interpolate(y, scale_factor=2, mode="nearest")  # (N, width, 2H, 2W)
        y = F.leaky_relu(self.conv_up1(y), 0.2)
        y = F.interpolate(y, scale_factor=2, mode="nearest")  # (N, width, 4H, 4W)
        y = F.leaky_relu(self.conv_up2(y), 0.2)
        y = F.leaky_relu(self.conv_hr(y), 0.2)
        return self.conv_features(y), tapped

    def gradient_features(self, x: Tensor, tapped: list[Tensor]) -> Tensor:
        """Features (N, width, 4H, 4W) of the picture's gradient map."""
        first = y = self.b_first(gradient_map(x))  # (N, width, H, W)
        for features, block, merge in zip(tapped, self.b_blocks, self.b_merges, strict=True):
            y = merge(block(torch.cat([y, features], dim=1)))  # (N, width, H, W)
        y = first + self.b_body(y)
        y = F.interpolate(y, scale_factor=2, mode="nearest")  # (N, width, 2H, 2W)
        y = F.leaky_relu(self.b_up1(y), 0.2)
        y = F.interpolate(y, scale_factor=2, mode="nearest")  # (N, width, 4H, 4W)
        y = F.leaky_relu(self.b_up2(y), 0.2)
        y = F.leaky_relu(self.b_hr(y), 0.2)
        return self.b_features(y)


def gradient_map(x: Tensor) -> Tensor:
    """(N, C, H, W) -> same: length of the central difference, not halved; black outside.

    The losses of the official code take it with one more black pixel around: pad `x` by 1 for that.
    """
    framed = F.pad(x, (1, 1, 1, 1))
    across = framed[:, :, 1:-1, 2:] - framed[:, :, 1:-1, :-2]
    down = framed[:, :, 2:, 1:-1] - framed[:, :, :-2, 1:-1]
    return torch.sqrt(across**2 + down**2 + 1e-6)  # the root of 0 has no gradient
