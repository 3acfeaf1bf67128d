"""Quality of pictures and clips by the published protocol, in numpy and OpenCV.

The protocol behind nearly every published table: BT.601 studio luma of the 8-bit RGB picture,
`scale` pixels cropped on each side, per-image values averaged over the set. The network's luma is
rounded to 8 bit, the truth's is not (see DESIGN notes in README, "How quality is measured").
PSNR-RGB is `psnr` of the (H, W, 3) pictures: one error over all three channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

# BT.601 studio swing as in MATLAB's rgb2ycbcr: R, G, B in 0..255 give Y in 16..235.
LUMA_WEIGHTS = np.array([65.481, 128.553, 24.966]) / 255.0

# Wang, Simoncelli and Bovik, "Multi-scale structural similarity", Asilomar 2003: finest first.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
MS_SSIM_SMALLEST = 11 * 2 ** (len(MS_SSIM_WEIGHTS) - 1)  # one window at the coarsest scale

EXPLAINED = 8.0  # codes: the truth, moved, misses itself by no more where the motion is believed
LEAST_EXPLAINED = 0.5  # share of the picture; below it is a cut, and the motion means nothing


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
    return similarity(a, b)[0]


def ms_ssim(a: Array, b: Array) -> float:
    """Multi-scale structural similarity of two (H, W) pictures on a 0..255 scale.

    Five scales, each the 2x2 mean of the one before; contrast and structure of all, luminance of
    the last, to the powers of `MS_SSIM_WEIGHTS` (Wang et al., Asilomar 2003, equation 7). Windows
    as in `ssim`, at the last scale too, where torchmetrics repeats the border instead. A negative
    term counts as 0.
    """
    if min(a.shape) < MS_SSIM_SMALLEST:
        raise ValueError(
            f"MS-SSIM needs pictures of at least {MS_SSIM_SMALLEST} pixels a side, got {a.shape}"
        )
    product = 1.0
    last = len(MS_SSIM_WEIGHTS) - 1
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        whole, structure = similarity(a, b)
        product *= max(whole if scale == last else structure, 0.0) ** weight
        a, b = halved(a), halved(b)
    return product


def similarity(a: Array, b: Array) -> tuple[float, float]:
    """Means over all windows of SSIM, and of its contrast-structure factor alone."""
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
    return float(np.mean(luminance * structure)), float(np.mean(structure))


def halved(picture: Array) -> Array:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    blocks = picture[: 2 * rows, : 2 * columns].astype(np.float64).reshape(rows, 2, columns, 2)
    return np.asarray(blocks.mean(axis=(1, 3)))


def flicker(before: Array, after: Array, *, truth_before: Array, truth_after: Array) -> float:
    """Mean |change of the output - change of the truth| between two frames, in 8-bit codes.

    All (H, W) luma on a 0..255 scale. Equal to the mean |change of the error|: what stands still
    in the truth and moves in the output counts, a constant error does not.
    """
    error_before = before.astype(np.float64) - truth_before
    error_after = after.astype(np.float64) - truth_after
    return float(np.mean(np.abs(error_after - error_before)))


@dataclass(frozen=True, kw_only=True)
class Motion:
    """Where each pixel of a frame was in the frame before.

    source    (H, W, 2) float32: x and y there
    believed  (H, W) bool: the truth, moved so, gives the truth
    """

    source: Array
    believed: Array


def motion(before: Array, after: Array) -> Motion:
    """Dense flow of the truth by inverse search (DIS, Kroeger et al., ECCV 2016), as OpenCV has it.

    before, after    (H, W) luma of the truth on a 0..255 scale, rounded for the search
    """
    first, second = (np.rint(p).astype(np.uint8) for p in (before, after))
    height, width = first.shape
    flow: Array = np.zeros((height, width, 2), np.float32)
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = search.calc(second, first, flow)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    source = np.dstack([x, y]) + flow
    inside = (source >= 0).all(axis=2) & (source <= (width - 1, height - 1)).all(axis=2)
    missed = np.abs(moved(before, source) - after)
    return Motion(source=source, believed=inside & (missed <= EXPLAINED))


def moved(before: Array, source: Array) -> Array:
    """The frame before, bilinear at `source`: (H, W) float32."""
    x, y = np.ascontiguousarray(source[..., 0]), np.ascontiguousarray(source[..., 1])
    picture = before.astype(np.float32)
    border = cv2.BORDER_REPLICATE
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border))


def warped_error(before: Array, after: Array, *, motion: Motion) -> float | None:
    """Mean |frame - the frame before, moved by the truth's motion|, in 8-bit codes.

    Over the believed pixels; None at a cut. As E_warp of Lai et al. (ECCV 2018), with
    the absolute instead of the squared difference. The truth has such an error too, and a blurred
    picture a smaller one: read it beside both.
    """
    if motion.believed.mean() < LEAST_EXPLAINED:
        return None
    return float(np.abs(after - moved(before, motion.source))[motion.believed].mean())
