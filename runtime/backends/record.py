"""What `edgesr bench` measured, kept for `choose`: see there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgesr.runtime.backends import siblings
from edgesr.runtime.backends.machine import PACKAGES, cache, gpus, machine, version


@dataclass(frozen=True, kw_only=True)
class Record:
    """ms: "backend precision" -> ms a frame; about: what was measured, see `remember`."""

    ms: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def remember(path: Path, speeds: Mapping[str, float], *, about: Mapping[str, Any]) -> Path:
    """Keep measured times for `choose`: "backend precision" -> ms a frame.

    about   what was measured and when, for a human reader. Returns the file written.
    """
    file, key = _record(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"key": key, "about": dict(about), "ms": dict(speeds)}, indent=2)
    handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as out:
        out.write(text + "\n")
    Path(temporary).replace(file)
    return file


def recall(path: Path) -> dict[str, float]:
    """What `remember` kept for this machine, these versions and this model; empty when nothing.

    An unreadable or damaged record counts as none: it only costs the measured choice.
    """
    return dict(recall_record(path).ms)


def recall_record(path: Path) -> Record:
    """As `recall`, with what was said about the measurement."""
    try:
        file, key = _record(path)
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["key"] != key:
            return Record()
        ms = {str(name): float(ms) for name, ms in values["ms"].items() if float(ms) > 0}
        return Record(ms=ms, about=dict(values["about"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Record()


def _record(path: Path) -> tuple[Path, dict[str, Any]]:
    key = {
        "machine": asdict(machine()),
        "gpus": gpus(),
        "versions": {name: version(name) for name in PACKAGES},
        "model": _digest(path),
        "forms": {file.name: _digest(file) for file in siblings.files(path)},
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache() / "speed" / f"{digest}.json", key


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
