"""FSRCNN (Dong, Loy, Tang, "Accelerating the Super-Resolution CNN", ECCV 2016), FSRCNN(56, 12, 4).

Feature extraction 5x5, shrinking 1x1, m mapping layers 3x3, expanding 1x1, and a transposed
convolution 9x9 whose stride is the scale. PReLU with one slope a channel after all but the last.

Values 0..1. Parameter names are those of yjn870/FSRCNN-pytorch. PISR (Lee et al., ECCV 2020) has
one slope a layer (`shared_slopes`) and starts from torch's own initialisation. FSRCNN-s, the fast
one of the paper, is (32, 5, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from edgesr.networks.blocks import ChannelPReLU


@dataclass(frozen=True, kw_only=True)
class FsrcnnConfig:
    """d, s and m of the paper; `shared_slopes`: one PReLU slope a layer, as PISR's code has it."""

    scale: int
    features: int = 56
    shrunk: int = 12
    mappings: int = 4
    shared_slopes: bool = False


class Fsrcnn(nn.Module):
    """(N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW)."""

    colour = "y"

    def __init__(self, config: FsrcnnConfig) -> None:
        super().__init__()
        self.config = config
        d, s = config.features, config.shrunk
        self.first_part = nn.Sequential(nn.Conv2d(1, d, 5, padding=2), self.prelu(d))
        middle: list[nn.Module] = [nn.Conv2d(d, s, 1), self.prelu(s)]
        for _ in range(config.mappings):
            middle += [nn.Conv2d(s, s, 3, padding=1), self.prelu(s)]
        middle += [nn.Conv2d(s, d, 1), self.prelu(d)]
        self.mid_part = nn.Sequential(*middle)
        self.last_part = nn.ConvTranspose2d(
            d, 1, 9, stride=config.scale, padding=4, output_padding=config.scale - 1
        )
        if not config.shared_slopes:
            self.reset()

    def prelu(self, channels: int) -> nn.Module:
        return nn.PReLU() if self.config.shared_slopes else ChannelPReLU(channels)

    def reset(self) -> None:
        """He initialisation; the transposed convolution starts nearly silent, N(0, 0.001)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.last_part.weight, std=0.001)
        nn.init.zeros_(self.last_part.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        y = self.first_part(x)  # (N, d, H, W)
        y = self.mid_part(y)  # (N, d, H, W)
        return self.last_part(y)  # (N, 1, sH, sW)
