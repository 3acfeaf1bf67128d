"""How far a stream is, told while it runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgesr.runtime.stats import Recorder


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stream has come.

    frames   written so far
    total    expected in all, None when the container does not say
    fps      frames a second over the last seconds, None before the second frame
    eta      seconds left at that rate, None when unknown
    slowest  the stage that was busy longest: "decode", "infer" or "encode"; None before a frame
    elapsed  seconds since the start of the call
    done     the output is complete
    """

    frames: int
    total: int | None
    fps: float | None
    eta: float | None
    slowest: str | None
    elapsed: float
    done: bool = False


class Watch:
    """Tells the caller how far it is and what to know; all in the caller's thread."""

    _WINDOW = 5.0  # seconds that the recent rate looks back

    def __init__(
        self,
        stages: Sequence[str],
        *,
        progress: Callable[[Progress], None],
        on_warning: Callable[[str], None],
    ) -> None:
        self.recorder = Recorder(stages)
        self.total: int | None = None
        self.warnings: list[str] = []
        self._progress = progress
        self._on_warning = on_warning
        self._followed: list[tuple[Sequence[str], int]] = []
        self._marks: deque[tuple[float, int]] = deque()  # (time, frames written by then)

    def follow(self, warnings: Sequence[str]) -> None:
        """Pass on what stands in this growing list, and what will."""
        self._followed.append((warnings, 0))
        self._tell_warnings()

    def tick(self, *, done: bool = False) -> None:
        self._tell_warnings()
        now, frames = time.perf_counter(), self.recorder.frames_out
        fps = self._recent_fps(now, frames)
        left = None if self.total is None else max(self.total - frames, 0)
        self._progress(
            Progress(
                frames=frames,
                total=self.total,
                fps=fps,
                eta=None if left is None or not fps else left / fps,
                slowest=self.recorder.slowest,
                elapsed=now - self.recorder.started,
                done=done,
            )
        )

    def _recent_fps(self, now: float, frames: int) -> float | None:
        if not frames:
            return None
        self._marks.append((now, frames))
        while now - self._marks[0][0] > self._WINDOW and len(self._marks) > 2:
            self._marks.popleft()
        then, before = self._marks[0]
        return (frames - before) / (now - then) if frames > before else None

    def _tell_warnings(self) -> None:
        for place, (warnings, told) in enumerate(self._followed):
            new = list(warnings[told:])
            self._followed[place] = (warnings, told + len(new))
            self.warnings += new
            for warning in new:
                self._on_warning(warning)
