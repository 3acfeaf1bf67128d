"""The few layers that more than one network uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelPReLU(nn.PReLU):
    """PReLU with one slope a channel; the same numbers and parameters as `nn.PReLU`, faster.

    While training on a CPU with channels last, the inner loop of torch's kernel is only as long
    as the channels (16 here). Seen as rows of width*channels it is long enough to vectorise:
    a training step of ECBSR-M4C16 in bf16 takes 0.85 of the time.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and x.device.type == "cpu"):
            return F.prelu(x, self.weight)
        n, c, h, w = x.shape
        rows = x.permute(0, 2, 3, 1).reshape(n * h, w * c)  # a view in channels last
        rows = F.prelu(rows, self.weight.repeat(w))
        return rows.view(n, h, w, c).permute(0, 3, 1, 2)


class BicubicUpscale(nn.Module):
    """(N, C, H, W) -> (N, C, sH, sW): MATLAB's `imresize(x, s, "bicubic")`, borders replicated.

    Keys' kernel with a = -0.5 (torch's own bicubic has a = -0.75). The s*s phases of the kernel
    are one fixed convolution on the small picture. Nothing of it enters the state_dict.
    """

    taps: Tensor

    def __init__(self, *, scale: int, channels: int) -> None:
        super().__init__()
        self.scale, self.channels = scale, channels
        phases = torch.stack([bicubic_taps(phase, scale) for phase in range(scale)])  # (s, 5)
        taps = torch.einsum("iy,jx->ijyx", phases, phases).reshape(scale**2, 1, 5, 5)
        self.register_buffer("taps", taps.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        framed = F.pad(x, (2, 2, 2, 2), mode="replicate")
        y = F.conv2d(framed, self.taps, groups=self.channels)  # (N, C*s*s, H, W)
        return F.pixel_shuffle(y, self.scale)


def bicubic_taps(phase: int, scale: int) -> Tensor:
    """Weights of the 5 LR pixels around LR pixel i for HR pixel s*i + phase: (5,), sum 1."""
    centre = (phase + 0.5) / scale - 0.5  # of the HR pixel, in LR pixels from i
    distance = (torch.arange(-2, 3, dtype=torch.float32) - centre).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    zero = torch.zeros_like(distance)
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))


class ResidualDenseBlock(nn.Module):
    """Five 3x3 convolutions, each fed with all before it; 0.2 of the last is added to the input.

    LeakyReLU(0.2) after the first four, none after the fifth (ESRGAN, Wang et al., ECCVW 2018).
    Starts at a tenth of He's initialisation (supplement of the paper).
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(width + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(width + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(width + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(width + 4 * growth, width, 3, padding=1)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            start_small(conv)

    def forward(self, x: Tensor) -> Tensor:
        features = x  # (N, width, H, W), then growing by `growth`
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            features = torch.cat([features, F.leaky_relu(conv(features), 0.2)], dim=1)
        return x + 0.2 * self.conv5(features)


class RRDB(nn.Module):
    """Residual-in-residual dense block: three dense blocks, 0.2 of their sum added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(width, growth)
        self.rdb2 = ResidualDenseBlock(width, growth)
        self.rdb3 = ResidualDenseBlock(width, growth)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


def start_small(conv: nn.Conv2d, factor: float = 0.1) -> None:
    """He's initialisation times `factor`, bias 0."""
    nn.init.kaiming_normal_(conv.weight)
    with torch.no_grad():
        conv.weight.mul_(factor)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
