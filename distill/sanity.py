"""What a network makes of noise, which nothing in its training looks like.

Between its training pictures and far from all of them a network may do anything: one that scored
37.4 dB on photos made values of 500 out of uniform noise (SOAP, no weight decay). On a screen that
is a flash of white wherever footage is noisy enough.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgesr.networks import deployed
from edgesr.runtime.upscale import padded
from edgesr.spec import ModelSpec

SANE = (-4.0, 5.0)  # sharpening noise takes the shipped ones to -2.5..4.1
SIZE = (64, 64)


def range_on_noise(model: nn.Module, spec: ModelSpec) -> tuple[float, float]:
    """Lowest and highest value that comes out for SIZE pixels of uniform noise in 0..1.

    Of a model that does not take SIZE: for as many as it takes.
    """
    shape = (1, spec.channels, *(spec.fixed_size or padded(SIZE, spec)))
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    with torch.no_grad():
        out = deployed(model)(torch.from_numpy(noise))
    return float(out.min()), float(out.max())


def complaint(values: tuple[float, float]) -> str | None:
    """What is wrong with a network that gives `values` for noise, and what helps; None: nothing."""
    low, high = values
    if SANE[0] < low and high < SANE[1]:
        return None
    return (
        f"it gives {low:.3g} to {high:.3g} for noise in 0..1, so noisy footage may flash: train "
        "with weight decay (--set weight_decay=0.1 with soap, 1e-6 with adam) or a smaller rate"
    )
