"""What this machine has: the facts that stand beside every measured figure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass
from pathlib import Path

# backend -> (module to import, distributions that bring it)
PACKAGES = {
    "ort": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    "openvino": ("openvino", ("openvino",)),
    "tensorrt": (
        "tensorrt",
        ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu13-bindings"),
    ),
    "ort-tensorrt": ("onnxruntime", ("onnxruntime-gpu",)),
}
NVIDIA = Path("/proc/driver/nvidia/gpus")  # one folder a GPU; a Jetson has none
NVIDIA_NODES = (Path("/dev/nvidiactl"), Path("/dev/nvhost-ctrl-gpu"), Path("/dev/nvgpu"))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """cpu: model name; arch: e.g. "x86_64"; cores: those this process may use."""

    cpu: str
    arch: str
    cores: int


def machine() -> Machine:
    return Machine(cpu=cpu_name(), arch=platform.machine(), cores=usable_cores())


def cpu_name() -> str:
    """The processor's model name; on ARM boards, which do not tell it, the board's."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
        return Path("/proc/device-tree/model").read_text(encoding="utf-8").strip("\0\n ")
    except OSError:
        return platform.processor() or platform.machine()


def is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def has_nvidia() -> bool:
    """Whether the system shows an NVIDIA GPU, of a card or of a Jetson."""
    return any(node.exists() for node in NVIDIA_NODES)


def gpus() -> list[str]:
    """Names of the NVIDIA cards, in the order of their slots; empty where the driver tells none."""
    names = []
    for file in sorted(NVIDIA.glob("*/information")):
        lines = file.read_text(encoding="utf-8").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def usable_cores() -> int:
    """Cores this process may use: its affinity mask, and a container's CPU quota rounded up."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return cores


def cache() -> Path:
    """$XDG_CACHE_HOME/edgesr, by default ~/.cache/edgesr; need not exist."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edgesr"


def installed(backend: str) -> bool:
    """Whether the package behind a backend is here; does not import it."""
    return importlib.util.find_spec(PACKAGES[backend][0]) is not None


def version(backend: str) -> str | None:
    """Version of the package behind a backend, None when it is not installed."""
    for distribution in PACKAGES[backend][1]:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
