"""ONNX -> OpenVINO IR: model.xml (graph), model.bin (weights), model.json (ModelSpec).

fp32 is the same numbers; fp16 keeps the weights as fp16 (half the file, computed in fp32 or bf16 on
a CPU); int8 is a Q/DQ graph as it is, or quantised by NNCF, activations asymmetric, weights
symmetric and per channel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx

from edgesr.errors import EdgesrError, MissingDependency, UsageError
from edgesr.export.candidates import io_of
from edgesr.export.openvino_int8 import operations, quantised
from edgesr.export.verify import Difference, check_inputs, compare
from edgesr.runtime.backends import Request
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    from edgesr.export.calibrate import Calibration

Array = np.ndarray[Any, Any]
Precision = Literal["fp32", "fp16", "int8"]

LIMITS = {"fp32": 1e-4, "fp16": 1e-2}
"""Largest allowed difference to ONNX Runtime, of the largest value or of 1."""
LEAST_PSNR = 20.0
"""dB from an int8 model to the float one; less is broken. What it may cost the gate says."""


@dataclass(frozen=True, kw_only=True)
class OpenVinoReport:
    """What was written and how far it is from the ONNX graph on ONNX Runtime.

    difference   on random and real pictures; of int8 on calibration pictures
    psnr         dB of the same, peak 1; None where nothing differs
    size_bytes   .xml and .bin
    nncf         version of NNCF, of int8
    """

    path: Path
    spec: ModelSpec
    difference: Difference
    psnr: float | None
    size_bytes: int
    nncf: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "path": self.path.name,
            "spec": self.spec.to_dict(),
            "difference": dataclasses.asdict(self.difference),
            "psnr": self.psnr,
            "size_bytes": self.size_bytes,
            "nncf": self.nncf,
        }


def export_openvino(
    source_graph: onnx.ModelProto,
    spec: ModelSpec,
    path: Path,
    *,
    precision: Precision = "fp32",
    calibration: Calibration | None = None,
    keep_float: Collection[str] = (),
    quantised_graph: onnx.ModelProto | None = None,
    on_note: Callable[[str], None] = lambda line: None,
) -> OpenVinoReport:
    """Convert, compare, and only then write `path` (.xml) with its .bin and .json.

    source_graph   float32, as `Source.graph`; calibration: needed for "int8"
    keep_float     names of nodes that int8 leaves in float
    quantised_graph  the INT8 form of `source_graph` as Q/DQ, converted as it is; None: NNCF makes
                   one
    on_note        called with a line for each picture that NNCF looks at

    Raises UsageError, MissingDependency without openvino (or nncf for int8), EdgesrError when the
    result is not what the graph computes; then nothing is written.
    """
    if path.suffix != ".xml":
        raise UsageError(f"{path}: an OpenVINO model ends in .xml (its weights go to .bin beside)")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    if precision not in (*LIMITS, "int8"):
        raise UsageError(f"precision {precision!r}: an OpenVINO model is fp32, fp16 or int8")
    if spec.precision != "fp32":
        raise UsageError(f"{spec.name} is {spec.precision}: give the fp32 graph it was made from")
    if spec.state:
        raise UsageError(f"{spec.name} keeps state between frames: there is no OpenVINO form of it")
    if precision == "int8" and calibration is None:
        raise UsageError("int8 needs pictures to measure ranges on: say --calib clip.mp4")
    _need("openvino", "an OpenVINO model")
    spec = spec.replace(precision=precision)
    version = None
    model = _read(source_graph if quantised_graph is None else quantised_graph)
    if precision == "int8" and quantised_graph is None:
        assert calibration is not None
        _need("nncf", "an int8 OpenVINO model of NNCF's")
        left = operations(model, source_graph, keep_float)
        pictures = _fed(calibration.pictures, spec)
        model, version = quantised(model, pictures, keep=left, on_note=on_note)
    for key in list(model.get_rt_info()):
        del model.get_rt_info()[key]  # options and paths of whoever made it
    model.set_friendly_name(spec.name)
    with _folder_beside(path) as folder:
        part = folder / path.name
        _save(model, part, halve=precision == "fp16")
        part.with_suffix(".json").write_text(spec.to_json() + "\n", encoding="utf-8")
        difference, psnr = _distance(source_graph, part, spec, calibration)
        _judge(difference, psnr, spec)
        size = sum(part.with_suffix(s).stat().st_size for s in (".xml", ".bin"))
        # Between the old parts and the new ones there is no .xml, so nobody reads a mixture.
        path.unlink(missing_ok=True)
        for suffix in (".bin", ".json", ".xml"):
            part.with_suffix(suffix).replace(path.with_suffix(suffix))
    return OpenVinoReport(
        path=path, spec=spec, difference=difference, psnr=psnr, size_bytes=size, nncf=version
    )


def missing(precision: Precision = "fp32") -> str | None:
    """What has to be installed for it, as a command; None: nothing."""
    if importlib.util.find_spec("openvino") is None:
        return "pip install openvino"
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        return "pip install nncf"
    return None


def _need(module: str, what: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise MissingDependency(f"{what} needs {module}: pip install {module}")


def _read(graph: onnx.ModelProto) -> Any:
    from edgesr.runtime.backends.openvino import core

    return core().read_model(graph.SerializeToString())


def _save(model: Any, path: Path, *, halve: bool) -> None:
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=halve)


def _distance(
    graph: onnx.ModelProto, path: Path, spec: ModelSpec, calibration: Calibration | None
) -> tuple[Difference, float | None]:
    """Of the written model, as the runtime opens it, to the graph on ONNX Runtime."""
    import onnxruntime

    from edgesr.runtime.backends.openvino import open_session

    reference = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    name = reference.get_inputs()[0].name
    request = Request(
        path=path,
        spec=spec,
        precision=spec.precision,
        threads=1,
        parallel=1,
        size=None,
        io=io_of(spec),
        why="asked for",
    )
    session = open_session(request)
    right: list[Array] = []
    squares: list[float] = []
    peak = 255.0 if spec.io.dtype == "uint8" else 1.0

    def expected(picture: Array) -> Array:
        right.append(np.asarray(reference.run(None, {name: picture})[0]))
        return right[-1]

    def got(picture: Array) -> Array:
        made = session(picture)
        squares.append(float(np.mean(((made.astype("f8") - right.pop()) / peak) ** 2)))
        return made

    try:
        difference = compare(expected, got, _inputs(spec, calibration))
    finally:
        session.close()
    error = sum(squares) / len(squares)
    return difference, None if error == 0 else -10 * math.log10(error)


def _inputs(spec: ModelSpec, calibration: Calibration | None) -> list[Array]:
    if spec.precision == "int8":
        assert calibration is not None
        return _fed(calibration.pictures[:8], spec)
    size = spec.fixed_size
    least = spec.min_size if size is None else max(size)
    inputs = check_inputs(channels=spec.channels, least=least, multiple=spec.multiple)
    if size is not None:
        inputs = [np.ascontiguousarray(picture[..., : size[0], : size[1]]) for picture in inputs]
    return _fed(inputs, spec)


def _fed(pictures: Iterable[Array], spec: ModelSpec) -> list[Array]:
    """Pictures in 0..1 as the graph takes them."""
    if spec.io.dtype == "uint8":
        return [np.round(picture * 255).astype(np.uint8) for picture in pictures]
    return list(pictures)


def _judge(difference: Difference, psnr: float | None, spec: ModelSpec) -> None:
    if spec.precision == "int8":
        if psnr is not None and not psnr >= LEAST_PSNR:  # never true for NaN
            raise EdgesrError(
                f"{spec.name}: the int8 OpenVINO model is {psnr:.1f} dB from the float one, it "
                f"must be {LEAST_PSNR:g} or more; nothing was written"
            )
        return
    levels = spec.io.dtype == "uint8"
    limit = 1.0 if levels else LIMITS[spec.precision]
    fits = difference.max_abs <= limit if levels else difference.within(limit)
    if not fits:
        raise EdgesrError(
            f"{spec.name}: the OpenVINO model differs from the ONNX graph: {difference}, allowed "
            f"{limit:g}; nothing was written"
        )


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the same file system, removed at the end."""
    beside = path.absolute().parent
    folder = Path(tempfile.mkdtemp(prefix=f".{path.stem}.", suffix=".part", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
