"""What a clip shows: its cuts, which of its frames differ, and an even choice of them.

A frame is remembered as the mean luma of 32x18 cells, so an hour of video costs 10 MB. A cut is
where cells and histogram change at once, and much more than around it: a pan changes as fast but
steadily. Two frames are the same when no cell differs; a small thing that moves is seen, the
noise of a codec is not.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edgesr.errors import MediaError, UsageError

Array = np.ndarray[Any, Any]

CELLS = (32, 18)  # columns, rows of the means that stand for a frame
MOST = 16384  # surveyed frames that are remembered (10 MB); of a longer clip every 2nd, 4th, ...

# All on the scale of studio luma, 16..235.
CUT = 14.0  # mean change of the cells from one frame to the next that is a cut
CUT_HISTOGRAM = 0.25  # if so large a share of the pixels changed its level too,
CUT_ALONE = 28.0  # or without that: another view of the same place;
CUT_RATIO = 3.0  # always if it is so many times the change just before and after
ALIKE = 4.0  # two frames none of whose cells differs by more are the same
BLACK = 32.0  # below it a pixel is black
BLACK_SHARE = 0.98  # of the pixels; then the frame is
FLAT = 3.0  # standard deviation below which there is nothing to learn from a frame


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which frames of a clip.

    count     so many in all, the scenes in turn; fewer where fewer differ
    every     or one in so many seconds of each scene (exactly one of the two)
    part      "all", or what is left for training beside the "held-out" frames
    period    seconds from one held-out stretch to the next; half of a clip shorter than two periods
    held_out  seconds at the end of each period that are held out (in proportion for short clips)
    gap       frames beside each held-out stretch that nobody gets
    """

    count: int | None = None
    every: float | None = None
    part: Literal["all", "train", "held-out"] = "all"
    period: float = 4.0
    held_out: float = 1.0
    gap: int = 6

    def __post_init__(self) -> None:
        if (self.count is None) == (self.every is None):
            raise UsageError("frames are drawn by `count` or by `every` so many seconds: give one")
        if self.count is not None and self.count < 1:
            raise UsageError(f"count of frames = {self.count}: 1 or more")
        if self.every is not None and self.every < 0:
            raise UsageError(f"every = {self.every} seconds: 0 or more")
        if self.part not in ("all", "train", "held-out"):
            raise UsageError(f"part {self.part!r}: all, train or held-out")
        if not 0 < self.held_out < self.period:
            raise UsageError(
                f"held out {self.held_out} of {self.period} seconds: more than 0, less than all"
            )
        if self.gap < 0:
            raise UsageError(f"gap of {self.gap} frames: 0 or more")


@dataclass(frozen=True, kw_only=True)
class Glimpse:
    """A frame in little, as studio luma of 16..235.

    time    seconds
    cells   (18, 32) float32 means
    few     about 320x180 of its pixels, uint8
    """

    time: float
    cells: Array
    few: Array


