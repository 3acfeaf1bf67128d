"""Blur kernels and the filters of the Real-ESRGAN degradation, on batches.

Wang et al., "Real-ESRGAN", ICCVW 2021, section 3: Gaussian kernels (isotropic and anisotropic),
generalised Gaussians and plateaus (Liu et al., 2020), and the 2-D sinc that makes ringing. A draw
is kept as numbers (`KernelDraw`), so that it can be looked at; `make_kernels` turns it into
pictures of one size. Batches are (N, C, H, W) float32 in 0..1 on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from edgesr.errors import UsageError

KINDS = ("iso", "aniso", "general-iso", "general-aniso", "plateau-iso", "plateau-aniso")
SINC, DELTA = len(KINDS), len(KINDS) + 1  # what `KernelDraw.kind` holds beside indices of KINDS

Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class KernelDraw:
    """One kernel for each of N samples, as numbers on the CPU.

    size    (N,) int64, odd: weights outside this square are zero
    kind    (N,) int64: index in KINDS, or SINC or DELTA
    sigma   (N, 2) float64 in pixels, along the kernel's own axes (equal where isotropic)
    angle   (N,) float64 radians, from the x axis towards the y axis (which points down)
    beta    (N,) float64 exponent of the generalised and plateau kinds; 1 for plain Gaussians
    cutoff  (N,) float64 radians per pixel, of the sinc
    """

    size: Tensor
    kind: Tensor
    sigma: Tensor
    angle: Tensor
    beta: Tensor
    cutoff: Tensor

    def __len__(self) -> int:
        return len(self.size)


def uniform(count: int, bounds: Range, *, generator: torch.Generator) -> Tensor:
    """(count,) float64 on the CPU."""
    low, high = bounds
    return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)


def choose(count: int, shares: Sequence[float], *, generator: torch.Generator) -> Tensor:
    """(count,) int64: indices of `shares`, each as often as it says."""
    weights = torch.tensor(shares, dtype=torch.float64)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def draw_kernels(
    count: int,
    *,
    sizes: Sequence[int],
    shares: Sequence[float],
    sigma: Range,
    beta_general: Range,
    beta_plateau: Range,
    sinc: float,
    generator: torch.Generator,
) -> KernelDraw:
    """The blur of one stage: kinds as `shares` of KINDS says, a sinc instead with chance `sinc`.

    The sinc's cut-off is uniform in [pi/3, pi] for sizes below 13, else in [pi/5, pi].
    """
    size = torch.tensor(sizes)[choose(count, [1.0] * len(sizes), generator=generator)]
    kind = choose(count, shares, generator=generator)
    isotropic = kind % 2 == 0
    both = torch.stack([uniform(count, sigma, generator=generator) for _ in range(2)], dim=1)
    angle = uniform(count, (-math.pi, math.pi), generator=generator)
    general = draw_beta(count, beta_general, generator=generator)
    plateau = draw_beta(count, beta_plateau, generator=generator)
    beta = torch.where(kind >= 4, plateau, torch.where(kind >= 2, general, 1.0))
    lowest = torch.where(size < 13, math.pi / 3, math.pi / 5)
    rise = uniform(count, (0.0, 1.0), generator=generator)
    is_sinc = uniform(count, (0.0, 1.0), generator=generator) < sinc
    return KernelDraw(
        size=size,
        kind=torch.where(is_sinc, SINC, kind),
        sigma=torch.where(isotropic[:, None], both[:, :1], both),
        angle=torch.where(isotropic, 0.0, angle),
        beta=beta,
        cutoff=lowest + (math.pi - lowest) * rise,
    )


def draw_beta(count: int, bounds: Range, *, generator: torch.Generator) -> Tensor:
    """Half of them uniform in [low, 1], the other half in [1, high]: tails of either kind."""
    below = uniform(count, (bounds[0], 1.0), generator=generator)
    above = uniform(count, (1.0, bounds[1]), generator=generator)
    return torch.where(uniform(count, (0.0, 1.0), generator=generator) < 0.5, below, above)


def draw_final_sinc(
    count: int, *, sizes: Sequence[int], chance: float, generator: torch.Generator
) -> KernelDraw:
    """The ringing at the end: a sinc with cut-off in [pi/3, pi], or nothing (DELTA)."""
    size = torch.tensor(sizes)[choose(count, [1.0] * len(sizes), generator=generator)]
    cutoff = uniform(count, (math.pi / 3, math.pi), generator=generator)
    is_sinc = uniform(count, (0.0, 1.0), generator=generator) < chance
    return KernelDraw(
        size=size,
        kind=torch.where(is_sinc, SINC, DELTA),
        sigma=torch.ones(count, 2, dtype=torch.float64),
        angle=torch.zeros(count, dtype=torch.float64),
        beta=torch.ones(count, dtype=torch.float64),
        cutoff=cutoff,
    )


def make_kernels(draw: KernelDraw, *, width: int) -> Tensor:
    """(N, width, width) float32 on the CPU, each with sum 1; sizes below `width` padded by zeros.

    With q the squared distance in units of sigma: exp(-q / 2), exp(-q^beta / 2) and
    1 / (1 + q^beta); the sinc is w J1(w r) / (2 pi r), w the cut-off.
    """
    if width % 2 == 0 or int(draw.size.max()) > width:
        raise UsageError(
            f"kernels of {int(draw.size.max())} pixels in a square of {width}: "
            "it must be odd and no smaller"
        )
    half = width // 2
    line = torch.arange(-half, half + 1, dtype=torch.float64)
    x, y = line[None, None, :], line[None, :, None]
    cosine, sine = torch.cos(draw.angle)[:, None, None], torch.sin(draw.angle)[:, None, None]
    along = (cosine * x + sine * y) / draw.sigma[:, 0, None, None]
    across = (cosine * y - sine * x) / draw.sigma[:, 1, None, None]
    q = along**2 + across**2  # (N, width, width)
    kind, beta = draw.kind[:, None, None], draw.beta[:, None, None]
    weights = torch.where(kind >= 4, 1 / (1 + q**beta), torch.exp(-(q**beta) / 2))
    weights = torch.where(kind == SINC, sincs(draw.cutoff, (x**2 + y**2).sqrt()), weights)
    weights = torch.where(kind == DELTA, ((x == 0) & (y == 0)).double(), weights)
    inside = torch.maximum(x.abs(), y.abs()) <= draw.size[:, None, None] // 2
    weights = weights * inside
    return (weights / weights.sum(dim=(1, 2), keepdim=True)).float()


def sincs(cutoff: Tensor, radius: Tensor) -> Tensor:
    """Impulse response of the ideal circular low-pass: (N,), (1, k, k) -> (N, k, k)."""
    cut = cutoff[:, None, None]
    away = radius.clamp(min=1.0)  # the only radius below 1 is the centre
    rest = cut * torch.special.bessel_j1(cut * away) / (2 * math.pi * away)
    return torch.where(radius == 0, cut**2 / (4 * math.pi), rest)


def filter2d(batch: Tensor, kernels: Tensor) -> Tensor:
    """Correlate sample n with `kernels[n]` (N, k, k), k odd; as OpenCV's filter2D, reflect-101.

    One kernel (1, k, k) serves all samples. Same size out.
    """
    count, channels, height, width = batch.shape
    side = kernels.shape[-1]
    if kernels.ndim != 3 or kernels.shape[0] not in (1, count) or side % 2 == 0:
        raise UsageError(
            f"kernels of shape {tuple(kernels.shape)} for {count} samples: "
            f"give ({count}, k, k) or (1, k, k) with k odd"
        )
    padded = pad_reflect(batch, side // 2)
    each = kernels.to(batch).expand(count, side, side).repeat_interleave(channels, dim=0)
    flat = padded.reshape(1, count * channels, *padded.shape[2:])
    return F.conv2d(flat, each[:, None], groups=count * channels).view(
        count, channels, height, width
    )


def pad_reflect(batch: Tensor, margin: int) -> Tensor:
    """Reflect-101 (cb|abcd|cb), for margins beyond the picture too: the mirror repeats."""
    height, width = batch.shape[2:]
    if margin < min(height, width):
        return F.pad(batch, (margin,) * 4, mode="reflect")
    rows = mirrored(height, margin).to(batch.device)
    columns = mirrored(width, margin).to(batch.device)
    return batch.index_select(2, rows).index_select(3, columns)


def mirrored(length: int, margin: int) -> Tensor:
    period = max(1, 2 * length - 2)
    index = torch.arange(-margin, length + margin) % period
    return torch.minimum(index, period - index)


@lru_cache(maxsize=16)
def gaussian_line(size: int, sigma: float) -> Tensor:
    """(size,) float32 with sum 1. sigma <= 0: from the size, by OpenCV's rule."""
    if size < 1 or size % 2 == 0:
        raise UsageError(f"a Gaussian of {size} pixels: the size is odd")
    if sigma <= 0:
        sigma = 0.3 * ((size - 1) * 0.5 - 1) + 0.8
    line = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-(line**2) / (2 * sigma**2))
    return (weights / weights.sum()).float()


