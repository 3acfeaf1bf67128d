"""Typed ONNX for TensorRT, and the engine where TensorRT and a GPU are here.

Precision lives in the graph, so one path serves TensorRT 8.6 to 11; only INT8 needs two files (8
knows neither fp16 scales nor strong typing). An engine is built where it runs: elsewhere the typed
file is written and the report says `engine: null` and what to type on the device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from edgesr.errors import BackendError, MissingDependency, UsageError
from edgesr.export.candidates import io_of
from edgesr.export.tensorrt_finish import Flavour, finish_lines
from edgesr.export.tensorrt_graphs import Maker, Precision, Quantised, replace_graph, write_graphs
from edgesr.export.tensorrt_parity import LIMITS, loudest, near, parity, parity_inputs
from edgesr.export.verify import Difference
from edgesr.runtime.backends.engine import make_key, save_engine
from edgesr.runtime.backends.engine_options import EngineOptions
from edgesr.runtime.backends.tensorrt_build import build_or_load
from edgesr.runtime.backends.tensorrt_builder import Note, Progress, strongly_typed
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    from edgesr.export.source import Source

Array = np.ndarray[Any, Any]
Runner = Callable[[bytes, ModelSpec, Path], Callable[[Array], Array]]

SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the nodes with the largest values, kept in float32 one after the other."""


@dataclass(frozen=True, kw_only=True)
class TensorRtReport:
    """What was written and how far the engine is from the float32 graph.

    files       flavour ("trt8", "trt") -> typed ONNX; one file for both unless it is INT8
    engine      the .plan, its sidecar beside it; None: `why` not, and `commands` to finish
    kept_float  nodes that stay float32 (or unquantised) although the rest does not
    log         each decision on the way
    """

    precision: Precision
    files: dict[Flavour, Path]
    spec: ModelSpec
    options: EngineOptions
    engine: Path | None
    tensorrt: str | None
    why: str | None = None
    commands: tuple[str, ...] = ()
    difference: Difference | None = None
    kept_float: tuple[str, ...] = ()
    log: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """File names only: a report may travel."""
        return {
            "schema": 1,
            "precision": self.precision,
            "files": {flavour: path.name for flavour, path in self.files.items()},
            "bytes": {path.name: path.stat().st_size for path in self.files.values()},
            "spec": self.spec.to_dict(),
            "options": dataclasses.asdict(self.options),
            "engine": self.engine.name if self.engine is not None else None,
            "engine_bytes": self.engine.stat().st_size if self.engine is not None else None,
            "tensorrt": self.tensorrt,
            "why": self.why,
            "commands": list(self.commands),
            "difference": dataclasses.asdict(self.difference) if self.difference else None,
            "kept_float": list(self.kept_float),
            "log": list(self.log),
        }


def export_tensorrt(
    source: Source,
    *,
    base: Path,
    precision: Precision,
    options: EngineOptions,
    quantised: Quantised | None = None,
    require_engine: bool = False,
    trt: Any = None,
    cuda: Any = None,
    runner: Runner | None = None,
    on_note: Note | None = None,
    on_progress: Progress | None = None,
) -> TensorRtReport:
    """Typed ONNX beside `base`, and where it can be built the engine, compared, with its sidecar.

    source     float32, or already of `precision`: then built as it is; a file of edgesr's that is
               of that precision is not written again
    base       folder and stem: writes <base>-fp16.onnx, <base>-fp16.plan, <base>-fp16.json;
               INT8 <base>-int8-tensorrt.onnx, and without a TensorRT <base>-int8-tensorrt8.onnx too
    quantised  makes the INT8 graphs; needed for precision "int8" from a float32 source
    trt, cuda  stand-ins for the module and the GPU; None: those of this machine
    runner     (plan, spec, file) -> what computes with it; None: the TensorRT backend

    An engine that is too far from the graph (`LIMITS`) is built again with its loudest layers in
    float32. Raises BackendError when that does not help, or with `require_engine` when there is no
    engine to be had; UsageError for what cannot be meant.
    """
    note = on_note or _silent
    log: list[str] = []

    def say(line: str) -> None:
        log.append(line)
        note(line)

    if options.precision != precision:
        options = dataclasses.replace(options, precision=precision)
    if source.spec.precision not in ("fp32", precision):
        raise UsageError(
            f"{source.origin} is {source.spec.precision} and cannot become {precision}: give the "
            f"fp32 model, or --trt {source.spec.precision}"
        )
    if precision == "int8" and source.spec.precision == "fp32" and quantised is None:
        raise UsageError("--trt int8 needs pictures to calibrate with: --calib clip.mp4")
    if not base.absolute().parent.is_dir():
        raise UsageError(f"{base} cannot be written: there is no folder {base.parent}")
    trt, cuda, why = find_tensorrt(trt, cuda)
    if source.spec.state and trt is not None:
        why = why or "edgesr's TensorRT backend runs no networks with state yet"
    if why is not None and require_engine:
        raise BackendError(f"no TensorRT engine can be built here: {why}")
    flavours: tuple[Flavour, ...] = ("trt", "trt8")
    if trt is not None:
        flavours = ("trt" if strongly_typed(trt, options) else "trt8",)
    maker = Maker(source, precision=precision, quantised=quantised)
    inputs = parity_inputs(source.spec, options)
    # Whether values fit in float16 does not hang on the size of the picture.
    height, width = options.least[1:]
    keep = frozenset(maker.overflowing([p[:, :, :height, :width] for p in inputs]))
    if keep:
        say(f"{len(keep)} nodes leave the range of float16 and stay float32: {_some(keep)}")
    files = write_graphs(maker, base, flavours, keep)
    made = TensorRtReport(
        precision=precision,
        files=files,
        spec=source.spec.replace(precision=precision),
        options=options,
        engine=None,
        tensorrt=None if trt is None else trt.__version__,
        why=why,
        kept_float=tuple(sorted(keep)),
    )
    if why is not None:
        graph = onnx.load(next(iter(files.values())))
        lines = finish_lines(
            files, spec=made.spec, options=options, inputs=graph.graph.input, why=why
        )
        if trt is None and len(set(files.values())) > 1:
            say("no TensorRT here tells its version: there is a file for 8 and one for 10 and 11")
        return dataclasses.replace(made, commands=tuple(lines), log=tuple(log))
    build = _Build(
        maker, trt=trt, cuda=cuda, runner=runner, say=say, on_note=note, on_progress=on_progress
    )
    return build.engine(made, base=base, inputs=inputs, log=log)


