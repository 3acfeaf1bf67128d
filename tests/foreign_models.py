"""Models as other programs export them: by torch's own exporters, nothing of edgesr in them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Compact(nn.Module):
    """The shape of Real-ESRGAN's SRVGGNetCompact: 3x3 convolutions, PReLU, nearest skip."""

    def __init__(self, *, scale: int = 4, width: int = 12, convs: int = 3, channels: int = 3):
        super().__init__()
        body: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(convs):
            body += [nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width)]
        body.append(nn.Conv2d(width, channels * scale**2, 3, padding=1))
        self.body, self.scale = nn.ModuleList(body), scale
        for layer in body[1::2]:
            nn.init.uniform_(layer.weight, 0.05, 0.4)  # as training leaves slopes: no two alike

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for layer in self.body:
            out = layer(out)
        skip = F.interpolate(x, scale_factor=self.scale, mode="nearest")
        return F.pixel_shuffle(out, self.scale) * 0.2 + skip


class Dense(nn.Module):
    """The shape of RRDBNet: dense blocks with LeakyReLU, nearest enlargement in two steps."""

    def __init__(self, width: int = 8, growth: int = 4):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.one = nn.Conv2d(width, growth, 3, padding=1)
        self.two = nn.Conv2d(width + growth, width, 3, padding=1)
        self.up1, self.up2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.first(x)
        b = F.leaky_relu(self.one(a), 0.2)
        a = a + 0.2 * self.two(torch.cat([a, b], 1))
        a = F.leaky_relu(self.up1(F.interpolate(a, scale_factor=2, mode="nearest")), 0.2)
        a = F.leaky_relu(self.up2(F.interpolate(a, scale_factor=2, mode="nearest")), 0.2)
        return 0.1 * self.last(a) + F.interpolate(x, scale_factor=4, mode="nearest")


class Unshuffled(nn.Module):
    """Works on a quarter of the pixels: sizes must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 48, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, 2)), 4)


class Pooled(nn.Module):
    """Channel attention over the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        return F.pixel_shuffle(a * torch.sigmoid(self.gate(a.mean(dim=(2, 3), keepdim=True))), 2)


class Reflected(nn.Module):
    """Luma, x3, its border reflected: a picture of one or two pixels is too small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 9, 5, padding=2, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 3)


class Levels(nn.Module):
    """For 0..255: subtracts a mean and adds it again, as EDSR does. Black is not answered black."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1, padding_mode="replicate")
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[4 * channel : 4 * channel + 4, channel, 1, 1] = 0.97
            self.conv.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x - 114.0), 2) + 114.0


def legacy(
    net: nn.Module,
    path: Path,
    *,
    opset: int = 17,
    channels: int = 3,
    size: tuple[int, int] = (24, 32),
    dynamic: bool = True,
) -> Path:
    """By torch.onnx's old exporter, as Real-ESRGAN's script and chaiNNer do it."""
    axes = {0: "batch", 2: "height", 3: "width"}
    options: dict[str, Any] = {"dynamic_axes": {"input": axes, "output": axes}} if dynamic else {}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            (torch.rand(1, channels, *size),),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["input"],
            output_names=["output"],
            **options,
        )
    return path


def dynamo(net: nn.Module, path: Path) -> Path:
    """By the new exporter with all that it leaves in: opset 18, stack traces, local paths."""
    from edgesr.export.onnx import quiet

    sizes = {2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    with quiet():
        torch.onnx.export(
            net.eval(),
            (torch.rand(1, 3, 24, 32),),
            str(path),
            dynamo=True,
            opset_version=18,
            external_data=False,
            input_names=["input"],
            output_names=["output"],
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    return path
