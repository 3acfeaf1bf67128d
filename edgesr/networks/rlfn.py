"""RLFN (Kong et al., "Residual Local Feature Network for Efficient SR", CVPRW 2022).

Blocks of three 3x3 convolutions with one residual, no distillation branches, and a spatial
attention (ESA) that is slimmer than RFDN's. Winner of the runtime track of NTIRE22.

RGB. The released weights work on 0..255: give them `pixel_range=255`; fed with 0..1 they lose
4.6 dB. Our own are trained on 0..1. The official ESA names a ReLU that it never calls; it is absent
here. Published: RLFN 52 channels and 6 blocks, RLFN-S 48 and 6, NTIRE entry 46 (48 inside) and 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class RlfnConfig:
    """`inner` channels between the convolutions of a block; None: as many as `features`."""

    scale: int
    features: int = 52
    inner: int | None = None
    blocks: int = 6
    attention: int = 16
    pixel_range: float = 1.0


class Rlfn(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW), whatever `pixel_range` is inside."""

    colour = "rgb"
    min_size = 15  # ESA: (15 - 3) // 2 + 1 = 7 pixels for its 7x7 maximum

    def __init__(self, config: RlfnConfig) -> None:
        super().__init__()
        self.config = config
        c, inner = config.features, config.inner or config.features
        self.conv_1 = nn.Conv2d(3, c, 3, padding=1)
        for i in range(config.blocks):
            self.add_module(f"block_{i + 1}", RLFB(c, inner, config.attention))
        self.conv_2 = nn.Conv2d(c, c, 3, padding=1)
        self.upsampler = nn.Sequential(
            nn.Conv2d(c, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_1(x * self.config.pixel_range)  # (N, C, H, W)
        y = first
        for i in range(self.config.blocks):
            y = self.get_submodule(f"block_{i + 1}")(y)  # (N, C, H, W)
        y = self.upsampler(self.conv_2(y) + first)  # (N, 3, sH, sW)
        return y / self.config.pixel_range


class RLFB(nn.Module):
    """Residual local feature block; LeakyReLU also after the third convolution."""

    def __init__(self, c: int, inner: int, attention: int) -> None:
        super().__init__()
        self.c1_r = nn.Conv2d(c, inner, 3, padding=1)
        self.c2_r = nn.Conv2d(inner, inner, 3, padding=1)
        self.c3_r = nn.Conv2d(inner, c, 3, padding=1)
        self.c5 = nn.Conv2d(c, c, 1)
        self.esa = ESA(c, attention)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.c1_r(x), 0.05)
        y = F.leaky_relu(self.c2_r(y), 0.05)
        y = F.leaky_relu(self.c3_r(y), 0.05)
        return self.esa(self.c5(y + x))  # no residual around the attention


class ESA(nn.Module):
    """Enhanced spatial attention: one weight a channel and pixel, from a view 6 times coarser."""

    def __init__(self, c: int, f: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, f, 1)
        self.conv_f = nn.Conv2d(f, f, 1)
        self.conv2 = nn.Conv2d(f, f, 3, stride=2)  # no padding
        self.conv3 = nn.Conv2d(f, f, 3, padding=1)
        self.conv4 = nn.Conv2d(f, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)  # (N, f, H, W)
        y = F.max_pool2d(self.conv2(narrow), 7, stride=3)  # (N, f, about H/6, about W/6)
        y = self.conv3(y)
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(y + self.conv_f(narrow)))
