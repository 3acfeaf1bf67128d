"""Other forms of a model, kept beside it: NAME.onnx has NAME-int8.onnx and NAME-fp16.onnx.

A backend may have a form of its own, which is taken first: NAME-int8-openvino.onnx, as
`edgesr export --int8` writes it beside NAME-int8.onnx; then for OpenVINO NAME-int8.xml (with its
.bin and .json).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgesr.errors import ModelError
from edgesr.models import Model, load_file
from edgesr.sidecar import PARTS, load_sidecar
from edgesr.spec import ModelSpec

FORMS = ("fp16", "int8")
COMMANDS = {"fp16": "--fp16", "int8": "--int8 --calib clip.mp4"}


def sibling(path: Path, *, spec: ModelSpec, precision: str, backend: str) -> Model | None:
    """The file that `backend` runs as `precision` instead of the fp32 model at `path`, if any.

    A file of the right name that is no form of this model (other scale, colour or training) or
    cannot be read counts as none.
    """
    for candidate in _names(path, precision, backend):
        if candidate.is_file():
            try:
                found = _load(candidate)
            except ModelError:
                continue
            if _of(found.spec, spec) and found.spec.precision == precision:
                return found
    return None


def files(path: Path) -> list[Path]:
    """Every file beside `path` that could be a form of it, in the order of their names."""
    if path.suffix != ".onnx":
        return []
    found = {
        file
        for form in FORMS
        for pattern in (f"-{form}.onnx", f"-{form}-*.onnx", f"-{form}.xml", f"-{form}.bin")
        for file in path.parent.glob(_literal(path.stem) + pattern)
    }
    return sorted(found)


def how_to_make(path: Path, *, spec: ModelSpec, precision: str) -> str:
    """One line: what was looked for, and the command that makes it."""
    shipped = path.parent.name == "weights" and path.stem == spec.name
    source = spec.name if shipped else str(path)
    named = [file for file in files(path) if file.stem.startswith(f"{path.stem}-{precision}")]
    but = f"; {named[0].name} is none: of another model or training, or damaged" if named else ""
    return (
        f"there is no {precision} form of {spec.name} ({path.stem}-{precision}.onnx beside "
        f"{path}{but}): make one with `edgesr export {source} {COMMANDS[precision]}`, then keep it "
        "there or give it as the model"
    )


def _names(path: Path, precision: str, backend: str) -> Iterator[Path]:
    if path.suffix != ".onnx":
        return
    yield path.with_name(f"{path.stem}-{precision}-{backend}.onnx")
    if backend == "openvino":
        yield path.with_name(f"{path.stem}-{precision}.xml")
    yield path.with_name(f"{path.stem}-{precision}.onnx")


def _load(path: Path) -> Model:
    if path.suffix in PARTS:
        return Model(path=path, spec=load_sidecar(path))
    return load_file(path)


def _of(found: ModelSpec, spec: ModelSpec) -> bool:
    return (found.scale, found.colour, found.network, found.recipe) == (
        spec.scale,
        spec.colour,
        spec.network,
        spec.recipe,
    )


def _literal(stem: str) -> str:
    """`stem` as a pattern that matches only itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in stem)
