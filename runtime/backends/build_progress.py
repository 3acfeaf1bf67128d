"""How far a TensorRT build is, from the nested phases that it reports."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

LEAST_PART, LEAST_SECONDS = 0.05, 1.0
"""Sooner, the time left would be a guess."""


@dataclass
class _Phase:
    """Fills `start` to `end` of the whole in `steps`."""

    name: str
    steps: int
    start: float
    end: float
    done: int = 0

    def at(self, step: int) -> float:
        return self.start + (self.end - self.start) * step / self.steps


class Steps:
    """Phases -> part done and seconds left. Told by TensorRT's threads in turn.

    on_progress   what it is at, the part done (0..1), seconds left (None: not known yet)

    How many phases run within a step is not told in advance, so each takes half of what its
    parent's step has left. The time left supposes that the rest goes as fast: it is rough.
    """

    def __init__(
        self,
        on_progress: Callable[[str, float, float | None], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = on_progress
        self._clock = clock
        self._started = clock()
        self._phases: list[_Phase] = []
        self._part = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        outer = self._find(parent) if parent is not None else None
        if outer is None:
            begin, end = self._part, 1.0
        else:
            begin = max(self._part, outer.at(outer.done))
            end = begin + (outer.at(min(outer.done + 1, outer.steps)) - begin) / 2
        self._phases.append(
            _Phase(name=name, steps=max(1, steps), start=begin, end=max(begin, end))
        )
        self._report(name)

    def step(self, name: str, step: int) -> None:
        if phase := self._find(name):
            phase.done = min(step + 1, phase.steps)
            self._report(name, phase.at(phase.done))

    def finish(self, name: str) -> None:
        if phase := self._find(name):
            self._phases.remove(phase)
            self._report(name, phase.end)

    def _find(self, name: str) -> _Phase | None:
        return next((phase for phase in reversed(self._phases) if phase.name == name), None)

    def _report(self, name: str, part: float = 0.0) -> None:
        self._part = min(1.0, max(self._part, part))
        elapsed = self._clock() - self._started
        left = None
        if self._part > LEAST_PART and elapsed > LEAST_SECONDS:
            left = elapsed * (1.0 - self._part) / self._part
        self._tell(name, self._part, left)
