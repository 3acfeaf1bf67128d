"""Real-ESRGAN's chain on the CPU: picture by picture, by OpenCV and NumPy.

The same steps as by tensors (`realesrgan.degrade`), at about a third of their time, and without
torch's threads, which a training step needs while the next batch is made. Kernels run at their own
size, and as two passes where they can; Poisson noise is drawn from tables. Pictures are (H, W, C)
float32 in 0..1, C = 1 or 3.
"""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from edgesr.distill.jpeg import jpeg_picture, real_jpeg_picture
from edgesr.distill.kernels import DELTA, KernelDraw, make_kernels

if TYPE_CHECKING:
    from edgesr.distill.realesrgan import ChainDraw, StageDraw

Array = np.ndarray[Any, Any]

GRAY = np.array([[0.299, 0.587, 0.114]], np.float32)
HOW = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
OUTCOMES = 512  # of a Poisson table: 256 photons and 16 standard deviations


def pictures_of(batch: Tensor) -> list[Array]:
    """(N, C, H, W) on the CPU -> N contiguous (H, W, C)."""
    channels, height, width = batch.shape[1:]
    planes = batch.detach().contiguous().numpy()
    return [cv2.merge(list(x)).reshape(height, width, channels) for x in planes]


def batch_of(pictures: list[Array]) -> Tensor:
    """The way back: contiguous (N, C, H, W)."""
    return torch.from_numpy(
        np.stack([np.ascontiguousarray(x.transpose(2, 0, 1)) for x in pictures])
    )


def degrade_pictures(
    pictures: list[Array],
    draw: ChainDraw,
    *,
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    width: int,
    jpeg: Literal["exact", "real"],
) -> list[Array]:
    """Carry out `draw`; the result holds multiples of 1/255.

    sizes  (H, W) after each of the three resizes; width: of the square that kernels are made in
    """
    first, second = draw.first, draw.second
    count = len(pictures)
    kernels = make_kernels(
        joined([first.kernels, second.kernels, draw.final_sinc]), width=width
    ).numpy()
    compress = jpeg_picture if jpeg == "exact" else real_jpeg_picture
    noises = [Noise(stage) for stage in (first, second)]
    out = []
    for n, picture in enumerate(pictures):
        levels = float(first.quality[n]), float(second.quality[n])
        x = blur(picture, first.kernels, n, kernels[n]) if first.blurs else picture
        x = resize(x, sizes[0], mode=first.mode)
        x = compress(noises[0].add(x, n), levels[0])
        if second.blurs:
            x = blur(x, second.kernels, n, kernels[count + n])
        x = resize(x, sizes[1], mode=second.mode)
        x = noises[1].add(x, n)
        if not draw.jpeg_last:
            x = compress(x, levels[1])
        x = resize(x, sizes[2], mode=draw.final_mode)
        x = blur(x, draw.final_sinc, n, kernels[2 * count + n])
        if draw.jpeg_last:
            x = compress(x, levels[1])
        out.append(np.rint(np.clip(x, 0, 1) * np.float32(255)) / np.float32(255))
    return out


def joined(draws: list[KernelDraw]) -> KernelDraw:
    names = [item.name for item in fields(KernelDraw)]
    return KernelDraw(**{name: torch.cat([getattr(d, name) for d in draws]) for name in names})


def blur(picture: Array, draw: KernelDraw, index: int, kernel: Array) -> Array:
    """Correlate with one made kernel, which is zero outside of its own size."""
    kind, size = int(draw.kind[index]), int(draw.size[index])
    if kind == DELTA:
        return picture
    edge = (kernel.shape[0] - size) // 2
    own = kernel[edge : edge + size, edge : edge + size]
    if kind == 0:  # a plain round Gaussian is the product of two lines
        out = cv2.sepFilter2D(
            picture, -1, own.sum(axis=0), own.sum(axis=1), borderType=cv2.BORDER_REFLECT_101
        )
    else:
        out = cv2.filter2D(picture, -1, own, borderType=cv2.BORDER_REFLECT_101)
    return out.reshape(picture.shape)


def resize(picture: Array, size: tuple[int, int], *, mode: str) -> Array:
    """To (H, W) as `degrade.resize`."""
    if picture.shape[:2] == size:
        return picture
    if mode == "area":
        return bin_means(picture, size)
    out = cv2.resize(picture, size[::-1], interpolation=HOW[mode])
    return out.reshape(*size, picture.shape[2])


def bin_means(picture: Array, size: tuple[int, int]) -> Array:
    """Means of whole pixels, as torch's adaptive pooling: bin i of n holds those that touch
    i / n ... (i + 1) / n of the side. OpenCV's "area" weighs the outermost by their share."""
    x = row_means(picture, size[0])
    x = row_means(cv2.transpose(x).reshape(-1, *x.shape[::2]), size[1])
    return cv2.transpose(x).reshape(*size, picture.shape[2])


