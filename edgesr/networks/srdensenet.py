"""SRDenseNet (Tong, Li, Liu, Gao, "Image Super-Resolution Using Dense Skip Connections",
ICCV 2017), the form SRDenseNet_All.

A first convolution, 8 dense blocks of 8 layers with growth 16, each block fed with everything
before it; a 1x1 bottleneck of all of it, one transposed convolution for every factor of two, and
a 3x3 convolution to the picture. No skip of the picture. Luma in 0..1.

The paper is x4 only; x2 has one transposed convolution. No public code has the 2.0M parameters
often quoted for it. The configuration covers the three forms in use:

                    stem   layers see   bottleneck   transposed     ReLU there   parameters x4
  yjn870, default   128    the block    256          3x3            yes          2,659,585
  wxywhu v1         16     everything   256          4x4            no           7,159,969
  wxywhu v2         16     everything   128          4x4            no           5,452,449

"the block": only the first layer of a block sees what comes before it, the others see the layers
of their own block. Both ways a block hands on its input and its 128 new channels. Names are
yjn870's, the order of layers is the same in all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SrdensenetConfig:
    """`activated_tail`: ReLU after the bottleneck and the transposed convolutions."""

    scale: int
    stem: int = 128
    blocks: int = 8
    layers: int = 8
    growth: int = 16
    layers_see_everything: bool = False
    bottleneck: int = 256
    transposed_kernel: int = 3
    activated_tail: bool = True


class Srdensenet(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW); scale 2 or 4."""

    colour = "y"

    def __init__(self, config: SrdensenetConfig) -> None:
        super().__init__()
        self.config = config
        added = config.growth * config.layers
        width = config.bottleneck
        self.conv = ConvLayer(1, config.stem)
        self.dense_blocks = nn.Sequential(
            *(DenseBlock(config.stem + i * added, config) for i in range(config.blocks))
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(config.stem + config.blocks * added, width, 1), self.tail_activation()
        )
        deconv: list[nn.Module] = []
        for _ in range({2: 1, 4: 2}[config.scale]):
            deconv += [doubling(width, config.transposed_kernel), self.tail_activation()]
        self.deconv = nn.Sequential(*deconv)
        self.reconstruction = nn.Conv2d(width, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def tail_activation(self) -> nn.Module:
        return nn.ReLU() if self.config.activated_tail else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)  # (N, 128, H, W)
        y = self.dense_blocks(y)  # (N, 128 + 8*128, H, W)
        y = self.bottleneck(y)  # (N, 256, H, W)
        y = self.deconv(y)  # (N, 256, sH, sW)
        return self.reconstruction(y)  # (N, 1, sH, sW)


class DenseBlock(nn.Module):
    """(N, c_in, H, W) -> (N, c_in + layers*growth, H, W): the input, then the new channels."""

    def __init__(self, c_in: int, config: SrdensenetConfig) -> None:
        super().__init__()
        self.sees_everything = config.layers_see_everything
        growth = config.growth
        self.block = nn.Sequential(ConvLayer(c_in, growth))
        for i in range(1, config.layers):
            before = i * growth + (c_in if self.sees_everything else 0)
            self.block.append(ConvLayer(before, growth))

    def forward(self, x: Tensor) -> Tensor:
        new: list[Tensor] = []
        for i, layer in enumerate(self.block):
            seen = [x, *new] if i == 0 or self.sees_everything else new
            new.append(layer(torch.cat(seen, dim=1)))  # (N, growth, H, W)
        return torch.cat([x, *new], dim=1)


class ConvLayer(nn.Module):
    """3x3 convolution, ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


def doubling(width: int, kernel: int) -> nn.ConvTranspose2d:
    """Transposed convolution, 3x3 or 4x4, that doubles height and width exactly."""
    return nn.ConvTranspose2d(
        width, width, kernel, stride=2, padding=1, output_padding=1 if kernel == 3 else 0
    )
