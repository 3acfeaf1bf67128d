"""QuickSRNet (Berger et al., "QuickSRNet: Plain Single-Image Super-Resolution Architecture for
Faster Inference on Mobile Platforms", CVPRW 2023): Small, Medium and Large.

A plain stack of 3x3 convolutions on the small picture, RGB in 0..1, every layer clipped to 0..1
(kind to 8-bit integers). It has no skip: it starts as nearest neighbour plus noise, since each
convolution starts with 1 at its centre tap. Large adds a learned 1x1 convolution from input to
output ("ITO") that starts as nearest neighbour. The clip stands before the pixel shuffle.

Parameter names are those of Qualcomm's AIMET model zoo. Its x1.5 and its channel order for
accelerators with another depth-to-space ("DCR") are left out.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class QuickSrNetConfig:
    """Small as default; Medium has 5 blocks, Large 11 of width 64 and the ITO connection."""

    scale: int
    width: int = 32
    blocks: int = 2
    ito: bool = False


class QuickSrNet(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW), clipped to 0..1."""

    colour = "rgb"

    def __init__(self, config: QuickSrNetConfig) -> None:
        super().__init__()
        self.config = config
        c, outputs = config.width, 3 * config.scale**2
        layers: list[nn.Module] = []
        for c_in in (3, *[c] * config.blocks):
            layers += [nn.Conv2d(c_in, c, 3, padding=1), nn.Hardtanh(0.0, 1.0)]
        self.cnn = nn.Sequential(*layers)
        self.conv_last = nn.Conv2d(c, outputs, 3, padding=1)
        if config.ito:
            self.anchor = nn.Sequential(OrderedDict(net=nn.Conv2d(3, outputs, 1)))
        start_as_nearest(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_last(self.cnn(x))  # (N, 3*s*s, H, W)
        if self.config.ito:
            y = y + self.anchor(x)
        return F.pixel_shuffle(y.clamp(0.0, 1.0), self.config.scale)  # (N, 3, sH, sW)


def start_as_nearest(model: QuickSrNet) -> None:
    """On top of torch's random start, let three channels carry the picture to the output."""
    convs = [layer for layer in model.cnn if isinstance(layer, nn.Conv2d)]
    copies = model.config.scale**2  # of each colour in turn, the order of pixel_shuffle
    with torch.no_grad():
        for conv in convs:
            conv.weight[:, :, 1, 1] += torch.eye(*conv.weight.shape[:2])
        if model.config.ito:
            net = model.anchor.net
            assert isinstance(net, nn.Conv2d)
            assert net.bias is not None
            net.weight.copy_(torch.eye(3).repeat_interleave(copies, dim=0)[:, :, None, None])
            net.bias.zero_()
        else:
            taps = torch.eye(3, model.config.width).repeat_interleave(copies, dim=0)
            model.conv_last.weight[:, :, 1, 1] += taps
