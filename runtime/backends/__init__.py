"""Backends: one protocol over the runtimes that execute a deployable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What really runs, read back from the session, not what was asked for."""

    backend: str
    version: str
    device: str
    precision: Precision
    threads: int


class Session(Protocol):
    """One opened model. `session(batch)` takes and gives NCHW of the dtype it was opened for:

    float32 in 0..1, not clamped on the way out; or uint8, scaled, rounded and clamped inside.
    """

    facts: Facts

    def __call__(self, batch: Array) -> Array: ...

    def close(self) -> None: ...
