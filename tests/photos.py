"""Photos drawn by the tests: enough texture that a network learns something in a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


def draw_photo(seed: int, *, height: int = 96, width: int = 128) -> Array:
    """(H, W, 3) RGB uint8: overlapping discs, bars and lines, as dead leaves."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.uint8)
    for _ in range(120):
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        if rng.random() < 0.6:
            cv2.circle(picture, centre, int(rng.integers(2, 14)), colour, -1, cv2.LINE_AA)
        else:
            end = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.line(picture, centre, end, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return picture


def write_photos(folder: Path, count: int, **size: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        cv2.imwrite(str(folder / f"{seed:03}.png"), draw_photo(seed, **size))
    return folder
