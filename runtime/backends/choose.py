"""Which backend and precision run a model: what was asked for, what was measured, else a rule.

`edgesr bench` measures and remembers, in one small JSON file for each machine and model under
$XDG_CACHE_HOME/edgesr/speed (~/.cache/edgesr/speed). A new CPU, another version of a runtime or
another model file has another key, so nothing out of date is ever read. The rule is drawn from
measurements on two cores of an x86 server (640x360 luma, OpenVINO against ONNX Runtime): fp32 1 to
2 times as fast, bf16, where the CPU has it, 2 to 4 times for 0.005 dB.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgesr.errors import BackendError, UsageError
from edgesr.runtime.backends import Precision
from edgesr.runtime.backends.machine import PACKAGES, installed, is_x86, machine, version
from edgesr.spec import ModelSpec

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
NO_BF16 = "this CPU has no bf16 instructions (AVX512_BF16 or AMX)"
INSTALL = {
    "ort": "pip install onnxruntime (or 'edgesr[cpu]')",
    "openvino": "pip install openvino (on x86: 'edgesr[cpu]')",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """why: "asked for", "measured on this machine" or "rule"."""

    backend: str
    precision: Precision
    why: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """ms: "backend precision" -> ms a frame; about: what was measured, see `remember`."""

    ms: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


def choose(path: Path, *, spec: ModelSpec, backend: str, precision: str) -> Choice:
    """Settle on a backend and a precision for the model at `path`.

    "auto" leaves a question open; what is asked for is honoured or refused, never replaced.
    Raises BackendError when it cannot run here, UsageError for an unknown word.
    """
    if backend != "auto" and backend not in PACKAGES:
        raise UsageError(f"no backend {backend!r}: there is auto, {', '.join(PACKAGES)}")
    if precision != "auto" and precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}: there is auto, {', '.join(PRECISIONS)}")
    if spec.precision != "fp32" or precision in ("fp16", "int8"):
        asked = spec.precision if spec.precision != "fp32" else precision
        raise BackendError(
            f"{asked} models cannot be run yet: give an fp32 model and "
            "--precision fp32, bf16 or auto"
        )
    here = [name for name in PACKAGES if installed(name)]
    if not here:
        raise BackendError("no runtime is installed: pip install 'edgesr[cpu]'")
    if backend != "auto" and backend not in here:
        raise BackendError(f"backend {backend} is not installed: {INSTALL[backend]}")

    fits = [
        choice
        for choice in candidates()
        if backend in ("auto", choice.backend) and precision in ("auto", choice.precision)
    ]
    if not fits:
        raise BackendError(_refusal(backend, precision))
    if len(fits) == 1 and "auto" not in (backend, precision):
        return Choice(backend=backend, precision=fits[0].precision, why="asked for")
    speeds = recall(path)
    measured = [choice for choice in fits if _label(choice) in speeds]
    if len(measured) == len(fits):
        best = min(measured, key=lambda choice: speeds[_label(choice)])
        return Choice(
            backend=best.backend, precision=best.precision, why="measured on this machine"
        )
    return fits[0]


def candidates() -> list[Choice]:
    """Every backend and precision that can run an fp32 model here, the rule's favourite first."""
    openvino: list[Precision] = []
    if installed("openvino"):
        from edgesr.runtime.backends.openvino import has_bf16

        openvino = ["bf16", "fp32"] if has_bf16() else ["fp32"]
    ranked: list[tuple[str, Precision]] = [("openvino", p) for p in openvino]
    if installed("ort"):
        ranked.insert(len(ranked) if is_x86() else 0, ("ort", "fp32"))
    return [Choice(backend=b, precision=p, why="rule") for b, p in ranked]


def refusals() -> list[str]:
    """A line for each backend and precision that cannot run here, and what would change that."""
    lines = [
        f"{name} is not installed: {INSTALL[name]}" for name in PACKAGES if not installed(name)
    ]
    if installed("openvino") and not any(choice.precision == "bf16" for choice in candidates()):
        lines.append(f"openvino bf16: {NO_BF16}")
    return lines


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


def _label(choice: Choice) -> str:
    return f"{choice.backend} {choice.precision}"


def _record(path: Path) -> tuple[Path, dict[str, Any]]:
    key = {
        "machine": asdict(machine()),
        "versions": {name: version(name) for name in PACKAGES},
        "model": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return _cache() / "speed" / f"{digest}.json", key


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgesr"


def _refusal(backend: str, precision: str) -> str:
    """Why `precision` has no candidate; only bf16 can be missing where a backend is installed."""
    if backend == "ort":
        return f"backend ort runs fp32 only, not {precision}: say --backend openvino"
    if not installed("openvino"):
        return f"{precision} needs OpenVINO: {INSTALL['openvino']}, or say --precision fp32"
    return f"{NO_BF16}: say --precision fp32"
