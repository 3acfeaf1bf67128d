"""XLSR (Ayazoglu, "Extremely Lightweight Quantization Robust Real-Time Single-Image Super
Resolution for Mobile Devices", CVPRW 2021), winner of the MAI 2021 challenge at x3.

Three blocks of a grouped 3x3 and a 1x1 convolution, next to one 3x3 straight from the input; both
are concatenated. RGB in 0..1. The clip of the output to 0..1 is part of the network: it is what
keeps the picture intact in 8-bit integers.

The paper draws the first layer as four convolutions to 8 channels, which are one to 32; parameter
names are those of Qualcomm's AIMET model zoo. Initialisation as in cxzhou95/XLSR: a tenth of He's
variance, biases 0.01 (there is no skip, and a clipped output that starts below 0 learns nothing).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class XlsrConfig:
    scale: int
    width: int = 32
    side: int = 16
    blocks: int = 3
    groups: int = 4


class Xlsr(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW), clipped to 0..1."""

    colour = "rgb"

    def __init__(self, config: XlsrConfig) -> None:
        super().__init__()
        self.config = config
        c = config.width
        self.residual = nn.Conv2d(3, config.side, 3, padding=1)
        self.cnn = nn.Sequential(
            nn.Conv2d(3, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, c, 1),
            *[grouped_block(c, config.groups) for _ in range(config.blocks)],
        )
        self.tail = nn.Sequential(
            nn.Conv2d(c + config.side, c, 1),
            nn.ReLU(),
            nn.Conv2d(c, 3 * config.scale**2, 3, padding=1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start(module)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.cnn(x), self.residual(x)], dim=1)  # (N, 32 + 16, H, W)
        y = self.tail(y)  # (N, 3*s*s, H, W)
        return F.pixel_shuffle(y.clamp(0.0, 1.0), self.config.scale)  # (N, 3, sH, sW)


def grouped_block(width: int, groups: int) -> nn.Module:
    """GBlock: 3x3 in groups, ReLU, and a 1x1 that mixes the groups."""
    layers = nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=groups), nn.ReLU(), nn.Conv2d(width, width, 1)
    )
    return nn.Sequential(OrderedDict(net=layers))


def start(conv: nn.Conv2d) -> None:
    fan_out = conv.out_channels * conv.weight[0, 0].numel()
    nn.init.normal_(conv.weight, std=math.sqrt(0.1 * 2 / fan_out))
    assert conv.bias is not None
    nn.init.constant_(conv.bias, 0.01)
