"""The command line. A verb parses its options, then imports the one module it needs.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 the job failed, 2 it cannot
be meant, 130 interrupted. To add a verb, write a plain function (`cli_*.py`) and register it below.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from edgesr import __version__
from edgesr.cli_data import data
from edgesr.cli_export import EXPORT_EXAMPLE, export
from edgesr.cli_models import models
from edgesr.cli_run import bench, image, stream
from edgesr.cli_train import DISTILL_EXAMPLE, convert, distill, eval_
from edgesr.errors import EdgesrError, Interrupted
from edgesr.interrupts import listen

app = typer.Typer(
    name="edgesr",
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Small super-resolution networks on live or recorded video.",
    epilog="Start with: edgesr stream in.mp4 out.mp4",
)
app.command("stream", epilog="Example: edgesr stream in.mp4 out.mp4 --scale 2")(stream)
app.command("image", epilog="Example: edgesr image photo.jpg large.png --scale 4")(image)
app.command("models", epilog="Example: edgesr models --json")(models)
app.command("bench", epilog="Example: edgesr bench --size 1280x720 --fps 30")(bench)
app.command("eval", epilog="Example: edgesr eval --model ecbsr-m4c16-x2 --data Set5/")(eval_)
app.command("distill", epilog=f"Example: {DISTILL_EXAMPLE}")(distill)
app.command("export", epilog=f"Example: {EXPORT_EXAMPLE}")(export)
app.command(
    "convert", epilog="Example: edgesr convert RealESRGAN_x4plus.pth -o x4plus.safetensors"
)(convert)
app.add_typer(data, name="data")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"edgesr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Say which version this is."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Errors and warnings only; also after the verb.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from (or EDGESR_DEBUG=1).")
    ] = False,
) -> None:
    if quiet and ctx.invoked_subcommand is not None:
        ctx.default_map = {ctx.invoked_subcommand: {"quiet": True}}


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name); its exit code."""
    debug = "--debug" in arguments or bool(os.environ.get("EDGESR_DEBUG"))
    try:
        result = typer.main.get_command(app).main(
            list(arguments), prog_name="edgesr", standalone_mode=False
        )
        sys.stdout.flush()  # a closed pipe is noticed here, not while Python ends
        return result if isinstance(result, int) else 0
    except Interrupted as error:
        _say(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return Interrupted.exit_code
    except EdgesrError as error:
        if _was_interrupted(error):
            return Interrupted.exit_code
        return _fail(str(error), error.exit_code, debug=debug)
    except BrokenPipeError:  # `edgesr models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if _was_interrupted(error):
            return Interrupted.exit_code
        if hasattr(error, "format_message"):  # a ClickException; typer brings its own copy of them
            message = error.format_message()  # empty when there were no arguments: help was shown
            return _fail(message, 2, debug=debug) if message else 2
        advice = "" if debug else "; a bug in edgesr: `edgesr --debug ...` tells more, report that"
        return _fail(f"{type(error).__name__}: {error}{advice}", 1, debug=debug)


def main() -> NoReturn:
    """The console script."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # its lines stand beside ours otherwise
    listen()  # `kill` ends a job like Ctrl-C: cleaned up, nothing half-written left behind
    code = run(sys.argv[1:])
    if code == Interrupted.exit_code:
        # Python ends with SIGINT instead of this code if the interrupt ever passed through a C
        # extension; and nobody who pressed Ctrl-C wants to wait for libraries to wind down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C stands behind it: a C extension that is loading makes it an ImportError."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(message: str, code: int, *, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _say("error: " + " ".join(message.split()), colour=typer.colors.RED)
    return code


def _say(line: str, colour: str | None = None) -> None:
    typer.secho(line, err=True, fg=colour)
