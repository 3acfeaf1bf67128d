"""PSNR-Y and SSIM-Y by the published protocol.

The protocol behind nearly every published table: BT.601 studio luma of the 8-bit RGB picture,
`scale` pixels cropped on each side, per-image values averaged over the set. The network's luma is
rounded to 8 bit, the truth's is not (see DESIGN notes in README, "How quality is measured").
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

# BT.601 studio swing as in MATLAB's rgb2ycbcr: R, G, B in 0..255 give Y in 16..235.
LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0


def rgb_to_y(rgb: Array) -> Array:
    """Luma of an 8-bit picture: (H, W, 3) RGB or (H, W) gray uint8 -> (H, W) float64 in 16..235.

    Unrounded. A gray picture counts as RGB with three equal channels.
    """
    if rgb.ndim == 2:
        return 16.0 + rgb.astype(np.float64) * LUMA_WEIGHTS.sum()
    return 16.0 + rgb.astype(np.float64) @ LUMA_WEIGHTS


def crop_border(picture: Array, *, border: int) -> Array:
    """`border` pixels off each side."""
    return picture[border:-border, border:-border] if border else picture


def psnr(a: Array, b: Array) -> float:
    """Peak signal-to-noise ratio in dB of two pictures on a 0..255 scale; inf when equal."""
    mse = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float("inf") if mse == 0 else 10.0 * float(np.log10(255.0**2 / mse))


def ssim(a: Array, b: Array) -> float:
    """Structural similarity of two (H, W) pictures on a 0..255 scale.

    11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03, windows inside the picture only
    (Wang et al., IEEE TIP 2004, and the MATLAB script that came with it).
    """
    if min(a.shape) < 11:
        raise ValueError(f"SSIM needs pictures of at least 11x11 pixels, got {a.shape}")
    x, y = a.astype(np.float64), b.astype(np.float64)
    kernel = cv2.getGaussianKernel(11, 1.5)

    def blur(image: Array) -> Array:
        return np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel))[5:-5, 5:-5]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float(np.mean(luminance * structure))