def row_means(picture: Array, count: int) -> Array:
    """(H, W, C) -> (count, W, C)."""
    index, length = np.arange(count), len(picture)
    first, end = index * length // count, -(-(index + 1) * length // count)
    total = picture[first]
    for step in range(1, int((end - first).max())):
        inside = first + step < end
        if inside.all():
            total += picture[first + step]
        else:
            total[inside] += picture[(first + step)[inside]]
    total /= (end - first).astype(np.float32)[:, None, None]
    return total


class Noise:
    """As `degrade.gaussian_noise` and `degrade.poisson_noise`: added, and clamped."""

    def __init__(self, stage: StageDraw) -> None:
        self.stage = stage
        self.normal = torch.Generator().manual_seed(stage.seed)
        self.uniform = np.random.Generator(np.random.SFC64(stage.seed))

    def add(self, picture: Array, index: int) -> Array:
        """Samples come in order: each takes its numbers behind those of the one before."""
        strength, gray = float(self.stage.strength[index]), bool(self.stage.gray[index])
        if self.stage.gaussian:
            shape = (*picture.shape[:2], 1 if gray else picture.shape[2])
            noise = torch.randn(shape, generator=self.normal).numpy()
            noise *= np.float32(strength / 255)
        else:
            single = gray and picture.shape[2] == 3
            plane = cv2.transform(picture, GRAY)[:, :, None] if single else picture
            noise = shot_noise(plane, self.uniform)
            noise *= np.float32(strength)
        return np.clip(picture + noise, 0, 1)


def shot_noise(picture: Array, rng: np.random.Generator) -> Array:
    """What is counted less what was there, of 2^ceil(log2 k) photons at 1.0 for k levels."""
    levels = np.rint(np.clip(picture, 0, 1) * np.float32(255)).astype(np.uint8)
    present = np.count_nonzero(cv2.calcHist([levels.reshape(-1)], [0], None, [256], [0, 256]))
    photons = 1 << (int(present) - 1).bit_length()
    chance, other = poisson_tables(photons)
    # One 32-bit number a pixel: 9 bits choose the outcome, the other 23 it or its alias.
    drawn = rng.integers(1 << 32, size=levels.shape, dtype=np.uint32)
    place = levels.astype(np.int32)
    place *= OUTCOMES
    place += (drawn >> np.uint32(23)).view(np.int32)
    drawn &= np.uint32((1 << 23) - 1)
    count = np.where(drawn < chance.take(place), place % OUTCOMES, other.take(place))
    return count.astype(np.float32) / np.float32(photons) - levels / np.float32(255)


@lru_cache(maxsize=9)
def poisson_tables(photons: int) -> tuple[Array, Array]:
    """Alias tables (Walker 1977; Vose 1991) of Poisson numbers with mean level * photons / 255.

    Both flat, (256 levels * OUTCOMES,): the chance of the outcome itself in units of 2^-23
    (uint32), and the outcome instead (int32).
    """
    mean = np.arange(256)[:, None] * (photons / 255)
    outcome = np.arange(OUTCOMES)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        log = outcome * np.log(mean) - mean - np.cumsum(np.log(np.maximum(outcome, 1)), axis=1)
    weight = np.where(mean > 0, np.exp(log), outcome == 0)
    weight *= OUTCOMES / weight.sum(axis=1, keepdims=True)
    chance = np.ones_like(weight)
    other = np.broadcast_to(outcome, weight.shape).copy()
    rows, rest, waiting = np.arange(256), weight, np.full(weight.shape, True)
    for _ in range(OUTCOMES - 1):  # the least likely is filled up by the most likely
        little = np.where(waiting, rest, np.inf).argmin(axis=1)
        much = np.where(waiting, rest, -np.inf).argmax(axis=1)
        chance[rows, little], other[rows, little] = rest[rows, little], much
        rest[rows, much] -= 1 - rest[rows, little]
        waiting[rows, little] = False
    units = np.rint(chance * (1 << 23)).astype(np.uint32)
    return units.ravel(), other.astype(np.int32).ravel()


def usm_picture(picture: Array, *, weight: float, size: int, threshold: float) -> Array:
    """As `kernels.usm_sharpen`."""

    def blurred(x: Array) -> Array:
        return cv2.GaussianBlur(x, (size, size), 0).reshape(picture.shape)

    residual = picture - blurred(picture)
    mask = (np.abs(residual) * np.float32(255) > threshold).astype(np.float32)
    soft = blurred(mask)
    sharp = np.clip(picture + np.float32(weight) * residual, 0, 1)
    return soft * (sharp - picture) + picture
