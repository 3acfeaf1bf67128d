"""StyleGAN2's generator (Karras, Laine, Aittala, Hellsten, Lehtinen, Aila, "Analyzing and
Improving the Image Quality of StyleGAN", CVPR 2020), the latent bank of GLEAN.

A mapping network turns a normal vector z into a style w. A constant 4x4 tensor is convolved, step
by step at twice the size; every convolution has its input channels scaled by the style
(modulation), its output brought back to unit variance (demodulation), and noise added. A 1x1
convolution of each step adds to an RGB picture that is upsampled alongside.

Not a super-resolution network by itself. Its picture is 0..1 for us, -1..1 in the paper, unclipped.

The published code multiplies the weights with the style, one set for each picture, and convolves
in groups. Scaling the input, convolving once and scaling the output is the same sum, and exports
with a free batch size. Style mixing and truncation are left to the caller of `synthesise`.

Parameter names are mmagic's. `weight_orig` is the weight before the run-time scale ("equalised
learning rate"); noise maps and blur kernels are buffers of the published files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class StyleGan2Config:
    """Defaults: configuration F. `channel_base=16384` is configuration E, half as wide on top."""

    out_size: int
    style_channels: int = 512
    mapping_layers: int = 8
    mapping_rate: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512


def channels_at(size: int, *, base: int, most: int) -> int:
    """Feature channels where the picture is size x size."""
    return max(1, min(most, base // size))


class StyleGan2Generator(nn.Module):
    """(N, style_channels) normal vectors -> (N, 3, out_size, out_size), nominally in 0..1."""

    colour = "rgb"

    def __init__(self, config: StyleGan2Config) -> None:
        super().__init__()
        self.config = config
        style = config.style_channels
        self.steps = int(math.log2(config.out_size)) - 2  # doublings, from 4x4
        self.latents = 2 * self.steps + 2  # styles of one picture: the last one for RGB only
        sizes = [4 * 2**step for step in range(self.steps + 1)]
        self.widths = {
            size: channels_at(size, base=config.channel_base, most=config.channel_max)
            for size in sizes
        }

        self.style_mapping = nn.Sequential(
            PixelNorm(),
            *(
                EqualLinear(style, style, rate=config.mapping_rate, active=True)
                for _ in range(config.mapping_layers)
            ),
        )
        self.constant_input = ConstantInput(self.widths[4])
        self.conv1 = StyledConv(self.widths[4], self.widths[4], style=style)
        self.to_rgb1 = ToRgb(self.widths[4], style=style, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for size in sizes[1:]:
            before, width = self.widths[size // 2], self.widths[size]
            self.convs.append(StyledConv(before, width, style=style, upsample=True))
            self.convs.append(StyledConv(width, width, style=style))
            self.to_rgbs.append(ToRgb(width, style=style, upsample=True))
        for i in range(self.latents - 1):
            size = 4 * 2 ** ((i + 1) // 2)  # one map at 4x4, two at every other size
            self.register_buffer(f"injected_noise_{i}", torch.randn(1, 1, size, size))

    def forward(self, z: Tensor) -> Tensor:
        style = self.style_mapping(z)  # (N, style)
        picture = self.synthesise(style[:, None].expand(-1, self.latents, -1))
        return (picture + 1) / 2

    def synthesise(self, latents: Tensor) -> Tensor:
        """(N, latents, style) -> (N, 3, S, S), nominally in -1..1.

        New noise at every call in training, always the same in evaluation.
        """
        noises = self.noises()
        if self.training:
            noises = [torch.randn_like(n.expand(latents.shape[0], -1, -1, -1)) for n in noises]
        features, picture = self.first(latents, noises)
        for step in range(self.steps):
            features, picture = self.grow(step, features, picture, latents, noises)
        return picture

    def noises(self) -> list[Tensor]:
        """The constant noise maps, (1, 1, size, size) each."""
        return [self.get_buffer(f"injected_noise_{i}") for i in range(self.latents - 1)]

    def first(self, latents: Tensor, noises: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Features and picture at 4x4."""
        features = self.constant_input(latents.shape[0])
        features = self.conv1(features, latents[:, 0], noises[0])  # (N, C, 4, 4)
        return features, self.to_rgb1(features, latents[:, 1])  # (N, 3, 4, 4)

    def grow(
        self, step: int, features: Tensor, picture: Tensor, latents: Tensor, noises: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Both at twice the size. A step's RGB has the style that the next step starts with."""
        i = 2 * step + 1
        features = self.convs[i - 1](features, latents[:, i], noises[i])
        features = self.convs[i](features, latents[:, i + 1], noises[i + 1])
        return features, self.to_rgbs[step](features, latents[:, i + 2], picture)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise of one learnt strength, bias and leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, *, style: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, outputs, kernel=3, style=style, upsample=upsample)
        self.noise_injector = NoiseInjection()
        self.activate = BiasLeakyReLU(outputs)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        return self.activate(self.noise_injector(self.conv(x, style), noise))


