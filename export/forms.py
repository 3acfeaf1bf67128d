"""The forms of a model: fp16, INT8, OpenVINO's files, TensorRT's graphs and engines."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from edgesr.errors import BackendError
from edgesr.export.eight import EightBits
from edgesr.export.ends import BYTES, of_size, with_bytes
from edgesr.export.fp16 import overflowing, to_fp16
from edgesr.export.measure import SMALL
from edgesr.export.plan import FOR_CPUS, Form, Wish
from edgesr.export.quantize import Flavour, Scheme
from edgesr.export.repairlog import ExportRefused
from edgesr.export.verify import check_inputs
from edgesr.runtime.backends.engine_options import EngineOptions, engine_options
from edgesr.runtime.upscale import padded
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    from edgesr.export.calibrate import Calibration
    from edgesr.export.repairlog import Log
    from edgesr.export.source import Source


FLOAT32 = Form("onnx", "fp32")


@dataclass(frozen=True, kw_only=True)
class Made:
    """One form in the staging folder.

    files   the main one first
    shown   name -> file: of TensorRT's graphs, whose numbers ONNX Runtime tells too
    engine  what `edgesr.export.tensorrt` reported
    """

    files: list[Path]
    shown: dict[str, Path] = dataclasses.field(default_factory=dict)
    engine: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Makes forms of one source. eight: its INT8 graphs; None where none was asked for."""

    wish: Wish
    source: Source
    calibration: Calibration | None
    eight: EightBits | None
    on_note: Callable[[str], None]

    def make(self, form: Form, path: Path) -> Made:
        """At `path`, or beside it where a form has several files."""
        if form.kind == "trt":
            return self._tensorrt(form, path)
        if form.kind == "openvino":
            return self._openvino(form, path)
        graph = self.source.graph
        if form.precision == "fp16":
            graph = self._half()
        elif form.precision == "int8":
            graph, _ = self._eight_bit("openvino" if form.runtime else "ort")
        spec = self.source.spec.replace(precision=form.precision)
        if self.wish.size is not None:
            graph = of_size(graph, spec, self.wish.size)
            spec = spec.replace(fixed_size=self.wish.size)
        if self.wish.io == "uint8":
            graph = with_bytes(graph, spec)
        save(path, graph)
        return Made(files=[path])

    def _half(self) -> onnx.ModelProto:
        """fp16, with what would overflow in float32."""
        spec = self.source.spec
        least = max(spec.fixed_size) if spec.fixed_size else spec.min_size
        pictures = list(self.calibration.pictures[:2]) if self.calibration else []
        pictures = pictures or check_inputs(
            channels=spec.channels, least=least, multiple=spec.multiple
        )
        # Whether values fit does not hang on the size, and every value of the network is looked at.
        height, width = spec.fixed_size or padded(SMALL, spec)
        pictures = [picture[:, :, :height, :width] for picture in pictures[:2]]
        keep = overflowing(self.source.graph, spec, pictures)
        if keep:
            self.on_note(
                f"fp16: {len(keep)} nodes stay float32: float16 does not hold their values"
            )
        return to_fp16(self.source.graph, spec, keep_float=keep)

    def _eight_bit(self, flavour: Flavour) -> tuple[onnx.ModelProto, Log]:
        assert self.eight is not None  # `plan.check` saw to it
        return self.eight.made(flavour)

    def _openvino(self, form: Form, path: Path) -> Made:
        """An IR (.xml, .bin, .json). INT8 is the Q/DQ graph for OpenVINO, or else NNCF's.

        Raises ExportRefused where INT8 still loses more than is allowed.
        """
        from edgesr.export.openvino import export_openvino

        wish, graph, spec = self.wish, self.source.graph, self.source.spec
        if wish.size is not None:
            graph, spec = of_size(graph, spec, wish.size), spec.replace(fixed_size=wish.size)
        if wish.io == "uint8":
            graph, spec = with_bytes(graph, spec), spec.replace(io=BYTES)
        made = Made(files=[path, path.with_suffix(".bin"), path.with_suffix(".json")])
        if form.precision != "int8":
            export_openvino(graph, spec, path, precision="fp32")
            return made
        assert self.eight is not None
        self.eight.write_ir(graph, spec, path)
        return made

    def _tensorrt(self, form: Form, path: Path) -> Made:
        """Typed graphs beside `path`, and the engine where one can be built."""
        from edgesr.export.tensorrt import export_tensorrt

        source, wish = self.source, self.wish
        graph, spec = source.graph, source.spec
        if wish.io == "uint8" and spec.io.dtype != "uint8":
            graph, spec = with_bytes(graph, spec), spec.replace(io=BYTES)

        def quantised(flavour: Any, keep: frozenset[str]) -> onnx.ModelProto:
            made, log = self._eight_bit(flavour)
            if not keep <= set(log.keep_float):
                assert self.eight is not None
                scheme = Scheme(
                    flavour=flavour,
                    method=log.method,
                    percentile=log.percentile or Scheme.percentile,
                    keep_float=keep | frozenset(log.keep_float),
                )
                made = self.eight.quantised(scheme)
            if wish.io == "uint8":
                made = with_bytes(made, source.spec.replace(precision="int8"))
            return made

        def build(phase: str, part: float, left: float | None) -> None:
            more = "" if left is None else f", about {left:.0f} s left"
            self.on_note(f"engine {part:.0%}{more}: {phase}")

        given = self._given(form, path)
        report = export_tensorrt(
            # By its name, unless the file is the graph: from elsewhere it is another one.
            dataclasses.replace(
                source, graph=graph, spec=spec, origin=str(given) if given else spec.name
            ),
            base=path,
            precision=form.precision,
            options=profile(wish, spec),
            quantised=quantised,
            require_engine=wish.require_engine,
            on_note=self.on_note,
            on_progress=build,
        )
        if given is not None and report.engine is None:
            raise BackendError(
                f"{source.origin} is {form.precision} as it is, and no engine can be built here: "
                f"{report.why}"
            )
        files = list(dict.fromkeys(report.files.values()))
        shown = {f"{flavour} {form.precision}": file for flavour, file in report.files.items()}
        if len(files) == 1:
            shown = {f"trt {form.precision}": files[0]}
        if report.engine is not None:
            files += [report.engine, report.engine.with_suffix(".json")]
        if given is not None:
            files.remove(given)
        return Made(
            files=files,
            shown=shown,
            engine=report.to_dict(),
        )

    def _given(self, form: Form, path: Path) -> Path | None:
        """A copy, beside `path`, of the file that has the form's precision already, if it has."""
        source, wish = self.source, self.wish
        if source.path is None or not is_given(form, source, wish):
            return None
        named = wish.out is not None and path.name != source.spec.name
        copy = path.with_name(f"{path.name if named else source.path.stem}.onnx")
        shutil.copyfile(source.path, copy)
        return copy


