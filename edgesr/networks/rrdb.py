"""RRDBNet of ESRGAN (Wang et al., "ESRGAN: Enhanced Super-Resolution GANs", ECCVW 2018).

23 residual-in-residual dense blocks at the size of the input, then twice nearest x2 with a 3x3
convolution. No batch normalisation, no skip from the picture itself. Range 0..1.

The paper is x4 only. Scales 1 and 2 are those of Real-ESRGAN (Wang et al., ICCVW 2021): the same
x4 network on an input folded by 4 or 2 into the channels. Its x4plus, x2plus and the 6-block
anime_6B have these parameter names; ESRGAN's own files name the same tensors otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import ModelError, UsageError
from edgesr.networks.blocks import RRDB

FOLDS = {1: 4, 2: 2, 4: 1}  # scale: side of the squares of the input that become channels


@dataclass(frozen=True, kw_only=True)
class RrdbConfig:
    """`blocks` RRDBs on `width` channels, dense blocks growing by `growth`."""

    scale: int
    width: int = 64
    growth: int = 32
    blocks: int = 23


class Rrdb(nn.Module):
    """(N, 3, H, W) in 0..1 -> (N, 3, sH, sW); H and W divisible by `multiple`."""

    colour = "rgb"

    def __init__(self, config: RrdbConfig) -> None:
        super().__init__()
        if config.scale not in FOLDS:
            raise UsageError(f"RRDBNet has no scale {config.scale}: 1, 2 and 4 are its scales")
        self.config = config
        width = config.width
        self.conv_first = nn.Conv2d(3 * self.multiple**2, width, 3, padding=1)
        self.body = nn.Sequential(*[RRDB(width, config.growth) for _ in range(config.blocks)])
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_up2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    @property
    def multiple(self) -> int:
        return FOLDS[self.config.scale]

    def forward(self, x: Tensor) -> Tensor:
        if self.multiple > 1:
            x = F.pixel_unshuffle(x, self.multiple)  # (N, 3*m*m, H/m, W/m), below h = H/m
        first = self.conv_first(x)  # (N, width, h, w)
        y = first + self.conv_body(self.body(first))
        y = F.interpolate(y, scale_factor=2, mode="nearest")  # (N, width, 2h, 2w)
        y = F.leaky_relu(self.conv_up1(y), 0.2)
        y = F.interpolate(y, scale_factor=2, mode="nearest")  # (N, width, 4h, 4w)
        y = F.leaky_relu(self.conv_up2(y), 0.2)
        y = F.leaky_relu(self.conv_hr(y), 0.2)
        return self.conv_last(y)  # (N, 3, 4h, 4w) = (N, 3, sH, sW)


def interpolate(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Network interpolation: every tensor is (1 - alpha) a + alpha b. Raises ModelError.

    ESRGAN mixes its PSNR-trained (a) and GAN-trained (b) networks. Real-ESRGAN's denoise strength
    is `alpha` with the -wdn weights as `a` and the general ones as `b`.
    """
    if a.keys() != b.keys():
        alone = sorted(a.keys() ^ b.keys())
        raise ModelError(
            f"weights of different networks cannot be mixed: {len(alone)} tensors are in one file "
            f"only, such as {alone[0]!r}"
        )
    for name, tensor in a.items():
        if tensor.shape != b[name].shape:
            raise ModelError(
                f"weights of different networks cannot be mixed: {name!r} is "
                f"{tuple(tensor.shape)} in one file and {tuple(b[name].shape)} in the other"
            )
    return {name: (1 - alpha) * tensor + alpha * b[name] for name, tensor in a.items()}
