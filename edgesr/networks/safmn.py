"""SAFMN (Sun et al., "Spatially-Adaptive Feature Modulation for Efficient Image SR", ICCV 2023).

Eight blocks of the shape of a transformer's: in place of self-attention a quarter of the channels
each is seen at 1, 1/2, 1/4 and 1/8 of the size, and their mixture multiplies the picture (SAFM);
in place of the MLP a 3x3 and a 1x1 (CCM). RGB 0..1, no image skip.

The official code pools to exactly H // 2^i rows by adaptive maximum, which ONNX cannot express
for dynamic sizes. `shrink` computes the same numbers from fixed windows, at every size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SafmnConfig:
    """`features` must be a multiple of `levels`."""

    scale: int
    features: int = 36
    blocks: int = 8
    expansion: float = 2.0
    levels: int = 4


class Safmn(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"

    def __init__(self, config: SafmnConfig) -> None:
        super().__init__()
        self.config = config
        c = config.features
        self.to_feat = nn.Conv2d(3, c, 3, padding=1)
        self.feats = nn.Sequential(*[Block(config) for _ in range(config.blocks)])
        self.to_img = nn.Sequential(
            nn.Conv2d(c, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    @property
    def min_size(self) -> int:
        """The coarsest level must have a pixel."""
        return 2 ** (self.config.levels - 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.to_feat(x)  # (N, C, H, W)
        return self.to_img(self.feats(first) + first)  # (N, 3, sH, sW)


class Block(nn.Module):
    """Modulation, then mixing, each behind a normalisation and with a residual."""

    def __init__(self, config: SafmnConfig) -> None:
        super().__init__()
        c = config.features
        self.norm1, self.norm2 = ChannelNorm(c), ChannelNorm(c)
        self.safm = SAFM(c, config.levels)
        self.ccm = CCM(c, int(c * config.expansion))

    def forward(self, x: Tensor) -> Tensor:
        x = self.safm(self.norm1(x)) + x
        return self.ccm(self.norm2(x)) + x


class SAFM(nn.Module):
    """Spatially-adaptive feature modulation."""

    def __init__(self, c: int, levels: int) -> None:
        super().__init__()
        self.width = c // levels
        self.mfr = nn.ModuleList(
            nn.Conv2d(self.width, self.width, 3, padding=1, groups=self.width)
            for _ in range(levels)
        )
        self.aggr = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split([self.width] * len(self.mfr), dim=1)  # `levels` times (N, C/levels, H, W)
        seen = []
        for i, (part, conv) in enumerate(zip(parts, self.mfr, strict=True)):
            y = part
            for axis in (2, 3):
                y = shrink(y, axis, 2**i)  # (N, C/levels, H // 2^i, W // 2^i)
            seen.append(F.interpolate(conv(y), size=x.shape[2:], mode="nearest"))
        return F.gelu(self.aggr(torch.cat(seen, dim=1))) * x


class CCM(nn.Module):
    """Convolutional channel mixer."""

    def __init__(self, c: int, hidden: int) -> None:
        super().__init__()
        self.ccm = nn.Sequential(
            nn.Conv2d(c, hidden, 3, padding=1), nn.GELU(), nn.Conv2d(hidden, c, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ccm(x)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))
        self.bias = nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        # Sums, because ONNX's ReduceMean cannot be brought down to opset 17.
        centred = x - x.sum(dim=1, keepdim=True) / x.shape[1]
        variance = centred.square().sum(dim=1, keepdim=True) / x.shape[1]  # (N, 1, H, W)
        y = centred / torch.sqrt(variance + 1e-6)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


def shrink(x: Tensor, axis: int, factor: int) -> Tensor:
    """Adaptive maximum along `axis`, from `size` to `size // factor`.

    Window i reaches from i * size // out to ceil((i + 1) * size / out): at least `factor` and at
    most 2 * factor long, hence the maximum of two windows of `factor`, one at each of its ends.
    """
    if factor == 1:
        return x
    size = x.shape[axis]
    out = size // factor
    kernel = (factor, 1) if axis == 2 else (1, factor)
    maxima = F.max_pool2d(x, kernel, stride=1)  # at every position
    i = torch.arange(out, device=x.device)
    starts = i * size // out
    ends = ((i + 1) * size + out - 1) // out
    return torch.maximum(
        maxima.index_select(axis, starts), maxima.index_select(axis, ends - factor)
    )
