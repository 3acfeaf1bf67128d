"""SPAN (Wan et al., "Swift Parameter-free Attention Network for Efficient SR", CVPRW 2024).

Six blocks of three 3x3 convolutions whose own result, through an odd sigmoid, is the attention.
Every 3x3 is trained as 1x1, 3x3, 1x1 beside a 1x1 and merges into one convolution. Winner of
NTIRE24. RGB 0..1; inside, the mean is taken off and 255 multiplied, the output is 0..1 directly.

The last concatenation takes the result of block 6's first convolution. The published code reads as
if that were before the activation, but activates in place: the released weights expect it after.
The official state_dict also holds each merged kernel, `eval_conv`, possibly outdated: it is
skipped when loading. Published: 52 channels (SPAN), 48 (SPAN-S), 28 (NTIRE24), 26 (smallest).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SpanConfig:
    scale: int
    features: int = 52
    blocks: int = 6
    gain: int = 2
    pixel_range: float = 255.0
    mean: tuple[float, float, float] = (0.4488, 0.4371, 0.4040)


class PlainSpan(nn.Module):
    """Deployed form. (N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"
    mean: Tensor

    def __init__(self, config: SpanConfig) -> None:
        super().__init__()
        self.config = config
        c = config.features
        mean = torch.tensor(config.mean).view(1, 3, 1, 1)
        self.register_buffer("mean", mean, persistent=False)
        self.conv_1 = self.conv3x3(3, c)
        for i in range(config.blocks):
            convs = [self.conv3x3(c, c) for _ in range(3)]
            self.add_module(f"block_{i + 1}", SPAB(*convs))
        self.conv_cat = nn.Conv2d(4 * c, c, 1)
        self.conv_2 = self.conv3x3(c, c)
        self.upsampler = nn.Sequential(
            nn.Conv2d(c, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    def conv3x3(self, c_in: int, c_out: int) -> nn.Module:
        return nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_1((x - self.mean) * self.config.pixel_range)  # (N, C, H, W)
        block1, inner = self.get_submodule("block_1")(first)
        y = block1
        for i in range(1, self.config.blocks):
            y, inner = self.get_submodule(f"block_{i + 1}")(y)  # twice (N, C, H, W)
        y = torch.cat([first, self.conv_2(y), block1, inner], dim=1)  # (N, 4C, H, W)
        return self.upsampler(self.conv_cat(y))  # (N, 3, sH, sW)


class Span(PlainSpan):
    """Training form: the same network with `Conv3XC` for every 3x3 but the upsampler's."""

    def conv3x3(self, c_in: int, c_out: int) -> nn.Module:
        return Conv3XC(c_in, c_out, self.config.gain)


def merge(model: Span) -> PlainSpan:
    """The plain network that computes the same; the training form stays untouched."""
    plain = PlainSpan(model.config)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Conv3XC):
                weight, bias = module.merged()
                plain.get_submodule(name).load_state_dict({"weight": weight, "bias": bias})
    plain.conv_cat.load_state_dict(model.conv_cat.state_dict())
    plain.upsampler.load_state_dict(model.upsampler.state_dict())
    return plain.eval()


class SPAB(nn.Module):
    """Swift parameter-free attention block."""

    def __init__(self, c1_r: nn.Module, c2_r: nn.Module, c3_r: nn.Module) -> None:
        super().__init__()
        self.c1_r, self.c2_r, self.c3_r = c1_r, c2_r, c3_r

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output, and its first convolution with activation."""
        inner = F.silu(self.c1_r(x))  # (N, C, H, W)
        y = self.c3_r(F.silu(self.c2_r(inner)))
        return (y + x) * (torch.sigmoid(y) - 0.5), inner


class Conv3XC(nn.Module):
    """3x3 convolution trained as 1x1, 3x3, 1x1 with `gain` times the channels inside, plus a 1x1.

    The merged kernel is computed in every step and one convolution runs: the same function with
    the same gradients. The picture is framed with zeros before the first 1x1, hence the merger is
    exact at the border too.
    """

    def __init__(self, c_in: int, c_out: int, gain: int) -> None:
        super().__init__()
        self.sk = nn.Conv2d(c_in, c_out, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(c_in, gain * c_in, 1),
            nn.Conv2d(gain * c_in, gain * c_out, 3),
            nn.Conv2d(gain * c_out, c_out, 1),
        )
        self.register_load_state_dict_pre_hook(drop_eval_conv)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.merged()
        return F.conv2d(x, weight, bias, padding=1)

    def forward_branches(self, x: Tensor) -> Tensor:
        """As published, layer by layer: the reference for `forward`."""
        return self.conv(F.pad(x, (1, 1, 1, 1))) + self.sk(x)

    def merged(self) -> tuple[Tensor, Tensor]:
        """Kernel (out, in, 3, 3) and bias (out,) of the one convolution, differentiable."""
        w1, b1 = weights(self.conv[0])  # (g*in, in, 1, 1)
        w2, b2 = weights(self.conv[1])  # (g*out, g*in, 3, 3)
        w3, b3 = weights(self.conv[2])  # (out, g*out, 1, 1)
        skip, skip_bias = weights(self.sk)  # (out, in, 1, 1)
        last, first = w3[:, :, 0, 0], w1[:, :, 0, 0]
        weight = torch.einsum("om,mnyx,ni->oiyx", last, w2, first) + F.pad(skip, (1, 1, 1, 1))
        bias = last @ (w2.sum(dim=(2, 3)) @ b1 + b2) + b3 + skip_bias
        return weight, bias


def weights(conv: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight, conv.bias


def drop_eval_conv(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, *others: object
) -> None:
    """Before loading: the stored merged kernel is older than the branches it came from."""
    for name in ("weight", "bias"):
        state_dict.pop(f"{prefix}eval_conv.{name}", None)