def make_all(
    maker: Maker, paths: Sequence[Path], folder: Path, *, begin: Callable[[], None]
) -> tuple[dict[Form, Made], dict[Form, ExportRefused]]:
    """Every form of the wish, and of INT8 for CPUs what was refused while the other one was not.

    begin  called before each form that takes work
    """
    made: dict[Form, Made] = {}
    refused: dict[Form, ExportRefused] = {}
    forms = maker.wish.forms
    for number, (form, path) in enumerate(zip(forms, paths, strict=True)):
        if form != FLOAT32:
            begin()
        own = folder / str(number)  # forms may share a name, such as --fp16 and --trt fp16
        own.mkdir()
        try:
            made[form] = maker.make(form, own / path.name)
        except ExportRefused as error:
            others = [f for f in forms if f in FOR_CPUS and f not in refused and f != form]
            if form not in FOR_CPUS or not others:
                error.earlier = tuple(entry.log for entry in refused.values())
                raise
            refused[form] = error
    return made, refused


def is_given(form: Form, source: Source, wish: Wish) -> bool:
    """Whether the file is what an engine is built from, as it is; then only the engine is made."""
    from edgesr.export.tensorrt import find_tensorrt

    if source.path is None or form.kind != "trt" or wish.io == "uint8":
        return False
    if source.spec.precision != form.precision:
        return False
    return form.precision != "fp32" or find_tensorrt()[2] is None


def profile(wish: Wish, spec: ModelSpec) -> EngineOptions:
    """Raises UsageError for sizes that exclude each other or that the network does not take."""
    return engine_options(
        spec,
        size=wish.size,
        least=wish.least,
        usual=wish.usual,
        most=wish.most,
        batch=wish.batch,
        dla=wish.dla,
        workspace=wish.workspace,
    )


def save(path: Path, graph: onnx.ModelProto) -> None:
    path.write_bytes(graph.SerializeToString())
