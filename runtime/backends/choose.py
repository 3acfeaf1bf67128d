"""Which file, backend, precision and device run a model: asked for, measured here, else a rule.

An fp32 model may have other forms beside it (`siblings`): `--precision int8` takes that file, and
"auto" only where it measured faster on this machine, never by rule.

`edgesr bench` measures and remembers, in one small JSON file for each machine and model under
$XDG_CACHE_HOME/edgesr/speed (~/.cache/edgesr/speed). A new CPU, another version of a runtime or
another model file has another key, so nothing out of date is ever read. The rule is drawn from
measurements on two cores of an x86 server (640x360 luma, OpenVINO against ONNX Runtime): fp32 1 to
2 times as fast, bf16, where the CPU has it, 2 to 4 times for 0.005 dB; int8
on OpenVINO 1.4 to 1.9 times as fast as bf16, for what the export's report says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesr.errors import BackendError, UsageError
from edgesr.models import Model
from edgesr.runtime.backends import Precision
from edgesr.runtime.backends.devices import CPU, Device, parse_device
from edgesr.runtime.backends.machine import PACKAGES, has_nvidia, installed, is_x86
from edgesr.runtime.backends.record import Record, recall, recall_record, remember
from edgesr.runtime.backends.siblings import FORMS, how_to_make, sibling
from edgesr.spec import ModelSpec

__all__ = [
    "Choice",
    "Record",
    "Way",
    "candidates",
    "choose",
    "recall",
    "recall_record",
    "refusals",
    "remember",
    "ways",
]

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
NO_BF16 = "this CPU has no bf16 instructions (AVX512_BF16 or AMX)"
INSTALL = {
    "ort": "pip install onnxruntime (or 'edgesr[cpu]')",
    "openvino": "pip install openvino (on x86: 'edgesr[cpu]')",
    "tensorrt": "pip install 'edgesr[trt]' (on a Jetson it comes with JetPack)",
    "ort-tensorrt": "pip install 'edgesr[gpu]' 'edgesr[trt]'",
}
ON_CPU = ("ort", "openvino")
ON_CUDA = ("ort", "tensorrt", "ort-tensorrt")
# A file that only one backend reads.
READERS = {".xml": "openvino", ".plan": "tensorrt", ".engine": "tensorrt"}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way of running a model: which backend, in which precision, on which device."""

    backend: str
    precision: Precision
    device: Device = CPU

    @property
    def name(self) -> str:
        """What a record calls it: "ort fp32", "ort fp16 cuda:0"."""
        on = "" if self.device == CPU else f" {self.device}"
        return f"{self.backend} {self.precision}{on}"


@dataclass(frozen=True, kw_only=True)
class Choice(Way):
    """model: the file that runs, which can be another form of the one asked for, and its facts.

    why: "asked for", "measured on this machine" or "rule".
    """

    model: Model
    why: str


def choose(
    path: Path, *, spec: ModelSpec, backend: str, precision: str, device: str = "auto"
) -> Choice:
    """Settle on file, backend, precision and device for the model at `path`.

    "auto" leaves a question open; what is asked for is honoured or refused, never replaced.
    Raises BackendError when it cannot run here, UsageError for an unknown word.
    """
    fits = ways(path, spec=spec, backend=backend, precision=precision, device=device)
    if len(fits) == 1 and "auto" not in (backend, precision):
        return _chosen(fits[0], "asked for")
    speeds = recall(path)
    by_rule = [way for way in fits if precision != "auto" or way.model.path == path]
    if all(way.name in speeds for way in by_rule):
        measured = [way for way in fits if way.name in speeds]
        best = min(measured, key=lambda way: speeds[way.name])
        return _chosen(best, "measured on this machine")
    return by_rule[0]


def ways(
    path: Path, *, spec: ModelSpec, backend: str, precision: str, device: str = "auto"
) -> list[Choice]:
    """Every way that fits, the rule's favourite first and the other forms of the model last.

    Never empty; raises as `choose`.
    """
    if backend != "auto" and backend not in PACKAGES:
        raise UsageError(f"no backend {backend!r}: there is auto, {', '.join(PACKAGES)}")
    if precision != "auto" and precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}: there is auto, {', '.join(PRECISIONS)}")
    devices = _devices(parse_device(device), backend)
    own = spec.precision
    if precision not in ("auto", own) and (own, precision) not in (
        *(("fp32", other) for other in ("bf16", *FORMS)),
        ("fp16", "bf16"),
    ):
        raise BackendError(
            f"{path} is an {own} model and runs as {own} (--precision auto or {own}): for "
            f"--precision {precision} give the fp32 model that it was made from"
        )
    _check_installed(path, backend, devices)
    model = Model(path=path, spec=spec)
    fits = [
        Choice(**vars(way), model=model, why="rule")
        for way in candidates(own, suffix=path.suffix, devices=devices)
    ]
    if own == "fp32":
        fits += _forms(path, spec, devices)
    fits = [
        way
        for way in fits
        if backend in ("auto", way.backend) and precision in ("auto", way.precision)
    ]
    if not fits:
        if own == "fp32" and precision in FORMS:
            raise BackendError(how_to_make(path, spec=spec, precision=precision))
        raise BackendError(_refusal(backend, precision, devices))
    return fits


def candidates(
    precision: str = "fp32", *, suffix: str = ".onnx", devices: Sequence[Device] = (CPU,)
) -> list[Way]:
    """Every backend and precision that runs a model here as it is, the rule's favourite first.

    precision   of the graph in the file; suffix: of the file
    """
    found: list[Way] = []
    for device in devices:
        backends = _on_cpu() if device == CPU else _on_cuda(device)
        for backend in backends:
            found += [
                Way(backend=backend, precision=runs, device=device)
                for runs in _runs_as(precision, backend)
                if READERS.get(suffix, backend) == backend
            ]
    return found


