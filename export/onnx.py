"""Checkpoint -> single-file ONNX, rewritten, and compared with torch before it is written.

The canonical deployable: float32 NCHW in 0..1, opset 17 and IR 8 (what TensorRT 8.6 still reads),
dynamic height and width (unless the network has a `fixed_size`), ModelSpec in metadata_props, no
external data, no stack traces. With io="uint8" scaling, rounding and clamping move into the graph.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from edgesr.errors import UsageError
from edgesr.export.opset import OPSET, lowered
from edgesr.export.quiet import quiet
from edgesr.export.rewrite import Applied, rewrite
from edgesr.export.source import find_checkpoint
from edgesr.export.tidy import TOLERANCE, ParityError, tidy
from edgesr.export.verify import Difference, check_inputs, compare
from edgesr.files import replacing
from edgesr.networks import NETWORKS, deployed
from edgesr.spec import IoSpec, ModelSpec

__all__ = ["OnnxReport", "ParityError", "build_onnx", "export_onnx", "find_checkpoint", "trace"]

Array = np.ndarray[Any, Any]

MAX_SIZE = 16384


@dataclass(frozen=True, kw_only=True)
class OnnxReport:
    """What was written, how far it is from the network, and what was rewritten on the way."""

    path: Path
    spec: ModelSpec
    difference: Difference
    size_bytes: int
    rewrites: tuple[Applied, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "path": str(self.path),
            "spec": self.spec.to_dict(),
            "difference": dataclasses.asdict(self.difference),
            "size_bytes": self.size_bytes,
            "rewrites": [dataclasses.asdict(applied) for applied in self.rewrites],
        }


@dataclass(frozen=True, kw_only=True)
class Built:
    """A graph that was found to compute what `module` computes.

    module      merged, as it is deployed; with uint8 the scaling and rounding is inside
    difference  between the two
    """

    graph: onnx.ModelProto
    spec: ModelSpec
    module: nn.Module
    difference: Difference
    rewrites: tuple[Applied, ...]


def export_onnx(
    model: nn.Module,
    spec: ModelSpec,
    path: Path,
    *,
    io: Literal["float32", "uint8"] = "float32",
) -> OnnxReport:
    """`build_onnx`, and only then write `path`. Raises UsageError where it cannot be written."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    built = build_onnx(model, spec, io=io)
    with replacing(path) as part:
        part.write_bytes(built.graph.SerializeToString())
    return OnnxReport(
        path=path,
        spec=built.spec,
        difference=built.difference,
        size_bytes=path.stat().st_size,
        rewrites=built.rewrites,
    )


def build_onnx(
    model: nn.Module,
    spec: ModelSpec,
    *,
    io: Literal["float32", "uint8"] = "float32",
    on_note: Callable[[str], None] = lambda line: None,
) -> Built:
    """Merge, export, rewrite, tidy, compare. on_note: called with what is being done.

    Takes the training form; it stays untouched. A network with state becomes one step of it, see
    `edgesr.export.step`. Raises ParityError past `TOLERANCE`; with uint8 a value may differ by one
    level, where float32 rounding falls to the other side. UsageError for what has no deployable.
    """
    module = deployed(model)
    if spec.state:
        from edgesr.export.step import step_parity, trace_step

        if io != "float32":
            raise UsageError(f"{spec.name} keeps state between frames: --io float32 is what it has")
        graph, applied = rewrite(trace_step(module, spec))  # type: ignore[arg-type]
        graph = tidy(graph, spec)
        difference = step_parity(graph, module, spec)  # type: ignore[arg-type]
    else:
        known = NETWORKS.get(spec.network)
        if known is not None and known.kind != "picture":
            raise UsageError(
                f"{spec.network} sees whole clips, or the truth: it can teach, but not be deployed"
            )
        if io == "uint8":
            module = Uint8Io(module).eval()
            spec = spec.replace(io=IoSpec(dtype="uint8", range=(0.0, 255.0)))
        on_note("tracing the network with torch")
        traced = trace(module, spec)
        on_note("rewriting the graph")
        graph, applied = rewrite(traced)
        graph = tidy(graph, spec)
        difference = parity(graph, module, spec, on_note=on_note)
    floats = spec.io.dtype == "float32"
    limit = TOLERANCE if floats else 1.0  # a level
    if not (difference.within(limit) if floats else difference.max_abs <= limit):
        raise ParityError(f"{spec.name}: ONNX differs from torch: {difference}, allowed {limit:g}")
    return Built(
        graph=graph, spec=spec, module=module, difference=difference, rewrites=tuple(applied)
    )


class Uint8Io(nn.Module):
    """(N, C, H, W) uint8 in 0..255 -> uint8: scale, network, scale, round half to even, clamp."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x.float() * (1.0 / 255.0))
        return torch.round(y * 255.0).clamp(0.0, 255.0).to(torch.uint8)


def trace(module: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """torch.onnx with dynamic batch, height and width; its chatter is kept from the terminal."""
    sizes = {0: Dim("n", min=1, max=1024)}
    if (size := spec.fixed_size) is None:
        # Of an even, ordinary picture: the tracer takes 0, 1 and equal sizes for constants.
        height = raised(32, spec)
        size = (height, raised(height + 8, spec))
        sizes |= {2: dynamic("h", spec), 3: dynamic("w", spec)}
    example = torch.rand(2, spec.channels, *size)
    if spec.io.dtype == "uint8":
        example = (example * 255).to(torch.uint8)
    with quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes={"x": sizes},
        )
    assert program is not None
    return lowered(program.model_proto)


def raised(side: int, spec: ModelSpec) -> int:
    """`side`, or the next larger one that the network takes."""
    return -(-max(side, spec.min_size) // spec.multiple) * spec.multiple


def dynamic(name: str, spec: ModelSpec) -> Dim:
    """A size that follows the picture, in steps of `multiple`."""
    least, step = raised(1, spec), spec.multiple
    if step == 1:
        return Dim(name, min=least, max=MAX_SIZE)
    return step * Dim(name, min=least // step, max=MAX_SIZE // step)


def parity(
    graph: onnx.ModelProto,
    module: nn.Module,
    spec: ModelSpec,
    *,
    on_note: Callable[[str], None] = lambda line: None,
) -> Difference:
    """ONNX Runtime against torch on random and real pictures of even and odd sizes."""
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    count = itertools.count(1)

    def ours(picture: Array) -> Array:
        on_note(f"comparing with torch, picture {next(count)} of {len(inputs)}")
        return np.asarray(session.run(None, {"x": picture})[0])

    @torch.no_grad()
    def reference(picture: Array) -> Array:
        return module(torch.from_numpy(picture)).numpy()

    size = spec.fixed_size
    least = spec.min_size if size is None else max(size)
    inputs = check_inputs(channels=spec.channels, least=least, multiple=spec.multiple)
    if size is not None:
        inputs = [np.ascontiguousarray(picture[..., : size[0], : size[1]]) for picture in inputs]
    if spec.io.dtype == "uint8":
        inputs = [np.round(picture * 255).astype(np.uint8) for picture in inputs]
    return compare(reference, ours, inputs)
