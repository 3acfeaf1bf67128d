"""What the command line says when it cannot do what was asked, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_models
import pytest

from edgesr import cli
from edgesr.errors import BackendError
from edgesr.runtime import bench, stream
from edgesr.runtime.clip import make_clip

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGESR_DEBUG", raising=False)


def edgesr(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgesr", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def run(*arguments: Any) -> int:
    return cli.run([str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("stream IN OUT --model ecbsr-m4c61", 1, "did you mean 'ecbsr-m10c16'"),
        ("stream IN OUT --scale 3", 2, "no scale 3: there is --scale 2, --scale 4"),
        ("stream IN OUT --model ecbsr-m10c16-x2 --scale 4", 2, "scale 4 was asked for"),
        ("stream IN OUT --backend tensorflow", 2, "no backend 'tensorflow'"),
        ("stream IN OUT --backend ort --precision bf16", 1, "--backend openvino"),
        ("stream IN OUT --threads 0", 2, "1 or more"),
        ("stream NONE OUT", 1, "no such file"),
        ("stream TEXT OUT", 1, "text.mp4"),
        ("stream IN IN", 2, "is the input itself"),
        ("stream IN IN --overwrite", 2, "is the input itself"),
        ("stream IN EXISTING", 2, "--overwrite"),
        ("stream IN FOLDER", 2, "folder"),
        ("stream IN NOWHERE/out.mp4", 1, "there is no folder"),
        ("stream IN /proc/out.mp4", 1, "cannot be written"),
        ("stream IN out", 2, ""),
        ("image NONE OUT.png", 1, "no such file"),
        ("image TEXT OUT.png", 1, "not a picture"),
        ("image TEXT TEXT", 2, ""),
        ("image PNG OUT.xyz", 2, "written as"),
        ("image PNG OUT.png --model nothing", 1, "no model 'nothing'"),
        ("image PNG OUT.png --scale 3", 2, "no scale 3"),
        ("image PNG NOWHERE/a.png", 1, "there is no folder"),
        ("bench --size huge", 2, "WIDTHxHEIGHT"),
        ("bench --model nothing", 1, "no model 'nothing'"),
        ("bench --input NONE", 1, "no such file"),
        ("strem a b", 2, "stream"),
        ("stream", 2, "IN"),
        ("stream IN OUT --crf good", 2, "--crf"),
        ("stream IN OUT --no-such-option", 2, "--no-such-option"),
    ],
)
def test_errors_are_one_line(
    zoo: Path, clip: Path, tmp_path: Path, capsys: Captured, line: str, code: int, message: str
) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 99)
    (tmp_path / "exists.mp4").touch()
    (tmp_path / "folder").mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4), np.uint8))
    names = {
        "IN": clip,
        "OUT": tmp_path / "out.mp4",
        "OUT.png": tmp_path / "out.png",
        "OUT.xyz": tmp_path / "out.xyz",
        "NONE": tmp_path / "none.mp4",
        "TEXT": tmp_path / "text.mp4",
        "EXISTING": tmp_path / "exists.mp4",
        "FOLDER": tmp_path / "folder",
        "NOWHERE/out.mp4": tmp_path / "nowhere" / "out.mp4",
        "NOWHERE/a.png": tmp_path / "nowhere" / "a.png",
        "PNG": tmp_path / "a.png",
        "out": tmp_path / "out",
    }
    before = sorted(tmp_path.rglob("*"))
    assert run(*(names.get(word, word) for word in line.split())) == code
    said = capsys.readouterr()
    assert said.out == ""
    lines = [text for text in said.err.splitlines() if text.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in said.err
    assert sorted(tmp_path.rglob("*")) == before


def test_errors_from_a_real_process(net: Path, tmp_path: Path) -> None:
    result = edgesr("stream", tmp_path / "none.mp4", tmp_path / "out.mp4", "--model", net)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: {tmp_path / 'none.mp4'}: no such file\n"
    result = edgesr("image", tmp_path / "none.png", tmp_path / "out.gif", "--model", net)
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("debug", ["option", "environment"])
def test_debug_shows_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, debug: str
) -> None:
    if debug == "environment":
        monkeypatch.setenv("EDGESR_DEBUG", "1")
    assert run(*(["--debug"] if debug == "option" else []), "stream", "none.mp4", "out.mp4") == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1] == "error: none.mp4: no such file"


def test_a_bug_is_one_line_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(stream, "stream", broken)
    assert run("stream", "a.mp4", "b.mp4") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ZeroDivisionError: division by zero; a bug")
    assert (said.count("\n"), "edgesr --debug" in said) == (1, True)


def test_ctrl_c_anywhere_is_130(monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "bench", interrupted)
    assert run("bench") == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", [ImportError, BackendError])
def test_ctrl_c_while_a_runtime_loads_is_130(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured, kind: type[Exception]
) -> None:
    def loading(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise kind("initialization failed") from error

    monkeypatch.setattr(bench, "bench", loading)
    assert run("bench") == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    net = onnx_models.convolutions(tmp_path / "net.onnx", layers=6, width=32)
    clip = make_clip(tmp_path / "in.mp4", width=320, height=240, frames=400, rate=25)
    before = sorted(tmp_path.iterdir())
    command = [sys.executable, "-m", "edgesr", "stream", clip, tmp_path / "out.mp4", "--model", net]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(sorted(tmp_path.iterdir())) == len(before):  # until it has begun to write
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 130
    assert (out, "Traceback" in err, "error" in err) == ("", False, False)
    assert sorted(tmp_path.iterdir()) == before


def test_a_closed_pipe_is_quiet(tmp_path: Path, zoo: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from edgesr import cli, models; "
        f"models._weights = lambda: Path({str(zoo)!r}); sys.argv[1:] = ['models']; cli.main()"
    )
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert result.stderr == ""
