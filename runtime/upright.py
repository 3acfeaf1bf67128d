"""Turn planes as a display matrix asks, for containers that cannot hold one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesr.runtime.pixels import Plane


@dataclass(frozen=True)
class Orientation:
    """Mirror left to right if `mirror`, then `turns` quarter turns counter-clockwise."""

    mirror: bool
    turns: int

    @property
    def swaps(self) -> bool:
        """Whether width and height change places."""
        return self.turns % 2 == 1

    def apply(self, plane: Plane) -> Plane:
        """The plane as it is to be seen: (H, W) -> (H, W) or (W, H); a view."""
        return np.rot90(np.fliplr(plane) if self.mirror else plane, self.turns)


def orientation_of(matrix: Sequence[int] | None) -> Orientation | None:
    """What FFmpeg's display matrix of 9 numbers asks for.

    None when there is nothing to do, or when it is no whole number of quarter turns.
    A pixel (x, y) is shown at (a x + c y, b x + d y), with a, b, c, d = matrix[0, 1, 3, 4].
    """
    if matrix is None:
        return None
    a, b, c, d = (_sign(matrix[i]) for i in (0, 1, 3, 4))
    mirror = a * d - b * c < 0
    if mirror:
        a, b = -a, -b  # mirrored first: x counts from the right
    turns = {(1, 0): 0, (0, -1): 1, (-1, 0): 2, (0, 1): 3}.get((a, b))
    if turns is None or (not turns and not mirror):
        return None
    return Orientation(mirror, turns)


def is_plain(matrix: Sequence[int]) -> bool:
    """Whether the matrix shows the picture as it is stored."""
    return tuple(_sign(matrix[i]) for i in (0, 1, 3, 4)) == (1, 0, 0, 1)


def scaled(matrix: Sequence[int], across: float, down: float) -> list[int]:
    """The same matrix for a picture that has grown: only its shift counts pixels."""
    shift = [round(matrix[6] * across), round(matrix[7] * down)]
    return [*matrix[:6], *shift, matrix[8]]


def _sign(value: int) -> int:
    """-1, 0, 1 for 16.16 fixed point numbers that are meant as such; else something else."""
    return {65536: 1, -65536: -1, 0: 0}.get(value, 2)
