"""What an export is asked for: which forms, under which names; refused before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from typing import Literal

from edgesr.errors import MediaError, MissingDependency, UsageError
from edgesr.export.ends import check_size
from edgesr.export.gate import MAX_DROP
from edgesr.export.quantize import METHODS, Method
from edgesr.runtime.backends import Size
from edgesr.runtime.backends.machine import installed, is_x86
from edgesr.spec import ModelSpec

TRT = ("fp32", "fp16", "int8")
CALIB = "edgesr export --int8 --calib clip.mp4"


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the user typed.

    onnx, fp16, int8, openvino, trt   the forms; none of them: onnx
    io                 dtype at both ends
    size               (H, W) that the graphs are made for; None: any
    least, usual, most (H, W) of a TensorRT engine's profile; batch: its largest; dla, workspace:
                       see `edgesr.runtime.backends.engine_options.EngineOptions`
    calib              pictures and clips for INT8, and to judge by
    calib_method       how INT8's ranges are found at first, see `edgesr.export.quantize.Scheme`
    evaluation         a folder of pictures with a truth
    out                a file for one form, a folder or a stem for several
    folder             `out` is a folder, made where it is not there
    """

    model: str
    onnx: bool = False
    fp16: bool = False
    int8: bool = False
    openvino: bool = False
    trt: tuple[str, ...] = ()
    io: Literal["float32", "uint8"] = "float32"
    size: Size | None = None
    least: Size | None = None
    usual: Size | None = None
    most: Size | None = None
    batch: int = 1
    dla: int | None = None
    workspace: int | None = None
    calib: tuple[Path, ...] = ()
    calib_method: Method = "minmax"
    evaluation: Path | None = None
    max_drop: float = MAX_DROP
    qat: bool = False
    out: Path | None = None
    folder: bool = False
    overwrite: bool = False
    require_engine: bool = False

    @property
    def forms(self) -> tuple[Form, ...]:
        found = []
        if self.onnx or not (self.fp16 or self.int8 or self.openvino or self.trt):
            found.append(Form("onnx", "fp32"))
        if self.fp16:
            found.append(Form("onnx", "fp16"))
        if self.int8:
            found.append(Form("onnx", "int8"))
            if openvino_here():
                found.append(FOR_OPENVINO)
        if self.openvino:
            found.append(Form("openvino", "int8" if self.int8 else "fp32"))
        found += [Form("trt", precision) for precision in self.trt]  # type: ignore[arg-type]
        return tuple(found)


@dataclass(frozen=True)
class Form:
    """One artefact: kind and precision. NAME, NAME-fp16, NAME-int8 with the kind's suffix.

    runtime  that alone it is for: what is quantised for one loses more in another
    """

    kind: Literal["onnx", "openvino", "trt"]
    precision: Literal["fp32", "fp16", "int8"]
    runtime: Literal["", "openvino"] = ""

    @property
    def suffix(self) -> str:
        """Behind the model's name; nothing for TensorRT, whose exporter names its files itself."""
        if self.kind == "trt":
            return ""
        word = "" if self.precision == "fp32" else f"-{self.precision}"
        word += f"-{self.runtime}" if self.runtime else ""
        return f"{word}{'.xml' if self.kind == 'openvino' else '.onnx'}"

    @property
    def name(self) -> str:
        what = {"onnx": "ONNX", "openvino": "OpenVINO", "trt": "TensorRT"}[self.kind]
        return f"{what} {self.precision}" + (" for OpenVINO" if self.runtime else "")


FOR_OPENVINO = Form("onnx", "int8", "openvino")
FOR_CPUS = (Form("onnx", "int8"), FOR_OPENVINO)
"""What --int8 makes where OpenVINO is: each for the runtime that loses least with it."""


def openvino_here() -> bool:
    return is_x86() and installed("openvino")


