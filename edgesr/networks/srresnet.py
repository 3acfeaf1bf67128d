"""SRResNet (Ledig et al., "Photo-Realistic Single Image Super-Resolution Using a Generative
Adversarial Network", CVPR 2017), which is also the generator of SRGAN.

9x9 convolution, 16 residual blocks with batch normalisation, one long skip, convolution and pixel
shuffle by 2 twice, 9x9 convolution. PReLU with one slope for all channels. No skip of the picture.

Takes and gives RGB in 0..1. The paper is x4 only and trains against pictures in -1..1; Lornatang's
code, whose names these are, keeps 0..1 and clamps the result to it. The clamp stops the gradient
and is left to whoever rounds the picture. Not in the paper: scale 2 shuffles once, scale 3 once
by 3.

Deploy it in evaluation mode: while training, normalisation depends on the rest of the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SrresnetConfig:
    scale: int
    blocks: int = 16
    width: int = 64


class Srresnet(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"

    def __init__(self, config: SrresnetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.PReLU())
        self.trunk = nn.Sequential(*(ResidualBlock(width) for _ in range(config.blocks)))
        self.conv2 = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )
        factors = {2: (2,), 3: (3,), 4: (2, 2)}[config.scale]
        self.upsampling = nn.Sequential(*(UpsampleBlock(width, factor) for factor in factors))
        self.conv3 = nn.Conv2d(width, 3, 9, padding=4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.conv1(x)  # (N, width, H, W)
        y = shallow + self.conv2(self.trunk(shallow))
        return self.conv3(self.upsampling(y))  # (N, 3, sH, sW)


class ResidualBlock(nn.Module):
    """Convolution, normalisation, PReLU, convolution, normalisation; added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rcb = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rcb(x)


class UpsampleBlock(nn.Module):
    """Convolution, pixel shuffle, PReLU."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.upsample_block = nn.Sequential(
            nn.Conv2d(width, factor**2 * width, 3, padding=1),
            nn.PixelShuffle(factor),
            nn.PReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_block(x)
