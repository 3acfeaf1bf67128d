"""Facts of a network that are measured or counted, never typed in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

FARTHEST = 512
"""A receptive field wider than this to one side is as good as global: nobody cuts such tiles."""


@torch.no_grad()
def measure_halo(
    model: nn.Module, *, scale: int, channels: int = 1, multiple: int = 1, min_size: int = 1
) -> int | None:
    """Radius of the receptive field in LR pixels; None where no tile equals its part of the whole.

    One pixel is made NaN, which spreads through every operation to all that depends on it,
    whatever the weights are. Then a piece of a picture, cut with that margin, must come out as in
    the whole picture: attention that resizes or pools by the picture's size fails this.
    Both are done on strips, since the field is as wide as it is high in every network here.
    """
    probe = copy.deepcopy(model).cpu().float().eval()
    short = rounded_up(max(min_size, multiple), multiple)
    radius = 0
    for offset in range(multiple):
        reach = nan_reach(probe, offset, scale, channels, multiple, short)
        if reach is None:
            return None
        radius = max(radius, reach)
    margin = rounded_up(radius, multiple)
    return radius if cut_equals_whole(probe, margin, scale, channels, multiple, short) else None


def nan_reach(
    model: nn.Module, offset: int, scale: int, channels: int, multiple: int, short: int
) -> int | None:
    """How far a NaN at a pixel with x = y = `offset` (mod multiple) spreads, in LR pixels."""
    half = max(32, short)
    while half <= 2 * FARTHEST:
        half = rounded_up(half, multiple)
        radius = 0
        for turned in (False, True):
            strip = torch.full((1, channels, short, 2 * half), 0.5)
            strip[..., offset, half + offset] = torch.nan
            spread = model(strip.mT if turned else strip).isnan().any(dim=(0, 1))
            columns = (spread.T if turned else spread).any(dim=0).nonzero()
            radius = max(radius, int((columns // scale - half - offset).abs().max()))
        if radius < half - offset - 1:
            return radius if radius <= FARTHEST else None
        half *= 2
    return None


def cut_equals_whole(
    model: nn.Module, margin: int, scale: int, channels: int, multiple: int, short: int
) -> bool:
    """Whether the middle of a tile, `margin` pixels from its edges, equals that of the picture.

    In float64: an attention that depends faintly on the whole is not to pass for rounding.
    """
    model = model.double()
    kept = rounded_up(16, multiple)
    before, tile = rounded_up(24, multiple), rounded_up(max(2 * margin + kept, short), multiple)
    after = rounded_up(41, multiple)
    size = (1, channels, short, before + tile + after)
    picture = torch.rand(size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = model(picture)[..., before * scale : (before + tile) * scale]
    cut = model(picture[..., before : before + tile])
    inner = slice(margin * scale, (tile - margin) * scale)
    difference = (whole[..., inner] - cut[..., inner]).abs().max()
    return bool(difference <= 1e-10 * whole.abs().max().clamp(min=1.0))


def rounded_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters (ECBSR's fixed edge masks are parameters too, and not counted)."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_macs(
    model: nn.Module, *, height: int, width: int, channels: int = 1, literature: bool = False
) -> int:
    """Multiply-adds of all convolutions and matrix products for one (channels, height, width).

    A transposed convolution is counted by what it computes, once for each input pixel; with
    `literature` once for each output pixel, as the published tables of FSRCNN and LapSRN do.
    """
    return count_macs_of(model, (1, channels, height, width), literature=literature)


def count_macs_of(model: nn.Module, shape: tuple[int, ...], *, literature: bool = False) -> int:
    """`count_macs` for an input of any shape. Nothing is computed: it runs on the meta device."""
    extra = 0

    def count(module: nn.ConvTranspose2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal extra
        more_pixels = output[0, 0].numel() - inputs[0][0, 0].numel()
        extra += len(output) * more_pixels * module.weight.numel()

    probe = copy.deepcopy(model).to("meta").eval()
    if literature:
        for module in probe.modules():
            if isinstance(module, nn.ConvTranspose2d):
                module.register_forward_hook(count)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        probe(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops()) // 2 + extra
