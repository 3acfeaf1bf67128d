"""What `distill` shows while it works, and how Ctrl-C reaches it."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec

import typer

from edgesr.cli_progress import clock
from edgesr.errors import EdgesrError
from edgesr.interrupts import interrupted

if TYPE_CHECKING:
    from edgesr.distill.train import Progress

P = ParamSpec("P")

LINE_EVERY = 15.0  # seconds between two plain lines


class TrainingMeter:
    """A bar with step, dB and ETA on a terminal, plain lines elsewhere; nothing when quiet."""

    def __init__(self, title: str, *, quiet: bool) -> None:
        self._title = title
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._next_line = time.monotonic()

    def __enter__(self) -> TrainingMeter:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[text]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=1, text="starting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def decoded(self, done: int, total: int) -> None:
        self._show(done, total, "photos decoded", last=done == total)

    def note(self, text: str) -> None:
        """A line of its own, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif not self._quiet:
            typer.echo(text, err=True)

    def update(self, progress: Progress) -> None:
        score = progress.score
        best = "" if progress.best < 0 else f", best {progress.best:.2f} dB"
        now = "" if score is None else f", now {score.psnr_y:.2f} dB"
        text = (
            f"loss {progress.loss:.5f}{now}{best}, {progress.steps_per_second:.1f} steps/s, "
            f"ETA {clock(progress.eta)}"
        )
        self._show(progress.step, progress.steps, text, last=score is not None)

    def _show(self, done: int, total: int, text: str, *, last: bool) -> None:
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total, text=text)
            return
        if last or time.monotonic() >= self._next_line:
            typer.echo(f"{self._title}: {done}/{total} {text}", err=True)
            self._next_line = time.monotonic() + LINE_EVERY


def with_one_voice(verb: Callable[P, None]) -> Callable[P, None]:
    """Of the processes that torchrun or `accelerate launch` has started, the first one speaks."""

    @functools.wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        if os.environ.get("WORLD_SIZE", "1") == "1":
            return verb(*args, **kwargs)
        from edgesr.distill.parallel import joined, says

        try:
            with joined(str(kwargs["device"])) as team, contextlib.ExitStack() as stack:
                if not team.first:
                    kwargs["quiet"] = True
                    stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                verb(*args, **kwargs)
        except EdgesrError as error:
            if says(error):
                raise
            raise typer.Exit(error.exit_code) from None
        return None

    return run


@contextlib.contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks the loop to save and stop, the second one ends it at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked or interrupted()
    finally:
        signal.signal(signal.SIGINT, before)
