"""BSRN, BSRN-S, RLFN, SPAN and SAFMN in small, and what one of their layers sees."""

from __future__ import annotations

from collections.abc import Callable

import small_networks
import torch
from torch import Tensor, nn

from edgesr.networks.span import PlainSpan, SpanConfig

SMALL: dict[str, Callable[[int], nn.Module]] = {
    **{name: small_networks.SMALL[name] for name in ("bsrn", "bsrn-s", "rlfn", "span", "safmn")},
    "span-plain": lambda scale: PlainSpan(SpanConfig(scale=scale, features=8, blocks=3)),
}


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Every parameter moved, so that no branch is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def seen_by(module: nn.Module, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of one layer while the model runs."""
    found: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda m, inputs, out: found.append((inputs[0], out)))
    with torch.no_grad():
        model(x)
    handle.remove()
    return found[0]
