"""GLEAN (Chan, Wang, Xu, Gu, Loy, "GLEAN: Generative Latent Bank for Large-Factor Image
Super-Resolution", CVPR 2021).

An encoder (RRDB blocks, then strided convolutions down to 4x4) gives a pyramid of features and
the styles for a frozen StyleGAN2, the latent bank. Up to the size of the input, the pyramid's
features are fused into the bank's own by a convolution before each of its steps. A decoder
doubles the RRDB features with pixel shuffles, and takes in the bank's features at every size.

Input of one fixed size. 0..1 for us, -1..1 inside. The bank's noise is constant, also in training.

The published code runs the bank's own picture alongside, fuses it (`fusion_skip`), and uses
it for nothing: only features reach the decoder. `predictions` returns it; the final picture does
not depend on it, and `fusion_skip` gets no gradient from it. The bank's mapping network is not
used either; both are kept because the published files hold them. Names are mmagic's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import UsageError
from edgesr.networks.blocks import RRDB, start_small
from edgesr.networks.stylegan2 import StyleGan2Config, StyleGan2Generator


@dataclass(frozen=True, kw_only=True)
class GleanConfig:
    """Published: faces 64 -> 1024 and 128 -> 1024 (blind), cats 32 -> 256 and 16 -> 256.

    The bank's settings are those of `StyleGan2Config`; sizes are powers of two, 4 at least.
    """

    scale: int
    in_size: int = 64
    rrdb_blocks: int = 23
    width: int = 64
    growth: int = 32
    style_channels: int = 512
    mapping_layers: int = 8
    channel_base: int = 32768
    channel_max: int = 512

    @property
    def out_size(self) -> int:
        return self.scale * self.in_size

    def __post_init__(self) -> None:
        if not (power_of_two(self.in_size) and power_of_two(self.scale)):
            raise UsageError(
                f"in_size {self.in_size} and scale {self.scale}: both must be powers of two"
            )
        if self.in_size < 4 or self.scale < 2:
            raise UsageError(
                f"in_size {self.in_size} and scale {self.scale}: at least 4 and 2 are needed"
            )


def power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


class Glean(nn.Module):
    """(N, 3, in_size, in_size) in 0..1 -> (N, 3, out_size, out_size)."""

    colour = "rgb"

    def __init__(self, config: GleanConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = StyleGan2Generator(
            StyleGan2Config(
                out_size=config.out_size,
                style_channels=config.style_channels,
                mapping_layers=config.mapping_layers,
                channel_base=config.channel_base,
                channel_max=config.channel_max,
            )
        )
        self.generator.requires_grad_(False)
        widths = self.generator.widths  # by size
        fused = [size for size in widths if size <= config.in_size]  # 4, 8, .., in_size
        grown = [size for size in widths if size > config.in_size]  # .., out_size

        self.encoder = nn.ModuleList([encoder_head(config, widths[config.in_size])])
        for size in fused[:0:-1]:
            self.encoder.append(encoder_step(widths[size], widths[size // 2]))
        self.encoder.append(encoder_end(widths[4], self.generator.latents * config.style_channels))

        self.fusion_out = nn.ModuleList()
        self.fusion_skip = nn.ModuleList()
        for size in fused:
            self.fusion_out.append(nn.Conv2d(2 * widths[size], widths[size], 3, padding=1))
            self.fusion_skip.append(nn.Conv2d(widths[size] + 3, 3, 3, padding=1))

        self.decoder = nn.ModuleList([Doubling(widths[config.in_size], widths[grown[0]])])
        for size in grown[:-1]:
            self.decoder.append(Doubling(2 * widths[size], widths[2 * size]))
        self.decoder.append(decoder_end(2 * widths[config.out_size]))

    @property
    def fixed_size(self) -> tuple[int, int]:
        """Height and width of every input."""
        return self.config.in_size, self.config.in_size

    def forward(self, x: Tensor) -> Tensor:
        return self.predictions(x)[0]

    def predictions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The final picture, and the one that the bank itself draws."""
        if tuple(x.shape[2:]) != self.fixed_size:
            raise UsageError(
                f"this GLEAN takes {self.config.in_size}x{self.config.in_size} pictures, "
                f"not {x.shape[3]}x{x.shape[2]}: resize or crop them"
            )
        pyramid, latents = self.encode(2 * x - 1)
        grown, own = self.recall(pyramid, latents)
        y = pyramid[-1]  # (N, C, H, W)
        for i, block in enumerate(self.decoder):
            y = block(y if i == 0 else torch.cat([y, grown[i - 1]], dim=1))
        return (y + 1) / 2, (own + 1) / 2  # (N, 3, sH, sW) twice

    def encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features from 4x4 up to in_size, and the (N, latents, style) of the bank."""
        pyramid: list[Tensor] = []
        y = x
        for block in self.encoder[:-1]:
            y = block(y)
            pyramid.append(y)  # H, H/2, .., 4
        latents = self.encoder[-1](y)
        shape = (x.shape[0], self.generator.latents, self.config.style_channels)
        return pyramid[::-1], latents.reshape(shape)

    def recall(self, pyramid: list[Tensor], latents: Tensor) -> tuple[list[Tensor], Tensor]:
        """The bank's features above in_size, and its own picture."""
        bank, noises = self.generator, self.generator.noises()
        grown: list[Tensor] = []
        features, picture = bank.first(latents, noises)
        for step in range(bank.steps):
            if step < len(pyramid):  # at in_size or below
                features = torch.cat([features, pyramid[step]], dim=1)
                features = self.fusion_out[step](features)
                picture = torch.cat([picture, pyramid[step]], dim=1)
                picture = self.fusion_skip[step](picture)
            features, picture = bank.grow(step, features, picture, latents, noises)
            if step + 1 >= len(pyramid):  # above in_size
                grown.append(features)
        return grown, picture


def encoder_head(config: GleanConfig, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        RrdbFeatures(config),
        nn.Conv2d(config.width, outputs, 3, padding=1),
        nn.LeakyReLU(0.2),
    )


def encoder_step(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(0.2),
    )


def encoder_end(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(16 * inputs, outputs),  # of 4x4
    )


def decoder_end(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, 64, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(64, 3, 3, padding=1)
    )


class RrdbFeatures(nn.Module):
    """The RRDB network of ESRGAN without its upsampling."""

    def __init__(self, config: GleanConfig) -> None:
        super().__init__()
        width = config.width
        self.conv_first = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(width, config.growth) for _ in range(config.rrdb_blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_first(x)
        return y + self.conv_body(self.body(y))


class Doubling(nn.Module):
    """A 3x3 convolution and a pixel shuffle, no activation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample_conv = nn.Conv2d(inputs, 4 * outputs, 3, padding=1)
        start_small(self.upsample_conv, factor=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.upsample_conv(x), 2)