def glimpse(plane: Array, *, time: float, gain: float = 1.0, black: float = 0.0) -> Glimpse:
    """Of an (H, W) luma plane, uint8, uint16 or float32; gain * plane + black is studio luma."""
    rows, columns = (max(1, side // few) for side, few in zip(plane.shape, (180, 320), strict=True))
    few = plane[::rows, ::columns].astype(np.float32) * np.float32(gain) + np.float32(black)
    cells = cv2.resize(plane, CELLS, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Glimpse(
        time=time,
        cells=cells * np.float32(gain) + np.float32(black),
        few=np.clip(np.rint(few), 0, 255).astype(np.uint8),
    )


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one pass over a clip has found. All arrays but `times` are of the remembered frames.

    times    seconds after the first frame, of every frame
    index    which frames are remembered
    scene    number of the scene, growing
    usable   neither black nor flat
    cells    (N, 576) uint8 mean luma
    scenes   how many
    """

    times: Array
    index: Array
    scene: Array
    usable: Array
    cells: Array
    scenes: int


def survey_glimpses(glimpses: Iterable[Glimpse]) -> Survey:
    """Find the scenes of a clip from its frames in little, in order."""
    times, cuts, changes = array("d"), [0], array("d")
    kept: list[tuple[int, bool, Array]] = []
    step = 1
    before: tuple[Array, Array] | None = None
    for index, glimpse in enumerate(glimpses):
        times.append(glimpse.time)
        cells, few = glimpse.cells, glimpse.few
        levels = np.bincount(few.ravel() >> 3, minlength=32) / few.size
        change = 0.0
        if before is not None:
            change = float(np.abs(cells - before[0]).mean())
            moved = np.abs(levels - before[1]).sum() / 2
            if change >= CUT_ALONE or (change >= CUT and moved >= CUT_HISTOGRAM):
                cuts.append(index)
        changes.append(change)
        before = (cells, levels)
        if index % step == 0:
            usable = (few < BLACK).mean() < BLACK_SHARE and few.std() >= FLAT
            small = np.clip(np.rint(cells), 0, 255).astype(np.uint8)
            kept.append((index, bool(usable), small.ravel()))
            if len(kept) > MOST:
                step *= 2
                kept = kept[::2]
    starts = [cut for cut in cuts if cut == 0 or _stands_out(changes, cut)]
    indices = np.array([index for index, _, _ in kept], dtype=np.int64)
    return Survey(
        times=np.array(times) - (times[0] if times else 0.0),
        index=indices,
        scene=np.searchsorted(starts, indices, side="right") - 1,
        usable=np.array([usable for _, usable, _ in kept], dtype=bool),
        cells=np.array([cells for _, _, cells in kept]),
        scenes=len(starts),
    )


def _stands_out(changes: Sequence[float], cut: int) -> bool:
    """A fast pan changes as much in every frame; a cut is followed and preceded by calm."""
    beside = [*changes[max(1, cut - 3) : cut], *changes[cut + 1 : cut + 4]]
    return not beside or changes[cut] >= CUT_RATIO * float(np.median(beside))


def choose(found: Survey, sampling: Sampling, *, clip: Path) -> list[int]:
    """Indices of the frames to draw, growing. `clip` is for the messages.

    Every scene gives one frame in turn, spread over the scene by the van der Corput sequence, until
    there are `count`; frames that look like one already chosen, black and flat ones are passed.
    """
    allowed = found.usable & in_part(found, sampling, clip=clip)[found.index]
    if not allowed.any():
        what = "" if sampling.part == "all" else f" of the {sampling.part} part"
        raise MediaError(f"{clip}: every frame{what} is black or flat: nothing to learn from")
    rows = np.flatnonzero(allowed)
    by_scene = np.split(rows, np.flatnonzero(np.diff(found.scene[rows])) + 1)
    if sampling.every is not None:
        seconds = found.times[found.index]
        order = [row for scene in by_scene for row in _spaced(scene, seconds, sampling.every)]
    else:
        order = _in_turn([_spread(scene) for scene in by_scene])
    most = len(order) if sampling.count is None else sampling.count
    chosen: list[int] = []
    looks = np.empty((min(most, len(order)), found.cells.shape[1]), dtype=np.int16)
    for row in order:
        if len(chosen) == most:
            break
        cells = found.cells[row].astype(np.int16)
        if chosen and (np.abs(looks[: len(chosen)] - cells).max(axis=1) <= ALIKE).any():
            continue
        looks[len(chosen)] = cells
        chosen.append(int(found.index[row]))
    return sorted(chosen)


def in_part(found: Survey, sampling: Sampling, *, clip: Path) -> Array:
    """Which of all frames belong to the part, as bool. Raises UsageError where it has none."""
    if sampling.part == "all":
        return np.ones(len(found.times), dtype=bool)
    times = found.times
    length = float(times[-1] + np.median(np.diff(times))) if len(times) > 1 else 0.0
    period = min(sampling.period, length / 2) if length else sampling.period
    held = sampling.held_out * period / sampling.period
    held_out = times % period >= period - held - 1e-9
    if sampling.part == "held-out":
        wanted = held_out
    else:
        beside = np.convolve(held_out, np.ones(2 * sampling.gap + 1))
        wanted = beside[sampling.gap : sampling.gap + len(times)] < 0.5
    if not wanted.any():
        raise UsageError(
            f"{clip}: {len(times)} frames, {length:.1f} s, are too few to hold out {held:.2f} s of "
            f"every {period:.2f} with {sampling.gap} frames between the parts"
        )
    return wanted


def _spread(rows: Array) -> list[int]:
    """The rows of a scene: the middle one, then the quarters, eighths, ... (van der Corput)."""
    bits = max(1, len(rows) - 1).bit_length()
    parts = [int(f"{n:0{bits}b}"[::-1], 2) for n in (*range(1, 1 << bits), 0)]
    return [int(row) for row in dict.fromkeys(rows[(part * len(rows)) >> bits] for part in parts)]


def _in_turn(scenes: Sequence[Sequence[int]]) -> list[int]:
    """First of each scene, second of each, ...; of many scenes those far apart come first."""
    first = _spread(np.arange(len(scenes)))
    longest = max(map(len, scenes))
    return [scenes[s][n] for n in range(longest) for s in first if n < len(scenes[s])]


def _spaced(rows: Array, seconds: Array, every: float) -> list[int]:
    taken: list[int] = []
    for row in rows.tolist():
        if not taken or seconds[row] - seconds[taken[-1]] >= every - 1e-6:
            taken.append(row)
    return taken
