"""What this machine can export to, and why not to the others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from edgesr.runtime.backends.choose import INSTALL
from edgesr.runtime.backends.devices import Device
from edgesr.runtime.backends.machine import has_nvidia, installed, version


@dataclass(frozen=True, kw_only=True)
class Target:
    """option: what is typed; how: by what it is made or run; why_not: what is missing, or None."""

    option: str
    how: str
    why_not: str | None


def targets() -> list[Target]:
    """Each form, and what has to be there for it."""
    onnx, ort = _missing("onnx", "onnxscript", "onnxruntime"), _missing("onnxruntime")
    torch = _missing("torch", "onnx", "onnxscript", "onnxruntime")
    found = [
        Target(option="checkpoint", how=_by("torch", "a trained model, by"), why_not=torch),
        Target(option="--onnx", how=_by("onnx", "by"), why_not=onnx),
        Target(option="--fp16", how=_by("onnx", "by"), why_not=onnx),
        Target(option="--int8 --calib", how=_by("onnxruntime", "quantised by"), why_not=onnx),
        Target(option="--int8 --qat", how=_by("torch", "fine-tuned by"), why_not=torch),
        _openvino("fp32"),
        _openvino("int8"),
    ]
    engine = _no_engine()
    how = "typed ONNX, and an engine for this GPU" if engine is None else f"typed ONNX; {engine}"
    found.append(Target(option="--trt", how=how, why_not=onnx))
    found.append(Target(option="engine", how=f"TensorRT {version('tensorrt')}", why_not=engine))
    found.append(
        Target(
            option="run: ort",
            how=f"onnxruntime {version('ort')}",
            why_not=ort and INSTALL["ort"],
        )
    )
    found.append(Target(option="run: cuda", how="onnxruntime on the GPU", why_not=_no_cuda()))
    return found


def _by(package: str, words: str) -> str:
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    try:
        return f"{words} {package} {of(package)}"
    except PackageNotFoundError:
        return f"{words} {package}"


def _openvino(precision: str) -> Target:
    from edgesr.export.openvino import missing

    missing_: Callable[..., str | None] = missing
    how = _by("openvino", "by")
    if precision == "int8":
        nncf = missing_("int8")
        how += "; where that loses too much " + (_by("nncf", "by") if nncf is None else nncf)
    return Target(
        option="--openvino" + (" --int8" if precision == "int8" else ""),
        how=how,
        why_not=missing_(),
    )


def _missing(*modules: str) -> str | None:
    lost = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"pip install {' '.join(lost)}" if lost else None


def _no_engine() -> str | None:
    if not installed("tensorrt"):
        return f"no engine here, tensorrt is not installed: {INSTALL['tensorrt']}"
    return None if has_nvidia() else "no engine here, there is no NVIDIA GPU"


def _no_cuda() -> str | None:
    if not has_nvidia():
        return "there is no NVIDIA GPU"
    if not installed("ort"):
        return INSTALL["ort"]
    from edgesr.runtime.backends.ort_provider import why_not

    return why_not(Device(kind="cuda"))
