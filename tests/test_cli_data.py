"""`edgesr data` as a user types it: the list, a set that is got, its progress, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_server
import pytest
import served_sets
import typer
from file_server import Server
from served_sets import zipped

from edgesr import cli
from edgesr.cli_data import data as data_app
from edgesr.cli_data import describe
from edgesr.distill.download import Transfer, in_words
from edgesr.distill.sets import SETS, NamedSet

Captured = pytest.CaptureFixture[str]

server = file_server.server
table = served_sets.table


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    app = typer.Typer()
    app.add_typer(data_app, name="data")
    monkeypatch.setattr(cli, "app", app)
    return lambda *words: cli.run(["data", *map(str, words)])


def test_list_shows_every_set(verbs: Callable[..., int], capsys: Captured) -> None:
    assert verbs("list") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == ["set", *SETS]
    assert "3.98 GB  academic research only" in shown.out
    assert "by hand" in next(line for line in lines if line.startswith("Manga109"))
    assert "edgesr data get NAME" in shown.err
    assert verbs("-q", "list", "--json") == 0
    shown = capsys.readouterr()
    listed = json.loads(shown.out)["sets"]
    assert [known["name"] for known in listed] == list(SETS)
    assert listed[0]["bytes"] == 3_979_597_606
    assert shown.err == ""


def test_get_says_where_it_is(
    server: Server,
    table: dict[str, NamedSet],
    verbs: Callable[..., int],
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "d"
    monkeypatch.setattr("edgesr.cli_data.LINE_EVERY", -1.0)
    assert verbs("get", "set5", "--out", out) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'Set5'}: 2 files; pictures in {out / 'Set5/HR'}\n"
    assert "Set5: ours (http://example.org/page)" in shown.err
    size = in_words(len(server.files["bench.tar"]))
    assert f"bench.tar: {size} of {size}, " in shown.err
    assert "unpacking: 2/2 files" in shown.err
    assert "\r" not in shown.err
    assert verbs("get", "Set5", "--out", out, "--json", "-q") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["sets"][0]["files"] == 0
    assert shown.err == ""
    assert verbs("get", "Hand", "--out", out) == 2
    assert "error: Hand: register at" in capsys.readouterr().err


def test_progress_on_a_terminal(
    server: Server,
    table: dict[str, NamedSet],
    verbs: Callable[..., int],
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.break_after.append(1024)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert verbs("get", "Set5", "--out", tmp_path) == 0
    assert "broke off after 1,024" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("transfer", "line"),
    [
        ((1.2e9, 3.5306e9, 12_345_678.0, 190.0), "1.20 GB of 3.53 GB, 12.3 MB/s, 3:10 left"),
        ((512, None, None, None), "512 bytes"),
        ((99_999, 250_112_000, 900.0, None), "100 kB of 250 MB, 900 bytes/s"),
    ],
)
def test_progress_leaves_out_what_is_not_known(transfer: tuple[Any, ...], line: str) -> None:
    done, total, rate, eta = transfer
    assert describe(Transfer(name="a", done=done, total=total, rate=rate, eta=eta)) == line


SCRIPT = """
import sys
from edgesr import cli
from edgesr.cli_data import data
from edgesr.distill import sets
cli.app.add_typer(data, name="data")
archive = sets.Archive(url=sys.argv[1], kind="zip")
sets.SETS["Slow"] = sets.NamedSet(
    name="Slow", pictures=1, use="test", page="p", terms="t", archives=(archive,)
)
sys.argv = ["edgesr", "data", "get", "Slow", "--out", sys.argv[2]]
cli.main()
"""


def test_ctrl_c_keeps_the_part_and_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.files["slow.zip"] = zipped({"a.png": os.urandom(1_000_000)})
    server.slow = 0.2
    out = tmp_path / "d"
    command = [sys.executable, "-c", SCRIPT, f"{server.url}slow.zip", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        part = out / "slow.zip.part"
        while not (part.exists() and part.stat().st_size):
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == 130
    assert said.splitlines()[-1] == "stopped: what has come is kept, the same command goes on"
    kept = part.stat().st_size
    assert 0 < kept < len(server.files["slow.zip"])
    server.slow = 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert server.asked[-1] == ("slow.zip", f"bytes={kept}-")
    assert (out / "Slow/a.png").stat().st_size == 1_000_000
    assert "no checksum is published; its sha256" in done.stdout
    assert sorted(file.name for file in out.iterdir()) == ["Slow"]