def gaussian_blur(batch: Tensor, *, size: int, sigma: float) -> Tensor:
    """Separable Gaussian of size x size, borders reflect-101, as cv2.GaussianBlur."""
    count, channels, height, width = batch.shape
    # One group a plane: on a CPU ten times as fast as planes of a batch, and the same bits.
    line = gaussian_line(size, sigma).to(batch).expand(count * channels, 1, size)
    flat = pad_reflect(batch, size // 2).reshape(1, count * channels, height + size - 1, -1)
    flat = F.conv2d(flat, line[:, :, :, None], groups=count * channels)
    flat = F.conv2d(flat, line[:, :, None, :], groups=count * channels)
    return flat.view(count, channels, height, width)


def usm_sharpen(
    batch: Tensor, *, weight: float = 0.5, size: int = 51, threshold: float = 10.0
) -> Tensor:
    """Unsharp mask of Real-ESRGAN's targets, in 0..1.

    What a Gaussian of `size` pixels (radius 50 -> 51, sigma by OpenCV's rule) takes away is added
    with `weight`, but only where it exceeds `threshold` levels of 255; that mask is blurred too.
    """
    residual = batch - gaussian_blur(batch, size=size, sigma=0)
    mask = (residual.abs() * 255 > threshold).to(batch.dtype)
    soft = gaussian_blur(mask, size=size, sigma=0)
    sharp = (batch + weight * residual).clamp(0, 1)
    return soft * sharp + (1 - soft) * batch
