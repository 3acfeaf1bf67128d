"""LPIPS: distance of two pictures as the eye has it, by the features of a classifier.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018,
version 0.1: the two pictures' features of five layers, each scaled to length 1 over its channels,
squared difference, weighted by a trained head, mean over the picture, sum over the layers.

The heads are torchmetrics' files (a few KiB each, in its package). The classifier's weights are not
ours to ship, and torchmetrics wants torchvision and a download for them; here the file that
torchvision publishes is read from

    alex   $EDGESR_ALEXNET, else $XDG_CACHE_HOME/edgesr/alexnet.pth    (alexnet-owt-7be5be79.pth)
    vgg    $EDGESR_VGG16, else $XDG_CACHE_HOME/edgesr/vgg16.pth        (vgg16-397923af.pth)

"alex" is what papers report, "vgg" what some train with: never compare the two.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesr.distill.data import cache_root
from edgesr.errors import MissingDependency, ModelError, UsageError
from edgesr.networks.foreign_file import read_content

Array = np.ndarray[Any, Any]

# Of ImageNet in -1..1, as the heads were trained with.
SHIFT = (-0.030, -0.088, -0.188)
SPREAD = (0.458, 0.448, 0.450)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Convolutions with a ReLU each, after a max-pooling (0: none); the last ReLU is compared.

    convs    (number in torchvision's `features`, stride, padding)
    """

    pool: int = 0
    convs: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """published: where torchvision's file is; shapes: of some of its weights, to know it by."""

    variable: str
    file: str
    published: str
    shapes: Mapping[str, tuple[int, ...]]
    groups: tuple[Group, ...]


def plain(*numbers: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((number, 1, 1) for number in numbers)


CLASSIFIERS = {
    "alex": Classifier(
        variable="EDGESR_ALEXNET",
        file="alexnet.pth",
        published="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        shapes={"0": (64, 3, 11, 11), "10": (256, 256, 3, 3)},
        groups=(
            Group(convs=((0, 4, 2),)),
            Group(pool=3, convs=((3, 1, 2),)),
            Group(pool=3, convs=plain(6)),
            Group(convs=plain(8)),
            Group(convs=plain(10)),
        ),
    ),
    "vgg": Classifier(
        variable="EDGESR_VGG16",
        file="vgg16.pth",
        published="https://download.pytorch.org/models/vgg16-397923af.pth",
        shapes={"0": (64, 3, 3, 3), "14": (256, 256, 3, 3), "17": (512, 256, 3, 3)},
        groups=(
            Group(convs=plain(0, 2)),
            Group(pool=2, convs=plain(5, 7)),
            Group(pool=2, convs=plain(10, 12, 14)),
            Group(pool=2, convs=plain(17, 19, 21)),
            Group(pool=2, convs=plain(24, 26, 28)),
        ),
    ),
}


def load_lpips(which: str) -> Callable[[Array, Array], float]:
    """LPIPS as a function of two (H, W, 3) uint8 RGB pictures of 32 pixels a side or more.

    which    "alex", "vgg", or torchvision's file of one of them
    Raises UsageError, ModelError, MissingDependency: what is missing, and where it must lie.
    """
    net, path = find(which)
    weights = read_weights(path, net)
    heads = read_heads(net)

    @torch.inference_mode()
    def lpips(ours: Array, truth: Array) -> float:
        return float(
            distance(prepared(ours), prepared(truth), net=net, weights=weights, heads=heads)
        )

    return lpips


def find(which: str) -> tuple[str, Path]:
    """Key of CLASSIFIERS and the file with its weights."""
    known = CLASSIFIERS.get(which)
    if known is not None:
        path = Path(os.environ.get(known.variable) or cache_root() / known.file)
        if not path.is_file():
            raise UsageError(
                f"LPIPS ({which}) needs torchvision's weights: put {known.published} at {path}, "
                f"or name the file in {known.variable}"
            )
        return which, path
    path = Path(which)
    if not path.is_file():
        names = ", ".join(CLASSIFIERS)
        raise UsageError(f"--lpips {which}: neither {names} nor a file with one's weights")
    content = read_content(path)
    for net, classifier in CLASSIFIERS.items():
        if fits(content, classifier):
            return net, path
    raise ModelError(f"{path}: not torchvision's AlexNet or VGG16")


def fits(content: Any, classifier: Classifier) -> bool:
    return isinstance(content, Mapping) and all(
        tuple(getattr(content.get(f"features.{number}.weight"), "shape", ())) == shape
        for number, shape in classifier.shapes.items()
    )


def read_weights(path: Path, net: str) -> dict[str, Tensor]:
    """{"0.weight", "0.bias", ...}: the convolutions that are used, float32."""
    content = read_content(path)
    classifier = CLASSIFIERS[net]
    if not fits(content, classifier):
        raise ModelError(f"{path} is not torchvision's {Path(classifier.published).name}")
    numbers = [number for group in classifier.groups for number, _, _ in group.convs]
    names = [f"{number}.{part}" for number in numbers for part in ("weight", "bias")]
    missing = [name for name in names if f"features.{name}" not in content]
    if missing:
        raise ModelError(f"{path} has no features.{missing[0]}: it is cut short")
    return {name: content[f"features.{name}"].float() for name in names}


def read_heads(net: str) -> list[Tensor]:
    """(1, C, 1, 1) for each layer. torchmetrics itself is not imported: that takes seconds."""
    package = importlib.util.find_spec("torchmetrics")
    if package is None or not package.submodule_search_locations:
        raise MissingDependency("LPIPS needs torchmetrics: pip install 'edgesr[train]'")
    root = Path(package.submodule_search_locations[0])
    path = root / "functional" / "image" / "lpips_models" / f"{net}.pth"
    if not path.is_file():
        raise MissingDependency(f"LPIPS: this torchmetrics has no {path.name} in {path.parent}")
    content = read_content(path)
    return [content[f"lin{k}.model.1.weight"] for k in range(len(CLASSIFIERS[net].groups))]


def prepared(picture: Array) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) as the classifier was trained."""
    rgb = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    shift, spread = (torch.tensor(v)[:, None, None] for v in (SHIFT, SPREAD))
    return (rgb.float() / 127.5 - 1 - shift) / spread


def distance(
    ours: Tensor, truth: Tensor, *, net: str, weights: Mapping[str, Tensor], heads: list[Tensor]
) -> Tensor:
    """Of (1, 3, H, W) pictures as `prepared` gives them."""
    total = torch.zeros(())
    for group, head in zip(CLASSIFIERS[net].groups, heads, strict=True):
        ours, truth = (features(x, group, weights) for x in (ours, truth))
        difference = (unit(ours) - unit(truth)) ** 2  # (1, C, h, w)
        total = total + F.conv2d(difference, head).mean()
    return total


def features(x: Tensor, group: Group, weights: Mapping[str, Tensor]) -> Tensor:
    if group.pool:
        x = F.max_pool2d(x, group.pool, stride=2)
    for number, stride, padding in group.convs:
        weight, bias = weights[f"{number}.weight"], weights[f"{number}.bias"]
        x = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=padding))
    return x


def unit(x: Tensor) -> Tensor:
    """Every pixel's channels to length 1."""
    return x / torch.sqrt(1e-8 + (x**2).sum(dim=1, keepdim=True))
