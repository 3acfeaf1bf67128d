"""The trainer's verbs as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from media import write_video
from photos import write_photos

TINY = ["student=ecbsr-m4c8", "steps=6", "batch=2", "patch=16", "precision=fp32", "compile=false"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "edgesr", *map(str, arguments)]


def settings(*more: str) -> list[str]:
    return [word for setting in (*TINY, *more) for word in ("--set", setting)]


def edgesr(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )


def test_distill_then_export_then_eval(photos: Path, tmp_path: Path) -> None:
    """The loop that nobody else closes, in small."""
    done = edgesr("distill", "--data", photos, "--out", "run", *settings(), "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 6
    assert "photos decoded" in done.stderr

    done = edgesr("export", "run", "--out", "a.onnx", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["difference"]["max_abs"] <= 1e-4
    assert report["spec"]["name"] == "ecbsr-m4c8-x2"

    done = edgesr("eval", "--model", "a.onnx", "--data", photos, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["pictures"]) == 4

    again = edgesr("export", "run", "--out", "a.onnx", cwd=tmp_path)
    assert again.returncode == 2
    assert again.stderr == (
        "error: a.onnx exists already: add --overwrite, or choose another --out\n"
    )


def test_without_out_the_run_is_named_by_date(photos: Path, tmp_path: Path) -> None:
    done = edgesr("distill", "--data", photos, *settings("steps=1"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.endswith("-ecbsr-m4c8-x2")


def test_ctrl_c_saves_and_resume_goes_on(photos: Path, tmp_path: Path) -> None:
    arguments = ["distill", "--data", photos, "--out", "run", *settings("steps=100000")]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "loss" in line:  # it trains
            process.send_signal(signal.SIGINT)
            break
    rest = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 130
    assert "--resume goes on" in rest
    assert "Traceback" not in rest
    assert (tmp_path / "run" / "state.safetensors").is_file()

    refused = edgesr(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "add --resume" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["distill"], "--data is missing, a folder of photos or a clip. For example: edgesr"),
        (["distill", "--compare", "--data", "."], "--compare: there is no teacher"),
        (["distill", "--data", "nowhere"], "--data nowhere: no such folder or file"),
        (["distill", "--data", ".", "--set", "lr"], "write key=value"),
        (["distill", "--data", ".", "--recipe", "cubist"], "one of bicubic"),
        (["distill", "--data", ".", "--student", "espn"], "did you mean 'espcn'"),
        (
            ["distill", "--data", ".", "--set", "config={wide=2}"],
            "config.wide: ecbsr-m10c16 has no",
        ),
        (["distill", "--data", ".", "--student", "basicvsr"], "a video network"),
        (["eval", "--data", "nowhere"], "nowhere: no such folder of pictures"),
        (["export", "--io", "int4"], "--io 'int4': float32 or uint8"),
        (["export", "m.pth"], "give a .safetensors checkpoint"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = edgesr(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.parametrize("verb", ["distill", "eval", "export"])
def test_help_has_an_example(verb: str, tmp_path: Path) -> None:
    done = edgesr(verb, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"Example: edgesr {verb}" in done.stdout


def test_wrong_data_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_photos(tmp_path / "small", 3, height=40, width=40)
    write_photos(tmp_path / "pairs" / "HR", 3)
    write_photos(tmp_path / "pairs" / "LR" / "x2", 3, height=40, width=64)
    for words, message in (
        (["--data", "empty"], "--data empty: no pictures"),
        (["--data", "small"], "smaller than a crop of 48 pixels at x2"),
        (["--data", "pairs"], "64x40, which is not 1/2 of 128x96"),
        (["--data", "small", "--set", "patch_size=8"], "known are student"),
        (["--on", "small"], "photos go to --data"),
        (["--on", "small", "--data", "small"], "--on with --data"),
    ):
        done = edgesr("distill", *words, "--out", "run", "--quiet", cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_line(photos: Path, tmp_path: Path) -> None:
    """A limit on the size of files is the full disk of one process; the cache was made before."""
    words = ["distill", "--data", str(photos), "--quiet", *settings("save_every=3")]
    assert edgesr(*words, "--out", "good", cwd=tmp_path).returncode == 0
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000))\n"
        "from edgesr.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *words, "--out", "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 1
    assert "--out run cannot be written: " in done.stderr
    assert "File too large" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not [file for file in (tmp_path / "run").iterdir() if file.name.endswith(".part")]


def test_specialise_from_the_command_line(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", size=(128, 96), frames=60, rate=10)
    words = ["steps=4", "batch=2", "patch=16", "validate_every=2"]
    pairs = [word for setting in words for word in ("--set", setting)]
    done = edgesr("distill", "--on", "film.mp4", "--out", "run", *pairs, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, _, bicubic, before, after, change, verdict = done.stdout.splitlines()
    assert "held-out frames" in head
    assert [line.split()[0] for line in (bicubic, before, after, change)] == [
        *("bicubic", "before", "after", "change")
    ]
    assert "measured on the held-out parts" in verdict
    assert (tmp_path / "run" / "model.onnx").is_file()