def find_tensorrt(trt: Any = None, cuda: Any = None) -> tuple[Any, Any, str | None]:
    """(module or None, GPU or None, why there is no engine to be had here or None)."""
    from edgesr.runtime.backends.cuda import open_cuda
    from edgesr.runtime.backends.tensorrt import load_tensorrt

    try:
        trt = trt if trt is not None else load_tensorrt()
        return trt, cuda if cuda is not None else open_cuda(), None
    except (BackendError, MissingDependency) as error:
        return trt, None, str(error)


class _Build:
    """Engine after engine, until one computes what it should."""

    def __init__(
        self,
        maker: Maker,
        *,
        trt: Any,
        cuda: Any,
        runner: Runner | None,
        say: Note,
        on_note: Note,
        on_progress: Progress | None,
    ) -> None:
        self._maker = maker
        self._trt = trt
        self._cuda = cuda
        self._runner = runner or self._backend
        self._say = say
        self._on_note = on_note
        self._on_progress = on_progress

    def engine(
        self, made: TensorRtReport, *, base: Path, inputs: list[Array], log: list[str]
    ) -> TensorRtReport:
        ((flavour, path),) = made.files.items()
        keep = frozenset(made.kept_float)
        plan, difference = self._try(path, made, inputs)
        reference = self._maker.source.graph
        order: list[str] = []
        for share in SHARES:
            if near(difference, made.precision) or self._maker.given:
                break
            order = order or loudest(reference, inputs)
            keep |= frozenset(order[: max(1, round(len(order) * share))])
            self._say(
                f"the engine is too far from the graph ({difference}): the {len(keep)} loudest of "
                f"{len(order)} nodes stay float32, and it is built again"
            )
            replace_graph(path, self._maker.graph(flavour, keep))
            plan, difference = self._try(path, made, inputs)
        if not near(difference, made.precision):
            raise BackendError(
                f"the {made.precision} engine of {made.spec.name} does not compute what the graph "
                f"does: {difference}, allowed are {LIMITS[made.precision]}; no engine was written"
            )
        self._say(f"the engine against ONNX Runtime: {difference}")
        target = base.parent / f"{path.stem}.plan"
        key = make_key(path, options=made.options, trt=self._trt, cuda=self._cuda)
        save_engine(target, plan, spec=made.spec, key=key, built={"difference": str(difference)})
        return dataclasses.replace(
            made,
            engine=target,
            difference=difference,
            kept_float=tuple(sorted(keep)),
            log=tuple(log),
        )

    def _try(
        self, path: Path, made: TensorRtReport, inputs: list[Array]
    ) -> tuple[bytes, Difference]:
        plan = build_or_load(
            path,
            spec=made.spec,
            options=made.options,
            trt=self._trt,
            cuda=self._cuda,
            on_note=self._on_note,
            on_progress=self._on_progress,
        )
        run = self._runner(plan, made.spec, path)
        try:
            return plan, parity(run, self._maker.source.graph, inputs)
        finally:
            if (close := getattr(run, "close", None)) is not None:
                close()

    def _backend(self, plan: bytes, spec: ModelSpec, path: Path) -> Callable[[Array], Array]:
        from edgesr.runtime.backends import Request
        from edgesr.runtime.backends.tensorrt_session import TensorRtSession

        request = Request(
            path=path,
            spec=spec,
            precision=spec.precision,
            threads=1,
            parallel=1,
            size=None,
            io=io_of(spec),
            why="parity",
            device="cuda:0",
        )
        return TensorRtSession(
            plan, trt=self._trt, cuda=self._cuda, request=request, on_note=self._on_note
        )


def _some(names: Collection[str]) -> str:
    first = sorted(names)[:4]
    return ", ".join(first) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _silent(line: str) -> None:
    pass
