"""The end of a luma network on the host: the skip added, rounded, and only then shuffled.

OpenVINO adds the one-channel skip in blocks of sixteen channels and shuffles float32: at x2 that is
a fifth of ecbsr-m4c16's time. Where frames are 8 bits anyway, the graph is cut in front of both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from edgesr.runtime.backends import Array
from edgesr.runtime.backends.uint8 import to_uint8


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What was cut off. skip: the input is added to every sub-pixel."""

    scale: int
    skip: bool

    def __call__(self, planes: Array, batch: Array) -> Array:
        """(N, s*s, H, W) and what went in (N, 1, H, W), float32 -> (N, 1, sH, sW) uint8."""
        return shuffled(to_uint8(planes + batch if self.skip else planes), scale=self.scale)


def shuffled(planes: Array, *, scale: int) -> Array:
    """Pixel shuffle: (N, s*s, H, W) uint8 -> (N, 1, sH, sW)."""
    count, _, height, width = planes.shape
    big = np.empty((count, height, scale, width * scale), np.uint8)
    for picture, out in zip(planes, big, strict=True):
        for row in range(scale):
            merged = cv2.merge(list(picture[row * scale : (row + 1) * scale]))  # (H, W, s)
            out[:, row] = merged.reshape(height, width * scale)
    return big.reshape(count, 1, height * scale, width * scale)


def cut(model: Any) -> tuple[Any, Ending] | None:
    """An OpenVINO model that ends in front of [skip and] pixel shuffle; None where it does not."""
    import openvino

    shuffle = model.get_results()[0].input_value(0).get_node()
    if len(model.outputs) != 1 or shuffle.get_type_name() != "DepthToSpace":
        return None
    scale = int(shuffle.get_attributes()["block_size"])
    before = shuffle.input_value(0)
    if before.get_partial_shape()[1] != scale * scale:  # not one channel
        return None
    skip = False
    if before.get_node().get_type_name() == "Add":
        ends = [before.get_node().input_value(i) for i in range(2)]
        inputs = [end for end in ends if end.get_node().get_type_name() == "Parameter"]
        if len(inputs) == 1 and inputs[0].get_partial_shape()[1] == 1:
            skip, before = True, next(end for end in ends if end is not inputs[0])
    ended = openvino.Model([before], model.get_parameters(), model.get_friendly_name())
    return ended, Ending(scale=scale, skip=skip)
