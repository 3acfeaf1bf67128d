"""Perceptual loss: distance of VGG features (Johnson et al., ECCV 2016; Simonyan and Zisserman,
"Very Deep Convolutional Networks", ICLR 2015).

The weights are not ours to ship. `load_vgg` reads the file that torchvision publishes, from

    $EDGESR_VGG19, else $XDG_CACHE_HOME/edgesr/vgg19.pth    (vgg19-dcbb9e9d.pth)
    $EDGESR_VGG16, else $XDG_CACHE_HOME/edgesr/vgg16.pth    (vgg16-397923af.pth)

and says so where there is none. Layers go by the names of the papers: conv5_4 is the fourth
convolution of the fifth group *before* its ReLU, relu5_4 the same after it.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.distill.data import cache_root
from edgesr.errors import ModelError, UsageError
from edgesr.networks.foreign_file import read_content

Depth = Literal[16, 19]

GROUPS: dict[Depth, tuple[int, ...]] = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
WIDTHS = (64, 128, 256, 512, 512)
PUBLISHED: dict[Depth, str] = {
    16: "https://download.pytorch.org/models/vgg16-397923af.pth",
    19: "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
}

# What the network was trained with, for RGB in 0..1.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Perceptual:
    """One setting of the loss: sum over `layers` of weight * distance of the features."""

    layers: tuple[tuple[str, float], ...]
    distance: Literal["l1", "mse"]
    depth: Depth = 19
    signed: bool = False
    """The network gets pictures in -1..1 instead of 0..1, as GLEAN's authors feed it."""


PERCEPTUAL: dict[str, Perceptual] = {
    # Lornatang's features.35. The paper divides the features by 12.75: a weight of about 0.006.
    "srgan": Perceptual(layers=(("relu5_4", 1.0),), distance="mse"),
    "esrgan": Perceptual(layers=(("conv5_4", 1.0),), distance="l1"),
    "spsr": Perceptual(layers=(("conv5_4", 1.0),), distance="l1"),
    "bebygan": Perceptual(
        layers=(("conv3_4", 1 / 8), ("conv4_4", 1 / 4), ("conv5_4", 1 / 2)), distance="l1"
    ),
    "realesrgan": Perceptual(
        layers=(
            ("conv1_2", 0.1),
            ("conv2_2", 0.1),
            ("conv3_4", 1.0),
            ("conv4_4", 1.0),
            ("conv5_4", 1.0),
        ),
        distance="l1",
    ),
    "glean": Perceptual(layers=(("conv4_3", 1.0),), distance="mse", depth=16, signed=True),
}


class Vgg(nn.Module):
    """The convolutional part, frozen. Parameter names are torchvision's.

    `width` is the number of filters of the first group, 64 in what is published; fewer make a
    network of random weights quick.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, depth: Depth, width: int = 64) -> None:
        super().__init__()
        self.depth = depth
        self.names: list[str] = []
        layers: list[nn.Module] = []
        c_in = 3
        for group, count in enumerate(GROUPS[depth], start=1):
            c = WIDTHS[group - 1] * width // 64
            for number in range(1, count + 1):
                # Not in place: the feature before the ReLU is wanted as it was.
                layers += [nn.Conv2d(c_in, c, 3, padding=1), nn.ReLU()]
                self.names += [f"conv{group}_{number}", f"relu{group}_{number}"]
                c_in = c
            layers.append(nn.MaxPool2d(2))
            self.names.append(f"pool{group}")
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, x: Tensor, layers: Collection[str]) -> dict[str, Tensor]:
        """(N, 3 or 1, H, W) in 0..1 -> the features of those layers, by name.

        One channel is taken as gray. Nothing behind the last layer asked for is computed.
        """
        unknown = sorted(set(layers) - set(self.names))
        if unknown:
            raise UsageError(
                f"VGG{self.depth} has no layer {unknown[0]}: it has {', '.join(self.names)}"
            )
        y = (x - self.mean) / self.deviation  # gray becomes three equal channels
        found: dict[str, Tensor] = {}
        for name, layer in zip(self.names, self.features, strict=True):
            y = layer(y)
            if name in layers:
                found[name] = y
                if len(found) == len(set(layers)):
                    break
        return found


def perceptual(output: Tensor, truth: Tensor, *, vgg: Vgg, setting: Perceptual) -> Tensor:
    """Weighted distance of the features of (N, 3 or 1, H, W) output and truth in 0..1."""
    if vgg.depth != setting.depth:
        raise UsageError(f"this perceptual loss wants VGG{setting.depth}, not VGG{vgg.depth}")
    weights = dict(setting.layers)
    if setting.signed:
        output, truth = 2 * output - 1, 2 * truth - 1
    with torch.no_grad():
        wanted = vgg(truth, weights.keys())
    found = vgg(output, weights.keys())
    distance = F.l1_loss if setting.distance == "l1" else F.mse_loss
    terms = [weight * distance(found[name], wanted[name]) for name, weight in weights.items()]
    return torch.stack(terms).sum()


def load_vgg(path: Path | None = None, *, depth: Depth) -> Vgg:
    """The published network from a file in torchvision's format, on the CPU. Raises ModelError.

    path    None: where `vgg_path` says
    """
    path = vgg_path(depth) if path is None else path
    advice = f"put {PUBLISHED[depth]} there, or say EDGESR_VGG{depth}=FILE"
    if not path.is_file():
        raise ModelError(f"the perceptual loss needs VGG{depth}, and {path} is missing: {advice}")
    content = read_content(path)
    vgg = Vgg(depth=depth)
    own = vgg.state_dict()
    for name, tensor in own.items():
        theirs = content.get(name) if isinstance(content, dict) else None
        if not isinstance(theirs, Tensor) or theirs.shape != tensor.shape:
            shape = tuple(theirs.shape) if isinstance(theirs, Tensor) else "missing"
            raise ModelError(
                f"{path} is not VGG{depth}: {name} is {shape}, not {tuple(tensor.shape)}; {advice}"
            )
    vgg.load_state_dict({name: content[name] for name in own})  # the classifier is left out
    return vgg


def vgg_path(depth: Depth) -> Path:
    named = os.environ.get(f"EDGESR_VGG{depth}")
    return Path(named) if named else cache_root() / f"vgg{depth}.pth"


def random_vgg(*, depth: Depth, seed: int = 0, width: int = 64) -> Vgg:
    """He-initialised weights, the same for the same seed: for trials without the published file.

    The features keep their size from layer to layer. What is trained with it must say so.
    """
    vgg = Vgg(depth=depth, width=width)
    generator = torch.Generator().manual_seed(seed)
    for layer in vgg.features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return vgg
