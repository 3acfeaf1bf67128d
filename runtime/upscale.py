"""Upscale: the stage that takes frames through a model."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
import numpy as np

from edgesr.colour import upscale_chroma
from edgesr.errors import MediaError, ModelError
from edgesr.runtime.backends import Session
from edgesr.runtime.frame import Frame
from edgesr.runtime.rgb import from_rgb, to_rgb
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]

Planes = tuple[Array, ...]

FULL_RANGE = 2  # ColourTags.range


def padded(size: tuple[int, int], spec: ModelSpec) -> tuple[int, int]:
    """(H, W) that the model is given for a picture of (H, W): what it can take, or just above."""
    height, width = (-(-max(s, spec.min_size) // spec.multiple) * spec.multiple for s in size)
    return height, width


def pad(picture: Array, size: tuple[int, int]) -> Array:
    """Repeat the bottom and right edge of an (H, W, ...) picture up to `size`; contiguous."""
    below, beside = size[0] - picture.shape[0], size[1] - picture.shape[1]
    if not below and not beside:
        return np.ascontiguousarray(picture)
    return np.asarray(cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_REPLICATE))


class _Waiting(NamedTuple):
    item: Any
    result: Future[tuple[Planes, float]] | None  # of a frame: planes, seconds of work; else None
    again: bool = False  # the result of the equal frame before


class Upscale:
    """Frames come back `spec.scale` times as large; everything else passes through in order.

    session  for a luma model opened for uint8 when the stream has 8 bits, for float32 when it
             has more; for an RGB model always for float32
    spec     facts of the model in the session
    observe  called with each frame that is given back and the seconds that its thread worked on
             it, 0 for a duplicate; in the thread that calls push and flush

    With a luma ("y") model luma goes through the session, chroma through a bicubic that knows its
    siting. With an RGB model the frame is converted by its own matrix, range and siting, and back
    (`edgesr.runtime.rgb`). A frame equal to
    the one before it (every sample of every plane) gets that one's result again: `duplicates`
    counts them. Time, colour tags and aspect ratio are untouched.

    As many frames are worked on at once as the session runs in parallel, each in a thread of its
    own; they come back in order. Close it when done: the threads end.

    Raises ModelError for a model with state or of one fixed size, MediaError when the picture
    changes its size or format in the middle of the stream.
    """

    def __init__(
        self,
        session: Session,
        *,
        spec: ModelSpec,
        observe: Callable[[Frame, float], None] | None = None,
    ) -> None:
        if spec.state or spec.fixed_size:
            what = "keeps state between frames" if spec.state else "takes pictures of one size"
            raise ModelError(f"{spec.name} {what}: stream cannot run such models yet")
        self._session = session
        self._spec = spec
        self._observe = observe
        self._parallel = session.facts.parallel
        self._workers = ThreadPoolExecutor(self._parallel, thread_name_prefix="edgesr-upscale")
        self._waiting: deque[_Waiting] = deque()
        self._in_flight = 0
        self._last: Frame | None = None
        self._last_result: Future[tuple[Planes, float]] | None = None
        self.duplicates = 0

    def push(self, item: Any) -> list[Any]:
        if isinstance(item, Frame):
            self._waiting.append(self._start(item))
            self._in_flight += 1
        else:
            self._waiting.append(_Waiting(item, None))
        finished = []
        while self._waiting and (
            self._in_flight >= self._parallel or self._waiting[0].result is None
        ):
            finished.append(self._next())
        return finished

    def flush(self) -> list[Any]:
        return [self._next() for _ in range(len(self._waiting))]

    def close(self, *, wait: bool = True) -> None:
        """Forget what is unfinished and end the threads.

        Without `wait`, those inside the session end later; Python waits for them when it exits.
        """
        self._workers.shutdown(wait=wait, cancel_futures=True)

    def _start(self, frame: Frame) -> _Waiting:
        """With the enlarged planes to come: new ones, or those of the equal frame before."""
        if self._last is not None and self._last_result is not None:
            self._check_same_picture(frame, self._last)
            if _equal(frame.planes, self._last.planes):
                self.duplicates += 1
                return _Waiting(frame, self._last_result, again=True)
        self._last = frame
        self._last_result = self._workers.submit(self._timed, frame)
        return _Waiting(frame, self._last_result)

    def _next(self) -> Any:
        item, result, again = self._waiting.popleft()
        if result is None:
            return item
        self._in_flight -= 1
        planes, seconds = result.result()
        if self._observe is not None:
            self._observe(item, 0.0 if again else seconds)
        return item.replace(planes=planes)

    def _timed(self, frame: Frame) -> tuple[Planes, float]:
        start = time.perf_counter()
        planes = self._upscale(frame)
        return planes, time.perf_counter() - start

    def _upscale(self, frame: Frame) -> Planes:
        if self._spec.colour == "rgb":
            return self._upscale_rgb(frame)
        scale, luma = self._spec.scale, frame.planes[0]
        peak = (1 << frame.depth) - 1
        big = [self._through_model(frame, peak)]
        for plane in frame.planes[1:]:
            chroma = upscale_chroma(
                plane, scale=scale, luma=(luma.shape[0], luma.shape[1]), siting=frame.colour.siting
            )
            big.append(chroma if frame.depth in (8, 16) else np.minimum(chroma, peak))
        return tuple(big)

    def _upscale_rgb(self, frame: Frame) -> Planes:
        size = padded((frame.height, frame.width), self._spec)
        rgb = to_rgb(frame)
        whole = np.stack([pad(plane, size) for plane in rgb])
        big = self._session(whole[None])[0]  # (1, 3, H, W) -> (3, sH, sW)
        height, width = frame.height * self._spec.scale, frame.width * self._spec.scale
        return from_rgb(big[:, :height, :width], like=frame)

    def _through_model(self, frame: Frame, peak: int) -> Array:
        scale = self._spec.scale
        luma = pad(frame.planes[0], padded((frame.height, frame.width), self._spec))
        if frame.depth == 8:
            big = self._session(luma[None, None])[0, 0]  # (H, W) -> (1, 1, H, W) -> (sH, sW)
        else:
            # Models learnt on 8-bit code / 255; for studio range the same shade has code
            # 255 << (depth - 8), for full range all of the codes are 0..1.
            full = frame.colour.range == FULL_RANGE
            white = np.float32(peak if full else 255 << (frame.depth - 8))
            value = luma.astype(np.float32)
            value /= white
            value = self._session(value[None, None])[0, 0] * white
            np.rint(value, out=value)
            big = np.clip(value, 0, peak, out=value).astype(np.uint16)
        return big[: frame.height * scale, : frame.width * scale]

    def _check_same_picture(self, frame: Frame, before: Frame) -> None:
        if (frame.width, frame.height, frame.format) != (
            before.width,
            before.height,
            before.format,
        ):
            raise MediaError(
                f"the picture changes from {before.width}x{before.height} {before.format} to "
                f"{frame.width}x{frame.height} {frame.format} at {float(frame.time):.3f} s; one "
                "output holds one size and format: cut the input there"
            )


def _equal(a: Planes, b: Planes) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
