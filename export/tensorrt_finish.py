"""What to type on the device when the engine cannot be built where the export ran."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from edgesr.runtime.backends.engine_options import EngineOptions, engine_options
from edgesr.spec import ModelSpec

Flavour = Literal["trt8", "trt"]

SERVES = {"trt8": "TensorRT 8 (JetPack 6.0)", "trt": "TensorRT 10 and 11 (JetPack 6.1 and later)"}

JETPACK = (
    "on a Jetson TensorRT belongs to the system's Python (apt: python3-libnvinfer): make the "
    "environment with `python3 -m venv --system-site-packages`"
)


def finish_lines(
    files: dict[Flavour, Path],
    *,
    spec: ModelSpec,
    options: EngineOptions,
    inputs: Sequence[Any],
    why: str = "",
) -> list[str]:
    """Commands, one for each file: edgesr's own, and what NVIDIA's tool takes.

    why      there is no engine: what it says already is not said again
    files    by the versions that read them; the same file for both when it serves both
    inputs   the graph's (`graph.graph.input`)
    """
    lines = ["build the engine on the device that runs it:"]
    for flavour, path in files.items():
        what = f"  {SERVES[flavour]}: " if len(set(files.values())) > 1 else "  "
        line = what + edgesr_command(path, spec=spec, options=options)
        if line not in lines:
            lines.append(line)
    if "--system-site-packages" not in why:
        lines.append(f"  {JETPACK}")
    lines.append("or, to look at it with NVIDIA's tool (edgesr does not load what that writes):")
    lines += [
        f"  {SERVES[flavour]}: "
        + trtexec_command(path, flavour=flavour, options=options, inputs=inputs)
        for flavour, path in files.items()
    ]
    return lines


def edgesr_command(path: Path, *, spec: ModelSpec, options: EngineOptions) -> str:
    """`edgesr export FILE --trt ...` with the sizes that are not the usual ones."""
    words = ["edgesr", "export", path.name, "--trt", options.precision]
    plain = engine_options(spec, batch=options.most[0])
    if options.least[1:] == options.most[1:]:
        if spec.fixed_size is None:
            words += ["--size", _pixels(options.most)]
    elif (options.least, options.usual, options.most) != (plain.least, plain.usual, plain.most):
        words += ["--min", _pixels(options.least), "--opt", _pixels(options.usual)]
        words += ["--max", _pixels(options.most)]
    if options.most[0] > 1:
        words += ["--batch", str(options.most[0])]
    if options.dla is not None:
        words += ["--dla", str(options.dla)]
    if options.workspace is not None:
        words += ["--workspace", str(options.workspace)]
    return shlex.join(words)


def trtexec_command(
    path: Path, *, flavour: Flavour, options: EngineOptions, inputs: Sequence[Any]
) -> str:
    """The same for `trtexec`, with the flags of that version."""
    words = ["trtexec", f"--onnx={path.name}", f"--saveEngine={path.stem}.plan"]
    if flavour == "trt":
        words.append("--stronglyTyped")  # a word without effect in 11, which knows nothing else
    elif options.precision != "fp32":
        words += ["--fp16"] if options.precision == "fp16" else ["--int8", "--fp16"]
    moving = [value for value in inputs if any(d.dim_param for d in _dims(value))]
    for name, shape in (
        ("minShapes", options.least),
        ("optShapes", options.usual),
        ("maxShapes", options.most),
    ):
        if moving:
            words.append(f"--{name}=" + ",".join(_shape(value, shape) for value in moving))
    if options.dla is not None:
        words += [f"--useDLACore={options.dla}", "--allowGPUFallback"]
    if options.workspace is not None:
        words.append(f"--memPoolSize=workspace:{options.workspace}")
    return shlex.join(words)


def _dims(value: Any) -> Any:
    return value.type.tensor_type.shape.dim


def _shape(value: Any, shape: tuple[int, int, int]) -> str:
    """ "x:1x3x360x640": what is fixed in the graph stays."""
    batch, height, width = shape
    dims = [dim.dim_value for dim in _dims(value)]
    full = (dims[0] or batch, dims[1], dims[2] or height, dims[3] or width)
    return f"{value.name}:{'x'.join(map(str, full))}"


def _pixels(shape: tuple[int, int, int]) -> str:
    """(n, height, width) -> "640x360", as a user writes it."""
    return f"{shape[2]}x{shape[1]}"
