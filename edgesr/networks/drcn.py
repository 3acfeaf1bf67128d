"""DRCN (Kim, Lee, Lee, "Deeply-Recursive Convolutional Network for Image Super-Resolution",
CVPR 2016).

On the bicubically upscaled picture: two convolutions embed it, one convolution with one set of
weights is then applied sixteen times, and two convolutions, shared as well, turn the features
after each of the sixteen recursions into a picture. The answer is the sum of the sixteen pictures
with learned weights. All sixteen are supervised while training: see `predictions`.

Values 0..1. There are no official weights in torch, so the parameter names are ours. Ports differ:
jiny2001's (TensorFlow, 96 channels, 9 recursions) predicts from the embedding too, has no skip and
divides by the sum of the weights; icpm's (64 channels) leaves the weights out of the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import BicubicUpscale


@dataclass(frozen=True, kw_only=True)
class DrcnConfig:
    scale: int
    width: int = 256
    recursions: int = 16


class Drcn(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW)."""

    colour = "y"

    def __init__(self, config: DrcnConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.upscale = BicubicUpscale(scale=config.scale, channels=1)
        self.embedding = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
        )
        self.inference = nn.Conv2d(width, width, 3, padding=1)
        self.reconstruction = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
        )
        self.weights = nn.Parameter(torch.full((config.recursions,), 1 / config.recursions))
        self.reset()

    def reset(self) -> None:
        """He initialisation; the recursion starts as the identity, so that depth costs nothing."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.dirac_(self.inference.weight)

    def predictions(self, x: Tensor) -> list[Tensor]:
        """One picture (N, 1, sH, sW) after each recursion, the bicubic one added to each."""
        large = self.upscale(x)  # (N, 1, sH, sW)
        y = self.embedding(large)  # (N, 256, sH, sW)
        pictures = []
        for _ in range(self.config.recursions):
            y = F.relu(self.inference(y))  # (N, 256, sH, sW)
            pictures.append(large + self.reconstruction(y))  # (N, 1, sH, sW)
        return pictures

    def forward(self, x: Tensor) -> Tensor:
        pictures = torch.cat(self.predictions(x), dim=1)  # (N, 16, sH, sW)
        return (pictures * self.weights.view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
