"""Bicubic++ (Bilecen and Ayazoglu, "Bicubic++: Slim, Slimmer, Slimmest - Designing an
Industry-Grade Super-Resolution Network", CVPRW 2023), winner of NTIRE 2023 real-time SR at x3.

The first convolution halves the picture, so that the two that follow cost a quarter, and the pixel
shuffle goes up by twice the scale. RGB in 0..1, no biases, no skip from the input, no clip.
The paper comes to this form by pruning a wider network and then removing its biases; the published
training code, and this one, start from it. Parameter names are those of the published weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BicubicPlusPlusConfig:
    scale: int
    width: int = 32


class BicubicPlusPlus(nn.Module):
    """(N, 3, H, W) RGB in 0..1, H and W even -> (N, 3, sH, sW)."""

    colour = "rgb"
    multiple = 2

    def __init__(self, config: BicubicPlusPlusConfig) -> None:
        super().__init__()
        self.config = config
        c, outputs = config.width, 3 * (2 * config.scale) ** 2
        self.conv0 = nn.Conv2d(3, c, 3, stride=2, padding=1, bias=False)
        self.conv1 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(c, c, 3, padding=1, bias=False)
        self.conv_out = nn.Conv2d(c, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first = F.leaky_relu(self.conv0(x), 0.1)  # (N, c, H/2, W/2)
        y = F.leaky_relu(self.conv1(first), 0.1)
        y = F.leaky_relu(self.conv2(y), 0.1) + first
        return F.pixel_shuffle(self.conv_out(y), 2 * self.config.scale)  # (N, 3, sH, sW)
