"""The verb `export`: ONNX, fp16, INT8, OpenVINO and TensorRT, measured before it is handed over."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesr.cli_run import DEFAULT_MODEL, Json, Quiet
from edgesr.errors import EdgesrError, MissingDependency, UsageError

if TYPE_CHECKING:
    from edgesr.export.job import Outcome

EXPORT_EXAMPLE = "edgesr export runs/mine --int8 --calib clip.mp4 --max-drop 0.1"

_SIZE = "WxH"
_METHODS = """How INT8 finds the ranges of values; past --max-drop the first two are tried anyway.

minmax: clips nothing; for most models.

percentile: clips 1 in 10,000; where a few values lie far outside.

entropy: clips long tails; to compare, it lost about 1 dB more than minmax with espcn."""


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]",
            help="A checkpoint (.safetensors), a run folder, a shipped model, or any .onnx.",
        ),
    ] = f"{DEFAULT_MODEL}-x2",
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Single-file ONNX, opset 17, float32; the default.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="ONNX whose graph is float16.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="ONNX in INT8, a file for each CPU runtime here.")
    ] = False,
    openvino: Annotated[
        bool, typer.Option("--openvino", help="OpenVINO's .xml and .bin; with --int8 in INT8.")
    ] = False,
    trt: Annotated[
        list[str] | None,
        typer.Option("--trt", metavar="fp32|fp16|int8", help="TensorRT; repeatable."),
    ] = None,
    calib: Annotated[
        list[Path] | None,
        typer.Option(
            "--calib", metavar="PATH", help="For INT8: a clip, a picture, a folder; repeatable."
        ),
    ] = None,
    calib_method: Annotated[
        str,
        typer.Option("--calib-method", metavar="METHOD", help=_METHODS),
    ] = "minmax",
    max_drop: Annotated[
        float, typer.Option("--max-drop", metavar="DB", help="What a form may lose.")
    ] = 0.1,
    qat: Annotated[
        bool, typer.Option("--qat", help="Fine-tune INT8 where nothing else is enough.")
    ] = False,
    eval_: Annotated[
        Path | None,
        typer.Option(
            "--eval", metavar="DIR", help="Measure on these pictures too, as `eval` does."
        ),
    ] = None,
    io: Annotated[
        str, typer.Option("--io", help="float32 (0..1), or uint8 with rounding in the graph.")
    ] = "float32",
    size: Annotated[
        str | None, typer.Option("--size", metavar=_SIZE, help="For this size only.")
    ] = None,
    least: Annotated[
        str | None, typer.Option("--min", metavar=_SIZE, help="Of an engine: smallest size.")
    ] = None,
    usual: Annotated[
        str | None, typer.Option("--opt", metavar=_SIZE, help="Of an engine: the usual size.")
    ] = None,
    most: Annotated[
        str | None, typer.Option("--max", metavar=_SIZE, help="Of an engine: largest size.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Of an engine: pictures at once.")] = 1,
    dla: Annotated[
        int | None, typer.Option("--dla", metavar="CORE", help="Of an Orin's engine: on its DLA.")
    ] = None,
    workspace: Annotated[
        int | None, typer.Option("--workspace", metavar="MIB", help="Of an engine: scratch memory.")
    ] = None,
    require_engine: Annotated[
        bool, typer.Option("--require-engine", help="Fail where no engine can be built.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="PATH",
            show_default="<name>...",
            help="A file, the start of several names, or a folder: DIR/ is made.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-y", help="Replace existing files.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="What this machine can export to, and why not.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn a model into files for a device, each measured before it is handed over.

    Beside each file lies <file>.report.json: distance to float32, dB lost, ms on this machine.
    """
    if list_:
        _show_targets(json_=json_)
        return
    _need_onnx()
    from edgesr.cli_stages import StageMeter
    from edgesr.export.job import run
    from edgesr.export.plan import Wish
    from edgesr.export.repair import ExportRefused

    wish = Wish(
        model=model,
        onnx=onnx,
        fp16=fp16,
        int8=int8,
        openvino=openvino,
        trt=tuple(dict.fromkeys(trt or ())),
        io=io,  # type: ignore[arg-type]  # checked by `run`
        size=_size(size, "--size"),
        least=_size(least, "--min"),
        usual=_size(usual, "--opt"),
        most=_size(most, "--max"),
        batch=batch,
        dla=dla,
        workspace=workspace,
        calib=tuple(calib or ()),
        calib_method=calib_method,  # type: ignore[arg-type]  # checked by `run`
        evaluation=eval_,
        max_drop=max_drop,
        qat=qat,
        out=None if out is None else Path(out).expanduser(),
        folder=out is not None and out.endswith("/"),  # a Path forgets it
        overwrite=overwrite,
        require_engine=require_engine,
    )
    with StageMeter("export", quiet=quiet) as meter:
        try:
            done = run(
                wish,
                evaluation=None if eval_ is None else lambda spec: _pairs(eval_, spec),
                on_stage=meter.stage,
                on_note=meter.note,
            )
        except ExportRefused as error:
            for log in (*error.earlier, error.log):
                for line in log.lines():
                    meter.keep(line)
            raise EdgesrError(error.reason) from error
    if json_:
        typer.echo(json.dumps(done.to_dict(), indent=2))
    elif not quiet:
        for line in _lines(done):
            typer.echo(line)


