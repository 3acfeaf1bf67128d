"""In which forms other people store the networks: what a form is, and words to describe one.

The forms themselves are tables, in the modules whose names start as this one's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way in which somebody stores one network.

    network      key of NETWORKS whose module class it is
    source       whose files look so, for people
    config       settings from the shapes of the renamed tensors; KeyError, IndexError: not this
    rename       (pattern, replacement) for `re.sub`, all applied in order
    arrange      then, what no pattern can say: names that depend on a count, tensors to be joined
    ignore       names (after renaming) to drop: what is recomputed, or only used in training
    wrappers     only for tensors that lie below one of these keys of the file
    scale_free   the tensors look the same at every scale: it must be said, or be in the file name
    pixel_range  what white was in training
    ranged       where another range than 0..1 goes: "config", the setting `pixel_range`; "biases",
                 all divided by it, the same function where all else is linear, ReLU or PReLU;
                 None: nowhere, the network knows 0..1 only
    assumed      settings that the file does not tell; "range" is one of them
    note         what else differs from the source's own program
    """

    network: str
    source: str
    config: Callable[[Mapping[str, Tensor]], dict[str, Any]]
    rename: tuple[tuple[str, str], ...] = ()
    arrange: Callable[[Tensors], Tensors] | None = None
    ignore: str | None = None
    wrappers: tuple[str, ...] | None = None
    scale_free: bool = False
    pixel_range: float = 1.0
    ranged: Literal["config", "biases"] | None = None
    assumed: tuple[str, ...] = ()
    note: str = ""


def count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many names match the whole pattern."""
    return sum(1 for name in tensors if re.fullmatch(pattern, name))


def rows(tensors: Mapping[str, Tensor], name: str) -> int:
    """Output channels of a convolution, channels of a bias."""
    return tensors[name].shape[0]


def columns(tensors: Mapping[str, Tensor], name: str) -> int:
    """Input channels of a convolution."""
    return tensors[name].shape[1]


def side(area: int) -> int:
    """2 of 4, 3 of 9: the factor of a pixel shuffle. Raises ValueError."""
    root = math.isqrt(area)
    if root**2 != area or root == 0:
        raise ValueError(f"{area} is no square")
    return root


def shuffles(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Scale of a chain of convolutions with pixel shuffles, those that match the pattern."""
    chain = [t for name, t in tensors.items() if re.fullmatch(pattern, name)]
    return math.prod(side(t.shape[0] // t.shape[1]) for t in chain)


def demand(tensors: Mapping[str, Tensor], name: str) -> None:
    """By this name the network is told from others. Raises KeyError."""
    if name not in tensors:
        raise KeyError(name)


def is_colour(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether a first convolution takes three channels and not one. Raises ValueError."""
    channels = columns(tensors, name)
    if channels not in (1, 3):
        raise ValueError(f"{channels} channels are neither luma nor RGB")
    return channels == 3


def divide_biases(tensors: Tensors, white: float) -> Tensors:
    """For 0..white -> for 0..1: the same function where all else is homogeneous of degree one."""
    return {
        name: tensor.float() / white if re.search(r"(^|\.)(bias|b0|b1)$", name) else tensor
        for name, tensor in tensors.items()
    }
