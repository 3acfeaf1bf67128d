from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from edgesr import __version__, cli, cli_run, models
from edgesr.errors import UsageError
from edgesr.runtime import bench, stream

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EDGESR_DEBUG", raising=False)


def run(*arguments: Any) -> int:
    return cli.run([str(argument) for argument in arguments])


def loaded_by(*arguments: Any) -> set[str]:
    """Top-level modules in a fresh interpreter after one command line."""
    code = (
        "import sys; from edgesr.cli import run; code = run(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return {name.partition(".")[0] for name in result.stderr.splitlines()[-1].split()}


HEAVY = {"cv2", "av", "torch", "onnx", "onnxruntime", "openvino", "numpy"}


@pytest.mark.parametrize("verb", [None, "stream", "image", "models", "bench"])
def test_help_imports_nothing_heavy(verb: str | None) -> None:
    loaded = loaded_by(*([verb] if verb else []), "--help")
    assert not loaded & HEAVY
    assert "typer" in loaded


def test_running_a_model_needs_no_torch(net: Path, clip: Path, tmp_path: Path) -> None:
    loaded = loaded_by("stream", clip, tmp_path / "out.mp4", "--model", net)
    assert not loaded & {"torch", "onnx"}
    assert "av" in loaded


def test_every_verb_has_an_example(capsys: Captured) -> None:
    verbs = [command.name for command in cli.app.registered_commands]
    assert {"stream", "image", "models", "bench"} <= set(verbs)
    for verb in verbs:
        assert run(verb, "--help") == 0
        assert f"Example: edgesr {verb} " in capsys.readouterr().out


def test_version(capsys: Captured) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"edgesr {__version__}\n"


def test_default_model_is_the_same_everywhere() -> None:
    assert cli_run.DEFAULT_MODEL == models.DEFAULT_MODEL


@pytest.mark.parametrize(
    ("fps", "rate", "name", "said"),
    [
        (20.0, "30", "ecbsr-m10c16-x2-video", "20.0 of 30 fps): --model ecbsr-m4c16-x2-video is"),
        (20.0, "30000/1001", "ecbsr-m10c16-x4", "of 29.97 fps): --model ecbsr-m4c16-x4 is"),
        (29.9, "30", "ecbsr-m10c16-x2-video", None),
        (20.0, None, "ecbsr-m10c16-x2-video", None),
        (None, "30", "ecbsr-m10c16-x2-video", None),
        (20.0, "30", "ecbsr-m10c16-x8", None),
    ],
)
def test_slow_machines_are_told_of_the_faster_model(
    fps: float | None, rate: str | None, name: str, said: str | None
) -> None:
    stats = SimpleNamespace(fps=fps, input={"rate": rate}, model={"name": name})
    hint = cli_run._faster(stats)  # type: ignore[arg-type]
    assert (hint is None) if said is None else (hint is not None and said in hint)


def test_stream(net: Path, clip: Path, tmp_path: Path, capsys: Captured) -> None:
    out, stats = tmp_path / "out.mp4", tmp_path / "stats.json"
    assert run("stream", clip, out, "--model", net, "--backend", "ort", "--stats", stats) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{out}: 7 frames, 128x96 h264, ")
    assert said.out.endswith("convolutions-x2 on ort fp32 (rule)\n")
    assert json.loads(stats.read_text())["frames"]["out"] == 7
    assert run("stream", clip, out, "--model", net, "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["frames"]["out"] == 7
    assert run("--quiet", "stream", clip, out, "--model", net, "-y") == 0
    assert run("stream", clip, out, "--model", net, "-y", "-q") == 0
    assert capsys.readouterr() == ("", "")


def test_stream_hands_every_option_over(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def fake(input: Path, output: Path, **options: Any) -> None:
        seen.update(options, input=input, output=output)
        raise UsageError("enough")

    monkeypatch.setattr(stream, "stream", fake)
    line = (
        "stream a.mp4 b.mkv --model m --scale 3 --backend ort --precision fp32 --codec hevc "
        "--crf 20 --preset fast --threads 2 --overwrite --strict --keep-partial --stats s.json "
        "--device cuda:1"
    )
    assert run(*line.split()) == 2
    for function in ("progress", "on_warning", "on_note"):
        assert callable(seen.pop(function))
    assert seen == {
        "input": Path("a.mp4"),
        "output": Path("b.mkv"),
        "model": "m",
        "scale": 3,
        "backend": "ort",
        "precision": "fp32",
        "device": "cuda:1",
        "codec": "hevc",
        "crf": 20,
        "preset": "fast",
        "threads": 2,
        "overwrite": True,
        "strict": True,
        "keep_partial": True,
        "stats": Path("s.json"),
    }


def test_image(net: Path, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((4, 6), np.uint8))
    options = ("--model", net, "--backend", "ort")
    assert run("image", folder / "a.png", tmp_path / "b.png", *options) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'b.png'}: 1 picture; convolutions-x2 on ort fp32 (rule)\n"
    assert cv2.imread(str(tmp_path / "b.png")).shape == (8, 12, 3)
    (folder / "bad.png").write_bytes(b"bad")
    assert run("image", folder, tmp_path / "out", *options, "--json") == 1
    said = capsys.readouterr()
    values = json.loads(said.out)
    assert (len(values["done"]), len(values["failed"])) == (1, 1)
    assert f"error: {folder / 'bad.png'} is not a picture" in said.err
    assert run("image", folder, tmp_path / "out", *options, "-y", "-q") == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


def test_models(zoo: Path, capsys: Captured) -> None:
    assert run("models") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["model", "scale", "parameters"]
    assert lines[1].startswith("ecbsr-m10c16-x2 *  ")
    assert lines[4] == ""  # three models, then the networks
    assert lines[5].split()[:3] == ["network", "at", "scales"]
    row = next(line.split() for line in lines if line.startswith("fsrcnn "))
    assert row == [
        "fsrcnn",
        "x2",
        "2,3,4",
        "y",
        "12,809",
        "12,809",
        "(lit.",
        "6.01)",
        "2.87",
        "8",
        "-",
    ]
    assert run("models", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    listed = values["models"]
    assert [m["name"] for m in listed] == ["ecbsr-m10c16-x2", "ecbsr-m10c16-x4", "espcn-x2"]
    assert [m["default"] for m in listed] == [True, False, False]
    assert Path(listed[0]["onnx"]).is_file()
    networks = {(n["name"], n["scale"]): n for n in values["networks"]}
    assert networks["ecbsr-m10c16", 2]["training"] > networks["ecbsr-m10c16", 2]["deployed"]


def test_models_tells_which_networks_have_weights(capsys: Captured) -> None:
    assert run("models", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    shipped = {(n["name"], n["scale"]): n["shipped"] for n in values["networks"]}
    assert shipped["espcn", 2] == "espcn-x2"
    assert shipped["fsrcnn", 2] is None
    names = {name for name in shipped.values() if name}
    assert names <= {m["name"] for m in values["models"]}  # of two trainings one is named
    assert len(names) >= 9


def test_models_at_one_scale(zoo: Path, capsys: Captured) -> None:
    assert run("models", "--scale", "4", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    assert {n["scale"] for n in values["networks"]} == {4}
    assert run("models", "--scale", "5") == 2
    assert "error: no network is offered at scale 5: " in capsys.readouterr().err


def test_models_shows_what_bench_measured(
    zoo: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "MADE_UP_FRAMES", (3, 3))
    assert run("bench", "--model", "espcn", "--size", "64x48", "--seconds", "0.01") == 0
    assert "keeps up with 30 fps" in capsys.readouterr().out
    run("models")
    assert capsys.readouterr().out.splitlines()[3].split()[-1] == "-"  # at another size
    assert run("bench", "--model", "espcn", "--seconds", "0.01", "--json") == 0
    values = json.loads(capsys.readouterr().out)
    fastest = min(values["runs"], key=lambda way: way["p50_ms"])
    run("models")
    row = capsys.readouterr().out.splitlines()[3].split()
    assert row[-3:] == [f"{fastest['p50_ms']:.1f}", fastest["backend"], fastest["precision"]]
