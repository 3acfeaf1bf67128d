"""The typed graphs that TensorRT reads, and where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from edgesr.export.tensorrt_finish import Flavour
from edgesr.files import replacing
from edgesr.onnxmeta import read_metadata
from edgesr.spec import METADATA_KEY, ModelSpec

if TYPE_CHECKING:
    from edgesr.export.source import Source

Array = np.ndarray[Any, Any]
Precision = Literal["fp32", "fp16", "int8"]
Quantised = Callable[[Flavour, frozenset[str]], onnx.ModelProto]
"""(flavour, names of nodes kept float) -> the INT8 graph."""


class Maker:
    """Typed graphs of one source."""

    def __init__(
        self, source: Source, *, precision: Precision, quantised: Quantised | None
    ) -> None:
        self.source = source
        self.precision = precision
        self._quantised = quantised

    @property
    def given(self) -> bool:
        """The source has the precision already: there is nothing to make."""
        return self.precision == "fp32" or self.source.spec.precision != "fp32"

    def graph(self, flavour: Flavour, keep: frozenset[str]) -> onnx.ModelProto:
        source = self.source
        if self.given:
            return source.graph
        if self.precision == "int8":
            assert self._quantised is not None
            return self._quantised(flavour, keep)
        from edgesr.export.fp16 import to_fp16

        return to_fp16(source.graph, source.spec, keep_float=keep)

    def overflowing(self, inputs: list[Array]) -> list[str]:
        """Nodes that float16 cannot hold; INT8 is left to the check of its engine."""
        if self.given or self.precision != "fp16":
            return []
        from edgesr.export.fp16 import overflowing

        return overflowing(self.source.graph, self.source.spec, inputs)

    def path(self, base: Path, flavour: Flavour, *, alone: bool) -> Path:
        """Where a typed graph lies. INT8 for TensorRT 8 says so where there is another one."""
        given = Path(self.source.origin)
        if self.given and given.suffix == ".onnx" and _facts(given) == self.source.spec:
            return given  # it is there already
        last = {"trt": "-tensorrt", "trt8": "-tensorrt" if alone else "-tensorrt8"}[flavour]
        suffix = last if self.precision == "int8" else ""
        return base.with_name(f"{base.name}-{self.precision}{suffix}.onnx")


def _facts(path: Path) -> ModelSpec | None:
    """Those of a file of edgesr's; None for one from elsewhere."""
    facts = read_metadata(path).get(METADATA_KEY)
    return None if facts is None else ModelSpec.from_json(facts)


def write_graphs(
    maker: Maker, base: Path, flavours: tuple[Flavour, ...], keep: frozenset[str]
) -> dict[Flavour, Path]:
    """Each different file once."""
    files: dict[Flavour, Path] = {}
    for flavour in flavours:
        path = maker.path(base, flavour, alone=len(flavours) == 1)
        if path not in files.values() and str(path) != maker.source.origin:
            replace_graph(path, maker.graph(flavour, keep))
        files[flavour] = path
    return files


def replace_graph(path: Path, graph: onnx.ModelProto) -> None:
    with replacing(path) as part:
        part.write_bytes(graph.SerializeToString())
