"""Words for a device: "cpu", "cuda" (the first one), "cuda:1", or "auto"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from edgesr.errors import UsageError

ALLOWED = "auto, cpu, cuda or cuda:N"


@dataclass(frozen=True, kw_only=True)
class Device:
    """kind: "cpu" or "cuda"; index: which CUDA device, from 0 (0 for the CPU)."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"


CPU = Device(kind="cpu")


def parse_device(word: str) -> Device | None:
    """None for "auto". Raises UsageError for a word that is not allowed."""
    if word == "auto":
        return None
    if word == "cpu":
        return CPU
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", word)
    if match is None:
        raise UsageError(f"no device {word!r}: there is {ALLOWED}")
    return Device(kind="cuda", index=int(match[1] or 0))
