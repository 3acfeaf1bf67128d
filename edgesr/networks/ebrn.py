"""EBRN (Qiu, Wang, Tao, Cheng, "Embedded Block Residual Network: A Recursive Restoration Model for
Single-Image Super-Resolution", ICCV 2019).

Easy texture should be restored by few layers, hard texture by many. Ten block residual modules
(BRM) stand in a row. Each enlarges its feature and restores it there (up-flow); it also shrinks
the enlarged feature again, and what that misses of its input is all that the next module gets
(down-flow). The results are fused from the deepest to the shallowest, then all of them together
make the picture. RGB in 0..1. No skip of the picture.

The authors published no code, and the paper was not at hand word for word. As it is described, and
as a TensorFlow port (alilajevardi) has it: the three first convolutions (256, 64, 64 channels), two
flows of three convolutions each, the subtraction and the skip after it, ten modules of 64 channels,
PReLU, sum and convolution in each fusion, concatenation of all, one convolution at the end.

Chosen here, where the sources do not say or differ:
- Enlarging and shrinking kernels reach `overlap` = 2 pixels over each end of their stride, 8x8 for
  x4, like DBPN's. With a kernel equal to the stride (overlap=0, that port) the network has half of
  the published 7.9M parameters.
- The last module has no down-flow, nothing would use it: 7,633,923 parameters at x4, with it 8.0M.
- PReLU has one slope a channel and follows every layer but the last.
- He's initialisation; the last convolution of a down-flow starts at a tenth of it, for otherwise
  the features grow from module to module. Parameter names.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgesr.networks.blocks import ChannelPReLU, start_small


@dataclass(frozen=True, kw_only=True)
class EbrnConfig:
    """`stem` is the width of the very first convolution."""

    scale: int
    blocks: int = 10
    width: int = 64
    stem: int = 256
    overlap: int = 2


class Ebrn(nn.Module):
    """(N, 3, H, W) RGB in 0..1 -> (N, 3, sH, sW)."""

    colour = "rgb"

    def __init__(self, config: EbrnConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.features = nn.Sequential(
            *activated_conv(3, config.stem),
            *activated_conv(config.stem, width),
            *activated_conv(width, width),
        )
        self.brms = nn.ModuleList(
            BlockResidualModule(config, deepest=i == config.blocks - 1)
            for i in range(config.blocks)
        )
        self.fusions = nn.ModuleList(
            nn.Sequential(*activated_conv(width, width)) for _ in range(config.blocks - 1)
        )
        self.reconstruction = nn.Conv2d(config.blocks * width, 3, 3, padding=1)
        self.reset()

    def reset(self) -> None:
        """He's initialisation, and down-flows that start nearly silent."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for module in self.modules():
            if isinstance(module, DownFlow):
                last = module.refine[-2]
                assert isinstance(last, nn.Conv2d)
                start_small(last)

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x)  # (N, width, H, W)
        restored = []
        for brm in self.brms:
            up, y = brm(y)  # (N, width, sH, sW), (N, width, H, W)
            restored.append(up)
        fused = [restored.pop()]
        for fusion in self.fusions:  # from the deepest to the shallowest
            fused.append(fusion(fused[-1] + restored.pop()))
        return self.reconstruction(torch.cat(fused, dim=1))  # (N, 3, sH, sW)


class BlockResidualModule(nn.Module):
    """(N, width, H, W) -> what it restored (N, width, sH, sW), and what is left for the next."""

    def __init__(self, config: EbrnConfig, *, deepest: bool) -> None:
        super().__init__()
        width = config.width
        self.enlarge = nn.Sequential(
            nn.ConvTranspose2d(
                width,
                width,
                config.scale + 2 * config.overlap,
                stride=config.scale,
                padding=config.overlap,
            ),
            ChannelPReLU(width),
        )
        self.restore = nn.Sequential(
            *activated_conv(width, width),
            *activated_conv(width, width),
            *activated_conv(width, width),
        )
        self.down = None if deepest else DownFlow(config)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        enlarged = self.enlarge(x)  # (N, width, sH, sW)
        left = x if self.down is None else self.down(x, enlarged)  # (N, width, H, W)
        return self.restore(enlarged), left


class DownFlow(nn.Module):
    """The input less the shrunken enlarged feature, and three convolutions with a skip on it."""

    def __init__(self, config: EbrnConfig) -> None:
        super().__init__()
        width = config.width
        self.shrink = nn.Sequential(
            nn.Conv2d(
                width,
                width,
                config.scale + 2 * config.overlap,
                stride=config.scale,
                padding=config.overlap,
            ),
            ChannelPReLU(width),
        )
        self.refine = nn.Sequential(
            *activated_conv(width, width),
            *activated_conv(width, width),
            *activated_conv(width, width),
        )

    def forward(self, x: Tensor, enlarged: Tensor) -> Tensor:
        left = x - self.shrink(enlarged)
        return left + self.refine(left)


def activated_conv(c_in: int, c_out: int) -> list[nn.Module]:
    """3x3 convolution, PReLU."""
    return [nn.Conv2d(c_in, c_out, 3, padding=1), ChannelPReLU(c_out)]
