"""Modulated deformable convolution (Zhu, Hu, Lin, Dai, "Deformable ConvNets v2", CVPR 2019).

Each tap of the kernel reads its input a learned offset away from its place, bilinearly, zero
outside the picture, and times a learned weight in 0..1. Made of `grid_sample` and one 1x1
convolution, so that it needs no compiled extension, runs wherever torch runs and exports from
ONNX opset 16 on; the price is memory for all taps at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformConv(nn.Module):
    """Offsets and weights come from a second feature map. Starts as half of a plain convolution.

    groups  sets of input channels, each with offsets and weights of its own
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3, *, groups: int) -> None:
        super().__init__()
        self.groups = groups
        plain = nn.Conv2d(c_in, c_out, kernel, bias=False)
        self.weight = plain.weight
        self.bias = nn.Parameter(torch.zeros(c_out))
        nn.init.uniform_(self.weight, -((c_in * kernel**2) ** -0.5), (c_in * kernel**2) ** -0.5)
        self.conv_offset = nn.Conv2d(c_in, 3 * groups * kernel**2, kernel, padding=kernel // 2)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        both = self.conv_offset(guide)  # (N, G*K*3, H, W), offsets first
        third = both.shape[1] // 3
        offset, strength = both[:, : 2 * third], both[:, 2 * third :]
        return deform_conv(x, offset, strength.sigmoid(), weight=self.weight, bias=self.bias)


def deform_conv(
    x: Tensor, offset: Tensor, strength: Tensor, *, weight: Tensor, bias: Tensor
) -> Tensor:
    """Stride 1, zero padding of half the kernel.

    x         (N, C, H, W)
    offset    (N, G*K*2, H, W) in pixels: for each group of C/G channels and each of the K taps
              (row by row) first down, then across: the order of `torchvision.ops.deform_conv2d`
    strength  (N, G*K, H, W)
    weight    (O, C, k, k) with k*k = K
    """
    n, c, height, width = x.shape
    out, _, kernel, _ = weight.shape
    taps = kernel**2
    groups = strength.shape[1] // taps

    # Pixel positions need more digits than bf16 and fp16 have.
    exact = torch.promote_types(x.dtype, torch.float32)
    place = torch.arange(kernel, dtype=exact, device=x.device) - kernel // 2
    tap_down = place.repeat_interleave(kernel)[:, None, None]  # (K, 1, 1)
    tap_across = place.repeat(kernel)[:, None, None]
    rows = torch.arange(height, dtype=exact, device=x.device)[:, None]  # (H, 1)
    columns = torch.arange(width, dtype=exact, device=x.device)  # (W)
    offset = offset.reshape(n * groups, taps, 2, height, width)
    down = rows + tap_down + offset[:, :, 0]  # (N*G, K, H, W)
    across = columns + tap_across + offset[:, :, 1]
    # align_corners=False: -1 and 1 are the outer edges, so one pixel's width is no exception.
    grid = torch.stack([(2 * across + 1) / width - 1, (2 * down + 1) / height - 1], dim=4)
    read = F.grid_sample(
        x.reshape(n * groups, c // groups, height, width).to(exact),
        grid.view(n * groups, taps * height, width, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).to(x.dtype)
    read = read.view(n, groups, c // groups, taps, height, width)
    read = read * strength.reshape(n, groups, 1, taps, height, width)
    return F.conv2d(read.view(n, c * taps, height, width), weight.view(out, c * taps, 1, 1), bias)
