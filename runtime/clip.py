"""A made-up video clip to measure with, so that a board needs no file for it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from edgesr.runtime.pixels import picture_of

Array = np.ndarray[Any, Any]


def lumas(*, width: int, height: int, frames: int) -> Iterator[Array]:
    """(height, width) uint8 pictures of 16..235: detail at all sizes that moves, and some grain.

    Always the same ones. Every picture differs from the one before, as with a camera.
    """
    random = np.random.default_rng(0)
    margin = 64
    scene = np.zeros((height + margin, width + margin), np.float32)
    for octave in (64, 32, 16, 8, 4, 2):
        shape = (scene.shape[0] // octave + 1, scene.shape[1] // octave + 1)
        noise = random.standard_normal(shape).astype(np.float32)
        scene += np.sqrt(octave) * cv2.resize(
            noise, scene.shape[::-1], interpolation=cv2.INTER_LINEAR
        )
    scene = 125 + 40 * scene / scene.std()
    grain = 2 * random.standard_normal(scene.shape).astype(np.float32)
    for index in range(frames):
        x, y = _swing(index, margin), _swing(index // 3, margin)
        u, v = random.integers(0, margin, 2)
        picture = scene[y : y + height, x : x + width] + grain[u : u + height, v : v + width]
        yield np.clip(picture, 16, 235).astype(np.uint8)


def make_clip(path: Path, *, width: int, height: int, frames: int, rate: int) -> Path:
    """Write them as H.264 (x264 veryfast, crf 20), 4:2:0 with a little colour. Returns `path`."""
    with av.open(str(path), "w") as container:
        encoder = container.add_stream("libx264", rate=rate)
        encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
        encoder.options = {"preset": "veryfast", "crf": "20"}
        for index, luma in enumerate(lumas(width=width, height=height, frames=frames)):
            half = cv2.resize(luma, (-(-width // 2), -(-height // 2)))
            picture = picture_of((luma, half // 4 + 96, 160 - half // 4), "yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, rate)
            container.mux(encoder.encode(picture))
        container.mux(encoder.encode())
    return path


def _swing(index: int, span: int) -> int:
    """0, 1, ... span - 1 and back."""
    return span - 1 - abs(index % (2 * span - 2) - (span - 1))
