"""Video networks in a size that computes at once, and ways to fill and run them."""

from __future__ import annotations

import torch

FLOW = {"flow_levels": 3, "flow_widths": (4, 4, 4, 4)}
SMALL = {"features": 4, "blocks": 1, "refined": 4, **FLOW}
SMALL_ICON = {**SMALL, "extraction_blocks": 1, "deform_groups": 2}


def randomised(model: torch.nn.Module, *, seed: int = 0, spread: float = 0.1) -> torch.nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(spread * torch.randn_like(parameter))
    return model.eval()


def silenced(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.eval()


@torch.no_grad()
def run(model, *inputs):
    return model(*inputs)
