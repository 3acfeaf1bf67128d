"""Does an artefact compute what it came from? Inputs that find out, and the distance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Array]

SIZES = ((32, 32), (33, 47), (64, 50), (17, 90), (71, 71))
"""(height, width) of the checks: even and odd, wide and square."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Distance between two outputs, in units of the output's range (0..1).

    largest  absolute value in the reference, for networks that go beyond 0..1
    """

    max_abs: float
    mean_abs: float
    largest: float
    inputs: int

    def within(self, limit: float) -> bool:
        """Of the largest value, or of 1 where that is smaller; never true for NaN."""
        return bool(self.max_abs <= limit * max(1.0, self.largest))

    def __str__(self) -> str:
        return f"max {self.max_abs:.2e}, mean {self.mean_abs:.2e} over {self.inputs} inputs"


def check_inputs(*, channels: int, least: int = 1, multiple: int = 1) -> list[Array]:
    """Random noise and crops of a real photo at `SIZES`: (1, channels, H, W) float32 in 0..1.

    Sizes are raised to `least` and to a multiple of `multiple`.
    """
    rng = np.random.default_rng(0)
    photo = read_photo()
    inputs = []
    for wanted in SIZES:
        height, width = (max(least, -(-side // multiple) * multiple) for side in wanted)
        inputs.append(rng.random((1, channels, height, width), dtype=np.float32))
        crop = cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA)
        planes = crop[:, :, :channels].transpose(2, 0, 1).astype(np.float32) / 255.0
        inputs.append(np.ascontiguousarray(planes)[None])
    return inputs


def read_photo() -> Array:
    """A small real photo (H, W, 3) uint8: scikit-image's "coffee" (CC0, Rachel Michetti)."""
    data = (resources.files("edgesr.export") / "check.png").read_bytes()
    picture = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def compare(reference: Run, candidate: Run, inputs: Iterable[Array]) -> Difference:
    """Run both on every input. Shapes must agree; raises ValueError when they do not."""
    worst, largest, total, count, seen = 0.0, 0.0, 0.0, 0, 0
    for picture in inputs:
        expected, got = reference(picture), candidate(picture)
        if expected.shape != got.shape:
            raise ValueError(
                f"for input {picture.shape} the outputs are {expected.shape} and {got.shape}"
            )
        distance = np.abs(expected.astype(np.float64) - got.astype(np.float64))
        worst = float(np.maximum(worst, distance.max()))  # max() would lose a NaN
        largest = max(largest, float(np.abs(expected).max()))
        total += float(distance.sum())
        count += distance.size
        seen += 1
    return Difference(max_abs=worst, mean_abs=total / count, largest=largest, inputs=seen)
