"""RCAN (Zhang, Li, Li, Wang, Zhong, Fu, "Image Super-Resolution Using Very Deep Residual Channel
Attention Networks", ECCV 2018).

Residual in residual: groups of residual blocks, a skip around every block, every group and the
whole body. Each block weighs its channels by what they are on average over the whole picture, so
an output pixel depends on every input pixel: a picture cut into tiles gives another result.

Takes and gives RGB in 0..1. Inside, the mean colour of DIV2K is subtracted and the picture spans
`pixel_range`, 255 in the released weights; both are undone at the end.

Names and order are BasicSR's, whose class has 16 blocks a group unless told otherwise; the paper
has 20, the default here. The usual student of the distillation literature has 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesr.networks.edsr import DIV2K_MEAN, upsampler


@dataclass(frozen=True, kw_only=True)
class RcanConfig:
    """`groups` of `blocks` each; `squeeze` is how many channels become one in the attention."""

    scale: int
    groups: int = 10
    blocks: int = 20
    width: int = 64
    squeeze: int = 16
    res_scale: float = 1.0
    pixel_range: float = 255.0


class Rcan(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"
    mean: Tensor

    def __init__(self, config: RcanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualGroup(config) for _ in range(config.groups)))
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.upsample = upsampler(width, config.scale)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        self.register_buffer("mean", torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) * self.config.pixel_range
        shallow = self.conv_first(x)  # (N, width, H, W)
        y = shallow + self.conv_after_body(self.body(shallow))
        y = self.conv_last(self.upsample(y))  # (N, 3, sH, sW)
        return y / self.config.pixel_range + self.mean


class ResidualGroup(nn.Module):
    """Attention blocks and a convolution, added to the input."""

    def __init__(self, config: RcanConfig) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(*(AttentionBlock(config) for _ in range(config.blocks)))
        self.conv = nn.Conv2d(config.width, config.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))


class AttentionBlock(nn.Module):
    """RCAB: convolution, ReLU, convolution, channel attention; added to the input."""

    def __init__(self, config: RcanConfig) -> None:
        super().__init__()
        width = config.width
        self.res_scale = config.res_scale
        self.rcab = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            ChannelAttention(width, config.squeeze),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.rcab(x)


class ChannelAttention(nn.Module):
    """Every channel times a factor in 0..1, found from the averages of all channels."""

    def __init__(self, width: int, squeeze: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, width // squeeze, 1),
            nn.ReLU(),
            nn.Conv2d(width // squeeze, width, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)  # (N, width, H, W) x (N, width, 1, 1)
