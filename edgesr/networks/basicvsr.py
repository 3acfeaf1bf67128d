"""BasicVSR (Chan, Wang, Yu, Dong, Loy, "BasicVSR: The Search for Essential Components in Video
Super-Resolution and Beyond", CVPR 2021).

A hidden feature map travels backward through the clip and a second one forward; at each step it is
warped along the optical flow, joined with the frame and refined by residual blocks. Both together
give the picture, as a correction of the bilinearly upscaled frame. The whole clip must be there at
once: a teacher, not a network for a live stream (that is causal.py).

RGB in 0..1. 30 residual blocks a direction as in the paper; BasicSR's default is 15. Published at
x4 only; x2 leaves out one of the two upsampling steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import ModelError
from edgesr.networks.blocks import start_small
from edgesr.networks.spynet import Spynet, SpynetConfig, warp


@dataclass(frozen=True, kw_only=True)
class BasicVsrConfig:
    """`refined`: channels of the last layers, 64 in all public files whatever `features` is."""

    scale: int = 4
    features: int = 64
    blocks: int = 30
    refined: int = 64
    flow_levels: int = 6
    flow_widths: tuple[int, ...] = (32, 64, 32, 16)


class BasicVsr(nn.Module):
    """Clips (N, T, 3, H, W) in 0..1 -> (N, T, 3, sH, sW); any T, zero hidden maps at both ends."""

    colour = "rgb"

    def __init__(self, config: BasicVsrConfig) -> None:
        super().__init__()
        if config.scale not in (2, 4):
            raise ModelError(f"BasicVSR doubles once or twice: scale {config.scale} is not 2 or 4")
        self.config = config
        c = config.features
        self.spynet = Spynet(SpynetConfig(levels=config.flow_levels, widths=config.flow_widths))
        self.backward_trunk = Trunk(3 + c, c, blocks=config.blocks)
        self.forward_trunk = Trunk(3 + c, c, blocks=config.blocks)
        self.fusion = nn.Conv2d(2 * c, c, 1)
        if config.scale == 4:
            self.upconv1 = nn.Conv2d(c, 4 * c, 3, padding=1)
            self.upconv2 = nn.Conv2d(c, 4 * config.refined, 3, padding=1)
        else:
            self.upconv1 = nn.Conv2d(c, 4 * config.refined, 3, padding=1)
        self.conv_hr = nn.Conv2d(config.refined, config.refined, 3, padding=1)
        self.conv_last = nn.Conv2d(config.refined, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unbind(dim=1)  # T of (N, 3, H, W)
        to_next, to_previous = neighbour_flows(self.spynet, x)
        start = torch.zeros_like(frames[0][:, :1]).repeat(1, self.config.features, 1, 1)

        later: list[Tensor] = []  # for each frame, what the frames from the end up to it tell
        hidden = start  # (N, C, H, W)
        for i in reversed(range(len(frames))):
            if later:
                hidden = warp(hidden, to_next[i])
            hidden = self.backward_trunk(torch.cat([frames[i], hidden], dim=1))
            later.insert(0, hidden)

        pictures: list[Tensor] = []
        hidden = start
        for i, frame in enumerate(frames):
            if i > 0:
                hidden = warp(hidden, to_previous[i - 1])
            hidden = self.forward_trunk(torch.cat([frame, hidden], dim=1))
            fused = F.leaky_relu(self.fusion(torch.cat([later[i], hidden], dim=1)), 0.1)
            pictures.append(self.reconstruct(fused, frame))
        return torch.stack(pictures, dim=1)  # (N, T, 3, sH, sW)

    def reconstruct(self, features: Tensor, frame: Tensor) -> Tensor:
        y = F.leaky_relu(F.pixel_shuffle(self.upconv1(features), 2), 0.1)  # (N, C, 2H, 2W)
        if self.config.scale == 4:
            y = F.leaky_relu(F.pixel_shuffle(self.upconv2(y), 2), 0.1)  # (N, 64, 4H, 4W)
        y = self.conv_last(F.leaky_relu(self.conv_hr(y), 0.1))  # (N, 3, sH, sW)
        return y + bilinear(frame, self.config.scale)


class Trunk(nn.Module):
    """One convolution, then residual blocks. Official names main.0 and main.2.<block>."""

    def __init__(self, c_in: int, c_out: int, *, blocks: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Sequential(*[ResidualBlock(c_out) for _ in range(blocks)]),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class ResidualBlock(nn.Module):
    """3x3, ReLU, 3x3, plus the input; no normalisation. Starts at a tenth of He's weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        start_small(self.conv1)
        start_small(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


def neighbour_flows(spynet: Spynet, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Of a clip (N, T, 3, H, W): flows i -> i+1 and flows i+1 -> i, T - 1 of (N, 2, H, W) each."""
    frames = x.shape[1]
    if frames == 1:
        return [], []
    earlier, later = x[:, :-1].flatten(0, 1), x[:, 1:].flatten(0, 1)  # (N*(T-1), 3, H, W)
    to_next = spynet(earlier, later).unflatten(0, (-1, frames - 1))  # (N, T-1, 2, H, W)
    to_previous = spynet(later, earlier).unflatten(0, (-1, frames - 1))
    return list(to_next.unbind(dim=1)), list(to_previous.unbind(dim=1))


def bilinear(frame: Tensor, scale: int) -> Tensor:
    return F.interpolate(frame, scale_factor=float(scale), mode="bilinear", align_corners=False)
