"""Frames and pictures as a network sees them, and crops of them: the material of calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesr.bicubic import downscale
from edgesr.errors import EdgesrError, MediaError, UsageError
from edgesr.metrics import rgb_to_y
from edgesr.runtime.frame import Frame
from edgesr.runtime.picture import READ, read
from edgesr.runtime.rgb import to_rgb
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
Size = tuple[int, int]
Pair = tuple[Array, Array]

FULL_RANGE = 2  # ColourTags.range
HELD_OUT = 5  # every fifth picture, the last fifth of a clip
PAIRS = 8  # at most
CANDIDATES = 4  # frames looked at for each one taken
TRIES = 4  # places looked at for each crop
SAME = 1.0 / 255.0  # mean distance of two small copies below which frames are the same


def wanted_size(spec: ModelSpec, size: int) -> Size:
    """(H, W) of the crops: `size` raised to what the model takes, or the only size it takes."""
    if spec.fixed_size is not None:
        return spec.fixed_size
    side = -(-max(size, spec.min_size) // spec.multiple) * spec.multiple
    return side, side


@dataclass(frozen=True, kw_only=True)
class Crop:
    """What is cut out for which model; size (H, W) in pixels."""

    spec: ModelSpec
    size: Size

    def picture(self, seen: Array, rng: np.random.Generator) -> Array:
        """(C, H, W) float32 in 0..1 -> (1, C, h, w): the liveliest of a few places."""
        seen = _reflected(seen, self.size)
        places = [_place(seen, self.size, rng) for _ in range(TRIES)]
        return max(places, key=lambda place: float(place.std()))[None].copy()

    def pair(self, whole: Array, rng: np.random.Generator) -> Pair | None:
        """Truth and its bicubic: (H, W, 3) RGB or (H, W) luma codes; None where too small."""
        spec, scale = self.spec, self.spec.scale
        height, width = (
            min(side, have // scale // spec.multiple * spec.multiple)
            for side, have in zip(self.size, whole.shape[:2], strict=True)
        )
        least = max(spec.min_size, 1)
        if min(height, width) < least or (spec.fixed_size and (height, width) != self.size):
            return None
        stack = whole if whole.ndim == 3 else whole[..., None]
        places = [
            _place(np.moveaxis(stack, 2, 0), (scale * height, scale * width), rng)
            for _ in range(TRIES)
        ]
        high = max(places, key=lambda place: float(place.std()))
        high = np.ascontiguousarray(np.moveaxis(high, 0, 2))
        if whole.ndim == 2:
            high = high[..., 0]
        low = np.asarray(downscale(high, scale))
        return self._network(low)[None], self._network(high)[None]

    def _network(self, picture: Array) -> Array:
        """8-bit codes, (H, W, 3) RGB or (H, W) luma -> (C, H, W) float32 in 0..1."""
        if picture.ndim == 3 and self.spec.colour == "y":
            planes = rgb_to_y(picture)[None]
        elif picture.ndim == 2:
            planes = np.stack([picture] * self.spec.channels)
        else:
            planes = np.moveaxis(picture, 2, 0)
        return np.clip(np.ascontiguousarray(planes, np.float32) / np.float32(255), 0.0, 1.0)

    def of_picture(self, path: Path) -> tuple[Array, Array]:
        """What the network sees of a picture file, and its 8-bit codes (for `pair`)."""
        pixels = read(path)[0].pixels
        if pixels.dtype == np.uint16:
            pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if pixels.ndim == 2:  # gray counts as RGB
            pixels = np.dstack([pixels] * 3)
        return self._network(pixels), pixels

    def of_frame(self, frame: Frame) -> tuple[Array, Array]:
        """The same of a video frame: luma as it is stored, or RGB by its own matrix and range."""
        if self.spec.colour == "rgb":
            seen = np.clip(to_rgb(frame), 0.0, 1.0)
            codes = np.rint(np.moveaxis(seen, 0, 2) * 255).astype(np.uint8)
            return seen, np.ascontiguousarray(codes)
        luma, depth = frame.planes[0], frame.depth
        if depth == 8:
            return (luma[None] / np.float32(255)).astype(np.float32), luma
        full = frame.colour.range == FULL_RANGE
        white = (1 << depth) - 1 if full else 255 << (depth - 8)
        seen = np.clip(luma[None].astype(np.float32) / np.float32(white), 0.0, 1.0)
        return seen, np.rint(seen[0] * 255).astype(np.uint8)


def _reflected(picture: Array, size: Size) -> Array:
    """(C, H, W), mirrored at the bottom and the right up to `size`."""
    below, beside = (max(0, s - h) for s, h in zip(size, picture.shape[1:], strict=True))
    if not below and not beside:
        return picture
    return np.pad(picture, ((0, 0), (0, below), (0, beside)), mode="symmetric")


def _place(picture: Array, size: Size, rng: np.random.Generator) -> Array:
    top = int(rng.integers(picture.shape[1] - size[0] + 1))
    left = int(rng.integers(picture.shape[2] - size[1] + 1))
    return picture[:, top : top + size[0], left : left + size[1]]


def gather(
    files: Sequence[Path], *, crop: Crop, frames: int, seed: int
) -> tuple[list[Array], list[Pair], list[str]]:
    """Pictures, held-out pairs, and a line for each file that cannot be read.

    Raises UsageError when nothing can be read.
    """
    rng = np.random.default_rng(seed)
    stills = [path for path in files if path.suffix.lower() in READ]
    clips = [path for path in files if path.suffix.lower() not in READ]
    pictures: list[Array] = []
    pairs: list[Pair] = []
    skipped: list[str] = []
    for index, path in enumerate(clips):
        left = frames - len(pictures)
        if stills:
            left = frames // 2 - len(pictures)
        share = -(-left // (len(clips) - index))
        try:
            some, held = of_clip(path, crop=crop, frames=share, rng=rng)
        except EdgesrError as error:
            skipped.append(str(error))
            continue
        pictures += some
        pairs += held[: max(1, PAIRS // len(clips))]
    if stills:
        some, held = _of_stills(stills, skipped, crop=crop, frames=frames - len(pictures), rng=rng)
        pictures += some
        pairs += held
    if not pictures:
        reason = f": {skipped[0]}" if skipped else ""
        raise UsageError(f"no calibration picture could be read{reason}")
    return pictures, pairs[:PAIRS], skipped


def _of_stills(
    paths: Sequence[Path],
    skipped: list[str],
    *,
    crop: Crop,
    frames: int,
    rng: np.random.Generator,
) -> tuple[list[Array], list[Pair]]:
    """A crop of each picture, several where there are fewer pictures than frames."""
    order = [paths[i] for i in rng.permutation(len(paths))]
    apart = min(max(1, len(order) // HELD_OUT), PAIRS) if len(order) > 1 else 0
    pairs = []
    for path in order[:apart]:
        seen = _tried(crop.of_picture, path, skipped)
        pair = None if seen is None else crop.pair(seen[1], rng)
        if pair is not None:
            pairs.append(pair)
    pictures: list[Array] = []
    usable = order[apart:]
    while usable and len(pictures) < frames:
        good = []
        for path in usable[: frames - len(pictures)]:
            seen = _tried(crop.of_picture, path, skipped)
            if seen is not None:
                pictures.append(crop.picture(seen[0], rng))
                good.append(path)
        usable = good if len(usable) <= frames else usable[frames:]
    return pictures, pairs


def _tried(
    look: Callable[[Path], tuple[Array, Array]], path: Path, skipped: list[str]
) -> tuple[Array, Array] | None:
    try:
        return look(path)
    except MediaError as error:
        skipped.append(str(error))
        return None


@dataclass(kw_only=True)
class _Spread:
    """Every k-th item of a stream of unknown length, k doubling so that few are held."""

    limit: int
    step: int = 1
    seen: int = 0
    items: list[Any] = field(default_factory=list)

    def wants(self) -> bool:
        self.seen += 1
        return (self.seen - 1) % self.step == 0

    def add(self, item: Any) -> None:
        self.items.append(item)
        if len(self.items) > self.limit:
            self.items = self.items[::2]
            self.step *= 2


def of_clip(
    path: Path, *, crop: Crop, frames: int, rng: np.random.Generator
) -> tuple[list[Array], list[Pair]]:
    """Crops of frames that differ, and pairs of the last fifth. Raises MediaError."""
    spread = _Spread(limit=CANDIDATES * max(frames, 1) + PAIRS)
    for frame in _frames(path, count=spread.limit):
        if spread.wants():
            seen, codes = crop.of_frame(frame)
            small = cv2.resize(codes, (16, 16), interpolation=cv2.INTER_AREA)
            small = small.astype(np.float32) / np.float32(255)
            held = crop.pair(codes, rng) if len(spread.items) % 2 == 0 else None
            spread.add((crop.picture(seen, rng), held, small))
    start = max(1, round(len(spread.items) * (1 - 1 / HELD_OUT)))
    chosen = spread_out([small for _, _, small in spread.items[:start]], frames)
    pictures = [spread.items[i][0] for i in chosen]
    later = [(pair, small) for _, pair, small in spread.items[start:] if pair is not None]
    held_out = [later[i][0] for i in spread_out([small for _, small in later], PAIRS)]
    return pictures, held_out


def spread_out(items: Sequence[Array], count: int) -> list[int]:
    """Indices of up to `count` items far from each other, in order; equal ones only once."""
    if not items or count < 1:
        return []
    every = np.stack([item.ravel() for item in items])
    chosen = [0]
    distance = np.abs(every - every[0]).mean(axis=1)
    while len(chosen) < min(count, len(items)):
        farthest = int(distance.argmax())
        if distance[farthest] < SAME:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, np.abs(every - every[farthest]).mean(axis=1))
    return sorted(chosen)


LONG = 3000
"""Frames of a clip that are decoded one after the other; longer clips are sampled by seeking."""


def _frames(path: Path, *, count: int) -> Iterator[Frame]:
    """All frames of a clip; of a long one the first frames behind `count` evenly spread times."""
    from edgesr.runtime.reader import VideoReader

    with VideoReader(path) as reader:
        if (reader.frame_count or 0) <= LONG or reader.duration is None:
            yield from (item for item in reader if isinstance(item, Frame))
            return
        for index in range(count):
            if index:
                at = reader.start + reader.duration * index / count
                reader.container.seek(int(at * 1_000_000))
            frame = next((item for item in reader if isinstance(item, Frame)), None)
            if frame is None:
                return
            yield frame
