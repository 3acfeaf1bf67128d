"""BSRN (Li et al., "Blueprint Separable Residual Network for Efficient Image SR", CVPRW 2022).

Eight blocks, each of which distils half of its channels three times, then weighs its result by
place (ESA) and by channel (CCA). Every 3x3 is blueprint separable: 1x1 first, then depthwise.

RGB 0..1 in and out, as in the released weights. No image skip. The small winner of NTIRE22,
BSRN-S, is built differently and stands in bsrn_s.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class BsrnConfig:
    """`features` must be a multiple of `reduction`, the squeeze of the channel attention."""

    scale: int
    features: int = 64
    blocks: int = 8
    reduction: int = 16


class Bsrn(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"
    min_size = 15  # ESA: (15 - 3) // 2 + 1 = 7 pixels for its 7x7 maximum

    def __init__(self, config: BsrnConfig) -> None:
        super().__init__()
        self.config = config
        c = config.features
        self.fea_conv = BSConvU(4 * 3, c)
        for i in range(config.blocks):
            self.add_module(f"B{i + 1}", ESDB(c, config.reduction))
        self.c1 = nn.Conv2d(config.blocks * c, c, 1)
        self.c2 = BSConvU(c, c)
        self.upsampler = DirectUpsampler(c, config.scale)

    def forward(self, x: Tensor) -> Tensor:
        # Whole images, RGBRGBRGBRGB, and not RRRRGGGGBBBB: the released weights depend on it.
        first = self.fea_conv(torch.cat([x, x, x, x], dim=1))  # (N, 12, H, W) -> (N, C, H, W)
        y, outputs = first, []
        for i in range(self.config.blocks):
            y = self.get_submodule(f"B{i + 1}")(y)
            outputs.append(y)
        y = F.gelu(self.c1(torch.cat(outputs, dim=1)))  # (N, 8C, H, W) -> (N, C, H, W)
        return self.upsampler(self.c2(y) + first)  # (N, 3, sH, sW)


class BSConvU(nn.Module):
    """1x1 without bias, then depthwise 3x3 with bias; nothing between them."""

    def __init__(self, c_in: int, c_out: int, *, stride: int = 1, padding: int = 1) -> None:
        super().__init__()
        self.pw = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.dw = nn.Conv2d(c_out, c_out, 3, stride=stride, padding=padding, groups=c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.dw(self.pw(x))


class ESDB(nn.Module):
    """Efficient separable distillation block: C channels in and out, four times C/2 kept."""

    def __init__(self, c: int, reduction: int) -> None:
        super().__init__()
        half = c // 2
        self.c1_d, self.c1_r = nn.Conv2d(c, half, 1), BSConvU(c, c)
        self.c2_d, self.c2_r = nn.Conv2d(c, half, 1), BSConvU(c, c)
        self.c3_d, self.c3_r = nn.Conv2d(c, half, 1), BSConvU(c, c)
        self.c4 = BSConvU(c, half)
        self.c5 = nn.Conv2d(4 * half, c, 1)
        self.esa = ESA(c, c // 4)
        self.cca = CCALayer(c, reduction)

    def forward(self, x: Tensor) -> Tensor:
        kept1, y1 = self.c1_d(x), F.gelu(self.c1_r(x) + x)  # (N, C/2, H, W), (N, C, H, W)
        kept2, y2 = self.c2_d(y1), F.gelu(self.c2_r(y1) + y1)
        kept3, y3 = self.c3_d(y2), F.gelu(self.c3_r(y2) + y2)
        kept4 = self.c4(y3)
        # One GELU for all four: one by one, its gradient comes in strided slices, 6 times as slow.
        y = self.c5(F.gelu(torch.cat([kept1, kept2, kept3, kept4], dim=1)))  # (N, C, H, W)
        return self.cca(self.esa(y)) + x


class ESA(nn.Module):
    """Enhanced spatial attention: one weight a channel and pixel, from a view 6 times coarser."""

    def __init__(self, c: int, f: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, f, 1)
        self.conv_f = nn.Conv2d(f, f, 1)
        self.conv2 = BSConvU(f, f, stride=2, padding=0)
        self.conv_max = BSConvU(f, f)
        self.conv3 = BSConvU(f, f)
        self.conv3_ = BSConvU(f, f)
        self.conv4 = nn.Conv2d(f, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.conv1(x)  # (N, f, H, W)
        y = F.max_pool2d(self.conv2(narrow), 7, stride=3)  # (N, f, about H/6, about W/6)
        y = F.gelu(self.conv_max(y))
        y = self.conv3_(F.gelu(self.conv3(y)))
        y = F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(y + self.conv_f(narrow)))


class CCALayer(nn.Module):
    """Contrast-aware channel attention: from mean plus population standard deviation."""

    def __init__(self, c: int, reduction: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(c, c // reduction, 1),
            nn.ReLU(),
            nn.Conv2d(c // reduction, c, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        mean = average(x)  # (N, C, 1, 1)
        variance = average((x - mean).square())
        # The floor is ours: the gradient of a square root at 0 is infinite.
        return x * self.conv_du(variance.clamp(min=1e-12).sqrt() + mean)


def average(x: Tensor) -> Tensor:
    """Mean of every channel, by sums: ONNX's ReduceMean cannot be brought down to opset 17."""
    rows = x.sum(dim=3, keepdim=True) / x.shape[3]  # in two steps, which float16 can hold
    return rows.sum(dim=2, keepdim=True) / x.shape[2]  # (N, C, 1, 1)


class DirectUpsampler(nn.Module):
    """One 3x3 convolution to all sub-pixels of the three colours."""

    def __init__(self, c: int, scale: int) -> None:
        super().__init__()
        self.upsampleOneStep = nn.Sequential(
            nn.Conv2d(c, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.upsampleOneStep(x)
