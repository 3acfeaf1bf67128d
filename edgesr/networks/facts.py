"""Facts of a network that are measured or counted, never typed in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgesr.errors import ModelError


def measure_halo(model: nn.Module, *, scale: int, channels: int = 1) -> int:
    """Radius of the receptive field in LR pixels, by an impulse test.

    A gradient is started at the output pixels of one LR pixel; as far as it reaches, they depend
    on the input. Weights are made positive first, so that no path is lost by cancelling.
    """
    probe = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for parameter in probe.parameters():
            parameter.abs_().add_(1e-3)
    for size in (33, 65, 129):
        picture = torch.rand(1, channels, size, size, dtype=torch.float64, requires_grad=True)
        centre = size // 2
        patch = slice(centre * scale, (centre + 1) * scale)
        probe(picture)[..., patch, patch].sum().backward()
        assert picture.grad is not None
        reach = picture.grad.abs().amax(dim=(0, 1)).nonzero() - centre
        radius = int(reach.abs().max())
        if radius < centre:
            return radius
    raise ModelError(f"the receptive field of {type(model).__name__} is over 64 pixels wide")


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters (ECBSR's fixed edge masks are parameters too, and not counted)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(model: nn.Module, *, height: int, width: int, channels: int = 1) -> int:
    """Multiply-adds of all convolutions for one (channels, height, width) picture.

    A transposed convolution is counted by what it computes, once for each input pixel; much of
    the literature counts it for each output pixel.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        transposed = isinstance(module, nn.ConvTranspose2d)
        pixels = inputs[0][0, 0] if transposed else output[0, 0]
        weight = module.weight
        assert isinstance(weight, Tensor)
        total += pixels.numel() * weight.numel()

    probe = copy.deepcopy(model).to("meta").eval()
    handles = [
        module.register_forward_hook(count)
        for module in probe.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        probe(torch.empty(1, channels, height, width, device="meta"))
    for handle in handles:
        handle.remove()
    return total
