"""ECBSR (Zhang, Zeng, Zhang, "Edge-oriented Convolution Block for Real-time SR", ACM MM 2021).

A plain stack of 3x3 convolutions whose kernels are trained through five parallel linear branches.
The branches merge exactly into one 3x3 convolution, borders included, because every branch pads
its expanded feature with the value that the 1x1 convolution gives to a black pixel: its bias.

Here the merged kernel is computed from the branch parameters in every step and one convolution
runs, which is the same function with the same gradients and five times faster on a CPU.

Value range 0..1 (the official repository uses 0..255: its checkpoints need their biases divided).
The paper works on luma; BasicSR's copy on RGB too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.blocks import ChannelPReLU


@dataclass(frozen=True, kw_only=True)
class EcbsrConfig:
    """`blocks` (M) inner blocks of `width` (C) channels; published as ECBSR-M<blocks>C<width>."""

    blocks: int
    width: int
    scale: int
    channels: int = 1
    depth_multiplier: int = 2


class Ecbsr(nn.Module):
    """Training form. (N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW); M + 2 edge-oriented blocks."""

    def __init__(self, config: EcbsrConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = "y" if config.channels == 1 else "rgb"
        widths = block_widths(config)
        self.backbone = nn.ModuleList(
            EdgeBlock(c_in, c_out, config.depth_multiplier, activated=i < len(widths) - 1)
            for i, (c_in, c_out) in enumerate(widths)
        )

    @property
    def blocks(self) -> list[EdgeBlock]:
        return [block for block in self.backbone if isinstance(block, EdgeBlock)]

    def forward(self, x: Tensor) -> Tensor:
        y = x  # (N, 1, H, W)
        for block in self.backbone:
            y = block(y)  # (N, C, H, W), at the end (N, s*s, H, W)
        return shuffled(y, x, self.config)

    def forward_branches(self, x: Tensor) -> Tensor:
        """The paper's five branches, computed one by one: the reference for `forward`."""
        y = x
        for block in self.blocks:
            y = block.act(block.forward_branches(y))
        return shuffled(y, x, self.config)


class PlainEcbsr(nn.Module):
    """Deployed form: 3x3 convolutions and PReLU. Same shapes as `Ecbsr`."""

    def __init__(self, config: EcbsrConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = "y" if config.channels == 1 else "rgb"
        layers: list[nn.Module] = []
        for c_in, c_out in block_widths(config):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), ChannelPReLU(c_out)]
        self.body = nn.Sequential(*layers[:-1])  # the last block has no activation

    def forward(self, x: Tensor) -> Tensor:
        return shuffled(self.body(x), x, self.config)


def block_widths(config: EcbsrConfig) -> list[tuple[int, int]]:
    """(in, out) channels of the M + 2 blocks."""
    c, image = config.width, config.channels
    return [(image, c), *[(c, c)] * config.blocks, (c, image * config.scale**2)]


def shuffled(y: Tensor, x: Tensor, config: EcbsrConfig) -> Tensor:
    """Add the nearest-neighbour skip, then (N, s*s, H, W) -> (N, 1, sH, sW)."""
    # Luma broadcasts; colours must each stand s*s times in a row, as the shuffle takes them.
    skip = x if config.channels == 1 else x.repeat_interleave(config.scale**2, dim=1)
    return F.pixel_shuffle(y + skip, config.scale)


def merge(model: Ecbsr) -> PlainEcbsr:
    """The plain network that computes the same; the training form stays untouched."""
    plain = PlainEcbsr(model.config)
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            weight, bias = block.merged()
            plain.body[2 * i].load_state_dict({"weight": weight, "bias": bias})
            if isinstance(block.act, nn.PReLU):
                plain.body[2 * i + 1].load_state_dict(block.act.state_dict())
    return plain.eval()


