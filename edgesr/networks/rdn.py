"""RDN (Zhang, Tian, Kong, Zhong, Fu, "Residual Dense Network for Image Super-Resolution",
CVPR 2018), D = 16 blocks, C = 8 layers, growth G = 64.

Every layer of a block sees the block's input and all layers before it; a 1x1 convolution fuses
them and the input is added. The outputs of all blocks are fused the same way, the first feature
is added, and convolution and pixel shuffle enlarge. No normalisation, no skip of the picture.

Takes and gives RGB in 0..1. The official code is Torch 7; names are those of yjn870 and mmagic.
The fused output of a block has `width` channels (G0 of the paper), so that G may differ from it;
yjn870 gives it `growth`, which is the same where both are 64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.edsr import upsampler


@dataclass(frozen=True, kw_only=True)
class RdnConfig:
    """D, C, G and G0 of the paper are blocks, layers, growth and width."""

    scale: int
    blocks: int = 16
    layers: int = 8
    growth: int = 64
    width: int = 64


class Rdn(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"

    def __init__(self, config: RdnConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.sfe1 = nn.Conv2d(3, width, 3, padding=1)
        self.sfe2 = nn.Conv2d(width, width, 3, padding=1)
        self.rdbs = nn.ModuleList(ResidualDenseBlock(config) for _ in range(config.blocks))
        self.gff = nn.Sequential(
            nn.Conv2d(config.blocks * width, width, 1), nn.Conv2d(width, width, 3, padding=1)
        )
        self.upscale = upsampler(width, config.scale)
        self.output = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.sfe1(x)  # (N, width, H, W)
        y = self.sfe2(shallow)
        outputs = []
        for block in self.rdbs:
            y = block(y)
            outputs.append(y)
        y = shallow + self.gff(torch.cat(outputs, dim=1))  # (N, D*width, H, W) -> (N, width, H, W)
        return self.output(self.upscale(y))  # (N, 3, sH, sW)


class ResidualDenseBlock(nn.Module):
    """C dense layers, fused by 1x1 without activation, added to the input."""

    def __init__(self, config: RdnConfig) -> None:
        super().__init__()
        width, growth, count = config.width, config.growth, config.layers
        self.layers = nn.Sequential(*(DenseLayer(width + i * growth, growth) for i in range(count)))
        self.lff = nn.Conv2d(width + count * growth, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.lff(self.layers(x))


class DenseLayer(nn.Module):
    """Appends `growth` channels to its input: 3x3 convolution, ReLU."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, growth, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, F.relu(self.conv(x))], dim=1)
