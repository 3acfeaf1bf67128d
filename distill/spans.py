"""Pieces of a clip whose frames follow each other without a cut, decoded as studio luma."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.distill.data import read_rgb
from edgesr.distill.footage import frames_of, survey
from edgesr.distill.scenes import Sampling, Survey, in_part
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y
from edgesr.runtime.frame import Frame
from edgesr.runtime.rgb import FULL_RANGE
from edgesr.runtime.video import VideoReader

Array = np.ndarray[Any, Any]


SPAN = 24  # frames, at most


MOST_BYTES = 600_000_000  # of large luma from one clip


def read_spans(
    clip: Path,
    sampling: Sampling,
    *,
    frames: int,
    least: int,
    most: int | None,
    progress: Callable[[int, int], None] | None,
    on_warning: Callable[[str], None],
) -> Iterator[tuple[int, Array]]:
    """First frame and luma (T, H, W) uint8 of each chosen span; at most one in memory."""

    def tell(done: int, total: int | None) -> None:
        if progress is not None and total is not None:
            progress(done, total)

    found = survey(clip, progress=tell, on_warning=on_warning)
    spans = spans_of(found, sampling, frames=frames, clip=clip)
    chosen: list[tuple[int, int]] | None = None
    held: list[Array] = []
    with closing(luma_of(clip)) as lumas:
        for number, luma in enumerate(lumas):
            if chosen is None:
                if min(luma.shape) < least:
                    raise UsageError(
                        f"--data {clip}: frames of {luma.shape[1]}x{luma.shape[0]} are smaller "
                        f"than a crop of {least} pixels: a smaller --set patch, or larger footage"
                    )
                room = max(1, MOST_BYTES // (luma.size * SPAN))
                chosen = spread(spans, min(room, most or room))
            if not chosen:
                break
            start, end = chosen[0]
            if start <= number < end:
                held.append(luma)
            if number + 1 == end:
                yield start, np.stack(held)
                held, chosen = [], chosen[1:]
            tell(len(found.times) + number + 1, 2 * len(found.times))


def spans_of(
    found: Survey, sampling: Sampling, *, frames: int, clip: Path
) -> list[tuple[int, int]]:
    """(first, end) of pieces of `frames` to SPAN frames in one scene, none black or flat."""
    count = len(found.times)
    before = np.searchsorted(found.index, np.arange(count), side="right") - 1
    after = np.minimum(np.searchsorted(found.index, np.arange(count)), len(found.index) - 1)
    scene = found.scene[before]
    # Of a long clip not every frame is remembered: those between two scenes are left out.
    good = in_part(found, sampling, clip=clip) & (scene == found.scene[after])
    good &= found.usable[before] & found.usable[after]
    spans, start = [], 0
    for number in range(1, count + 1):
        going = number < count and good[number] and scene[number] == scene[start]
        if good[start] and going and number - start < max(SPAN, frames):
            continue
        if good[start] and number - start >= frames:
            spans.append((start, number))
        start = number
    if not spans:
        raise UsageError(
            f"--data {clip}: nowhere in its {sampling.part} part {frames} frames follow each other "
            "without a cut: --set frames with fewer, or longer footage"
        )
    return spans


def spread(spans: Sequence[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    places = np.linspace(0, len(spans) - 1, min(count, len(spans))).round().astype(int)
    return [spans[place] for place in dict.fromkeys(places.tolist())]


def luma_of(clip: Path) -> Generator[Array, None, None]:
    """Every frame as (H, W) uint8 studio luma, in order."""
    if clip.is_dir():
        for file in frames_of(clip):
            try:
                picture = read_rgb(file)
            except MediaError:
                continue  # as the survey does, which has said so
            yield np.rint(rgb_to_y(picture)).astype(np.uint8)
        return
    with VideoReader(clip) as reader:
        for item in reader:
            if isinstance(item, Frame):
                yield studio(item)


def studio(frame: Frame) -> Array:
    plane = frame.planes[0]
    if frame.colour.range == FULL_RANGE:
        plane = plane * np.float32(219 / ((1 << frame.depth) - 1)) + np.float32(16)
    elif frame.depth == 8:
        return np.array(plane)
    else:
        plane = plane / np.float32(1 << (frame.depth - 8))
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)
