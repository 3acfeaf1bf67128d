"""`edgesr export` that cannot be meant, fails or is stopped: one line, and nothing is left."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import export_folder
import numpy as np
import pytest
from export_folder import Captured, made, run

from edgesr.export import job

home = export_folder.home
net = export_folder.net


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("--int8", 2, "--int8 needs --calib, what the model will see"),
        ("--trt int8", 2, "--trt int8 needs --calib"),
        ("--trt int4", 2, "--trt int4: fp32, fp16, int8"),
        ("--io int4", 2, "--io 'int4': float32 or uint8"),
        ("--size 640", 2, "--size 640: WIDTHxHEIGHT"),
        ("--size 0x20", 2, "--size 0x20: WIDTHxHEIGHT"),
        ("--size axb", 2, "WIDTHxHEIGHT"),
        ("--min 64x64", 2, "--min/--opt/--max is of a TensorRT engine"),
        ("--batch 4", 2, "--batch is of a TensorRT engine"),
        ("--require-engine", 2, "--require-engine is of a TensorRT engine"),
        ("--dla 0", 2, "--dla is of a TensorRT engine"),
        ("--trt fp16 --size 64x64 --min 64x64", 2, "give one or the other"),
        ("--trt fp16 --min 640x360 --max 64x64", 2, "each must be as large"),
        ("--trt fp16 --batch 0", 2, "--batch 0: 1 or more"),
        ("--qat", 2, "--qat fine-tunes INT8"),
        ("--calib-method entropy", 2, "--calib-method is how INT8 finds its ranges: edgesr export"),
        (
            "--int8 --calib photos --calib-method mean",
            2,
            "--calib-method mean: minmax, entropy, percentile",
        ),
        ("--max-drop -1", 2, "--max-drop -1: decibels above 0"),
        ("--int8 --calib none.mp4", 2, "--calib none.mp4: no such file"),
        ("--int8 --calib empty", 2, "holds no picture"),
        ("--int8 --calib flat", 2, "one flat colour"),
        ("--int8 --qat --calib photos", 2, "checkpoint"),
        ("--eval none", 2, "--eval none: no such folder"),
        ("--out nowhere/a.onnx", 2, "there is no folder nowhere"),
        ("--out there.onnx/", 2, "--out there.onnx/: there is a file of that name"),
        ("--int8 --calib flat --out new/deep/", 2, "one flat colour"),
        ("--out /proc/none/", 1, "cannot be written"),
        ("--out tiny.onnx", 2, "tiny.onnx is the model itself"),
        ("--out tiny.onnx --overwrite", 2, "tiny.onnx is the model itself"),
        ("--out there.onnx", 2, "there.onnx exists already: add --overwrite"),
        ("--out a.xml", 2, "ONNX fp32 ends in .onnx"),
        ("--out /proc/a.onnx", 1, "cannot be written"),
        ("--trt fp16 --out there", 2, "there-fp16.onnx exists already"),
        ("--openvino --out there.xml", 2, "there.json exists already"),
        ("--fp32", 2, "--fp32"),
    ],
)
def test_what_cannot_be_meant(
    home: Path, net: Path, capsys: Captured, line: str, code: int, message: str
) -> None:
    import cv2

    (home / "empty").mkdir()
    (home / "flat").mkdir()
    cv2.imwrite(str(home / "flat" / "a.png"), np.full((300, 300, 3), 90, np.uint8))
    for name in ("there.onnx", "there-fp16.onnx", "there.json"):
        (home / name).touch()
    before = sorted(home.rglob("*"))
    assert run("export", net, *line.split()) == code
    said = capsys.readouterr()
    assert said.out == ""
    (error,) = (text for text in said.err.splitlines() if text.startswith("error: "))
    assert message in error
    assert "Traceback" not in said.err
    assert sorted(home.rglob("*")) == before


def test_a_form_that_fails_leaves_nothing(
    home: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job, "judge", spoiled)
    assert run("export", net, "--fp16", "--quiet") == 1
    assert made(home) == set()


def test_ctrl_c_leaves_nothing(home: Path, net: Path) -> None:
    before = sorted(home.iterdir())
    command = [sys.executable, "-m", "edgesr", "export", str(net), "--fp16", "--out", "m.onnx"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=home)
    while len(sorted(home.iterdir())) == len(before):  # until it has begun to write
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert sorted(home.iterdir()) == before