def refusals(
    path: Path | None = None, *, spec: ModelSpec | None = None, device: str = "auto"
) -> list[str]:
    """A line for each way that cannot be had here, and what would change that.

    path, spec   of a model, for the forms that it does not have
    """
    asked = parse_device(device)
    devices = _devices(asked, "auto")
    lines = []
    if CPU in devices:
        lines += [
            f"{name} is not installed: {INSTALL[name]}" for name in ON_CPU if not installed(name)
        ]
        if installed("openvino") and "bf16" not in _runs_as("fp32", "openvino"):
            lines.append(f"openvino bf16: {NO_BF16}")
    if devices != [CPU] or (asked is None and has_nvidia()):
        lines += _cuda_refusals(next((d for d in devices if d != CPU), Device(kind="cuda")))
    if path is not None and spec is not None and spec.precision == "fp32":
        # Without a GPU fp16 is no faster than fp32, so nothing is missing.
        wanted = ("int8",) if devices == [CPU] else FORMS
        have = {form.precision for form in _forms(path, spec, devices)}
        lines += [
            f"{form}: {how_to_make(path, spec=spec, precision=form)}"
            for form in wanted
            if form not in have
        ]
    return lines


def _chosen(way: Choice, why: str) -> Choice:
    return Choice(**{**vars(way), "why": why})


def _forms(path: Path, spec: ModelSpec, devices: Sequence[Device]) -> list[Choice]:
    """The other forms of an fp32 model that can run here."""
    found = []
    for precision in reversed(FORMS):
        for way in candidates(precision, suffix=".*", devices=devices):
            if way.precision != precision:
                continue
            form = sibling(path, spec=spec, precision=precision, backend=way.backend)
            if form is not None:
                found.append(Choice(**vars(way), model=form, why="rule"))
    return found


def _devices(asked: Device | None, backend: str) -> list[Device]:
    """Where to look: "auto" takes a CUDA device only where one really opens."""
    if asked is not None:
        return [asked]
    first = Device(kind="cuda")
    if backend not in (*ON_CPU, "auto"):
        return [first]
    if backend != "openvino" and has_nvidia() and installed("ort"):
        from edgesr.runtime.backends.ort_provider import why_not

        if why_not(first) is None:
            return [first, CPU]
    return [CPU]


def _on_cpu() -> list[str]:
    backends = ["openvino"] if installed("openvino") else []
    if installed("ort"):
        backends.insert(len(backends) if is_x86() else 0, "ort")
    return backends


def _on_cuda(device: Device) -> list[str]:
    from edgesr.runtime.backends.ort_provider import why_not

    backends = []
    if installed("ort"):
        if why_not(device) is None:
            backends.append("ort")
        if why_not(device, tensorrt=True) is None:
            backends.append("ort-tensorrt")
    if installed("tensorrt"):
        backends.append("tensorrt")
    return backends


def _runs_as(precision: str, backend: str) -> list[Precision]:
    """In which precisions a backend runs a graph of this one, the favourite first."""
    exact = [word for word in ("fp32", "fp16", "int8") if word == precision]
    if backend == "openvino" and precision in ("fp32", "fp16"):
        from edgesr.runtime.backends.openvino import has_bf16

        if has_bf16():
            return ["bf16", *exact]
    return [*exact]


def _check_installed(path: Path, backend: str, devices: Sequence[Device]) -> None:
    """Raises BackendError when `backend` cannot be had on any of the devices."""
    reader = READERS.get(path.suffix)
    if reader is not None and backend not in ("auto", reader):
        raise BackendError(f"{path} runs on {reader} only: say --backend {reader}")
    wanted = reader or backend
    if wanted == "openvino" and CPU not in devices:
        raise BackendError("openvino runs on the CPU here: say --device cpu")
    if wanted in ("tensorrt", "ort-tensorrt") and devices == [CPU]:
        raise BackendError(f"{wanted} needs an NVIDIA GPU: say --device cuda")
    if wanted != "auto" and not installed(wanted):
        raise BackendError(f"backend {wanted} is not installed: {INSTALL[wanted]}")
    if CPU in devices:
        if not any(installed(name) for name in ON_CPU):
            raise BackendError("no runtime is installed: pip install 'edgesr[cpu]'")
    elif not (installed("tensorrt") and wanted in ("auto", "tensorrt")):
        from edgesr.runtime.backends.ort_provider import why_not

        reason = why_not(devices[0], tensorrt=wanted == "ort-tensorrt")
        if reason is not None:
            raise BackendError(reason)


def _cuda_refusals(device: Device) -> list[str]:
    from edgesr.runtime.backends.ort_provider import why_not

    lines = [f"ort on {device}: {reason}" for reason in [why_not(device)] if reason is not None]
    if not installed("tensorrt"):
        lines.append(f"tensorrt is not installed: {INSTALL['tensorrt']}")
    return lines


def _refusal(backend: str, precision: str, devices: Sequence[Device]) -> str:
    """Why `precision` has no way; only bf16 can be missing where a backend is installed."""
    if CPU not in devices:
        return f"{precision} runs on the CPU only: say --device cpu, or --precision fp16"
    if backend == "ort":
        return f"backend ort runs fp32 models as fp32 only, not {precision}: say --backend openvino"
    if not installed("openvino"):
        return f"{precision} needs OpenVINO: {INSTALL['openvino']}, or say --precision fp32"
    return f"{NO_BF16}: say --precision fp32"
