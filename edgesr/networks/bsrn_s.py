"""BSRN-S (Li et al., "Blueprint Separable Residual Network for Efficient Image SR", CVPRW 2022).

The small entry that won the complexity track of NTIRE22: 48 channels and 5 blocks of the shape of
BSRN's. Different from BSRN: the 1x1 of a separable convolution has a bias; ESA's strided
convolution is an ordinary one; one learned factor a channel and a 1x1 take the place of CCA.

RGB 0..1 in and out. Published for x4 only; every scale can be built. The official 1x1s are linear
layers on channels-last tensors, so their weights have two axes. They have here too, but are run
as convolutions, which is the same function without two transpositions for each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BsrnSConfig:
    scale: int
    features: int = 48
    blocks: int = 5


class BsrnS(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"
    min_size = 15  # ESA: (15 - 3) // 2 + 1 = 7 pixels for its 7x7 maximum

    def __init__(self, config: BsrnSConfig) -> None:
        super().__init__()
        self.config = config
        c = config.features
        self.fea_conv = BSConvU(4 * 3, c)
        for i in range(config.blocks):
            self.add_module(f"B{i + 1}", Block(c))
        self.c1 = Pointwise(config.blocks * c, c)
        self.c2 = BSConvU(c, c)
        self.upsampler = DirectUpsampler(c, config.scale)

    def forward(self, x: Tensor) -> Tensor:
        first = self.fea_conv(torch.cat([x, x, x, x], dim=1))  # RGBRGBRGBRGB -> (N, C, H, W)
        y, outputs = first, []
        for i in range(self.config.blocks):
            y = self.get_submodule(f"B{i + 1}")(y)
            outputs.append(y)
        y = F.gelu(self.c1(torch.cat(outputs, dim=1)))  # (N, 5C, H, W) -> (N, C, H, W)
        return self.upsampler(self.c2(y) + first)  # (N, 3, sH, sW)


class Pointwise(nn.Linear):
    """A linear layer over the channels of (N, C, H, W): weight (out, in), run as a 1x1."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class BSConvU(nn.Module):
    """1x1 with bias, then depthwise 3x3 with bias, which sees zeros outside of the picture."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.pw = Pointwise(c_in, c_out)
        self.dw = nn.Conv2d(c_out, c_out, 3, padding=1, groups=c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dw(self.pw(x))


class Block(nn.Module):
    """C channels in and out, four times C/2 kept, spatial attention, channel factors."""

    def __init__(self, c: int) -> None:
        super().__init__()
        half = c // 2
        self.c1_d, self.c1_r = Pointwise(c, half), BSConvU(c, c)
        self.c2_d, self.c2_r = Pointwise(c, half), BSConvU(c, c)
        self.c3_d, self.c3_r = Pointwise(c, half), BSConvU(c, c)
        self.c4 = BSConvU(c, half)
        self.c5 = Pointwise(4 * half, c)
        self.esa = ESA(c, c // 4)
        self.cw = nn.Parameter(1 + 0.2 * torch.randn(1, c))
        self.conv_out = Pointwise(c, c)

    def forward(self, x: Tensor) -> Tensor:
        kept1, y1 = self.c1_d(x), F.gelu(self.c1_r(x) + x)  # (N, C/2, H, W), (N, C, H, W)
        kept2, y2 = self.c2_d(y1), F.gelu(self.c2_r(y1) + y1)
        kept3, y3 = self.c3_d(y2), F.gelu(self.c3_r(y2) + y2)
        kept4 = self.c4(y3)
        # One GELU for all four: one by one, its gradient comes in strided slices, 6 times as slow.
        y = self.c5(F.gelu(torch.cat([kept1, kept2, kept3, kept4], dim=1)))  # (N, C, H, W)
        return self.conv_out(self.esa(y) * self.cw[:, :, None, None]) + x


class ESA(nn.Module):
    """Enhanced spatial attention: one weight a channel and pixel, from a view 6 times coarser."""

    def __init__(self, c: int, f: int) -> None:
        super().__init__()
        self.conv1 = Pointwise(c, f)
        self.conv_f = Pointwise(f, f)
        self.conv2 = nn.Conv2d(f, f, 3, stride=2)  # not separable, no padding
        self.conv_max = BSConvU(f, f)
        self.conv3 = BSConvU(f, f)
        self.conv3_ = BSConvU(f, f)
        self.conv4 = Pointwise(f, c)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)  # (N, f, H, W)
        y = F.max_pool2d(self.conv2(narrow), 7, stride=3)  # (N, f, about H/6, about W/6)
        y = F.gelu(self.conv_max(y))
        y = self.conv3_(F.gelu(self.conv3(y)))
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(y + self.conv_f(narrow)))


class DirectUpsampler(nn.Module):
    """One 3x3 convolution to all sub-pixels of the three colours."""

    def __init__(self, c: int, scale: int) -> None:
        super().__init__()
        self.upsampleOneStep = nn.Sequential(
            nn.Conv2d(c, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.upsampleOneStep(x)
