"""What the verbs say while they work: on stderr, a moving bar on a terminal, else plain lines."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from edgesr.interrupts import raise_lost

if TYPE_CHECKING:
    from edgesr.runtime.progress import Progress

LINE_EVERY = 5.0  # seconds between two plain lines


def note(line: str) -> None:
    typer.echo(line, err=True)


def warn(line: str) -> None:
    typer.secho(f"warning: {line}", err=True, fg=typer.colors.YELLOW)


def error(line: str) -> None:
    typer.secho(f"error: {line}", err=True, fg=typer.colors.RED)


class Meter:
    """Shows the progress of a stream. `quiet` leaves the warnings."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._next_line = time.monotonic() + LINE_EVERY

    def __enter__(self) -> Meter:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.fields[title]}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[line]}", markup=False),
                console=Console(stderr=True),
                transient=True,  # the summary takes its place
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None, title=self._title, line="opening")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: Progress) -> None:
        if not progress.done:
            raise_lost()
        if self._bar is not None:
            self._bar.update(
                self._task, total=progress.total, completed=progress.frames, line=describe(progress)
            )
        elif not self._quiet and time.monotonic() >= self._next_line and not progress.done:
            note(f"{self._title}: {describe(progress)}")
            self._next_line = time.monotonic() + LINE_EVERY

    def note(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, soft_wrap=True, markup=False, highlight=False)
        elif not self._quiet:
            note(line)

    def warn(self, line: str) -> None:
        if self._bar is None:
            warn(line)
        else:
            from rich.text import Text

            self._bar.console.print(Text(f"warning: {line}", style="yellow"), soft_wrap=True)


def describe(progress: Progress) -> str:
    """ "240/1440 frames, 32.1 fps, 0:37 left, slowest: infer"; what is not known is left out."""
    total = "" if progress.total is None else f"/{progress.total}"
    parts = [f"{progress.frames}{total} frames"]
    if progress.fps is not None:
        parts.append(f"{progress.fps:.1f} fps")
    if progress.eta is not None:
        parts.append(f"{clock(progress.eta)} left")
    if progress.slowest is not None:
        parts.append(f"slowest: {progress.slowest}")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
