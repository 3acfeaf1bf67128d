"""LapSRN (Lai, Huang, Ahuja, Yang, "Deep Laplacian Pyramid Networks for Fast and Accurate
Super-Resolution", CVPR 2017).

A pyramid: every level doubles the features (ten 3x3 convolutions, then a transposed one) and the
picture (a transposed 4x4 convolution that starts as bilinear interpolation and is learned), and
adds a residual predicted from the features to the picture. Every level is supervised: see `levels`.

Values 0..1; LeakyReLU(0.2). In the official code (MatConvNet) the features are doubled by a 3x3
kernel whose last output row and column are cut off. twtygqyy/pytorch-LapSRN, whose parameter names
we use, takes 4x4 there and has no bias anywhere: `feature_kernel=4, bias=False`. Outside the
picture both doublings see zeros, so that the outermost pixels of the bilinear start are darker.
Scale 3 is the x4 pyramid, then MATLAB's bicubic `imresize` by 3/4, as the authors do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LapsrnConfig:
    """`depth` convolutions a level; `feature_kernel` 3 (official) or 4 (the torch port)."""

    scale: int
    width: int = 64
    depth: int = 10
    feature_kernel: int = 3
    bias: bool = True


class Lapsrn(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW); s is 2, 3, 4 or 8."""

    colour = "y"

    def __init__(self, config: LapsrnConfig) -> None:
        super().__init__()
        self.config = config
        self.count = count_levels(config.scale)
        self.conv_input = nn.Conv2d(1, config.width, 3, padding=1, bias=config.bias)
        for i in range(1, self.count + 1):
            setattr(self, f"convt_F{i}", nn.Sequential(FeatureLevel(config)))
            setattr(self, f"convt_R{i}", nn.Conv2d(config.width, 1, 3, padding=1, bias=config.bias))
            setattr(self, f"convt_I{i}", bilinear_doubling())
        self.fit = fitting(config.scale)
        for module in self.modules():
            start(module)
        nn.init.normal_(self.conv_input.weight, std=0.001)

    def levels(self, x: Tensor) -> list[Tensor]:
        """The pictures of 2, 4, ... times the size; at scale 3 the last one is x4."""
        y = F.leaky_relu(self.conv_input(x), 0.2)  # (N, 64, H, W)
        picture = x
        pictures = []
        for i in range(1, self.count + 1):
            y = self.get_submodule(f"convt_F{i}")(y)  # (N, 64, 2H, 2W)
            larger = self.get_submodule(f"convt_I{i}")(picture)  # (N, 1, 2H, 2W)
            picture = larger + self.get_submodule(f"convt_R{i}")(y)
            pictures.append(picture)
        return pictures

    def forward(self, x: Tensor) -> Tensor:
        return self.fit(self.levels(x)[-1])  # (N, 1, sH, sW)


class FeatureLevel(nn.Module):
    """`depth` convolutions, then one that doubles the size, each with its LeakyReLU."""

    def __init__(self, config: LapsrnConfig) -> None:
        super().__init__()
        width, bias = config.width, config.bias
        layers: list[nn.Module] = []
        for _ in range(config.depth):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.LeakyReLU(0.2)]
        if config.feature_kernel == 3:
            layers += [nn.ConvTranspose2d(width, width, 3, stride=2, bias=bias), CutLast()]
        else:
            layers += [nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, bias=bias)]
        self.cov_block = nn.Sequential(*layers, nn.LeakyReLU(0.2))

    def forward(self, x: Tensor) -> Tensor:
        return self.cov_block(x)  # (N, 64, 2H, 2W)


class CutLast(nn.Module):
    """(N, C, H + 1, W + 1) -> (N, C, H, W): the crop [0 1 0 1] of the official code."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :-1, :-1]


class ThreeQuarters(nn.Module):
    """(N, 1, 4H, 4W) -> (N, 1, 3H, 3W): MATLAB's `imresize(x, 3/4, "bicubic")`, antialiased.

    Four pixels become three, again and again, so that the nine phases of the kernel are one fixed
    convolution 8x8 of stride 4. Nothing of it enters the state_dict.
    """

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        phases = torch.stack([shrinking_taps(phase) for phase in range(3)])  # (3, 8)
        taps = torch.einsum("iy,jx->ijyx", phases, phases).reshape(9, 1, 8, 8)
        self.register_buffer("taps", taps.float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        framed = F.pad(x, (2, 2, 2, 2), mode="replicate")
        return F.pixel_shuffle(F.conv2d(framed, self.taps, stride=4), 3)


def shrinking_taps(phase: int) -> Tensor:
    """Weights of pixels -2..5 of a group of four (0..3) for pixel `phase` of its three: (8,)."""
    centre = (phase + 0.5) * 4 / 3 - 0.5
    distance = (torch.arange(-2, 6, dtype=torch.float64) - centre).abs() * 3 / 4
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    zero = torch.zeros_like(distance)
    taps = torch.where(distance <= 1, near, torch.where(distance < 2, far, zero))
    return taps / taps.sum()  # the widened kernel does not sum to 1 by itself


def count_levels(scale: int) -> int:
    """How many doublings reach the scale: 1, 2, 2, 3 for 2, 3, 4, 8."""
    if scale not in (2, 3, 4, 8):
        raise UsageError(f"a Laplacian pyramid of scale {scale} is not offered: 2, 3, 4, 8 are")
    return (scale - 1).bit_length()


def fitting(scale: int) -> nn.Module:
    """From the picture of the last level to that of the scale."""
    return ThreeQuarters() if scale == 3 else nn.Identity()


def bilinear_doubling() -> nn.ConvTranspose2d:
    """(N, 1, H, W) -> (N, 1, 2H, 2W): learned, but starts as bilinear interpolation."""
    doubling = nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1, bias=False)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        doubling.weight.copy_(torch.outer(line, line))
    return doubling


def start(module: nn.Module) -> None:
    """He initialisation of what reads features, bias 0; the doubling of pictures stays bilinear."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.in_channels > 1:
        area = module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=(2 / (area * module.in_channels)) ** 0.5)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
