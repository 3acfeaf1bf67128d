"""JPEG on batches: by tensors, on any device and differentiable if asked, or by the real library.

The tensor form follows ITU-T T.81 as libjpeg carries it out: BT.601 full-range Y'CbCr, chroma
halved both ways (4:2:0) by averaging 2x2, 8x8 DCT, Annex K tables scaled by the quality, chroma
brought back by the triangle filter. Soft rounding for gradients: Shin and Song, "JPEG-resistant
adversarial images", 2017. Batches are (N, C, H, W) float32 in 0..1, C = 3 (RGB) or 1 (luma).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]

# Rows of T.81 tables K.1 (luma) and K.2 (chroma).
LUMA_TABLE = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)


def jpeg(batch: Tensor, quality: Tensor, *, soft: bool = False) -> Tensor:
    """Compress and decompress each sample at its own quality; 0..1, not rounded to 8 bit.

    quality  (N,) in 1..100, whole or not
    soft     round by x -> [x] + (x - [x])^3, which has a gradient; else exactly, which has none
    """
    check(batch, quality)
    height, width = batch.shape[2:]
    unit = 16 if batch.shape[1] == 3 else 8
    # Encoders repeat the last row and column to fill the last block.
    full = F.pad(batch.clamp(0, 1) * 255, (0, -width % unit, 0, -height % unit), mode="replicate")
    if batch.shape[1] == 1:
        out = code_plane(full, quality, LUMA_TABLE, soft=soft)
        return (out / 255).clamp(0, 1)[..., :height, :width]
    ycbcr = torch.einsum("oc,nchw->nohw", to_ycbcr().to(batch), full)
    luma = code_plane(ycbcr[:, :1], quality, LUMA_TABLE, soft=soft)
    chroma = F.avg_pool2d(ycbcr[:, 1:], 2) + 128
    chroma = code_plane(chroma, quality, CHROMA_TABLE, soft=soft) - 128
    chroma = chroma[..., : -(-height // 2), : -(-width // 2)]  # decoders leave the filling out
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    planes = torch.cat([luma[..., :height, :width], chroma[..., :height, :width]], dim=1)
    rgb = torch.einsum("oc,nchw->nohw", torch.linalg.inv(to_ycbcr()).to(batch), planes)
    return (rgb / 255).clamp(0, 1)


def real_jpeg(batch: Tensor, quality: Tensor) -> Tensor:
    """The same through OpenCV on the host: rounded to 8 bit before and after, 4:2:0."""
    check(batch, quality)
    pictures = batch.detach().permute(0, 2, 3, 1).cpu().numpy()
    levels = quality.tolist()
    coded = [real_jpeg_picture(x, level) for x, level in zip(pictures, levels, strict=True)]
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).to(batch)


def real_jpeg_picture(picture: Array, level: float) -> Array:
    """One picture (H, W, 1 or 3) float32 in 0..1 through OpenCV."""
    options = [cv2.IMWRITE_JPEG_QUALITY, round(level)]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    eight = np.rint(np.clip(picture, 0, 1) * np.float32(255)).astype(np.uint8)
    # OpenCV takes BGR; reversing the channels of a gray picture changes nothing.
    stream = cv2.imencode(".jpg", np.ascontiguousarray(eight[:, :, ::-1]), options)[1]
    decoded = np.asarray(cv2.imdecode(stream, cv2.IMREAD_UNCHANGED))
    return decoded.reshape(picture.shape)[:, :, ::-1].astype(np.float32) / np.float32(255)


def jpeg_picture(picture: Array, level: float) -> Array:
    """`jpeg` (not soft) of one picture (H, W, 1 or 3) float32 in 0..1, without torch."""
    height, width, channels = picture.shape
    unit = 16 if channels == 3 else 8
    full = np.clip(picture, 0, 1) * np.float32(255)
    full = cv2.copyMakeBorder(
        full, 0, -height % unit, 0, -width % unit, cv2.BORDER_REPLICATE
    ).reshape(height + -height % unit, width + -width % unit, channels)
    if channels == 1:
        out = code_array(full[:, :, 0], level, LUMA_TABLE)[:height, :width, None]
        return np.clip(out / np.float32(255), 0, 1)
    forward, back = colour_matrices()
    luma, *chroma = (cv2.transform(full, row[None]) for row in forward)  # (H, W) each
    planes = [code_array(luma, level, LUMA_TABLE)[:height, :width]]
    rows, columns = -(-height // 2), -(-width // 2)
    for plane in chroma:
        half = cv2.resize(plane, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        coded = code_array(half + np.float32(128), level, CHROMA_TABLE) - np.float32(128)
        large = cv2.resize(coded[:rows, :columns], None, fx=2, fy=2)  # bilinear
        planes.append(large[:height, :width])
    return np.clip(cv2.transform(cv2.merge(planes), back), 0, 1)


def code_array(plane: Array, level: float, table: tuple[int, ...]) -> Array:
    """Quantise (H, W) float32 in 0..255 in blocks of 8x8."""
    height, width = plane.shape
    basis = dct_array()
    steps = np.tile(quantiser_array(table, level), (1, width // 8))  # (8, W)
    # Stacks of small products: one large one would wake the threads of NumPy's BLAS.
    x = (plane - np.float32(128)).reshape(height // 8, width, 8) @ basis.T
    x = basis @ x.reshape(height // 8, 8, width)
    x /= steps
    np.rint(x, out=x)
    x *= steps
    x = (basis.T @ x).reshape(height // 8, width, 8) @ basis
    return x.reshape(height, width) + np.float32(128)


def quantiser_array(table: tuple[int, ...], level: float) -> Array:
    """`quantisers` of one quality: (8, 8) float32."""
    percent = math.floor(5000 / level if level < 50 else 200 - 2 * level)
    steps = np.floor((np.array(table, np.float64) * percent + 50) / 100)
    return np.clip(steps, 1, 255).astype(np.float32).reshape(8, 8)


@lru_cache(maxsize=1)
def dct_array() -> Array:
    return dct_basis().float().numpy()


@lru_cache(maxsize=1)
def colour_matrices() -> tuple[Array, Array]:
    """(3, 3) float32 each: RGB of 0..255 -> Y, Cb, Cr, and back to RGB of 0..1."""
    forward = to_ycbcr()
    return forward.float().numpy(), (torch.linalg.inv(forward) / 255).float().numpy()


def check(batch: Tensor, quality: Tensor) -> None:
    if batch.ndim != 4 or batch.shape[1] not in (1, 3):
        raise UsageError(f"JPEG of a batch {tuple(batch.shape)}: give (N, 3 or 1, H, W)")
    if quality.shape != batch.shape[:1] or not bool(((quality >= 1) & (quality <= 100)).all()):
        raise UsageError(
            f"JPEG qualities {quality.tolist()} for {len(batch)} samples: give one each, 1 to 100"
        )


def code_plane(plane: Tensor, quality: Tensor, table: tuple[int, ...], *, soft: bool) -> Tensor:
    """Quantise (N, C, H, W) in 0..255 in blocks of 8x8; H and W are multiples of 8."""
    count, channels, height, width = plane.shape
    steps = quantisers(table, quality).to(plane)[:, None, None, :, None, :]  # (N, 1, 1, 8, 1, 8)
    basis = dct_basis().to(plane)
    blocks = (plane - 128).view(count, channels, height // 8, 8, width // 8, 8)
    blocks = torch.einsum("uy,ncayxv,wv->ncauxw", basis, blocks, basis) / steps
    blocks = soft_round(blocks) if soft else blocks.round()
    blocks = torch.einsum("uy,ncauxw,wv->ncayxv", basis, blocks * steps, basis)
    return blocks.reshape(plane.shape) + 128


def quantisers(table: tuple[int, ...], quality: Tensor) -> Tensor:
    """libjpeg's scaling of a table: (N,) qualities -> (N, 8, 8) whole steps of 1..255."""
    level = quality.double().cpu()
    percent = torch.where(level < 50, 5000 / level, 200 - 2 * level).floor()[:, None]
    base = torch.tensor(table, dtype=torch.float64)[None]
    return ((base * percent + 50) / 100).floor().clamp(1, 255).view(-1, 8, 8)


def soft_round(x: Tensor) -> Tensor:
    whole = x.round()
    return whole + (x - whole) ** 3


@lru_cache(maxsize=1)
def dct_basis() -> Tensor:
    """(8, 8) orthonormal DCT-II: rows are frequencies. float64."""
    frequency = torch.arange(8, dtype=torch.float64)[:, None]
    place = torch.arange(8, dtype=torch.float64)[None]
    basis = torch.cos((2 * place + 1) * frequency * math.pi / 16) / 2
    basis[0] /= math.sqrt(2)
    return basis


@lru_cache(maxsize=1)
def to_ycbcr() -> Tensor:
    """(3, 3) RGB -> Y, Cb, Cr of JFIF, chroma around 0. float64."""
    red, green, blue = 0.299, 0.587, 0.114
    return torch.tensor(
        [
            [red, green, blue],
            [-red / (2 - 2 * blue), -green / (2 - 2 * blue), 0.5],
            [0.5, -green / (2 - 2 * red), -blue / (2 - 2 * red)],
        ],
        dtype=torch.float64,
    )
