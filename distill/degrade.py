"""Degradations of a batch, each a pure function: how LR pictures come from HR ones.

Batches are (N, C, H, W) float32 in 0..1, C = 1 or 3, on any device. MATLAB's bicubic is the one of
`edgesr.bicubic`; blur + subsample is "BD" of the video papers; resizing, noise, crop and pool are
the pieces of Real-ESRGAN (Wang et al., ICCVW 2021, section 3), put together in `realesrgan.py`.
Compressed video is in `codec.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from edgesr.bicubic import contributions
from edgesr.distill.kernels import gaussian_blur
from edgesr.errors import UsageError

RESIZE_MODES = ("area", "bilinear", "bicubic")
GRAY = (0.299, 0.587, 0.114)


def bicubic(batch: Tensor, scale: Fraction | float, *, rounded: bool = False) -> Tensor:
    """`edgesr.bicubic.imresize` on a batch: size ceil(scale * size), not clamped; differentiable.

    rounded  as MATLAB does with uint8: the input taken as 8-bit levels, rounded and clamped
             between the passes too, multiples of 1/255 out (no gradient)
    """
    out = (batch.double() * 255).round() if rounded else batch
    for dim in (2, 3):  # the vertical pass first
        weights, places = taps(batch.shape[dim], float(scale), -int(-batch.shape[dim] * scale // 1))
        total = torch.zeros((), dtype=out.dtype, device=out.device)
        shape = (-1, 1) if dim == 2 else (-1,)
        for weight, place in zip(weights.to(out), places.to(out.device), strict=True):
            total = total + weight.view(shape) * out.index_select(dim, place)
        out = (total + 0.5).floor().clamp(0, 255) if rounded else total
    return (out / 255).to(batch.dtype) if rounded else out


@lru_cache(maxsize=64)
def taps(length: int, scale: float, size: int) -> tuple[Tensor, Tensor]:
    """Weights float64 and source places int64 of one pass, both (taps, size)."""
    weights, places = contributions(length, size, scale)
    return torch.from_numpy(weights.T.copy()), torch.from_numpy(places.T.copy())


def downscale(batch: Tensor, scale: int, *, rounded: bool = False) -> Tensor:
    """MATLAB bicubic by 1/scale ("BI"): how the LR pictures of the published tables are made."""
    return bicubic(batch, Fraction(1, scale), rounded=rounded)


def blur_subsample(
    batch: Tensor, scale: int, *, sigma: float = 1.6, size: int = 13, first: int = 0
) -> Tensor:
    """Gaussian blur, then every `scale`-th pixel from `first` on ("BD" of x4 video papers).

    With first = 0, as published, the picture moves by (scale - 1) / 2 HR pixels against one made
    by `downscale`. BD x3 of stills (SRMD, RDN) is `downscale(gaussian_blur(x, size=7, sigma=1.6))`.
    """
    if not 0 <= first < scale:
        raise UsageError(f"subsampling by {scale} from pixel {first}: first is 0 to {scale - 1}")
    return gaussian_blur(batch, size=size, sigma=sigma)[..., first::scale, first::scale]


def resize(batch: Tensor, size: tuple[int, int], *, mode: str) -> Tensor:
    """To (H, W) by "area", "bilinear" or "bicubic" (a = -0.75), none of them antialiased.

    The corners of both pictures coincide, whatever the sizes. Bicubic may leave 0..1.
    """
    if mode not in RESIZE_MODES:
        raise UsageError(f"resize mode {mode!r}: it is one of {', '.join(RESIZE_MODES)}")
    if mode == "area":
        return F.adaptive_avg_pool2d(batch, size)
    return F.interpolate(batch, size=size, mode=mode, align_corners=False)


def gaussian_noise(
    batch: Tensor, sigma: Tensor, gray: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Add white noise and clamp.

    sigma      (N,) in levels of 255
    gray       (N,) bool: the same noise in all channels
    generator  on the batch's device
    """
    noise = torch.randn(batch.shape, generator=generator, device=batch.device, dtype=batch.dtype)
    gray = gray.to(batch.device)[:, None, None, None]
    noise = torch.where(gray, noise[:, :1], noise)
    return (batch + noise * per_sample(sigma / 255, batch)).clamp(0, 1)


def poisson_noise(
    batch: Tensor, strength: Tensor, gray: Tensor, *, generator: torch.Generator
) -> Tensor:
    """Add shot noise times `strength` and clamp.

    A sample rounded to 8 bit with k different values counts 2^ceil(log2 k) photons at 1.0.

    strength   (N,) factor of the noise
    gray       (N,) bool: the noise is that of the gray picture, the same in all channels
    generator  on the batch's device
    """
    noise = torch.empty_like(batch)
    gray = gray.to(batch.device)
    for chosen, single in ((~gray, False), (gray, True)):
        if bool(chosen.any()):
            noise[chosen] = shot_noise(batch[chosen], single=single, generator=generator)
    return (batch + noise * per_sample(strength, batch)).clamp(0, 1)