def check(wish: Wish) -> None:
    """Raises UsageError for what cannot be meant, whatever the model."""
    for word in wish.trt:
        if word not in TRT:
            raise UsageError(f"--trt {word}: {', '.join(TRT)}")
    if wish.io not in ("float32", "uint8"):
        raise UsageError(f"--io {wish.io!r}: float32 or uint8")
    quantised = any(form.precision == "int8" for form in wish.forms)
    if quantised and not wish.calib:
        word = "--int8" if wish.int8 else "--trt int8"
        raise UsageError(
            f"{word} needs --calib, what the model will see, a clip or pictures: "
            f"{CALIB if wish.int8 else CALIB.replace('--int8', '--trt int8')}"
        )
    if wish.calib_method not in METHODS:
        raise UsageError(f"--calib-method {wish.calib_method}: {', '.join(METHODS)}")
    if wish.calib_method != "minmax" and not quantised:
        raise UsageError(f"--calib-method is how INT8 finds its ranges: {CALIB}")
    if wish.qat and not quantised:
        raise UsageError("--qat fine-tunes INT8: add --int8 --calib clip.mp4")
    if not wish.trt:
        for word, given in (
            ("--dla", wish.dla is not None),
            ("--workspace", wish.workspace is not None),
            ("--min/--opt/--max", (wish.least, wish.usual, wish.most) != (None, None, None)),
            ("--batch", wish.batch != 1),
            ("--require-engine", wish.require_engine),
        ):
            if given:
                raise UsageError(f"{word} is of a TensorRT engine: add --trt fp16, or leave it out")
    if wish.size is not None and (wish.least, wish.usual, wish.most) != (None, None, None):
        raise UsageError("--size is one size, --min/--opt/--max are a range: give one or the other")
    if wish.batch < 1:
        raise UsageError(f"--batch {wish.batch}: 1 or more")
    if not 0 < wish.max_drop < 100:
        raise UsageError(f"--max-drop {wish.max_drop:g}: decibels above 0, such as 0.1")
    for path in wish.calib:
        if not path.expanduser().exists():
            raise UsageError(f"--calib {path}: no such file or folder")
    if wish.evaluation is not None and not wish.evaluation.expanduser().is_dir():
        raise UsageError(f"--eval {wish.evaluation}: no such folder of pictures")
    if wish.openvino:
        _need_openvino()
    if wish.out is not None:
        if wish.folder and wish.out.exists() and not wish.out.is_dir():
            raise UsageError(f"--out {wish.out}/: there is a file of that name")
        early = places(wish, "model")
        folder = early[0].parent
        if not wish.folder and not folder.absolute().is_dir():
            raise UsageError(
                f"{wish.out} cannot be written: there is no folder {folder} (--out {folder}/ makes "
                "it, and puts the files there under their own names)"
            )
        if not wish.folder and not wish.out.is_dir():
            check_all(wish, early)


def check_spec(wish: Wish, spec: ModelSpec) -> None:
    """Raises UsageError for what this model cannot be."""
    if spec.state and (wish.forms != (Form("onnx", "fp32"),) or wish.io != "float32"):
        what = "--io float32" if wish.io != "float32" else "--onnx"
        raise UsageError(f"{spec.name} keeps state between frames: {what} is what it has")
    if spec.precision != "fp32" and wish.trt != (spec.precision,):
        raise UsageError(
            f"{wish.model} is {spec.precision} already: an engine of it is --trt {spec.precision}, "
            "for anything else give the float32 file, or the checkpoint, it was made from"
        )
    if spec.io.dtype == "uint8" and "int8" in wish.trt and spec.precision == "fp32":
        raise UsageError(f"{wish.model} takes 8-bit values: quantise the float32 file it came from")
    if wish.io == "uint8" and any(f == Form("openvino", "int8") for f in wish.forms):
        raise UsageError("--io uint8 is not for OpenVINO's INT8: --int8 without --openvino has it")
    if wish.size is not None:
        check_size(spec, wish.size)


