"""Losses between the network's output and the truth, both (N, C, H, W) float32 in 0..1.

LOSSES holds those of one output and one truth, by the name that a recipe gives. Beside them stand
the losses of networks that are supervised on the way: the levels of LapSRN, the recursions of DRCN.
Each returns one number, the mean over pixels, channels and pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgesr.bicubic import contributions
from edgesr.distill.gradients import gradient_loss
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]
Loss = Callable[[Tensor, Tensor], Tensor]


def charbonnier(output: Tensor, truth: Tensor) -> Tensor:
    """mean sqrt(d^2 + eps^2) with eps = 1e-3 (Lai et al., CVPR 2017, there summed)."""
    return torch.sqrt((output - truth) ** 2 + 1e-6).mean()


def tv(output: Tensor, truth: Tensor) -> Tensor:
    """Total variation of the output: mean |difference| to the next row, and to the next column.

    The truth plays no part: this smooths, and is a small term beside another loss.
    """
    down = (output[..., 1:, :] - output[..., :-1, :]).abs().mean()
    across = (output[..., :, 1:] - output[..., :, :-1]).abs().mean()
    return down + across


def fft(output: Tensor, truth: Tensor) -> Tensor:
    """L1 of the spectra, real and imaginary part (Cho et al., "MIMO-UNet", ICCV 2021).

    Orthonormal, so that it does not grow with the picture: white noise costs in every frequency
    about what it costs in every pixel. Always in float32.
    """
    difference = torch.fft.rfft2((output - truth).float(), norm="ortho")
    return torch.view_as_real(difference).abs().mean()


LOSSES: dict[str, Loss] = {
    "l1": F.l1_loss,
    "mse": F.mse_loss,
    "charbonnier": charbonnier,
    "tv": tv,
    "fft": fft,
    "gradient": gradient_loss,
}


def multi_level(
    outputs: Sequence[Tensor], truths: Sequence[Tensor], *, loss: Loss = charbonnier
) -> Tensor:
    """Every level of a pyramid against the truth of its size (Lai et al., CVPR 2017).

    outputs, truths    one (N, C, h, w) a level, the largest one last; see `level_truths`
    The published loss is a sum over the pixels of all levels, each with weight 1. Here that sum is
    divided by the pixels of the last level: x2 weighs a quarter of x4.
    """
    if len(outputs) != len(truths):
        raise UsageError(f"multi-level loss: {len(outputs)} outputs but {len(truths)} truths")
    last = outputs[-1].numel()
    terms = [
        loss(output, truth) * (output.numel() / last)
        for output, truth in zip(outputs, truths, strict=True)
    ]
    return torch.stack(terms).sum()


def level_truths(truth: Tensor, outputs: Sequence[Tensor]) -> list[Tensor]:
    """The truth (N, C, H, W) in the size of every output, by MATLAB's antialiased bicubic."""
    return [imresize(truth, (output.shape[-2], output.shape[-1])) for output in outputs]


def recursive(
    predictions: Sequence[Tensor], output: Tensor, truth: Tensor, *, alpha: float
) -> Tensor:
    """alpha * mean MSE of the predictions + (1 - alpha) * MSE of the output (DRCN, CVPR 2016).

    predictions    one (N, C, H, W) after each recursion
    alpha          1 at the start of the training, 0 at its end
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"recursive loss: alpha = {alpha:g}, it is between 0 and 1")
    local = torch.stack([F.mse_loss(prediction, truth) for prediction in predictions]).mean()
    return alpha * local + (1 - alpha) * F.mse_loss(output, truth)


def imresize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """MATLAB's `imresize(picture, size, "bicubic")`: (N, C, H, W) -> (N, C, *size), float32.

    Antialiased when shrinking, not clamped, borders replicated, as in edgesr/bicubic.py. Two matrix
    products: differentiable, on any device.
    """
    rows, columns = (
        torch.from_numpy(resize_matrix(length, wanted)).to(picture.device)
        for length, wanted in zip(picture.shape[-2:], size, strict=True)
    )
    return rows @ picture.float() @ columns.T


def shrink(picture: Tensor, *, scale: int) -> Tensor:
    """(N, C, sH, sW) -> (N, C, H, W): how the small picture was made. Raises UsageError."""
    height, width = picture.shape[-2:]
    if height % scale or width % scale:
        raise UsageError(f"a picture of {width}x{height} cannot be shrunk by {scale}: crop it")
    return imresize(picture, (height // scale, width // scale))


@lru_cache(maxsize=32)
def resize_matrix(length: int, size: int) -> Array:
    """(size, length) float32: row i holds the weights of output pixel i."""
    weights, sources = contributions(length, size, size / length)
    matrix = np.zeros((size, length))
    # Added, since a border pixel also stands for those outside it.
    np.add.at(matrix, (np.arange(size)[:, None], sources), weights)
    return matrix.astype(np.float32)
