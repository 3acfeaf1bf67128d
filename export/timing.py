"""ms a frame of candidates that take turns."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from edgesr.export.candidates import Candidate, Measured, failed, open_candidate
from edgesr.export.quality import to_bytes
from edgesr.runtime.backends import Size
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
OnNote = Callable[[str], None]

LONG = 0.5
"""Seconds of a first run after which no second one is needed to warm up."""
ROUNDS = 15
FEWEST = 3
SECONDS = 10.0
"""Of timing for each number of threads: rounds end early, after `FEWEST`, when these are over."""


def timed(
    measured: Sequence[Measured],
    *,
    spec: ModelSpec,
    size: Size,
    threads: Sequence[int],
    rounds: int,
    on_note: OnNote,
) -> list[Measured]:
    """The same with `ms`, of those without an error; what fails now has one."""
    sound = [m.candidate for m in measured if m.error is None]
    picture = np.random.default_rng(0).random((1, spec.channels, *size), dtype=np.float32)
    times = [_times(sound, picture, count, rounds, on_note) for count in threads]
    return [_with_times(m, threads, times) for m in measured]


def _times(
    candidates: Sequence[Candidate], picture: Array, threads: int, rounds: int, on_note: OnNote
) -> dict[Candidate, float | Exception]:
    """Median ms a frame of each. A, B, C, A, B, C: a busy moment hits all of them."""
    height, width = picture.shape[2:]
    taken: dict[Candidate, list[float]] = {}
    broken: dict[Candidate, float | Exception] = {}
    with ExitStack() as opened:
        once: dict[Candidate, Callable[[], Array]] = {}
        for candidate in candidates:
            try:
                session, spec = open_candidate(candidate, threads=threads, size=(height, width))
                opened.callback(session.close)
                fed = to_bytes(picture) if spec.io.dtype == "uint8" else picture
                once[candidate] = partial(session, fed)
                before = time.perf_counter()
                once[candidate]()
                if time.perf_counter() - before < LONG:
                    once[candidate]()
                taken[candidate] = []
            except Exception as error:  # as in `_quality`
                broken[candidate] = error
        what = f"timing {len(taken)} candidates at {width}x{height}, threads {threads}"
        started = time.perf_counter()
        for done in range(rounds):
            if done >= FEWEST and time.perf_counter() - started > SECONDS:
                break
            on_note(f"{what}: round {done + 1}")
            for candidate, values in taken.items():
                before = time.perf_counter()
                once[candidate]()
                values.append((time.perf_counter() - before) * 1e3)
    return broken | {candidate: statistics.median(values) for candidate, values in taken.items()}


def _with_times(
    measured: Measured,
    threads: Sequence[int],
    times: Sequence[Mapping[Candidate, float | Exception]],
) -> Measured:
    ms = {}
    for count, found in zip(threads, times, strict=True):
        value = found.get(measured.candidate)
        if isinstance(value, Exception):
            return failed(measured.candidate, value)
        if value is not None:
            ms[count] = value
    return dataclasses.replace(measured, ms=ms)
