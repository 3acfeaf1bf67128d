"""MS-LapSRN (Lai, Huang, Ahuja, Yang, "Fast and Accurate Image Super-Resolution with Deep Laplacian
Pyramid Networks", TPAMI 2018), MS-LapSRN-D5R8.

LapSRN with one set of weights for all levels and all scales. A level is one block of D layers
(LeakyReLU, then convolution) applied R times; the skip of every application starts at the features
that entered the level (shared source), not at those that entered the block. What doubles the
features has no activation behind it: the next level and the residual both read it as it is.

Values 0..1; LeakyReLU(0.2). Parameter names are the official ones (MatConvNet) with .weight and
.bias for _f and _b. Scale 3 is the x4 pyramid, then MATLAB's bicubic `imresize` by 3/4. Outside the
picture the doublings see zeros, so that the outermost pixels of the bilinear start are darker.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.lapsrn import bilinear_doubling, count_levels, fitting, start


@dataclass(frozen=True, kw_only=True)
class MslapsrnConfig:
    """`depth` (D) convolutions a block, applied `recursions` (R) times a level."""

    scale: int
    width: int = 64
    depth: int = 5
    recursions: int = 8


class Mslapsrn(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW); s is 2, 3, 4 or 8, the weights are the same."""

    colour = "y"

    def __init__(self, config: MslapsrnConfig) -> None:
        super().__init__()
        self.config = config
        self.count = count_levels(config.scale)
        width = config.width
        self.input_conv = nn.Conv2d(1, width, 3, padding=1)
        for d in range(1, config.depth + 1):
            setattr(self, f"conv{d}", nn.Conv2d(width, width, 3, padding=1))
        self.upconv = nn.ConvTranspose2d(width, width, 3, stride=2)
        self.residual_conv = nn.Conv2d(width, 1, 3, padding=1)
        self.img_up = bilinear_doubling()
        self.fit = fitting(config.scale)
        for module in self.modules():
            start(module)
        nn.init.normal_(self.input_conv.weight, std=0.001)

    def levels(self, x: Tensor) -> list[Tensor]:
        """The pictures of 2, 4, ... times the size; at scale 3 the last one is x4."""
        features = self.input_conv(x)  # (N, 64, H, W)
        picture = x
        pictures = []
        for _ in range(self.count):
            features = self.grow(self.embed(features))  # (N, 64, 2H, 2W)
            picture = self.img_up(picture) + self.residual_conv(features)  # (N, 1, 2H, 2W)
            pictures.append(picture)
        return pictures

    def embed(self, source: Tensor) -> Tensor:
        y = source  # (N, 64, H, W)
        for _ in range(self.config.recursions):
            for d in range(1, self.config.depth + 1):
                y = self.get_submodule(f"conv{d}")(F.leaky_relu(y, 0.2))
            y = y + source
        return y

    def grow(self, y: Tensor) -> Tensor:
        y = self.upconv(F.leaky_relu(y, 0.2))  # (N, 64, 2H + 1, 2W + 1)
        return y[..., :-1, :-1]  # the crop [0 1 0 1] of the official code

    def forward(self, x: Tensor) -> Tensor:
        return self.fit(self.levels(x)[-1])  # (N, 1, sH, sW)
