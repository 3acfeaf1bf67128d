"""ESPCN (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
Sub-Pixel Convolutional Neural Network", CVPR 2016).

Three convolutions on the small picture, the last one followed by a pixel shuffle. No skip and no
output activation. The paper uses tanh; ReLU is what deployed copies use, being faster. The paper
works on luma; leftthomas' copy adds a sigmoid behind the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import bicubic_taps


@dataclass(frozen=True, kw_only=True)
class EspcnConfig:
    scale: int
    channels: int = 1
    widths: tuple[int, int] = (64, 32)
    activation: Literal["tanh", "relu"] = "relu"
    output: Literal["linear", "sigmoid"] = "linear"


class Espcn(nn.Module):
    """(N, C, H, W) in 0..1 -> (N, C, sH, sW); one channel is luma, three are RGB."""

    def __init__(self, config: EspcnConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = "y" if config.channels == 1 else "rgb"
        wide, narrow = config.widths
        self.conv1 = nn.Conv2d(config.channels, wide, 5, padding=2)
        self.conv2 = nn.Conv2d(wide, narrow, 3, padding=1)
        self.conv3 = nn.Conv2d(narrow, config.channels * config.scale**2, 3, padding=1)
        self.act: nn.Module = nn.Tanh() if config.activation == "tanh" else nn.ReLU()
        if config.activation == "relu" and config.channels == 1:
            start_from_bicubic(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv1(x))  # (N, 64, H, W)
        y = self.act(self.conv2(y))  # (N, 32, H, W)
        y = F.pixel_shuffle(self.conv3(y), self.config.scale)  # (N, C, sH, sW)
        return torch.sigmoid(y) if self.config.output == "sigmoid" else y


def start_from_bicubic(model: Espcn) -> None:
    """Let the first s*s channels carry bicubic interpolation through the ReLUs.

    Without a skip the network spends its first thousands of steps on learning to copy its input.
    The s*s phases of the bicubic kernel (Keys, a = -0.5) fit into the 5x5 of the first layer, and
    their outputs are hardly ever negative, so that the untrained network equals bicubic
    interpolation plus small noise. Every weight is trained from there.
    """
    scale = model.config.scale
    phases = torch.stack([bicubic_taps(phase, scale) for phase in range(scale)])  # (s, 5)
    kernels = torch.einsum("iy,jx->ijyx", phases, phases).reshape(scale**2, 5, 5)
    with torch.no_grad():
        for conv in (model.conv1, model.conv2, model.conv3):
            assert conv.bias is not None
            conv.bias.zero_()
        for k in range(scale**2):
            model.conv1.weight[k, 0] = kernels[k]
            for conv in (model.conv2, model.conv3):
                conv.weight[k] = 0.0
                conv.weight[k, k, 1, 1] = 1.0
        model.conv3.weight[:, scale**2 :].mul_(0.01)
