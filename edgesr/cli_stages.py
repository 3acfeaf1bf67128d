"""What a verb of several stages says while it works: on stderr, a moving line on a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgesr.cli_progress import LINE_EVERY, clock, note
from edgesr.interrupts import raise_lost

if TYPE_CHECKING:
    from edgesr.export.job import Stage


class StageMeter:
    """Stages by name, number and the time that is left, a guess. `quiet` shows nothing of it."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title, self._quiet = title, quiet
        self._status: Any = None
        self._line, self._left = "", ""
        self._said = time.monotonic()

    def __enter__(self) -> StageMeter:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            self._status = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._status.start()
            self._task = self._status.add_task(self._title, total=None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def stage(self, stage: Stage) -> None:
        raise_lost()
        self._left = "" if stage.left is None else f", about {clock(stage.left)} left"
        self._line = f"{stage.number}/{stage.total} {stage.name}"
        if self._status is not None:
            self._status.update(self._task, description=f"{self._line}{self._left}")
        elif not self._quiet and stage.number > 1:  # a model that is not there is one line
            note(f"{self._title}: {self._line} ({clock(stage.elapsed)}{self._left})")
            self._said = time.monotonic()

    def note(self, line: str) -> None:
        """What goes on inside a stage: on a terminal it stands until the next, else now and then"""
        raise_lost()
        if self._status is not None:
            self._status.update(self._task, description=f"{self._line}{self._left}: {line}")
        elif not self._quiet and time.monotonic() >= self._said + LINE_EVERY:
            note(f"{self._title}: {line}")
            self._said = time.monotonic()

    def keep(self, line: str) -> None:
        """A line that stays, also when quiet."""
        if self._status is None:
            note(line)
        else:
            from rich.text import Text

            self._status.console.print(Text(line), soft_wrap=True)
