"""Facts of every network at every scale, counted once and kept in `zoo.json`: no torch needed.

`python -m edgesr.networks.table` counts them again and writes the file; a test compares.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from edgesr.errors import ModelError

SCHEMA = 1
FILE = "zoo.json"


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """One network at one scale.

    kind                "picture", "video", or "teacher" (sees the large picture too)
    training, deployed  parameters before and after the branches are merged
    macs                multiply-adds of the deployed form for one 640x360 frame in; for a network
                        of one fixed size, that size
    macs_literature     the same with transposed convolutions counted for each output pixel
    colour, multiple, min_size, fixed_size, halo   as in ModelSpec
    """

    name: str
    scale: int
    kind: str
    training: int
    deployed: int
    macs: int
    macs_literature: int
    colour: str
    multiple: int
    min_size: int
    fixed_size: tuple[int, int] | None
    halo: int | None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkFacts:
        size = values["fixed_size"]
        return cls(**{**values, "fixed_size": None if size is None else (size[0], size[1])})


def networks() -> list[NetworkFacts]:
    """All of them, in the order of `edgesr.networks.NETWORKS`. Raises ModelError."""
    file = resources.files("edgesr") / FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise ModelError(f"{file} has schema {values['schema']}, not {SCHEMA}")
        return [NetworkFacts.from_dict(entry) for entry in values["networks"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error!r}; install edgesr again") from error
