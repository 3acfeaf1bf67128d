"""`edgesr export` as a user types it: every form, its name and report, nothing private."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import export_folder
import numpy as np
import onnxruntime
import pytest
from export_folder import CALIB, TELLTALE, Captured, made, run

from edgesr import models
from edgesr.export.plan import Form, Wish, places

FORMS = ("--onnx", "--fp16", "--int8", "--trt", "fp32", "--trt", "fp16", "--trt", "int8")

home = export_folder.home
net = export_folder.net


def test_alone_it_writes_onnx_and_a_report(home: Path, net: Path, capsys: Captured) -> None:
    assert run("export", net, "--out", "a.onnx") == 0
    said = capsys.readouterr().out
    assert made(home) == {"a.onnx", "a.onnx.report.json"}
    assert (
        said.splitlines()[-1]
        == f"a.onnx: ONNX fp32, {(home / 'a.onnx').stat().st_size / 1024:.0f} KiB"
    )
    assert "ort fp32" in said
    report = json.loads((home / "a.onnx.report.json").read_text())
    assert {row["file"] for row in report["candidates"]} == {"a.onnx"}
    assert all(row["max_abs"] < 0.1 and row["ms"] for row in report["candidates"])


def private(home: Path) -> list[bytes]:
    words = [TELLTALE, str(home), "/work", "/tmp", "/home", "site-packages", ".py", "stack_trace"]
    user = getpass.getuser()
    return [word.encode() for word in [*words, *([user] if len(user) > 3 else [])]]


@pytest.mark.parametrize("forms", [FORMS, ("--openvino",), ("--openvino", "--int8")])
def test_every_form_is_written_and_holds_nothing_private(
    home: Path, net: Path, capsys: Captured, forms: tuple[str, ...]
) -> None:
    pytest.importorskip("openvino")
    calib = CALIB if {"--int8", "int8"} & set(forms) else ()
    assert run("export", net, *forms, *calib, "--out", "m", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    flavours = [log["flavour"] for log in report["gate"]["repairs"]]
    assert (
        sorted(flavours)
        == {
            FORMS: ["openvino", "ort", "trt", "trt8"],
            ("--openvino",): [],
            ("--openvino", "--int8"): ["openvino", "ort"],
        }[forms]
    )
    files = {Path(file).name for artefact in report["artefacts"] for file in artefact["files"]}
    reports = {Path(artefact["report"]).name for artefact in report["artefacts"]}
    expected = {
        FORMS: {
            "m.onnx",
            "m-fp32.onnx",
            "m-fp16.onnx",
            "m-int8.onnx",
            "m-int8-openvino.onnx",
            "m-int8-tensorrt.onnx",
            "m-int8-tensorrt8.onnx",
        },
        ("--openvino",): {"m.xml", "m.bin", "m.json"},
        ("--openvino", "--int8"): {
            "m-int8.onnx",
            "m-int8-openvino.onnx",
            "m-int8.xml",
            "m-int8.bin",
            "m-int8.json",
        },
    }[forms]
    assert files == expected
    assert made(home) == files | reports
    for path in sorted(files | reports):
        content = (home / path).read_bytes()
        found = [word for word in private(home) if word in content]
        assert not found, path


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no torch")
def test_nothing_private_from_a_checkpoint_either(home: Path, capsys: Captured) -> None:
    """Torch leaves stack traces with local paths in every node that it exports."""
    import torch

    from edgesr.networks import build, checkpoint

    torch.manual_seed(0)
    network = build("ecbsr-m4c8", 2)
    spec = checkpoint.spec_of("ecbsr-m4c8", network)
    checkpoint.save(home / "c.safetensors", network.state_dict(), spec=spec, model=network)
    assert run("export", "c.safetensors", "--onnx", "--fp16", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["difference"]["max_abs"] < 1e-4
    for artefact in report["artefacts"]:
        content = Path(artefact["path"]).read_bytes()
        assert not [word for word in private(home) if word in content]


def test_trt_without_tensorrt_ends_well_and_says_what_to_type(
    home: Path, net: Path, capsys: Captured
) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is here")
    assert run("export", net, "--trt", "fp16", "--out", "m", "--json") == 0
    (engine,) = json.loads(capsys.readouterr().out)["engines"]
    assert engine["engine"] is None
    assert any("edgesr export m-fp16.onnx --trt fp16" in line for line in engine["commands"])
    assert run("export", net, "--trt", "fp16", "--out", "n", "--require-engine") == 1
    assert "no TensorRT engine can be built here" in capsys.readouterr().err
    assert made(home) == {"m-fp16.onnx", "m-fp16.onnx.report.json"}
    # On the device the typed file is the model.
    assert run("export", "m-fp16.onnx", "--trt", "fp16") == 1
    assert "no engine can be built here" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["--onnx", "--fp16", "--int8"])
def test_8_bit_ends_and_a_size(home: Path, net: Path, form: str) -> None:
    calib = CALIB if form == "--int8" else ()
    words = ["--io", "uint8", "--size", "40x24", "--out", "m.onnx", "--quiet"]
    assert run("export", net, form, *words, *calib) == 0
    spec = models.load_file(home / "m.onnx").spec
    assert (spec.io.dtype, spec.fixed_size) == ("uint8", (24, 40))
    session = onnxruntime.InferenceSession(str(home / "m.onnx"), providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape) == (
        "tensor(uint8)",
        [1, 1, 24, 40],
    )
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 24, 40), np.uint8)
    plain = onnxruntime.InferenceSession(str(net), providers=["CPUExecutionProvider"])
    exact = plain.run(None, {"x": picture.astype(np.float32) / 255})[0] * 255
    off = np.abs(session.run(None, {"x": picture})[0] - np.clip(exact, 0, 255))
    assert off.mean() < (8.0 if form == "--int8" else 0.6)


def test_eval_is_a_set_of_the_report(home: Path, net: Path, capsys: Captured) -> None:
    pytest.importorskip("torch")
    assert run("export", net, "--fp16", "--eval", "photos", "--json") == 0
    gate = json.loads(capsys.readouterr().out)["gate"]
    assert gate["measured_on"] == {"photos": 5}
    assert all(abs(row["drop"]) < 0.1 for row in gate["candidates"])


def test_list_says_what_is_missing(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("export", "--list", "--json") == 0
    found = {t["option"]: t["why_not"] for t in json.loads(capsys.readouterr().out)["targets"]}
    assert found["--onnx"] is None
    real = importlib.util.find_spec
    hidden = ("nncf", "tensorrt", "openvino")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in hidden else real(name)
    )
    assert run("export", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    text = {line.split("  ")[0]: line for line in lines}
    assert "pip install openvino" in text["--openvino"]
    assert "tensorrt is not installed" in text["engine"]


def test_names_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = True
    monkeypatch.setattr("edgesr.export.plan.openvino_here", lambda: here)

    def names(**wish: Any) -> list[str]:
        return [path.name for path in places(Wish(model="m", **wish), "net-x2")]

    assert names() == ["net-x2.onnx"]
    assert names(io="uint8", size=(360, 640)) == ["net-x2-uint8-640x360.onnx"]
    both = ["net-x2-int8.onnx", "net-x2-int8-openvino.onnx"]
    assert names(onnx=True, int8=True) == ["net-x2.onnx", *both]
    assert names(openvino=True, int8=True) == [*both, "net-x2-int8.xml"]
    assert names(int8=True, out=tmp_path / "a") == ["a.onnx", "a-openvino.onnx"]
    assert names(int8=True, out=tmp_path / "a-int8.onnx") == ["a-int8.onnx", "a-int8-openvino.onnx"]
    assert names(int8=True, out=tmp_path / "none", folder=True) == both
    assert names(fp16=True, out=tmp_path / "a.onnx") == ["a.onnx"]
    assert names(fp16=True, out=tmp_path / "a-v1.2") == ["a-v1.2.onnx"]
    assert names(fp16=True, onnx=True, out=tmp_path / "a.onnx") == ["a.onnx", "a-fp16.onnx"]
    assert names(fp16=True, out=tmp_path) == ["net-x2-fp16.onnx"]
    here = False
    assert names(int8=True, out=tmp_path / "a") == ["a.onnx"]
    assert names(int8=True, openvino=True) == ["net-x2-int8.onnx", "net-x2-int8.xml"]
    assert names(trt=("fp16",), out=tmp_path / "a.plan") == ["a"]
    assert Wish(model="m", trt=("fp16",)).forms == (Form("trt", "fp16"),)


def test_no_torch_for_an_onnx_file(home: Path, net: Path) -> None:
    code = (
        "import sys; from edgesr.cli import run; "
        "assert run(['export', 'tiny.onnx', '--fp16', '--quiet']) == 0; "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=home,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