def _lines(done: Outcome) -> list[str]:
    """The report, and under it what was written."""
    lines = done.report.lines() if done.report.measured else []
    for artefact in done.artefacts:
        lines.append(f"{artefact.path}: {artefact.form.name}, {artefact.size_bytes / 1024:.0f} KiB")
    lines += [f"no {form.name}: {why}" for form, why in done.refused.items()]
    if done.source.difference is not None and not done.report.measured:
        lines.append(f"against torch: {done.source.difference}")
    commands: list[str] = []
    for engine in done.engines:
        if engine["engine"] is None:
            commands += [f"no engine was built here: {engine['why']}", *engine["commands"]]
    return [*lines, *dict.fromkeys(commands)]  # what two engines say alike is said once


def _pairs(folder: Path, spec: Any) -> dict[str, list[Any]]:
    """A folder of pictures as pairs in the published protocol."""
    import numpy as np

    from edgesr.distill.pictures import load_pairs
    from edgesr.metrics import rgb_to_y

    def planes(picture: Any) -> Any:
        """(1, C, H, W) float32: unrounded studio luma / 255, or RGB / 255."""
        rgb = picture if picture.ndim == 3 else np.dstack([picture] * 3)
        values = rgb_to_y(rgb)[None] if spec.colour == "y" else np.moveaxis(rgb, 2, 0)
        return np.ascontiguousarray(values[None], np.float32) / np.float32(255)

    pairs = load_pairs(folder.expanduser(), scale=spec.scale)
    return {folder.resolve().name: [(planes(pair.lr), planes(pair.hr)) for pair in pairs]}


def _show_targets(*, json_: bool) -> None:
    from edgesr.export.targets import targets

    found = targets()
    if json_:
        typer.echo(json.dumps({"schema": 1, "targets": [vars(t) for t in found]}, indent=2))
        return
    width = max(len(t.option) for t in found)
    for target in found:
        state = target.how if target.why_not is None else f"no: {target.why_not}"
        typer.echo(f"{target.option.ljust(width)}  {state}")


def _size(text: str | None, option: str) -> tuple[int, int] | None:
    """ "640x360" -> (360, 640)."""
    if text is None:
        return None
    width, cross, height = text.lower().partition("x")
    if not cross or not width.isdecimal() or not height.isdecimal() or "0" in (width, height):
        raise UsageError(f"{option} {text}: WIDTHxHEIGHT, such as 640x360")
    return int(height), int(width)


def _need_onnx() -> None:
    for module in ("onnx", "onnx_ir", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependency(
                f"edgesr export needs {module}: pip install 'edgesr[train]', or without torch, for "
                "models that are .onnx already: pip install onnx onnxscript onnxruntime"
            )
