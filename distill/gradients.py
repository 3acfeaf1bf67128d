"""Gradient maps and their losses, of SPSR (Ma et al., "Structure-Preserving Super Resolution with
Gradient Guidance", CVPR 2020).

A gradient map is the length of the central difference, channel by channel. The official code has
two of them. The network's own gradient branch sees, and is compared with, the map in the size of
the picture (`edgesr.networks.spsr.gradient_map`). The losses on the finished picture, and the
discriminator of gradient maps, take the map with one more ring of black around the picture: 2
pixels larger in each direction. That discriminator is therefore one for 130x130 where pictures
have 128x128 (`VggDiscriminatorConfig(size=130)`: the same parameters as 128).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from edgesr.networks.spsr import gradient_map


def framed_gradient_map(picture: Tensor) -> Tensor:
    """(N, C, H, W) in 0..1 -> (N, C, H + 2, W + 2): the map that losses and discriminator see."""
    return gradient_map(F.pad(picture, (1, 1, 1, 1)))


def gradient_loss(output: Tensor, truth: Tensor) -> Tensor:
    """MSE of the framed gradient maps; published weight 1e-2."""
    return F.mse_loss(framed_gradient_map(output), framed_gradient_map(truth))


def branch_loss(branch: Tensor, truth: Tensor) -> Tensor:
    """L1 of the gradient branch's output (N, C, H, W) to the truth's map; published weight 0.5."""
    return F.l1_loss(branch, gradient_map(truth))
