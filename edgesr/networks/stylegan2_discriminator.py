"""StyleGAN2's discriminator (Karras et al., "Analyzing and Improving the Image Quality of
StyleGAN", CVPR 2020); GLEAN fine-tunes it.

Residual blocks that halve the picture down to 4x4, one channel with the deviation between the
pictures of a group, a convolution and two fully connected layers. For training only: not exported.

Pictures in 0..1 for us, -1..1 inside. Parameter names are mmagic's.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesr.networks.stylegan2 import BiasLeakyReLU, Blur, EqualLinear, EqualWeight, channels_at


@dataclass(frozen=True, kw_only=True)
class StyleGan2DiscriminatorConfig:
    """Defaults: configuration F."""

    in_size: int
    channel_base: int = 32768
    channel_max: int = 512
    group: int = 4


class StyleGan2Discriminator(nn.Module):
    """(N, 3, in_size, in_size) in 0..1 -> (N, 1) scores, high for real."""

    colour = "rgb"

    def __init__(self, config: StyleGan2DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        sizes = [2**i for i in range(int(math.log2(config.in_size)), 1, -1)]  # in_size .. 4
        widths = [
            channels_at(size, base=config.channel_base, most=config.channel_max) for size in sizes
        ]
        last = widths[-1]
        self.convs = nn.Sequential(
            conv_layer(3, widths[0], kernel=1),
            *(ResidualBlock(a, b) for a, b in itertools.pairwise(widths)),
        )
        self.final_conv = conv_layer(last + 1, last, kernel=3)
        self.final_linear = nn.Sequential(
            EqualLinear(16 * last, last, active=True), EqualLinear(last, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.convs(2 * x - 1)  # (N, C, 4, 4)
        y = self.final_conv(append_deviation(y, group=self.config.group))  # (N, C, 4, 4)
        return self.final_linear(y.flatten(1))  # (N, 1)


def append_deviation(x: Tensor, *, group: int) -> Tensor:
    """One more channel: the standard deviation within a group of pictures, averaged to a number.

    Picture n belongs to group n modulo the number of groups, as in the published code. The last
    batch of an epoch may be smaller than a group, else it must be a multiple of it.
    """
    n, c, h, w = x.shape
    grouped = x.reshape(min(group, n), -1, c, h, w)  # (G, M, C, H, W)
    deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt()
    one_a_group = deviation.mean(dim=(1, 2, 3))  # (M,)
    channel = one_a_group.repeat(len(grouped))[:, None, None, None].expand(-1, 1, h, w)
    return torch.cat([x, channel], dim=1)  # (N, C+1, H, W)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the second with stride 2, and a 1x1 with stride 2 beside them.

    Divided by sqrt(2), which keeps the variance of the sum.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = conv_layer(inputs, inputs, kernel=3)
        self.conv2 = conv_layer(inputs, outputs, kernel=3, halve=True)
        self.skip = conv_layer(inputs, outputs, kernel=1, halve=True, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


def conv_layer(
    inputs: int, outputs: int, *, kernel: int, halve: bool = False, active: bool = True
) -> nn.Sequential:
    """Blur before a stride of 2, convolution without bias, then bias and leaky ReLU."""
    layers: list[nn.Module] = []
    if halve:
        layers.append(Blur(padding=(kernel + 1) // 2))  # H+1 left for a 3x3, H-1 for a 1x1
        layers.append(EqualConv(inputs, outputs, kernel=kernel, stride=2, padding=0))
    else:
        layers.append(EqualConv(inputs, outputs, kernel=kernel, stride=1, padding=kernel // 2))
    if active:
        layers.append(BiasLeakyReLU(outputs))
    return nn.Sequential(*layers)


class EqualConv(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, *, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.conv = EqualWeight(outputs, inputs, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return torch.conv2d(x, self.conv(), stride=self.stride, padding=self.padding)
