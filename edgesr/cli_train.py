"""The verbs of the trainer: distill, eval, convert: `pip install 'edgesr[train]'`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesr.cli_run import DEFAULT_MODEL, Backend, Device, Json, ModelName, Quiet, Scale, Threads
from edgesr.cli_training import TrainingMeter, stop_on_interrupt, with_one_voice
from edgesr.errors import MissingDependency, UsageError
from edgesr.interrupts import raise_lost

DISTILL_EXAMPLE = (
    "edgesr distill --teacher rrdb --student ecbsr-m4c16 --scale 2 --data photos/ --out runs/mine"
)


@with_one_voice
def distill(
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher",
            help="none, pisr, a network (rrdb, edsr, ...), or a file; several joined by +.",
            show_default="none",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option("--student", help="The network to train.", show_default="ecbsr-m10c16"),
    ] = None,
    scale: Annotated[
        int | None, typer.Option("--scale", "-s", help="2, 3 or 4.", show_default="2")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Photos, frames, clips, HR/ with LR/x2/: a folder or a file; repeatable.",
        ),
    ] = None,
    on: Annotated[
        list[Path] | None,
        typer.Option(
            "--on", metavar="CLIP", help="Specialise a shipped model to this footage; repeatable."
        ),
    ] = None,
    val: Annotated[
        Path | None,
        typer.Option(
            "--val", metavar="DIR", help="Test pictures.", show_default="a part of --data"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="RUN", help="The run folder.", show_default="runs/<date-name>"
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="A .toml file, or the name of a shipped recipe.",
            show_default="bicubic; causal for such students; specialise with --on",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change a setting of the recipe; repeatable."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Train without the teacher too: what was it worth?"),
    ] = False,
    cache_teacher: Annotated[
        bool,
        typer.Option(
            "--cache-teacher", help="Ask the teacher once for each picture and keep its answers."
        ),
    ] = False,
    cache_teacher_in: Annotated[
        Path | None,
        typer.Option(
            "--cache-teacher-in",
            metavar="DIR",
            help="Where they are kept, for several runs.",
            show_default="the run folder",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    threads: Threads = None,
    terms: Annotated[
        str | None, typer.Option("--terms", help="Licence of the photos, kept with the weights.")
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a small network on your photos; the run folder ends with a model.onnx and a report.

    A teacher without weights is trained first. With --on, a shipped model learns from your clip.

    Ctrl-C saves and stops; --resume goes on as if it had never been stopped.
    """
    if not data and not on:
        raise UsageError(
            f"--data is missing, a folder of photos or a clip. For example: {DISTILL_EXAMPLE}"
        )
    given = {"--data": data, "--val": val, "--teacher": teacher, "--compare": compare}
    given |= {"--cache-teacher": cache_teacher, "--cache-teacher-in": cache_teacher_in}
    beside = [name for name, value in given.items() if value and value != "none"]
    if on and beside:
        raise UsageError(f"--on with {beside[0]}: the footage is all that --on learns from")
    need_training("edgesr distill")
    import torch

    from edgesr.distill.parallel import team
    from edgesr.distill.recipe import load_recipe
    from edgesr.distill.run import distill as run
    from edgesr.distill.specialise import specialise

    settings = load_recipe(
        recipe or default_recipe(student, on=on),
        overrides=set_ or [],
        student=student,
        scale=scale,
        teacher=teacher,
        cache_teacher=cache_teacher or cache_teacher_in is not None or None,
    )
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads {threads}: 1 or more")
        torch.set_num_threads(threads)
    if out is None:
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{settings.student}-x{settings.scale}"
        out = team().given(Path("runs", name))
    with TrainingMeter(out.name, quiet=quiet) as meter, stop_on_interrupt() as stopped:
        common: dict[str, Any] = {
            "out": out,
            "resume": resume,
            "device": device,
            "terms": terms,
            "on_decode": meter.decoded,
            "on_progress": meter.update,
            "on_note": meter.note,
            "stop": stopped,
        }
        if on:
            special = specialise(settings, on=on, **common)
        else:
            common["answers"] = cache_teacher_in
            result = run(settings, data=data or [], val=val, compare=compare, **common)
    if json_:
        typer.echo((out / "summary.json").read_text().rstrip())
        return
    if on:
        for line in [*special.table(), f"{out / 'model.onnx'}: {special.verdict}"]:
            typer.echo(line)
        return
    gain = result.psnr_y - result.bicubic_psnr_y
    typer.echo(
        f"{out / 'model.onnx'}: {result.psnr_y:.2f} dB on {result.validation} "
        f"(bicubic {result.bicubic_psnr_y:.2f}, {gain:+.2f}) after {result.steps} steps, "
        f"{result.minutes:.1f} min; {out / 'report.html'}"
    )
    if result.plain_psnr_y is not None:
        worth = result.psnr_y - result.plain_psnr_y
        typer.echo(
            f"without the teacher {result.plain_psnr_y:.2f} dB: it was worth {worth:+.2f} dB"
        )


