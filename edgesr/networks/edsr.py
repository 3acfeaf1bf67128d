"""EDSR (Lim, Son, Kim, Nah, Lee, "Enhanced Deep Residual Networks for Single Image
Super-Resolution", CVPRW 2017), and its baseline of 16 blocks and 64 channels.

SRResNet without batch normalisation: residual blocks of two 3x3 convolutions, one long skip, then
convolution and pixel shuffle. The large form, 32 blocks of 256 channels, adds a tenth of each
residual, without which it does not train; the baseline adds the whole.

Takes and gives RGB in 0..1. Inside, the mean colour of DIV2K is subtracted and the picture spans
`pixel_range`, 255 in the released weights; both are undone at the end.

Names and order are BasicSR's. The authors' files hold the same tensors under other names, and the
mean shift as two frozen 1x1 convolutions; here it is a constant outside the state_dict.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
"""Red, green and blue in 0..1 over the training pictures of DIV2K."""


@dataclass(frozen=True, kw_only=True)
class EdsrConfig:
    """The defaults are EDSR-baseline; the large EDSR has blocks=32, width=256, res_scale=0.1."""

    scale: int
    blocks: int = 16
    width: int = 64
    res_scale: float = 1.0
    pixel_range: float = 255.0


class Edsr(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"
    mean: Tensor

    def __init__(self, config: EdsrConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(
            *(ResidualBlock(width, config.res_scale) for _ in range(config.blocks))
        )
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


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution; `res_scale` of it is added to the input."""

    def __init__(self, width: int, res_scale: float = 1.0) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.res_scale * self.conv2(F.relu(self.conv1(x)))


def upsampler(width: int, scale: int) -> nn.Sequential:
    """Convolution and pixel shuffle: by 2, by 3, or twice by 2. No activation."""
    layers: list[nn.Module] = []
    for factor in {2: (2,), 3: (3,), 4: (2, 2)}[scale]:
        layers += [nn.Conv2d(width, factor**2 * width, 3, padding=1), nn.PixelShuffle(factor)]
    return nn.Sequential(*layers)
