"""PISR (Lee et al., "Learning with Privileged Information for Efficient Image Super-Resolution",
ECCV 2020): an FSRCNN taught by an FSRCNN that sees the answer.

The teacher squeezes the large picture into one channel of the small size (its "compact feature",
trained to resemble the small picture) and decodes that with an FSRCNN. The student is that FSRCNN,
started from the teacher's decoder and fed with the small picture. Two heads, thrown away after
training, predict the teacher's last feature from the student's: where it is (location) and how
uncertain that is (scale of a Laplace distribution).

Luma in 0..1. As in the published code every PReLU has one slope and torch's own initialisation is
kept. Parameter names of encoder and heads are the published ones; both decoders are named as in
fsrcnn.py.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig

Spread = Literal["C", "HW", "CHW"]


@dataclass(frozen=True, kw_only=True)
class PisrConfig:
    """d, s and m of FSRCNN, and over what the student shares its uncertainty.

    None: one scale for every channel and pixel; "C": one for each channel; "HW": one for each
    pixel; "CHW": one for each picture.
    """

    scale: int
    features: int = 56
    shrunk: int = 12
    mappings: int = 4
    shared_spread: Spread | None = None

    def decoder(self) -> FsrcnnConfig:
        return FsrcnnConfig(
            scale=self.scale,
            features=self.features,
            shrunk=self.shrunk,
            mappings=self.mappings,
            shared_slopes=True,
        )


class PisrTeacher(nn.Module):
    """(N, 1, sH, sW) luma of the LARGE picture in 0..1 -> it again, and what it was squeezed to."""

    colour = "y"

    def __init__(self, config: PisrConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder(config.scale, features=config.features, shrunk=config.shrunk)
        self.decoder = Fsrcnn(config.decoder())

    def forward(self, large: Tensor) -> tuple[Tensor, Tensor]:
        """The picture decoded (N, 1, sH, sW) and the compact feature (N, 1, H, W)."""
        compact = self.encoder(large)
        return self.decoder(compact), compact

    def feature(self, large: Tensor) -> Tensor:
        """What the student's heads predict: after `expanding` and its PReLU, (N, d, H, W)."""
        return feature(self.decoder, self.encoder(large))


class PisrStudent(nn.Module):
    """Training form. (N, 1, H, W) luma in 0..1 -> (N, 1, sH, sW).

    Starts from a teacher by `student.backbone.load_state_dict(teacher.decoder.state_dict())`.
    """

    colour = "y"

    def __init__(self, config: PisrConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = Fsrcnn(config.decoder())
        d = config.features
        self.expanding_mean = head(d, d)
        self.expanding_var = head(d, 1 if config.shared_spread in ("HW", "CHW") else d)
        if config.shared_spread in ("C", "CHW"):
            self.expanding_var.append(nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def with_estimates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The picture, and location and scale of the teacher's feature.

        (N, 1, sH, sW), (N, d, H, W), and what broadcasts to that, over 0 everywhere.
        """
        y = feature(self.backbone, x)
        scale = 0.1 * F.softplus(self.expanding_var(y)) + 1e-8
        return self.backbone.last_part(y), self.expanding_mean(y), scale


def encoder(scale: int, *, channels: int = 1, features: int = 56, shrunk: int = 12) -> nn.Module:
    """(N, C, sH, sW) -> the compact feature (N, C, H, W)."""
    squeeze = nn.Sequential(
        nn.Conv2d(channels, features, 5, padding=2),
        nn.PReLU(),
        nn.Conv2d(features, features, 5, stride=scale, padding=2),
        nn.PReLU(),
        nn.Conv2d(features, shrunk, 3, padding=1),
        nn.PReLU(),
        nn.Conv2d(shrunk, channels, 3, padding=1),
    )
    return nn.Sequential(squeeze)


def merge(model: PisrStudent) -> Fsrcnn:
    """The FSRCNN without the heads; the training form stays untouched."""
    return copy.deepcopy(model.backbone).eval()


def feature(decoder: Fsrcnn, x: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, d, H, W), what the last layer of an FSRCNN gets."""
    return decoder.mid_part(decoder.first_part(x))


def head(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(c_in, c_in, 1), nn.PReLU(), nn.Conv2d(c_in, c_out, 1))
