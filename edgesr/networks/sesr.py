"""SESR (Bhardwaj et al., "Collapsible Linear Blocks for Super-Efficient Super Resolution",
MLSys 2022): SESR-M<m> with 16 channels, SESR-XL with 11 blocks of 32.

5x5 to f channels, m blocks 3x3 with a short residual, a long residual, 5x5 to s*s channels. Every
convolution is trained as k x k to many channels and 1x1 back without anything between, which is
one k x k convolution. As in the paper that one is composed in every step and only it runs: the
same function and gradients, a twentieth of the multiply-adds.

Luma in 0..1; the branch sees x - 0.5, the picture that is added at the end is not shifted.
ARM's code also clips its output to 0..1 (here whoever writes the picture does), adds the biases
of the expanded form to every tap of the composed kernel (here there are none, as in the paper),
and at x4 gives the last block a residual by accident (there f = s*s; here there is none).

`rgb` is the variant of Qualcomm's AIMET model zoo: three colours, biases, ReLU everywhere and also
after the first block, no shift. Its parameter names are used for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.abpn import anchor
from edgesr.networks.blocks import ChannelPReLU


@dataclass(frozen=True, kw_only=True)
class SesrConfig:
    """m and f of the paper; `expanded` is 64 in ARM's M11 and XL, 256 everywhere in AIMET."""

    scale: int
    blocks: int = 5
    width: int = 16
    expanded: int = 256
    rgb: bool = False

    @property
    def outputs(self) -> int:
        """Channels before the pixel shuffle."""
        return (3 if self.rgb else 1) * self.scale**2


