"""SRVGGNetCompact of Real-ESRGAN (Wang et al., ICCVW 2021; the network came with its releases).

A plain stack of 3x3 convolutions with PReLU at the size of the input, pixel shuffle at the end,
added to the nearest-neighbour upscaled input. Range 0..1.

16 inner convolutions: realesr-animevideov3; 32: realesr-general-x4v3 and its -wdn companion
(denoise strength: `rrdb.interpolate`). All were trained at x4; other scales are only this class.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import ChannelPReLU


@dataclass(frozen=True, kw_only=True)
class SrvggConfig:
    """`convs` inner convolutions of `width` channels; the first and the last are not counted."""

    scale: int = 4
    width: int = 64
    convs: int = 16


class Srvgg(nn.Module):
    """(N, 3, H, W) in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"

    def __init__(self, config: SrvggConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), ChannelPReLU(width)]
        for _ in range(config.convs):
            layers += [nn.Conv2d(width, width, 3, padding=1), ChannelPReLU(width)]
        self.body = nn.Sequential(*layers, nn.Conv2d(width, 3 * config.scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.body(x), self.config.scale)  # (N, 3, sH, sW)
        return y + F.interpolate(x, scale_factor=self.config.scale, mode="nearest")
