"""What Beby-GAN trains with (Li et al., "Best-Buddy GANs for Highly Detailed Image
Super-Resolution", AAAI 2022), as in the authors' code.

The truth of a patch is not the one at its place but its best buddy: whichever patch of the true
picture, at full, half or quarter size, is near to the output and to the truth. Back-projection
keeps the output consistent with the small picture. The discriminator does not see flat regions:
GANs invent texture there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from edgesr.distill.losses import shrink
from edgesr.errors import UsageError

PATCH = 3
GRAY = (0.2989, 0.587, 0.114)


def best_buddy(output: Tensor, truth: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Mean |output patch - its best buddy|, for (N, C, H, W) in 0..1; published weight 1."""
    pool = candidates(truth)  # (N, K, 9C)
    chosen = buddies(output, truth, pool, alpha=alpha, beta=beta)  # (N, P)
    target = pool.gather(1, chosen[:, :, None].expand(-1, -1, pool.shape[2]))  # (N, P, 9C)
    return F.l1_loss(patches(output), target)


@torch.no_grad()
def buddies(
    output: Tensor, truth: Tensor, pool: Tensor, *, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """(N, P) index into `pool` (N, K, 9C) for each patch of the output.

    The c that minimises alpha |p - c|^2 + beta |t - c|^2 for output patch p and true patch t. What
    does not depend on c is left out. 192x192: 4096 patches against 5376, so one picture at a time
    (88 MB).
    """
    wanted = alpha * patches(output) + beta * patches(truth)  # (N, P, 9C)
    chosen = []
    for mine, theirs in zip(wanted, pool, strict=True):
        length = theirs.square().sum(dim=1)  # (K,)
        score = torch.addmm((alpha + beta) * length, mine, theirs.T, alpha=-2.0)  # (P, K)
        chosen.append(score.argmin(dim=1))
    return torch.stack(chosen)


@torch.no_grad()
def candidates(truth: Tensor) -> Tensor:
    """(N, K, 9C): the patches of the truth at scales 1, 1/2 and 1/4 (torch's bicubic), in turn."""
    if min(truth.shape[-2:]) < 4 * PATCH:
        raise UsageError(
            f"best-buddy loss: crops of {truth.shape[-1]}x{truth.shape[-2]} have no "
            f"{PATCH}x{PATCH} patch at a quarter of the size: {4 * PATCH} pixels are the least"
        )
    smaller = [
        F.interpolate(truth, scale_factor=scale, mode="bicubic", align_corners=False)
        for scale in (0.5, 0.25)
    ]
    return torch.cat([patches(picture) for picture in (truth, *smaller)], dim=1)


def patches(picture: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, P, 9C): 3x3 patches side by side, row by row; a remainder is left out."""
    return F.unfold(picture.float(), kernel_size=PATCH, stride=PATCH).transpose(1, 2)


def back_projection(output: Tensor, small: Tensor, *, scale: int) -> Tensor:
    """L1 of the output (N, C, sH, sW), shrunk by MATLAB's bicubic, to the input; weight 1."""
    return F.l1_loss(shrink(output, scale=scale), small)


@torch.no_grad()
def flat_regions(
    small: Tensor, *, scale: int = 4, window: int = 11, delta: float = 0.025
) -> Tensor:
    """(N, 3 or 1, H, W) in 0..1 -> (N, 1, sH, sW): 1 where the picture is flat, else 0.

    Flat: the unbiased standard deviation of gray within `window` x `window`, of the picture
    enlarged by torch's bicubic and reflected at its borders, is below `delta`.
    """
    half = window // 2
    if min(small.shape[-2:]) * scale <= half:
        raise UsageError(f"region mask: a window of {window} needs more than {half} pixels a side")
    large = F.interpolate(small.float(), scale_factor=scale, mode="bicubic", align_corners=False)
    framed = F.pad(gray(large).double(), (half, half, half, half), mode="reflect")
    mean = F.avg_pool2d(framed, window, stride=1)  # double: the variance is a small difference
    square = F.avg_pool2d(framed.square(), window, stride=1)
    count = window**2
    variance = (square - mean.square()).clamp(min=0) * count / (count - 1)
    return (variance.sqrt() < delta).to(small.dtype)


def gray(picture: Tensor) -> Tensor:
    """(N, 3, H, W) RGB -> (N, 1, H, W); one channel stays as it is."""
    if picture.shape[1] == 1:
        return picture
    shares = torch.tensor(GRAY, dtype=picture.dtype, device=picture.device)
    return (picture * shares[:, None, None]).sum(dim=1, keepdim=True)


def for_discriminator(picture: Tensor, flat: Tensor) -> Tensor:
    """Black where `flat` is 1. For output and truth before the discriminator, in both steps; all
    other losses see whole pictures."""
    return picture * (1 - flat)
