"""Picture strips: the same crop as bicubic, the students and the truth have it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edgesr.bicubic import imresize
from edgesr.distill.pictures import Pair, coloured, luma_output, rgb_output, three_channels
from edgesr.metrics import rgb_to_y
from edgesr.spec import Colour

Array = np.ndarray[Any, Any]

CROP = 128  # pixels of the truth on each side of a strip's pictures, shown twice as large


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One crop as several made it, by name: (H, W, 3) uint8 RGB of one size."""

    name: str
    pictures: Mapping[str, Array]


def make_strips(
    pairs: Sequence[Pair],
    students: Mapping[str, Callable[[Array], Array]],
    *,
    scale: int,
    colour: Colour = "y",
    count: int = 3,
    size: int = CROP,
) -> list[Strip]:
    """Bicubic, students and truth of the first `count` pictures, where each has most detail.

    students  by name, as `evaluate` (colour "y") or `evaluate_rgb` ("rgb") takes them
    """
    strips = []
    for pair in pairs[:count]:
        whole = {"bicubic": three_channels(imresize(pair.lr, scale))}
        for name, upscale in students.items():
            if colour == "rgb":
                whole[name] = rgb_output(upscale, pair.lr)
            else:
                whole[name] = coloured(luma_output(upscale, pair.lr), pair.lr)
        whole["truth"] = three_channels(pair.hr)
        top, left = most_detailed(rgb_to_y(pair.hr), size=size)
        crops = {n: p[top : top + size, left : left + size] for n, p in whole.items()}
        strips.append(Strip(name=pair.name, pictures=crops))
    return strips


def most_detailed(luma: Array, *, size: int) -> tuple[int, int]:
    """Top and left of the window with the largest sum of gradients."""
    rows, columns = np.gradient(luma)
    sums = cv2.integral(np.abs(rows) + np.abs(columns))
    height, width = (min(size, side) for side in luma.shape)
    windows = (sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]) + sums[
        :-height, :-width
    ]
    top, left = np.unravel_index(int(np.argmax(windows)), windows.shape)
    return int(top), int(left)


def png(picture: Array) -> str:
    """A data URI of (H, W, 3) uint8 RGB."""
    good, content = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
    assert good
    return "data:image/png;base64," + base64.b64encode(content.tobytes()).decode("ascii")
