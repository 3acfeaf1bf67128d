"""Ctrl-C that does not get lost.

Python raises KeyboardInterrupt wherever it is; inside a C extension that is just being imported
nobody may pass it on (numpy.random's drops it), and the job would run to its end. So the handler
remembers, and what tells of progress asks.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn


class Interrupt:
    """A handler of signals: raises KeyboardInterrupt, as Python's own, and knows that it did."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> NoReturn:
        self.came = True
        raise KeyboardInterrupt


def listen() -> None:
    """SIGINT and SIGTERM (`kill`, `docker stop`) interrupt; a SIGINT that is ignored stays so."""
    interrupt = Interrupt()
    signal.signal(signal.SIGTERM, interrupt)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupt)


def interrupted() -> bool:
    """Whether one came: asked where work goes on, it is one that got lost."""
    handler = signal.getsignal(signal.SIGTERM)  # for SIGINT a training puts in its own
    return isinstance(handler, Interrupt) and handler.came


def raise_lost() -> None:
    """Raises KeyboardInterrupt where one got lost."""
    if interrupted():
        raise KeyboardInterrupt