def default_recipe(student: str | None, *, on: list[Path] | None) -> str:
    """A network that keeps state learns from sequences of frames, the others from crops."""
    if on:
        return "specialise"
    return "causal" if (student or "").startswith("causal") else "bicubic"


def eval_(
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="PATH",
            help="A folder of NAME_HR/NAME_LR pairs or of HR pictures alone, a folder of such "
            "sets, a clip, or a folder of clips.",
        ),
    ],
    model: ModelName = DEFAULT_MODEL,
    scale: Scale = None,
    lpips: Annotated[
        str | None,
        typer.Option("--lpips", metavar="NET", help="LPIPS too: alex, vgg or torchvision's file."),
    ] = None,
    crf: Annotated[
        int | None,
        typer.Option(
            "--crf", help="Of clips: the small one goes through x264.", show_default="as it is"
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option("--frames", help="Of each clip the first so many.", show_default="all"),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="A row for every picture or frame."),
    ] = None,
    backend: Backend = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", help="fp32, bf16, fp16 or int8.", show_default="the file's own"
        ),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """PSNR and SSIM of a model by the published protocol, beside bicubic.

    Luma (BT.601 studio), `scale` pixels cropped from each side, output rounded to 8 bit. Where
    there are HR pictures or clips alone, MATLAB's bicubic makes the small ones. Of clips also what
    moves from frame to frame that should not: flicker, and the error against the frame before,
    moved. A folder of several sets gives the mean of each.
    """
    if csv is not None and not csv.absolute().parent.is_dir():
        raise UsageError(f"--csv {csv} cannot be written: there is no folder {csv.parent}")
    distance = None
    if lpips is not None:
        need_training("edgesr eval --lpips")
        from edgesr.distill.lpips import load_lpips

        distance = load_lpips(lpips)
    from edgesr.distill.evaluate import More, evaluate_sets
    from edgesr.distill.scores import summary_lines, to_dict, write_csv

    said = time.monotonic()

    def tell(name: str, total: int | None, done: int) -> None:
        nonlocal said
        raise_lost()
        if not quiet and time.monotonic() >= said + 5.0:
            said = time.monotonic()
            typer.echo(f"{name}: {done}" + ("" if total is None else f"/{total}"), err=True)

    tables = evaluate_sets(
        model,
        data,
        scale=scale,
        backend=backend,
        precision=precision,
        threads=threads,
        device=device,
        more=More(ms_ssim=True, lpips=distance),
        crf=crf,
        frames=frames,
        on_progress=tell,
    )
    if csv is not None:
        write_csv(csv, tables)
    if json_:
        typer.echo(json.dumps(to_dict(tables), indent=2))
        return
    for line in tables[0].lines() if len(tables) == 1 else summary_lines(tables):
        typer.echo(line)
    if not quiet:
        typer.echo(f"{tables[0].model}, {tables[0].runs}; PSNR in dB", err=True)


def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .pth, .pt, .ckpt or .safetensors file.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="M.safetensors",
            help="Where to.",
            show_default="<FILE>.safetensors",
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            "-s",
            help="Of networks whose tensors do not tell it.",
            show_default="as in the file's name",
        ),
    ] = None,
    range_: Annotated[
        int | None,
        typer.Option(
            "--range",
            metavar="1|255",
            help="What white was for the network in FILE.",
            show_default="as published",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-y", help="Replace M.safetensors.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Turn somebody else's checkpoint into one of edgesr, recognised by its tensors' names.

    Only tensors are read; code in the file is never run.
    """
    need_training("edgesr convert")
    from edgesr.networks import find
    from edgesr.networks.convert import convert as run
    from edgesr.networks.convert import save

    out = out or file.with_suffix(".safetensors")
    if out.suffix != ".safetensors":
        raise UsageError(f"{out}: a checkpoint ends in .safetensors")
    if file.exists() and out.exists() and out.samefile(file):
        raise UsageError(f"{out} is the file to be converted: choose another --out")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists already: add --overwrite, or choose another --out")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out} cannot be written: there is no folder {out.parent}")
    found = run(file, scale=scale, white=range_)
    save(found, out)
    if json_:
        typer.echo(json.dumps(found.to_dict() | {"path": str(out)}, indent=2))
    elif not quiet:
        advice = (
            f"; next: edgesr export {out}" if find(found.spec.network).kind == "picture" else ""
        )
        typer.echo(f"{out}: {found}{advice}")


def need_training(verb: str) -> None:
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependency(f"{verb} needs {error.name}: pip install 'edgesr[train]'") from None
