"""SPyNet (Ranjan, Black, "Optical Flow Estimation using a Spatial Pyramid Network", CVPR 2017).

Optical flow from coarse to fine: on each of six levels of a picture pyramid, five 7x7 convolutions
see one picture, the other one warped by the flow so far, and that flow, and correct it. This is the
form that BasicVSR uses (RGB in 0..1, ImageNet mean and deviation, borders repeated when warping);
the paper's own trains each level alone and takes sizes that are multiples of 32 only.

`warp` is here too: everything that follows a flow imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SpynetConfig:
    """No scale: the flow is as large as the pictures."""

    levels: int = 6
    widths: tuple[int, ...] = (32, 64, 32, 16)


class Spynet(nn.Module):
    """Two pictures (N, 3, H, W) in 0..1 -> flow (N, 2, H, W) in pixels, x first.

    The flow leads from a pixel of `reference` to its place in `support`: `warp(support, flow)`
    looks like `reference`.
    """

    colour = "rgb"
    mean: Tensor
    std: Tensor

    def __init__(self, config: SpynetConfig) -> None:
        super().__init__()
        self.config = config
        self.basic_module = nn.ModuleList(FlowLevel(config.widths) for _ in range(config.levels))
        # In the state_dict, since all public files hold them.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, reference: Tensor, support: Tensor) -> Tensor:
        height, width = reference.shape[2:]
        step = 2 ** (self.config.levels - 1)  # 32: one pixel of the coarsest level
        # Rounded up without a negative number: ONNX divides towards zero, Python downwards.
        tall, wide = ((size + step - 1) // step * step for size in (height, width))

        near = self.pyramid(reference, (tall, wide))
        far = self.pyramid(support, (tall, wide))
        flow = torch.zeros_like(near[0][:, :2])  # (N, 2, H/32, W/32)
        for level, correct in enumerate(self.basic_module):
            if level > 0:  # a flow of one pixel is one of two pixels on the next finer level
                flow = 2 * F.interpolate(
                    flow, scale_factor=2.0, mode="bilinear", align_corners=True
                )
            warped = warp(far[level], flow, padding="border")
            flow = flow + correct(torch.cat([near[level], warped, flow], dim=1))

        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
        return torch.stack([flow[:, 0] * (width / wide), flow[:, 1] * (height / tall)], dim=1)

    def pyramid(self, picture: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """Normalised, resized to `size`, then halved again and again; the smallest first."""
        picture = F.interpolate(picture, size=size, mode="bilinear", align_corners=False)
        levels = [(picture - self.mean) / self.std]
        for _ in range(self.config.levels - 1):
            levels.insert(0, F.avg_pool2d(levels[0], 2))
        return levels


class FlowLevel(nn.Module):
    """(N, 3 + 3 + 2, H, W) -> (N, 2, H, W): 7x7 convolutions, ReLU between them."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out in zip((8, *widths), (*widths, 2), strict=True):
            layers += [nn.Conv2d(c_in, c_out, 7, padding=3), nn.ReLU()]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_module(x)


def warp(x: Tensor, flow: Tensor, *, padding: Literal["zeros", "border"] = "zeros") -> Tensor:
    """`x` (N, C, H, W) read, bilinearly, where `flow` (N, 2, H, W) points; x first, in pixels."""
    height, width = x.shape[2:]
    # bf16 and fp16 cannot tell pixel 513 from pixel 514.
    exact = torch.promote_types(x.dtype, torch.float32)
    columns = torch.arange(width, dtype=exact, device=x.device) + flow[:, 0]  # (N, H, W)
    rows = torch.arange(height, dtype=exact, device=x.device)[:, None] + flow[:, 1]  # (N, H, W)
    # align_corners: -1 and 1 are the centres of the first and the last pixel.
    grid = torch.stack(
        [2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], dim=3
    )
    y = F.grid_sample(x.to(exact), grid, mode="bilinear", padding_mode=padding, align_corners=True)
    return y.to(x.dtype)
