"""For tests of `edgesr convert`: checkpoints as files, and what networks make of a picture.

A test file takes the fixture over by name: `unmeasured = conversions.unmeasured`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from official import Layout
from torch import Tensor, nn

from edgesr.networks import checkpoint
from edgesr.networks.basicvsr import BasicVsr
from edgesr.networks.glean import Glean
from edgesr.networks.iconvsr import IconVsr
from edgesr.networks.pisr import PisrTeacher


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The halo has its own tests, and takes most of the time."""
    monkeypatch.setattr(checkpoint, "measure_halo", lambda *_, **__: None)


def laid_out(fill: Callable[[Layout], None]) -> Layout:
    layout = Layout()
    fill(layout)
    return layout


def stored(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def picture(model: Any, *, height: int = 16, width: int = 20) -> Tensor:
    """Something that the network takes: a picture, a clip, or the large picture of a teacher."""
    random = torch.Generator().manual_seed(1)
    channels = 1 if model.colour == "y" else 3
    if isinstance(model, Glean):
        height, width = model.fixed_size
    shape: tuple[int, ...] = (1, channels, height, width)
    if isinstance(model, BasicVsr | IconVsr):
        shape = (1, 5, *shape[1:])
    if isinstance(model, PisrTeacher):
        shape = (1, channels, 3 * height, 3 * width)
    return torch.rand(shape, generator=random)


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = model(x)
    return y[0] if isinstance(y, tuple) else y


def by_hand(layout: Layout, network: Any, config: Any) -> nn.Module:
    model: nn.Module = network(config)
    model.load_state_dict(layout.ours)
    return model.eval()


def ecbsr_as_published(state: dict[str, Tensor], x: Tensor, *, scale: int) -> Tensor:
    """The official forward, branch by branch: expand, frame with the bias, filter."""
    y = x
    for i in range(4):
        block = f"backbone.{i}."
        out = F.conv2d(y, state[f"{block}conv3x3.weight"], state[f"{block}conv3x3.bias"], padding=1)
        for branch in ("conv1x1_3x3", "conv1x1_sbx", "conv1x1_sby", "conv1x1_lpl"):
            own = {n.rpartition(".")[2]: t for n, t in state.items() if f"{block}{branch}." in n}
            wide = F.conv2d(y, own["k0"], own["b0"])
            framed = own["b0"].view(1, -1, 1, 1).repeat(1, 1, y.shape[2] + 2, y.shape[3] + 2)
            framed[:, :, 1:-1, 1:-1] = wide
            if branch == "conv1x1_3x3":
                out = out + F.conv2d(framed, own["k1"], own["b1"])
            else:
                taps = own["scale"] * own["mask"]
                out = out + F.conv2d(framed, taps, own["bias"], groups=len(taps))
        slopes = state.get(f"{block}act.weight")
        y = out if slopes is None else F.prelu(out, slopes)
    return F.pixel_shuffle(y + x.repeat_interleave(scale**2, dim=1), scale)
