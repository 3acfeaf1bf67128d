"""ABPN (Du et al., "Anchor-based Plain Net for Mobile Image Super-Resolution", CVPRW 2021).

A plain stack of 3x3 convolutions with ReLU whose output is added to the input repeated s*s times
(the anchor: nearest neighbour before the pixel shuffle, which integers can add exactly), clipped
inside the network. RGB.

The authors' TensorFlow code computes in 0..255 (`pixel_range`) and has 3*s*s channels in the last
hidden layer (`narrow_last`, 42,539 parameters at x3); the default is Qualcomm's AIMET re-training
with 28 (43,035), whose parameter names are used and which leaves the clip to the caller.
TensorFlow's depth_to_space wants the channels pixel by pixel (R G B R G B ...), torch's
pixel_shuffle colour by colour: the authors' last layer and anchor are reordered on conversion.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AbpnConfig:
    """`blocks` hidden convolutions follow the first one."""

    scale: int
    width: int = 28
    blocks: int = 5
    narrow_last: bool = False
    pixel_range: float = 1.0


class Abpn(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW), clipped to 0..1."""

    colour = "rgb"

    def __init__(self, config: AbpnConfig) -> None:
        super().__init__()
        self.config = config
        outputs = 3 * config.scale**2
        last = outputs if config.narrow_last else config.width
        widths = [3, *[config.width] * config.blocks, last]
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(widths):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU()]
        self.cnn = nn.Sequential(*layers, nn.Conv2d(last, outputs, 3, padding=1))
        for layer in self.cnn:
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        scale, top = self.config.scale, self.config.pixel_range
        x = x * top
        y = (self.cnn(x) + anchor(x, scale)).clamp(0.0, top)  # (N, 3*s*s, H, W)
        return F.pixel_shuffle(y, scale) / top  # (N, 3, sH, sW)


def anchor(x: Tensor, scale: int) -> Tensor:
    """Each colour s*s times, R...R G...G B...B: nearest neighbour once pixel_shuffle has it.

    The same as `repeat_interleave`, for which ONNX needs seven nodes in the place of two. Sizes are
    spelt out because `split(1)` becomes an attribute that opset 17 does not know.
    """
    return torch.cat(
        [colour for colour in x.split([1, 1, 1], dim=1) for _ in range(scale**2)], dim=1
    )
