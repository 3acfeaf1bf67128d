"""For tests of INT8: drawn calibration pictures, and networks with one channel far too large."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from photos import draw_photo
from torch import nn

from edgesr.bicubic import downscale
from edgesr.export.calibrate import Calibration
from edgesr.export.onnx import build_onnx
from edgesr.export.source import Source
from edgesr.metrics import rgb_to_y
from edgesr.models import shipped
from edgesr.networks import checkpoint, deployed
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]


def drawn(*, scale: int = 2, pictures: int = 6, pairs: int = 4, size: int = 64) -> Calibration:
    """Luma of drawn photos, bicubic made small."""
    made = [_pair(seed, scale=scale, size=size) for seed in range(pictures + pairs)]
    return Calibration(
        pictures=tuple(lr for lr, _ in made[:pictures]),
        held_out=tuple(made[pictures:]),
        digest="drawn",
        about={"frames": pictures, "held_out": pairs, "names": ["drawn"]},
    )


def _pair(seed: int, *, scale: int, size: int) -> tuple[Array, Array]:
    hr = draw_photo(seed, height=size * scale, width=size * scale)
    small, big = (rgb_to_y(picture) / 255.0 for picture in (downscale(hr, scale), hr))
    return small.astype(np.float32)[None, None], big.astype(np.float32)[None, None]


def shipped_network(name: str) -> tuple[Any, ModelSpec]:
    """The merged torch network of a shipped model."""
    entry = next(model for model in shipped() if model.name == name)
    assert entry.checkpoint is not None
    model, spec = checkpoint.load(entry.checkpoint)
    return deployed(model), spec


def plant(network: nn.Module, *, at: int, channel: int, factor: float) -> None:
    """One output channel of convolution `at` times `factor`, and the next one takes it back.

    What stands between them is a (leaky) ReLU, so the function stays what it was.
    """
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    first, second = convolutions[at : at + 2]
    assert first.bias is not None
    with torch.no_grad():
        first.weight[channel] *= factor
        first.bias[channel] *= factor
        second.weight[:, channel] /= factor


def source_of(network: nn.Module, spec: ModelSpec) -> Source:
    built = build_onnx(network, spec)
    return Source(graph=built.graph, spec=built.spec, origin="made up", module=built.module)