class Sesr(nn.Module):
    """Training form. (N, 1 or 3, H, W) in 0..1 -> (N, 1 or 3, sH, sW)."""

    def __init__(self, config: SesrConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = "rgb" if config.rgb else "y"
        f, bias = config.width, config.rgb
        self.conv_first = LinearBlock(
            3 if config.rgb else 1, f, 5, expanded=config.expanded, bias=bias
        )
        self.residual_block = nn.ModuleList(
            ResidualBlock(f, f, 3, expanded=config.expanded, bias=bias)
            for _ in range(config.blocks)
        )
        self.conv_last = LinearBlock(f, config.outputs, 5, expanded=config.expanded, bias=bias)
        if config.rgb:
            self.conv_first.activation = nn.ReLU()
        for block in self.residual_block:
            block.activation = activation(config)
        if not config.rgb:
            start_as_keras(self)

    def forward(self, x: Tensor) -> Tensor:
        first = self.conv_first(shifted(x, self.config))  # (N, f, H, W)
        y = first
        for block in self.residual_block:
            y = block(y)  # (N, f, H, W)
        y = F.conv2d(y + first, *self.last(), padding=2)  # (N, C*s*s, H, W)
        return F.pixel_shuffle(y + nearest(x, self.config), self.config.scale)

    def forward_expanded(self, x: Tensor) -> Tensor:
        """Both convolutions of every block one after the other: the reference for `forward`."""
        first = self.conv_first.forward_expanded(shifted(x, self.config))
        y = first
        for block in self.residual_block:
            assert isinstance(block, ResidualBlock)
            y = block.forward_expanded(y)
        y = self.conv_last.forward_expanded(y + first)
        y = y + nearest(x, self.config)
        if in_two_steps(self.config):  # (step, inner step) swapped: (inner step, step)
            y = y.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
            return F.pixel_shuffle(F.pixel_shuffle(y, 2), 2)
        return F.pixel_shuffle(y, self.config.scale)

    def last(self) -> tuple[Tensor, Tensor | None]:
        """Kernel and bias of the last convolution, its channels in the order of pixel_shuffle."""
        weight, bias = self.conv_last.collapsed()
        if in_two_steps(self.config):
            # From (row, column, inner row, inner column) to (row, inner row, column, ...).
            weight = weight.unflatten(0, (2, 2, 2, 2)).transpose(1, 2).flatten(0, 3)
        return weight, bias


class PlainSesr(nn.Module):
    """Deployed form: plain convolutions. Same shapes as `Sesr`."""

    def __init__(self, config: SesrConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = "rgb" if config.rgb else "y"
        f, bias = config.width, config.rgb
        self.conv_first = nn.Conv2d(3 if config.rgb else 1, f, 5, padding=2, bias=bias)
        self.first_activation = nn.ReLU() if config.rgb else nn.Identity()
        layers: list[nn.Module] = []
        for _ in range(config.blocks):
            layers += [nn.Conv2d(f, f, 3, padding=1, bias=bias), activation(config)]
        self.body = nn.Sequential(*layers)
        self.conv_last = nn.Conv2d(f, config.outputs, 5, padding=2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_activation(self.conv_first(shifted(x, self.config)))  # (N, f, H, W)
        y = self.conv_last(self.body(y) + y)  # (N, C*s*s, H, W)
        return F.pixel_shuffle(y + nearest(x, self.config), self.config.scale)


def merge(model: Sesr) -> PlainSesr:
    """The plain network that computes the same; the training form stays untouched."""
    plain = PlainSesr(model.config)
    with torch.no_grad():
        put(plain.conv_first, *model.conv_first.collapsed())
        put(plain.conv_last, *model.last())
        for i, block in enumerate(model.residual_block):
            assert isinstance(block, ResidualBlock)
            put(plain.body[2 * i], *block.collapsed())
            plain.body[2 * i + 1].load_state_dict(block.activation.state_dict())
    return plain.eval()


class LinearBlock(nn.Module):
    """k x k to `expanded` channels, 1x1 back to c_out, then an activation.

    The k x k has no bias, so that the zeros around the picture stay zeros between the two.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, *, expanded: int, bias: bool) -> None:
        super().__init__()
        self.conv_expand = nn.Conv2d(c_in, expanded, kernel, padding=kernel // 2, bias=False)
        self.conv_squeeze = nn.Conv2d(expanded, c_out, 1, bias=bias)
        self.activation: nn.Module = nn.Identity()

    def collapsed(self) -> tuple[Tensor, Tensor | None]:
        """Kernel (c_out, c_in, k, k) and bias of the one convolution, differentiable."""
        wide = self.conv_expand.weight  # (expanded, c_in, k, k)
        weight = self.conv_squeeze.weight.flatten(1) @ wide.flatten(1)  # (c_out, c_in*k*k)
        return weight.unflatten(1, wide.shape[1:]), self.conv_squeeze.bias

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.collapsed()
        return self.activation(F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2))

    def forward_expanded(self, x: Tensor) -> Tensor:
        return self.activation(self.conv_squeeze(self.conv_expand(x)))


class ResidualBlock(LinearBlock):
    """A linear block plus its input, before the activation; collapsed, an identity kernel."""

    def collapsed(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = super().collapsed()
        centre = weight.shape[-1] // 2
        identity = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
        frame = (centre, centre, centre, centre)
        return weight + F.pad(identity[:, :, None, None], frame), bias

    def forward_expanded(self, x: Tensor) -> Tensor:
        return self.activation(x + self.conv_squeeze(self.conv_expand(x)))


def activation(config: SesrConfig) -> nn.Module:
    return nn.ReLU() if config.rgb else ChannelPReLU(config.width, init=0.0)


def shifted(x: Tensor, config: SesrConfig) -> Tensor:
    """What the branch sees. Not to be merged into a bias: the border of zeros is then mid-grey."""
    return x if config.rgb else x - 0.5


def nearest(x: Tensor, config: SesrConfig) -> Tensor:
    """The picture as pixel_shuffle needs it for nearest neighbour, colour by colour."""
    return anchor(x, config.scale) if config.rgb else x  # one channel broadcasts


def in_two_steps(config: SesrConfig) -> bool:
    """ARM's x4 is TensorFlow's depth_to_space(2) twice: the channels stand in another order."""
    return config.scale == 4 and not config.rgb


def put(conv: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    conv.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))


def start_as_keras(model: Sesr) -> None:
    """Glorot's uniform initialisation, the default of the framework that ARM's code uses."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
