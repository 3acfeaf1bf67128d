"""Which compression is drawn for which picture, and the copies of a training set that it makes.

A single photo becomes a short clip by a small pan, so that predicted frames (P, B) occur as in a
stream; one frame of it, unmoved, is taken. Encoding whole photos once, when a training starts
(`encode_copies`), costs far less than crops in every step, and their borders are not the crop's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np
import torch
from torch import Tensor

from edgesr.distill.codec import degrade_video, options_of
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """One way to compress: fields are the keywords of `degrade_video`."""

    codec: str
    crf: int | None = None
    qp: int | None = None
    preset: str | None = None


@dataclass(frozen=True, kw_only=True)
class CodecShare:
    """How often an encoder is drawn, and with what: `level` is uniform, both ends included."""

    codec: str
    share: float
    by: Literal["crf", "qp"] = "crf"
    level: tuple[int, int] = (18, 35)
    presets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CodecSettings:
    """What edge devices are sent. `frames` and `speed` make clips of single photos.

    frames  length of the clip, both ends included
    speed   of the pan, at most, in LR pixels a frame
    """

    shares: tuple[CodecShare, ...] = (
        CodecShare(codec="libx264", share=0.6, presets=("ultrafast", "veryfast", "medium")),
        CodecShare(codec="libx264", share=0.1, by="qp", level=(20, 36), presets=("veryfast",)),
        CodecShare(codec="libx265", share=0.12, level=(20, 36), presets=("superfast", "fast")),
        CodecShare(codec="libvpx-vp9", share=0.1, level=(24, 48), presets=("5", "8")),
        CodecShare(codec="mpeg2video", share=0.08, by="qp", level=(2, 10)),
    )
    frames: tuple[int, int] = (3, 8)
    speed: float = 2.0

    def __post_init__(self) -> None:
        if not self.shares or sum(row.share for row in self.shares) <= 0:
            raise UsageError("codec degradation: shares are all 0: give one encoder a share above")
        for row in self.shares:
            low, high = row.level
            for preset in row.presets or (None,):
                for level in (low, high):
                    options_of(row.codec, preset=preset, **{row.by: level})
            if low > high or row.share < 0:
                raise UsageError(f"codec degradation: {row}: level is (low, high), share 0 or more")
        if not 1 <= self.frames[0] <= self.frames[1] or self.speed < 0:
            raise UsageError(
                f"codec degradation: frames {self.frames}, speed {self.speed}: "
                "frames is (fewest, most) from 1 up, speed 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class Pan:
    """A clip out of one photo: frame `take` is the photo itself; velocity (x, y) in pixels."""

    frames: int
    take: int
    velocity: tuple[float, float]


def draw_encoding(settings: CodecSettings, rng: np.random.Generator) -> Encoding:
    """One encoder, quality and preset."""
    shares = np.array([row.share for row in settings.shares])
    row = settings.shares[int(rng.choice(len(shares), p=shares / shares.sum()))]
    level = int(rng.integers(row.level[0], row.level[1] + 1))
    preset = row.presets[int(rng.integers(len(row.presets)))] if row.presets else None
    return Encoding(codec=row.codec, preset=preset, **{row.by: level})


def draw_pan(settings: CodecSettings, rng: np.random.Generator) -> Pan:
    """Any direction, speed uniform up to the most; the frame to take is any of the clip."""
    frames = int(rng.integers(settings.frames[0], settings.frames[1] + 1))
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, settings.speed)
    velocity = (float(speed * np.cos(angle)), float(speed * np.sin(angle)))
    return Pan(frames=frames, take=int(rng.integers(frames)), velocity=velocity)


def pan_clip(picture: Array, pan: Pan) -> Array:
    """(H, W) or (H, W, 3) uint8 -> (T, ...): moved by bicubic, the border reflected."""
    clip = np.empty((pan.frames, *picture.shape), np.uint8)
    for index in range(pan.frames):
        x, y = (v * (index - pan.take) for v in pan.velocity)
        move = np.array([[1, 0, x], [0, 1, y]], np.float64)
        clip[index] = cv2.warpAffine(
            picture,
            move,
            picture.shape[1::-1],
            flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT_101,
        )
    clip[pan.take] = picture
    return clip


def degrade_photo(picture: Array, encoding: Encoding, pan: Pan) -> Array:
    """One LR photo as it looks in the middle of a compressed stream: same shape, uint8."""
    return degrade_video(pan_clip(picture, pan), **asdict(encoding))[pan.take]


def encode_copies(
    pictures: Iterable[Array],
    *,
    copies: int,
    settings: CodecSettings | None = None,
    seed: int,
    workers: int = 1,
) -> Iterator[tuple[Array, tuple[Encoding, ...]]]:
    """Whole LR photos at load time: for each one `copies` compressed versions, in order.

    pictures  (H, W, 3) RGB or (H, W) luma, uint8; taken only as far ahead as the workers need
    seed      the copies of picture number i depend on (seed, i) alone, not on the workers

    Yields (copies, H, W[, 3]) uint8 and how each was made. Threads: the encoders leave the GIL.
    """
    settings = settings or CodecSettings()
    if copies < 1 or workers < 1:
        raise UsageError(f"{copies} copies by {workers} workers: give 1 or more of both")

    def work(index: int, picture: Array) -> tuple[Array, tuple[Encoding, ...]]:
        rng = np.random.default_rng([seed, index])
        made = [(draw_encoding(settings, rng), draw_pan(settings, rng)) for _ in range(copies)]
        coded = np.stack([degrade_photo(picture, encoding, pan) for encoding, pan in made])
        return coded, tuple(encoding for encoding, _ in made)

    waiting: deque[Future[tuple[Array, tuple[Encoding, ...]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for index, picture in enumerate(pictures):
                waiting.append(pool.submit(work, index, picture))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def encode_clip_copies(
    frames: Array, *, copies: int, settings: CodecSettings | None = None, seed: int
) -> Iterator[tuple[Array, Encoding]]:
    """Footage needs no pans: each copy is the whole clip (T, H, W[, 3]) through one encoder."""
    rng = np.random.default_rng(seed)
    for _ in range(copies):
        encoding = draw_encoding(settings or CodecSettings(), rng)
        yield degrade_video(frames, **asdict(encoding)), encoding


def degrade_batch(
    batch: Tensor, *, settings: CodecSettings | None = None, rng: np.random.Generator
) -> tuple[Tensor, list[Encoding]]:
    """LR crops in a step: (N, 1 or 3, H, W) in 0..1, each a clip of its own; multiples of 1/255.

    On the host, whatever the batch's device. The codec sees the crop's mirrored surroundings.
    """
    settings = settings or CodecSettings()
    if batch.ndim != 4 or batch.shape[1] not in (1, 3):
        raise UsageError(f"codec degradation of {tuple(batch.shape)}: give (N, 1 or 3, H, W)")
    pictures = (batch.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    coded, encodings = [], []
    for picture in pictures:
        encoding, pan = draw_encoding(settings, rng), draw_pan(settings, rng)
        flat = picture[:, :, 0] if batch.shape[1] == 1 else picture
        out = degrade_photo(np.ascontiguousarray(flat), encoding, pan)
        coded.append(out.reshape(picture.shape))
        encodings.append(encoding)
    result = torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2)
    return result.to(batch) / 255, encodings
