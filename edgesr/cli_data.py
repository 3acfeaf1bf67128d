"""The verbs `data list` and `data get`: named sets of pictures from where they are published."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesr.cli_run import Json, Quiet
from edgesr.errors import Interrupted
from edgesr.interrupts import raise_lost

if TYPE_CHECKING:
    from edgesr.distill.download import Transfer

LINE_EVERY = 5.0  # seconds between two plain lines

data = typer.Typer(
    no_args_is_help=True,
    help="Pictures to train and test with: list the named sets, get one.",
    epilog="Example: edgesr data get Set5",
)


@data.callback()
def _options(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors and warnings only.")] = False,
) -> None:
    if quiet:  # also where it stands before `list` and `get`, or before `data`
        ctx.default_map = {"list": {"quiet": True}, "get": {"quiet": True}}


@data.command("list", epilog="Example: edgesr data list --json")
def list_(json_: Json = False, quiet: Quiet = False) -> None:
    """List the named sets: how many pictures, how large a download, whose terms."""
    from edgesr.cli_progress import note
    from edgesr.distill.download import in_words
    from edgesr.distill.sets import SETS

    if json_:
        listed = [
            {
                "name": known.name,
                "pictures": known.pictures,
                "use": known.use,
                "bytes": known.size,
                "terms": known.terms,
                "page": known.page,
                "archives": [
                    {"url": archive.url, "bytes": archive.size, "checksum": archive.checksum}
                    for archive in known.archives
                ],
            }
            for known in SETS.values()
        ]
        typer.echo(json.dumps({"schema": 1, "sets": listed}, indent=2))
        return
    rows = [["set", "pictures", "for", "download", "terms"]]
    for known in SETS.values():
        size = "by hand" if not known.archives else in_words(known.size) if known.size else "?"
        rows.append([known.name, str(known.pictures), known.use, size, known.terms])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for name, pictures, use, size, terms in rows:
        typer.echo(
            f"{name:<{widths[0]}}  {pictures:>{widths[1]}}  {use:<{widths[2]}}  "
            f"{size:>{widths[3]}}  {terms}"
        )
    if not quiet:
        note(
            "edgesr data get NAME fetches one from its authors' page; Set5, Set14, B100 and "
            "Urban100 come in one archive; ?: size not published"
        )


@data.command("get", epilog="Example: edgesr data get Set5 Set14 --out data")
def get(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Names of `edgesr data list`.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Sets go to DIR/NAME.")] = Path(
        "data"
    ),
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download sets and unpack them to DIR/NAME; what broke off goes on with the same command."""
    from edgesr.cli_progress import note
    from edgesr.distill.fetch import get as run
    from edgesr.distill.sets import find_set

    wanted = [find_set(name) for name in names]
    if not quiet:
        for one in wanted:
            note(f"{one.name}: {one.terms} ({one.page})")
    try:
        with DownloadMeter(quiet=quiet) as meter:
            done = run(
                names, out, progress=meter.update, on_unpack=meter.unpacked, on_note=meter.note
            )
    except KeyboardInterrupt:
        raise Interrupted("stopped: what has come is kept, the same command goes on") from None
    if json_:
        sets = [
            {"name": got.name, "path": str(got.path), "files": got.files, "sha256": got.sha256}
            for got in done
        ]
        typer.echo(json.dumps({"schema": 1, "sets": sets}, indent=2))
        return
    for one, got in zip({one.name: one for one in wanted}.values(), done, strict=True):
        what = f"{got.files} files" if got.files else "is there already"
        typer.echo(f"{got.path}: {what}; pictures in {got.path / one.hr}")
        for url, value in got.first:
            typer.echo(f"{url}: no checksum is published; its sha256 {value} is remembered")


class DownloadMeter:
    """A bar with rate and time left on a terminal, a plain line now and then elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._next_line = time.monotonic() + LINE_EVERY

    def __enter__(self) -> DownloadMeter:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[line]}", markup=False),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None, line="connecting")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, transfer: Transfer) -> None:
        self._show(transfer.name, transfer.done, transfer.total, describe(transfer))

    def unpacked(self, done: int, total: int) -> None:
        self._show("unpacking", done, total, f"{done}/{total} files")

    def note(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif not self._quiet:
            typer.echo(line, err=True)

    def _show(self, name: str, done: int, total: int | None, line: str) -> None:
        raise_lost()
        if self._bar is not None:
            self._bar.update(self._task, description=name, completed=done, total=total, line=line)
        elif not self._quiet and time.monotonic() >= self._next_line:
            typer.echo(f"{name}: {line}", err=True)
            self._next_line = time.monotonic() + LINE_EVERY


def describe(transfer: Transfer) -> str:
    """ "1.20 GB of 3.53 GB, 12.3 MB/s, 3:10 left"; what is not known is left out."""
    from edgesr.cli_progress import clock
    from edgesr.distill.download import in_words

    total = "" if transfer.total is None else f" of {in_words(transfer.total)}"
    parts = [f"{in_words(transfer.done)}{total}"]
    if transfer.rate is not None:
        parts.append(f"{in_words(transfer.rate)}/s")
    if transfer.eta is not None:
        parts.append(f"{clock(transfer.eta)} left")
    return ", ".join(parts)