def places(wish: Wish, name: str) -> list[Path]:
    """Where each of the forms goes; `name` is the model's.

    Raises UsageError for an --out that is no name for them.
    """
    forms, out = wish.forms, wish.out
    stem = f"{name}{'-uint8' if wish.io == 'uint8' else ''}"
    if wish.size is not None:
        stem += f"-{wish.size[1]}x{wish.size[0]}"
    if out is None:
        return [Path(f"{stem}{form.suffix}") for form in forms]
    if wish.folder or out.is_dir():
        return [out / f"{stem}{form.suffix}" for form in forms]
    known = (".onnx", ".xml", ".plan", ".engine")
    if forms[0].kind != "trt" and forms in (forms[:1], FOR_CPUS):
        wanted = ".xml" if forms[0].kind == "openvino" else ".onnx"
        if out.suffix not in (wanted, *known, ".safetensors"):
            out = out.with_name(out.name + wanted)
        if out.suffix != wanted:
            raise UsageError(f"--out {out}: {forms[0].name} ends in {wanted}")
        beside = out.with_name(f"{out.stem}-{FOR_OPENVINO.runtime}{wanted}")
        return [out, beside][: len(forms)]
    plain = out.with_suffix("") if out.suffix in known else out
    return [plain.with_name(f"{plain.name}{form.suffix}") for form in forms]


def expected(form: Form, path: Path) -> list[Path]:
    """The files that will stand where `path` says."""
    if form.kind == "openvino":
        return [path.with_suffix(suffix) for suffix in (".xml", ".bin", ".json")]
    if form.kind == "onnx":
        return [path]
    words = {"fp32": ["-fp32"], "fp16": ["-fp16"], "int8": ["-int8-tensorrt", "-int8-tensorrt8"]}
    return [
        path.with_name(f"{path.name}{word}{suffix}")
        for word in words[form.precision]
        for suffix in (".onnx", ".plan", ".json")
    ]


def check_places(wish: Wish, paths: list[Path]) -> None:
    """Raises UsageError for a file that is there already, or is the model itself."""
    model = Path(wish.model).expanduser()
    for path in paths:
        if path.exists() and model.is_file() and path.samefile(model):
            raise UsageError(f"{path} is the model itself: choose another --out")
        if path.exists() and not wish.overwrite:
            raise UsageError(f"{path} exists already: add --overwrite, or choose another --out")
        if path.is_dir():
            raise UsageError(f"{path} is a folder: choose another --out")


def check_all(wish: Wish, paths: list[Path], new: Sequence[bool] | None = None) -> None:
    """`check_places` for every file of every form, or of those that are `new`."""
    new = new or [True] * len(paths)
    for form, path, wanted in zip(wish.forms, paths, new, strict=True):
        check_places(wish, expected(form, path) if wanted else [])


def _need_openvino() -> None:
    from edgesr.export.openvino import missing

    install = missing()
    if install is not None:
        raise MissingDependency(f"--openvino needs what is not installed: {install}")


@contextmanager
def staging(paths: list[Path]) -> Iterator[Path]:
    """A folder beside the files to come, gone at the end; what is in it has yet to be judged.

    Theirs is made where it is not there, and goes again when nothing came.
    """
    folder = paths[0].absolute().parent
    new = [part for part in (folder, *folder.parents) if not part.exists()]
    made = folder / f".edgesr-export-{token_hex(8)}"
    try:  # Ctrl-C may come as soon as it is there
        try:
            made.mkdir(parents=True, mode=0o700)
        except OSError as error:
            reason = error.strerror or error
            raise MediaError(f"{paths[0]} cannot be written: {reason}") from error
        yield made
    finally:
        rmtree(made, ignore_errors=True)
        with suppress(OSError):  # of a folder that holds what was made
            for part in new:
                part.rmdir()


def deliver(moves: list[tuple[Path, Path]]) -> None:
    """Rename (staged, final), in order."""
    for staged, final in moves:
        try:
            staged.replace(final)
        except OSError as error:
            raise MediaError(f"{final} cannot be written: {error.strerror or error}") from error
