"""MATLAB's `imresize(picture, scale, "bicubic")`, pixel for pixel, in numpy.

Keys' kernel with a = -0.5, widened by the scale when shrinking (antialiasing), borders replicated,
the vertical pass first. For uint8 the result is rounded and clamped *between* the passes too; that
and the replicated border are what most ports miss. Every pixel of the MATLAB-made LR pictures of
Set5 and Set14 comes out equal (tests/test_bicubic.py).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def imresize(picture: Array, scale: float | Fraction) -> Array:
    """(H, W) or (H, W, C) -> ceil(scale * size); uint8 gives uint8, else float64 unclamped."""
    height, width = picture.shape[:2]
    taller = resize_rows(picture, size=-int(-height * scale // 1), scale=float(scale))
    both = resize_rows(taller.swapaxes(0, 1), size=-int(-width * scale // 1), scale=float(scale))
    return np.ascontiguousarray(both.swapaxes(0, 1))


def downscale(picture: Array, scale: int) -> Array:
    """`imresize` by 1/scale: how the LR pictures of the published tables are made."""
    return imresize(picture, Fraction(1, scale))


def resize_rows(picture: Array, *, size: int, scale: float) -> Array:
    """One pass along the first axis."""
    weights, rows = contributions(picture.shape[0], size, scale)
    total = np.zeros((size, *picture.shape[1:]), dtype=np.float64)
    source = picture.astype(np.float64)
    shape = (-1,) + (1,) * (picture.ndim - 1)
    for tap in range(weights.shape[1]):
        total += weights[:, tap].reshape(shape) * source[rows[:, tap]]
    if picture.dtype == np.uint8:
        return np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)
    return total


def contributions(length: int, size: int, scale: float) -> tuple[Array, Array]:
    """Weights (size, taps) and source rows (size, taps) of each output row."""
    stretch = min(scale, 1.0)  # below 1 the kernel is widened: antialiasing
    width = 4.0 / stretch
    centre = (np.arange(size) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(int) + 1
    rows = first[:, None] + np.arange(int(np.ceil(width)) + 2)
    weights = keys((centre[:, None] - rows) * stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    used = np.any(weights != 0, axis=0)
    return weights[:, used], np.clip(rows[:, used], 0, length - 1)


def keys(x: Array) -> Array:
    """Cubic convolution kernel (Keys, 1981) with a = -0.5."""
    x = np.abs(x)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
