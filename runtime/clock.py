"""Clock: when each decoded picture is shown, also where the file does not say."""

from __future__ import annotations

from fractions import Fraction

import av


class Clock:
    """Times in units of `time_base` (seconds), strictly growing.

    A file without any timestamps (a raw .264) counts frames: its time_base becomes 1 / rate. A
    single missing time, or one after a jump back, is replaced by the end of the picture before; one
    that is only not later than the last (Matroska rounds to milliseconds) by the next possible.
    """

    def __init__(self, first: av.VideoFrame, *, rate: Fraction, time_base: Fraction) -> None:
        pts = _time(first)
        self.untimed = pts is None
        self.time_base = 1 / rate if pts is None else time_base
        self.start = (pts or 0) * self.time_base
        self.moved = 0  # pictures whose time was replaced
        self._next = pts or 0
        self._last: int | None = None
        self._usual = max(1, round(1 / rate / self.time_base))

    @property
    def end(self) -> Fraction:
        """When the last picture ends, in seconds."""
        return self._next * self.time_base

    def place(self, picture: av.VideoFrame) -> tuple[int, int]:
        """pts and duration of the picture; the duration is 0 where it is not known."""
        if self.untimed:
            self._next += 1
            return self._next - 1, 1
        duration = picture.duration or 0
        pts = _time(picture)
        if pts is None or (self._last is not None and pts <= self._last):
            near = pts is not None and self._last is not None and self._last - pts < self._usual
            pts = self._last + 1 if near and self._last is not None else self._next
            self.moved += 1
        self._last = pts
        self._next = pts + (duration or self._usual)
        return pts, duration


def _time(picture: av.VideoFrame) -> int | None:
    # dts is the time of a picture in files that store no pts (AVI).
    return picture.pts if picture.pts is not None else picture.dts