class EdgeBlock(nn.Module):
    """ECB: 3x3 | 1x1 -> 3x3 | 1x1 -> Sobel x | 1x1 -> Sobel y | 1x1 -> Laplacian, summed."""

    def __init__(self, c_in: int, c_out: int, depth_multiplier: int, *, activated: bool) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.conv1x1_3x3 = ExpandConv(c_in, c_out, depth_multiplier)
        self.conv1x1_sbx = EdgeConv(c_in, c_out, [[1, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.conv1x1_sby = EdgeConv(c_in, c_out, [[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
        self.conv1x1_lpl = EdgeConv(c_in, c_out, [[0, 1, 0], [1, -4, 1], [0, 1, 0]])
        self.act: nn.Module = ChannelPReLU(c_out) if activated else nn.Identity()

    @property
    def branches(self) -> list[ExpandConv | EdgeConv]:
        return [self.conv1x1_3x3, self.conv1x1_sbx, self.conv1x1_sby, self.conv1x1_lpl]

    def merged(self) -> tuple[Tensor, Tensor]:
        """Kernel (out, in, 3, 3) and bias (out,) of the one convolution, differentiable."""
        weight: Tensor = self.conv3x3.weight
        bias: Tensor = bias_of(self.conv3x3)
        for branch in self.branches:
            branch_weight, branch_bias = branch.merged()
            weight, bias = weight + branch_weight, bias + branch_bias
        return weight, bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.merged()
        return self.act(F.conv2d(x, weight, bias, padding=1))

    def forward_branches(self, x: Tensor) -> Tensor:
        return self.conv3x3(x) + sum(branch(x) for branch in self.branches)


class ExpandConv(nn.Module):
    """1x1 to `depth_multiplier` times the output channels, then 3x3. Official names k0 b0 k1 b1."""

    def __init__(self, c_in: int, c_out: int, depth_multiplier: int) -> None:
        super().__init__()
        first = nn.Conv2d(c_in, depth_multiplier * c_out, 1)
        second = nn.Conv2d(depth_multiplier * c_out, c_out, 3)
        self.k0, self.b0 = first.weight, bias_of(first)
        self.k1, self.b1 = second.weight, bias_of(second)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(expand(x, self.k0, self.b0), self.k1, self.b1)

    def merged(self) -> tuple[Tensor, Tensor]:
        out, middle = self.k1.shape[:2]
        # (out, middle, 9) x (middle, in) as one matrix product over `middle`
        taps = self.k1.permute(0, 2, 3, 1).reshape(-1, middle)  # (out*9, middle)
        weight = (taps @ self.k0[:, :, 0, 0]).view(out, 3, 3, -1).permute(0, 3, 1, 2)
        bias = self.b1 + self.k1.sum(dim=(2, 3)) @ self.b0
        return weight, bias


class EdgeConv(nn.Module):
    """1x1, then a fixed 3x3 edge mask with a learned scale and bias for each channel."""

    mask: Tensor

    def __init__(self, c_in: int, c_out: int, taps: list[list[int]]) -> None:
        super().__init__()
        first = nn.Conv2d(c_in, c_out, 1)
        self.k0, self.b0 = first.weight, bias_of(first)
        self.scale = nn.Parameter(torch.randn(c_out, 1, 1, 1) * 1e-3)
        self.bias = nn.Parameter(torch.randn(c_out) * 1e-3)
        mask = torch.tensor(taps, dtype=torch.float32).expand(c_out, 1, 3, 3).clone()
        # A parameter, not a buffer: the official state_dict and parameter counts hold it.
        self.mask = nn.Parameter(mask, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.scale * self.mask
        return F.conv2d(expand(x, self.k0, self.b0), kernel, self.bias, groups=len(kernel))

    def merged(self) -> tuple[Tensor, Tensor]:
        kernel = self.scale * self.mask  # (out, 1, 3, 3)
        weight = kernel * self.k0  # (out, 1, 3, 3) x (out, in, 1, 1)
        bias = self.bias + kernel.sum(dim=(1, 2, 3)) * self.b0
        return weight, bias


def bias_of(conv: nn.Conv2d) -> nn.Parameter:
    assert isinstance(conv.bias, nn.Parameter)
    return conv.bias


def expand(x: Tensor, k0: Tensor, b0: Tensor) -> Tensor:
    """1x1 convolution, then a border of one pixel holding its bias (what a black pixel gives)."""
    y = F.conv2d(x, k0, b0)
    n, c, h, w = y.shape
    framed = b0.view(1, c, 1, 1).expand(n, c, h + 2, w + 2).clone()
    framed[:, :, 1:-1, 1:-1] = y
    return framed
