"""MSRResNet, the modified SRResNet of BasicSR (Wang et al.); it has no paper of its own.

SRResNet (Ledig et al., CVPR 2017) without batch normalisation and without the skip around the
body, with 3x3 instead of 9x9 at both ends and LeakyReLU(0.1) outside the blocks. The bilinear
picture is added at the end, so that only detail is learned; all weights start at a tenth of He's
initialisation, which makes the untrained network bilinear interpolation, nearly.

Takes and gives RGB in 0..1, as the released weights do. Names are BasicSR's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import start_small
from edgesr.networks.edsr import ResidualBlock


@dataclass(frozen=True, kw_only=True)
class MsrresnetConfig:
    scale: int
    blocks: int = 16
    width: int = 64


class Msrresnet(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"

    def __init__(self, config: MsrresnetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.factor = 2 if config.scale == 4 else config.scale  # x4 is twice x2
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.upconv1 = nn.Conv2d(width, self.factor**2 * width, 3, padding=1)
        if config.scale == 4:
            self.upconv2 = nn.Conv2d(width, self.factor**2 * width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start_small(module)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(F.leaky_relu(self.conv_first(x), 0.1))  # (N, width, H, W)
        y = F.leaky_relu(F.pixel_shuffle(self.upconv1(y), self.factor), 0.1)
        if self.config.scale == 4:
            y = F.leaky_relu(F.pixel_shuffle(self.upconv2(y), self.factor), 0.1)
        y = self.conv_last(F.leaky_relu(self.conv_hr(y), 0.1))  # (N, 3, sH, sW)
        return y + F.interpolate(x, scale_factor=self.config.scale, mode="bilinear")
