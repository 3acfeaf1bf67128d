from __future__ import annotations

import sys
from typing import Any

import pytest

from edgesr import cli_progress
from edgesr.runtime.progress import Progress

Captured = pytest.CaptureFixture[str]


def progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "frames": 240,
        "total": 1440,
        "fps": 32.14,
        "eta": 37.4,
        "slowest": "infer",
        "elapsed": 8.0,
    }
    return Progress(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "240/1440 frames, 32.1 fps, 0:37 left, slowest: infer"),
        ({"eta": 3725.0}, "240/1440 frames, 32.1 fps, 1:02:05 left, slowest: infer"),
        ({"total": None, "eta": None}, "240 frames, 32.1 fps, slowest: infer"),
        ({"frames": 0, "fps": None, "eta": None, "slowest": None}, "0/1440 frames"),
    ],
)
def test_progress_leaves_out_what_is_not_known(changes: dict[str, Any], line: str) -> None:
    assert cli_progress.describe(progress(**changes)) == line


def test_plain_lines_when_piped(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(cli_progress, "LINE_EVERY", -1.0)
    with cli_progress.Meter("out.mp4", quiet=False) as meter:
        meter.update(progress())
        meter.warn("something [bold]odd")
        meter.update(progress(done=True))
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "out.mp4: 240/1440 frames, 32.1 fps, 0:37 left, slowest: infer\n"
        "warning: something [bold]odd\n"
    )


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with cli_progress.Meter("out [1].mp4", quiet=False) as meter:
        meter.update(progress())
        meter.warn("something [bold]odd")
    said = capsys.readouterr()
    assert said.out == ""
    assert "out [1].mp4" in said.err
    assert "240/1440 frames, 32.1 fps" in said.err
    assert "warning: something [bold]odd" in said.err
