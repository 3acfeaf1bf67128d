"""The canonical graph that every artefact is derived from, whatever the user has.

    source = load_source("runs/mine")          # name | run folder | .safetensors | .onnx
    source.graph, source.spec

From an .onnx file it takes no torch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from edgesr.errors import MissingDependency, ModelError, UsageError
from edgesr.export.verify import Difference
from edgesr.models import ShippedModel, load_file, shipped
from edgesr.onnxmeta import read_metadata
from edgesr.spec import METADATA_KEY, ModelSpec


@dataclass(frozen=True, kw_only=True)
class Source:
    """The canonical float32 graph that every artefact is derived from.

    graph       opset 17, IR 8, input "x" float32 NCHW 0..1, output "y", dynamic N, H, W (or
                spec.fixed_size)
    spec        its facts
    origin      what it came from: a checkpoint, a shipped model's name, an .onnx file
    module      the merged torch network where it came from a checkpoint; None from .onnx
    difference  between the graph and what it came from: torch, or the foreign file; None where
                they are one
    notes       a line each on what was found or changed on the way
    path        the file that holds this very graph, where there is one
    """

    graph: onnx.ModelProto
    spec: ModelSpec
    origin: str
    module: Any | None
    difference: Difference | None = None
    notes: tuple[str, ...] = ()
    path: Path | None = None


def load_source(
    model: str, *, typed: bool = False, on_note: Callable[[str], None] = lambda line: None
) -> Source:
    """Find `model`, and make the canonical graph of it.

    model   a shipped model's name, a run folder, a .safetensors checkpoint, or an .onnx file:
            edgesr's own in float32, or one from elsewhere (see `edgesr.foreign`)
    on_note  called with what is being done, of a checkpoint
    typed   take edgesr's own in fp16, INT8 or with uint8 I/O too, as they are: an engine of them

    A shipped model comes from its checkpoint where torch is installed, else from its .onnx.
    Raises ModelError, UsageError, ParityError, MissingDependency.
    """
    path = Path(model).expanduser()
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            what = "is a folder, not an .onnx file" if path.is_dir() else "does not exist"
            raise ModelError(f"model file {path} {what}; `edgesr models` lists the models by name")
        return _from_onnx(path, typed=typed)
    torch_here = importlib.util.find_spec("torch") is not None
    if not torch_here and (entry := _shipped(model)) is not None and not path.exists():
        return _from_onnx(entry.onnx)
    checkpoint = find_checkpoint(model)
    if not torch_here:
        raise MissingDependency(
            f"{checkpoint} is a checkpoint, and edgesr export needs torch for it: "
            "pip install 'edgesr[train]', or give an .onnx file"
        )
    return _from_checkpoint(checkpoint, model, on_note)


def find_checkpoint(model: str) -> Path:
    """A `.safetensors` file, the best one of a run folder, or that of a shipped model by name."""
    path = Path(model).expanduser()
    if path.is_dir():
        best = path / "best.safetensors"
        if not best.is_file():
            raise ModelError(f"{path} is no run folder: it holds no best.safetensors")
        return best
    if path.suffix == ".safetensors":
        return path
    if path.suffix or "/" in model:
        raise UsageError(
            f"{model}: give a .safetensors checkpoint, a run folder, an .onnx file or a model's "
            "name; somebody else's checkpoint goes through `edgesr convert` first"
        )
    entry = _shipped(model)
    if entry is not None and entry.checkpoint is not None:
        return entry.checkpoint
    names = ", ".join(entry.name for entry in shipped())
    raise ModelError(f"no checkpoint of a model {model!r} is shipped: there are {names}")


def _shipped(model: str) -> ShippedModel | None:
    """By its full name, or the first of a family."""
    return next((entry for entry in shipped() if model in (entry.name, entry.family)), None)


def _from_checkpoint(path: Path, origin: str, on_note: Callable[[str], None]) -> Source:
    from edgesr.export.onnx import build_onnx
    from edgesr.networks import checkpoint

    network, spec = checkpoint.load(path)
    built = build_onnx(network, spec, on_note=on_note)
    return Source(
        graph=built.graph,
        spec=built.spec,
        origin=origin,
        module=built.module,
        difference=built.difference,
    )


def _from_onnx(path: Path, *, typed: bool = False) -> Source:
    """Of ours it is the graph itself, of others what `edgesr.export.adopt` makes of it."""
    if METADATA_KEY not in read_metadata(path):
        from edgesr.export.adopt import adopt

        adopted = adopt(read_graph(path), path)
        return Source(
            graph=adopted.graph,
            spec=adopted.spec,
            origin=str(path),
            module=None,
            difference=adopted.difference,
            notes=adopted.notes,
        )
    spec = load_file(path).spec
    if not typed and (spec.precision != "fp32" or spec.io.dtype != "float32"):
        what = spec.precision if spec.precision != "fp32" else f"{spec.io.dtype} in and out"
        raise UsageError(
            f"{path} is {what} already: give the float32 file, or the checkpoint, it was made from"
        )
    return Source(graph=read_graph(path), spec=spec, origin=str(path), module=None, path=path)


def read_graph(path: Path) -> onnx.ModelProto:
    """With its weights, wherever they lie. Raises ModelError."""
    try:
        return onnx.load(path)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX model, or is cut off: {error}") from error
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        reason = " ".join(str(error).split())  # a file of weights that is missing, mostly
        raise ModelError(f"{path} cannot be read whole: {reason}") from error
