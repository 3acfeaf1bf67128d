"""Stages: everything between decoder and encoder takes one item and gives back some.

A stage may hold items back (a temporal model, a tiler); `flush` gives the rest, so the tail of a
stream is never lost. Items that a stage does not know pass through in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Stage(Protocol):
    """push one item, get the finished ones; flush to get what is left."""

    def push(self, item: Any) -> Iterable[Any]: ...

    def flush(self) -> Iterable[Any]: ...
