"""VDSR (Kim, Lee, Lee, "Accurate Image Super-Resolution Using Very Deep Convolutional Networks",
CVPR 2016).

Twenty 3x3 convolutions on the bicubically upscaled picture, ReLU after all but the last; they
predict what is added to it. One set of weights serves every scale.

Values 0..1. Parameter names are those of twtygqyy/pytorch-vdsr, whose convolutions have no bias
(`bias=False` here); those of the paper have one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import BicubicUpscale


@dataclass(frozen=True, kw_only=True)
class VdsrConfig:
    """`depth` counts all convolutions."""

    scale: int
    width: int = 64
    depth: int = 20
    bias: bool = True


class Vdsr(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW)."""

    colour = "y"

    def __init__(self, config: VdsrConfig) -> None:
        super().__init__()
        self.config = config
        width, bias = config.width, config.bias
        self.upscale = BicubicUpscale(scale=config.scale, channels=1)
        self.input = nn.Conv2d(1, width, 3, padding=1, bias=bias)
        self.residual_layer = nn.Sequential(
            *(ConvReLU(width, bias=bias) for _ in range(config.depth - 2))
        )
        self.output = nn.Conv2d(width, 1, 3, padding=1, bias=bias)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        large = self.upscale(x)  # (N, 1, sH, sW)
        y = F.relu(self.input(large))  # (N, 64, sH, sW)
        y = self.residual_layer(y)  # (N, 64, sH, sW)
        return large + self.output(y)  # (N, 1, sH, sW)


class ConvReLU(nn.Module):
    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))