def shot_noise(batch: Tensor, *, single: bool, generator: torch.Generator) -> Tensor:
    """(N, C, H, W), or (N, 1, H, W) of the gray picture."""
    if single:
        batch = to_gray(batch)
    levels = (batch * 255).round().clamp(0, 255)
    photons = torch.exp2(count_levels(levels).log2().ceil()).view(-1, 1, 1, 1)
    clean = levels / 255
    return torch.poisson(clean * photons, generator=generator) / photons - clean


def count_levels(levels: Tensor) -> Tensor:
    """(N,) float: how many different values 0..255 each sample has."""
    count = len(levels)
    start = 256 * torch.arange(count, device=levels.device).view(-1, 1, 1, 1)
    histogram = torch.bincount((levels.long() + start).flatten(), minlength=256 * count)
    return (histogram.view(count, 256) > 0).sum(dim=1).to(levels.dtype)


def to_gray(batch: Tensor) -> Tensor:
    """BT.601 luma of RGB, full range: (N, 3, H, W) -> (N, 1, H, W); one channel stays."""
    if batch.shape[1] == 1:
        return batch
    shares = torch.tensor(GRAY, dtype=batch.dtype, device=batch.device)
    return torch.einsum("c,nchw->nhw", shares, batch)[:, None]


def per_sample(values: Tensor, batch: Tensor) -> Tensor:
    return values.to(batch).view(-1, 1, 1, 1)


def to_8bit(batch: Tensor) -> Tensor:
    """Clamp, and round to multiples of 1/255."""
    return (batch.clamp(0, 1) * 255).round() / 255


def paired_crop(
    small: Tensor, *large: Tensor, patch: int, scale: int, generator: torch.Generator
) -> tuple[Tensor, ...]:
    """The same random part of every picture, another one for each sample.

    small  (N, C, H, W); a square of `patch` pixels is cut
    large  any number of (N, C, scale * H, scale * W): target, unsharpened target, ...

    Returns the crops in the same order.
    """
    count, _, height, width = small.shape
    wanted = (height * scale, width * scale)
    for batch in large:
        if (len(batch), *batch.shape[2:]) != (count, *wanted):
            raise UsageError(
                f"paired crop x{scale}: {tuple(batch.shape)} does not belong to "
                f"{tuple(small.shape)}, which needs ({count}, C, {wanted[0]}, {wanted[1]})"
            )
    if patch < 1 or patch > min(height, width):
        raise UsageError(
            f"paired crop: no patch of {patch} pixels in an LR picture of {width}x{height}"
        )
    tops = torch.randint(height - patch + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(width - patch + 1, (count,), generator=generator).tolist()
    return tuple(
        torch.stack(
            [
                sample[:, t * s : (t + patch) * s, x * s : (x + patch) * s]
                for sample, t, x in zip(batch, tops, lefts, strict=True)
            ]
        )
        for batch, s in [(small, 1), *((batch, scale) for batch in large)]
    )


class PairPool:
    """Training pairs wait here, so that a batch mixes the draws of many: one in, one out.

    (Real-ESRGAN, "training pair pool" of 180.) Where resize and kind of noise are drawn once for a
    batch, its samples are alike. Every sample that goes in comes out once, by `push` or `flush`.
    """

    def __init__(self, size: int = 180, *, generator: torch.Generator) -> None:
        if size < 1:
            raise UsageError(f"a training pair pool of {size}: give 1 or more")
        self.size = size
        self.filled = 0
        self.generator = generator
        self.held: tuple[Tensor, ...] = ()

    def push(self, *batch: Tensor) -> tuple[Tensor, ...] | None:
        """Take in one batch of tensors (N, ...); give out as many samples, or None while filling.

        Samples given out are drawn among those that were there before.
        """
        count = len(batch[0])
        if count > self.size:
            raise UsageError(f"a batch of {count} does not fit a training pair pool of {self.size}")
        if not self.held:
            self.held = tuple(t.new_empty((self.size, *t.shape[1:])) for t in batch)
        shapes = [(count, *held.shape[1:]) for held in self.held]
        if [tuple(t.shape) for t in batch] != shapes:
            raise UsageError(
                f"training pair pool: {[tuple(t.shape) for t in batch]} came, it holds {shapes}"
            )
        if self.filled + count <= self.size:
            for held, tensor in zip(self.held, batch, strict=True):
                held[self.filled : self.filled + count] = tensor
            self.filled += count
            return None
        places = torch.randperm(self.filled, generator=self.generator)[:count]
        out = tuple(held[places.to(held.device)] for held in self.held)
        for held, tensor in zip(self.held, batch, strict=True):
            held[places.to(held.device)] = tensor
        return out

    def flush(self, batch: int) -> Iterator[tuple[Tensor, ...]]:
        """All that is left, mixed, in batches of `batch` (the last may be smaller)."""
        order = torch.randperm(self.filled, generator=self.generator)
        self.filled = 0
        for places in order.split(batch):
            if len(places):
                yield tuple(held[places.to(held.device)] for held in self.held)

    def state(self) -> tuple[Tensor, ...]:
        """What is held, (filled, ...) each, for a run that is to be resumed; see `restore`."""
        return tuple(held[: self.filled].clone() for held in self.held)

    def restore(self, *tensors: Tensor) -> None:
        """Hold again what `state` gave (the generator's own state is the caller's)."""
        self.held, self.filled = (), 0
        if tensors and len(tensors[0]):
            self.push(*tensors)
