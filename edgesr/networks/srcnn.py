"""SRCNN (Dong, Loy, He, Tang, "Learning a Deep Convolutional Network for Image Super-Resolution",
ECCV 2014; "Image Super-Resolution Using Deep Convolutional Networks", TPAMI 2016).

The picture is first upscaled bicubically; three convolutions then work at the large size: 9x9 to 64
channels, 5x5 (or 1x1) to 32, 5x5 to the picture. ReLU between them, no skip, none at the end.

Values 0..1. The paper convolves without padding and compares the middle only; like the published
ports we pad with zeros. mmagic's RGB weights (9-1-5) were trained behind torch's own bicubic
(a = -0.75), here it is MATLAB's (a = -0.5), as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import BicubicUpscale


@dataclass(frozen=True, kw_only=True)
class SrcnnConfig:
    """`kernels` (9, 5, 5) or (9, 1, 5); `colour` "y", or "rgb" as in mmagic."""

    scale: int
    widths: tuple[int, int] = (64, 32)
    kernels: tuple[int, int, int] = (9, 5, 5)
    colour: str = "y"


class Srcnn(nn.Module):
    """(N, C, H, W) in 0..1 -> (N, C, sH, sW); C is 1 (luma) or 3."""

    colour = "y"

    def __init__(self, config: SrcnnConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = config.colour
        channels = 3 if config.colour == "rgb" else 1
        (wide, narrow), (k1, k2, k3) = config.widths, config.kernels
        self.upscale = BicubicUpscale(scale=config.scale, channels=channels)
        self.conv1 = nn.Conv2d(channels, wide, k1, padding=k1 // 2)
        self.conv2 = nn.Conv2d(wide, narrow, k2, padding=k2 // 2)
        self.conv3 = nn.Conv2d(narrow, channels, k3, padding=k3 // 2)
        for conv in (self.conv1, self.conv2, self.conv3):
            nn.init.normal_(conv.weight, std=0.001)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.upscale(x)  # (N, C, sH, sW)
        y = F.relu(self.conv1(y))  # (N, 64, sH, sW)
        y = F.relu(self.conv2(y))  # (N, 32, sH, sW)
        return self.conv3(y)  # (N, C, sH, sW)
