"""Discriminators: pictures in 0..1 -> logits (no sigmoid), real is high.

    SRGAN   Ledig et al., CVPR 2017: eight 3x3 convolutions, two linear layers; 96x96 pictures.
    VGG     ESRGAN (ECCVW 2018) and after: pairs of 3x3 and strided 4x4 convolutions, two linear
            layers. SPSR has two of them, one for gradient maps; Beby-GAN one with 32 filters.
    U-Net   Real-ESRGAN (ICCVW 2021): one logit for each pixel, weights divided by their largest
            singular value (spectral norm).

Parameter names: SRGAN those of Lornatang's repository, VGG and U-Net those of BasicSR.
The SRGAN paper ends in a sigmoid; here that belongs to the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

# The older of torch's two: BasicSR's checkpoints have its names weight_orig, weight_u, weight_v.
from torch.nn.utils import spectral_norm

from edgesr.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SrganDiscriminatorConfig:
    size: int = 96
    width: int = 64


class SrganDiscriminator(nn.Module):
    """(N, 3, size, size) -> (N, 1)."""

    def __init__(self, config: SrganDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        c = config.width
        layers: list[nn.Module] = [nn.Conv2d(3, c, 3, padding=1), nn.LeakyReLU(0.2)]
        for c_in, c_out, stride in [
            (c, c, 2),
            (c, 2 * c, 1),
            (2 * c, 2 * c, 2),
            (2 * c, 4 * c, 1),
            (4 * c, 4 * c, 2),
            (4 * c, 8 * c, 1),
            (8 * c, 8 * c, 2),
        ]:
            conv = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        side = config.size // 16
        self.classifier = nn.Sequential(
            nn.Linear(8 * c * side**2, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        require_size(x, self.config.size)
        y = self.features(x)  # (N, 8*width, size/16, size/16)
        return self.classifier(y.flatten(1))


@dataclass(frozen=True, kw_only=True)
class VggDiscriminatorConfig:
    """`size` 128 (5 stages), 192 or 256 (6 stages): halved until 4 pixels or fewer are left."""

    size: int = 128
    width: int = 64


class VggDiscriminator(nn.Module):
    """(N, 3, size, size) -> (N, 1). Stage i: conv{i}_0 3x3, then conv{i}_1 4x4 with stride 2."""

    def __init__(self, config: VggDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        c_in, side, stage = 3, config.size, 0
        while side > 4:
            c = config.width * min(2**stage, 8)
            first = stage == 0  # has a bias instead of the batch normalisation
            self.add_module(f"conv{stage}_0", nn.Conv2d(c_in, c, 3, padding=1, bias=first))
            self.add_module(f"bn{stage}_0", nn.Identity() if first else nn.BatchNorm2d(c))
            self.add_module(f"conv{stage}_1", nn.Conv2d(c, c, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{stage}_1", nn.BatchNorm2d(c))
            c_in, side, stage = c, side // 2, stage + 1
        self.stages = stage
        self.linear1 = nn.Linear(c_in * side**2, 100)
        self.linear2 = nn.Linear(100, 1)

    def forward(self, x: Tensor) -> Tensor:
        require_size(x, self.config.size)
        y = x
        for name in [f"{stage}_{half}" for stage in range(self.stages) for half in (0, 1)]:
            conv, norm = self.get_submodule(f"conv{name}"), self.get_submodule(f"bn{name}")
            y = F.leaky_relu(norm(conv(y)), 0.2)  # (N, 8*width, 4, 4) at the end, or 3 for 4
        y = F.leaky_relu(self.linear1(y.flatten(1)), 0.2)  # (N, 100)
        return self.linear2(y)


@dataclass(frozen=True, kw_only=True)
class UnetDiscriminatorConfig:
    width: int = 64


class UnetDiscriminator(nn.Module):
    """(N, 3, H, W) -> (N, 1, H, W), H and W divisible by 8."""

    def __init__(self, config: UnetDiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        c = config.width
        self.conv0 = nn.Conv2d(3, c, 3, padding=1)
        self.conv1 = spectral_norm(nn.Conv2d(c, 2 * c, 4, stride=2, padding=1, bias=False))
        self.conv2 = spectral_norm(nn.Conv2d(2 * c, 4 * c, 4, stride=2, padding=1, bias=False))
        self.conv3 = spectral_norm(nn.Conv2d(4 * c, 8 * c, 4, stride=2, padding=1, bias=False))
        self.conv4 = spectral_norm(nn.Conv2d(8 * c, 4 * c, 3, padding=1, bias=False))
        self.conv5 = spectral_norm(nn.Conv2d(4 * c, 2 * c, 3, padding=1, bias=False))
        self.conv6 = spectral_norm(nn.Conv2d(2 * c, c, 3, padding=1, bias=False))
        self.conv7 = spectral_norm(nn.Conv2d(c, c, 3, padding=1, bias=False))
        self.conv8 = spectral_norm(nn.Conv2d(c, c, 3, padding=1, bias=False))
        self.conv9 = nn.Conv2d(c, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] % 8 or x.shape[-1] % 8:
            raise UsageError(f"height and width must be divisible by 8, not {tuple(x.shape[-2:])}")
        x0 = F.leaky_relu(self.conv0(x), 0.2)  # (N, c, H, W)
        x1 = F.leaky_relu(self.conv1(x0), 0.2)  # (N, 2c, H/2, W/2)
        x2 = F.leaky_relu(self.conv2(x1), 0.2)  # (N, 4c, H/4, W/4)
        x3 = F.leaky_relu(self.conv3(x2), 0.2)  # (N, 8c, H/8, W/8)
        y = x2 + F.leaky_relu(self.conv4(doubled(x3)), 0.2)  # (N, 4c, H/4, W/4)
        y = x1 + F.leaky_relu(self.conv5(doubled(y)), 0.2)  # (N, 2c, H/2, W/2)
        y = x0 + F.leaky_relu(self.conv6(doubled(y)), 0.2)  # (N, c, H, W)
        y = F.leaky_relu(self.conv7(y), 0.2)
        y = F.leaky_relu(self.conv8(y), 0.2)
        return self.conv9(y)  # (N, 1, H, W)


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def require_size(x: Tensor, size: int) -> None:
    if tuple(x.shape[-2:]) != (size, size):
        raise UsageError(
            f"this discriminator is built for {size}x{size} pictures, not {tuple(x.shape[-2:])}"
        )


DISCRIMINATORS: dict[str, Callable[[], nn.Module]] = {
    "srgan-96": lambda: SrganDiscriminator(SrganDiscriminatorConfig()),
    "vgg-128": lambda: VggDiscriminator(VggDiscriminatorConfig(size=128)),
    "vgg-192": lambda: VggDiscriminator(VggDiscriminatorConfig(size=192)),
    "vgg-192-c32": lambda: VggDiscriminator(VggDiscriminatorConfig(size=192, width=32)),
    "unet-sn": lambda: UnetDiscriminator(UnetDiscriminatorConfig()),
}