class ToRgb(nn.Module):
    """Modulated 1x1 convolution without demodulation, added to the picture so far."""

    def __init__(self, inputs: int, *, style: int, upsample: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(inputs, 3, kernel=1, style=style, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        if upsample:
            self.upsample = Upsample()

    def forward(self, x: Tensor, style: Tensor, picture: Tensor | None = None) -> Tensor:
        y = self.conv(x, style) + self.bias
        return y if picture is None else y + self.upsample(picture)


class ModulatedConv(nn.Module):
    """Convolution whose weight of input channel i is multiplied with the style's i-th scale.

    Demodulation divides by the norm that an output channel's weights have after that.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int,
        style: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.demodulate, self.padding = demodulate, kernel // 2
        self.gain = (inputs * kernel**2) ** -0.5
        self.style_modulation = EqualLinear(style, inputs, bias=1.0)
        self.weight_orig = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        # A stride of 2 leaves three of four places empty: the blur has gain 4.
        self.blur = Blur(padding=1, gain=4.0) if upsample else None

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        weight = self.weight_orig[0]  # (out, in, k, k)
        scale = self.gain * self.style_modulation(style)  # (N, in)
        x = x * scale[:, :, None, None]
        if self.blur is None:
            y = F.conv2d(x, weight, padding=self.padding)
        else:
            y = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))  # 2H+1 -> 2H
        if self.demodulate:
            squares = F.linear(scale.square(), weight.square().sum(dim=(2, 3)))  # (N, out)
            y = y * torch.rsqrt(squares + 1e-8)[:, :, None, None]
        return y


class NoiseInjection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight * noise


class ConstantInput(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, pictures: int) -> Tensor:
        return self.input.expand(pictures, -1, -1, -1)


class PixelNorm(nn.Module):
    """Divides by the root mean square over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class BiasLeakyReLU(nn.Module):
    """Bias, LeakyReLU(0.2), and sqrt(2) to keep the variance."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return scaled_leaky_relu(x + self.bias[:, None, None])


def scaled_leaky_relu(x: Tensor) -> Tensor:
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


class EqualLinear(nn.Module):
    """Fully connected, `rate` times the learning rate, optionally followed by the leaky ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: float = 0.0,
        rate: float = 1.0,
        active: bool = False,
    ) -> None:
        super().__init__()
        self.rate, self.active = rate, active
        self.linear = EqualWeight(outputs, inputs, rate=rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.linear(), self.rate * self.bias)
        return scaled_leaky_relu(y) if self.active else y


class EqualWeight(nn.Module):
    """He's scale at run time instead of at initialisation, so that Adam's steps suit every layer.

    Stored with standard deviation 1 / rate, used with 1 / sqrt(inputs of one output).
    """

    def __init__(self, *shape: int, rate: float = 1.0) -> None:
        super().__init__()
        self.gain = rate / math.sqrt(math.prod(shape[1:]))
        self.weight_orig = nn.Parameter(torch.randn(shape) / rate)

    def forward(self) -> Tensor:
        return self.gain * self.weight_orig


class Blur(nn.Module):
    """Every channel filtered with [1, 3, 3, 1] / 8 down and across, zeros around, times `gain`."""

    kernel: Tensor

    def __init__(self, *, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("kernel", gain * binomial())

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4)
        return F.conv2d(x, kernel, padding=self.padding, groups=channels)


class Upsample(nn.Module):
    """Twice the size: zeros between the pixels, then the same filter with gain 4."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", 4 * binomial())

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


def binomial() -> Tensor:
    """(4, 4), sum 1; symmetric, so that convolution and correlation are the same."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(taps, taps) / 64
