"""ESPCN (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
Sub-Pixel Convolutional Neural Network", CVPR 2016).

Three convolutions on the small picture, the last one followed by a pixel shuffle. No skip and no
output activation. The paper uses tanh; ReLU is what deployed copies use, being faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class EspcnConfig:
    scale: int
    widths: tuple[int, int] = (64, 32)
    activation: Literal["tanh", "relu"] = "relu"


class Espcn(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW)."""

    colour = "y"

    def __init__(self, config: EspcnConfig) -> None:
        super().__init__()
        self.config = config
        wide, narrow = config.widths
        self.conv1 = nn.Conv2d(1, wide, 5, padding=2)
        self.conv2 = nn.Conv2d(wide, narrow, 3, padding=1)
        self.conv3 = nn.Conv2d(narrow, config.scale**2, 3, padding=1)
        self.act: nn.Module = nn.Tanh() if config.activation == "tanh" else nn.ReLU()
        if config.activation == "relu":
            start_from_bicubic(self)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv1(x))  # (N, 64, H, W)
        y = self.act(self.conv2(y))  # (N, 32, H, W)
        return F.pixel_shuffle(self.conv3(y), self.config.scale)  # (N, 1, sH, sW)


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


def bicubic_taps(phase: int, scale: int) -> Tensor:
    """Weights of the 5 LR pixels around LR pixel i for HR pixel s*i + phase: (5,), sum 1."""
    centre = (phase + 0.5) / scale - 0.5  # of the HR pixel, in LR pixels from i
    distance = (torch.arange(-2, 3, dtype=torch.float32) - centre).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    zero = torch.zeros_like(distance)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))
