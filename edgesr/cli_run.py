"""The verbs that run models: stream, image, bench."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgesr.runtime.stats import Stats

DEFAULT_MODEL = "ecbsr-m10c16"  # as in edgesr.models, which `--help` does not import
DEFAULT_STREAM_MODEL = f"{DEFAULT_MODEL}-video"

_MODEL_HELP = "A name of `edgesr models`, or an .onnx or OpenVINO .xml file."

ModelName = Annotated[str, typer.Option("--model", "-m", help=_MODEL_HELP)]
StreamModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=_MODEL_HELP,
        show_default=f"{DEFAULT_STREAM_MODEL}; {DEFAULT_MODEL} at scales that it has not",
    ),
]
Scale = Annotated[
    int | None, typer.Option("--scale", "-s", help="How many times larger.", show_default="2")
]
Backend = Annotated[
    str, typer.Option("--backend", help="auto, ort, openvino, tensorrt or ort-tensorrt.")
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        help="auto, fp32, bf16, or fp16 and int8, files that `edgesr export` makes.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, cuda (an NVIDIA GPU) or cuda:1 (the second one), "
        "as in --backend ort --device cuda.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", help="For inference.", show_default="all cores")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", "-y", help="Replace existing outputs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def stream(
    input: Annotated[Path, typer.Argument(metavar="IN", help="A video file.")],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="What to write; its suffix says which container.")
    ],
    model: StreamModelName = None,
    scale: Scale = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    codec: Annotated[
        str | None,
        typer.Option("--codec", help="h264, hevc, vp9, ...", show_default="by container"),
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option("--crf", help="Quality: smaller is better.", show_default="by codec"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="Effort of the encoder.", show_default="by codec"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", help="For inference and for the encoder, each.", show_default="all cores"
        ),
    ] = None,
    overwrite: Overwrite = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first damaged packet.")
    ] = False,
    keep_partial: Annotated[
        bool, typer.Option("--keep-partial", help="When interrupted, keep what is done so far.")
    ] = False,
    stats: Annotated[
        Path | None, typer.Option("--stats", metavar="FILE.json", help="Write what was measured.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upscale a video: every frame at its time, sound and subtitles copied."""
    from edgesr.cli_progress import Meter, note
    from edgesr.runtime.stream import stream as run

    with Meter(output.name, quiet=quiet) as meter:
        result = run(
            input,
            output,
            model=model,
            scale=scale,
            backend=backend,
            precision=precision,
            device=device,
            codec=codec,
            crf=crf,
            preset=preset,
            threads=threads,
            overwrite=overwrite,
            strict=strict,
            keep_partial=keep_partial,
            stats=stats,
            progress=meter.update,
            on_warning=meter.warn,
            on_note=meter.note,
        )
    if json_:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    elif not quiet:
        typer.echo(_summary(result))
        if model is None and (hint := _faster(result)) is not None:
            note(hint)


def image(
    input: Annotated[Path, typer.Argument(metavar="IN", help="A picture, or a folder of them.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A picture, or a folder.")],
    model: ModelName = DEFAULT_MODEL,
    scale: Scale = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    threads: Threads = None,
    overwrite: Overwrite = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> int:
    """Upscale a picture, or all pictures of a folder: PNG, JPEG, WebP, TIFF, BMP, 8 or 16 bit."""
    from edgesr.cli_progress import error, note, warn
    from edgesr.interrupts import raise_lost
    from edgesr.runtime.image import Done, upscale_images
    from edgesr.runtime.upscaler import Upscaler, load

    def open_model() -> Upscaler:
        upscaler = load(
            model,
            scale=scale,
            backend=backend,
            precision=precision,
            device=device,
            threads=threads,
        )
        if upscaler.note is not None and not quiet:
            note(upscaler.note)
        return upscaler

    def done(picture: Done) -> None:
        raise_lost()
        if not quiet:
            note(f"{picture.output}: {picture.width}x{picture.height}, {picture.seconds:.2f} s")

    report = upscale_images(
        input, output, load=open_model, overwrite=overwrite, on_done=done, on_warning=warn
    )
    for path, why in report.failed:
        error(why if str(path) in why else f"{path}: {why}")
    if json_:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    elif not quiet:
        many = "" if len(report.done) == 1 else "s"
        failed = f", {len(report.failed)} failed" if report.failed else ""
        typer.echo(f"{output}: {len(report.done)} picture{many}{failed}; {report.runs}")
    return 1 if report.failed else 0


def bench(
    model: StreamModelName = None,
    scale: Scale = None,
    size: Annotated[
        str, typer.Option("--size", metavar="WxH", help="Of the clip that is made up.")
    ] = "640x360",
    input: Annotated[
        Path | None, typer.Option("--input", help="Take this clip instead of a made-up one.")
    ] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    threads: Threads = None,
    fps: Annotated[
        float | None,
        typer.Option("--fps", help="The rate to keep up with.", show_default="the clip's"),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="How long to measure each way of running it.")
    ] = 2.0,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure each way of running a model here; `auto` takes the fastest from then on."""
    from edgesr.cli_progress import note, warn
    from edgesr.interrupts import raise_lost
    from edgesr.runtime.bench import bench as measure

    def say(line: str) -> None:
        raise_lost()
        if not quiet:
            note(line)

    report = measure(
        model,
        scale=scale,
        size=size,
        input=input,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        fps=fps,
        seconds=seconds,
        on_note=say,
        on_warning=warn,
    )
    typer.echo(json.dumps(report.to_dict(), indent=2) if json_ else report.text())


def _faster(stats: Stats) -> str | None:
    """For whom the default model is too slow for live footage of this rate."""
    from edgesr.models import FASTER_MODEL, shipped

    rate = stats.input["rate"]
    if stats.fps is None or rate is None or stats.fps > 0.97 * Fraction(rate):
        return None
    name = stats.model["name"].replace(f"{DEFAULT_MODEL}-", f"{FASTER_MODEL}-")
    if name not in {model.name for model in shipped()}:
        return None
    return (
        f"slower than the video plays ({stats.fps:.1f} of {float(Fraction(rate)):.4g} fps): "
        f"--model {name} is about 1.5 times as fast"
    )


def _summary(stats: Stats) -> str:
    ran, out = stats.backend, stats.output
    rate = "" if stats.fps is None else f" ({stats.fps:.1f} fps, slowest: {stats.slowest})"
    return (
        f"{out['path']}: {stats.frames_out} frames, {out['width']}x{out['height']} {out['codec']}, "
        f"{stats.seconds_total:.1f} s{rate}; {stats.model['name']} on {ran['backend']} "
        f"{ran['precision']} ({ran['why']})"
    )
