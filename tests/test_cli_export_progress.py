"""`edgesr export` says how far it is, and takes less of what is deep or slow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import export_folder
import pytest
from export_folder import CALIB, Captured, run

from edgesr.export import job, report, tensorrt
from edgesr.export.calibrate import crop_side
from edgesr.export.plan import Wish
from edgesr.export.source import load_source

home = export_folder.home
net = export_folder.net


def test_a_deep_network_sees_small_crops(
    home: Path, net: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (crop_side(["conv"] * 32), crop_side(["conv"] * 33)) == (128, 64)
    monkeypatch.setattr("edgesr.export.calibrate.DEEP", 1)
    assert run("export", net, "--fp16", "--calib", "photos") == 0
    assert "crops of 64x64" in capsys.readouterr().out


def test_a_slow_network_is_timed_small(
    home: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = load_source(str(net))
    monkeypatch.setattr("edgesr.export.report.SLOW", 1e9)
    assert report.part_timed(source) == 1
    monkeypatch.setattr("edgesr.export.report.SLOW", 0.0)
    assert report.part_timed(source) == 4
    assert run("export", net, "--out", "m.onnx") == 0
    told = json.loads((home / "m.onnx.report.json").read_text())
    assert told["size"] == "12x8"
    assert {len(row["ms"]) for row in told["candidates"]} == {1}


def test_an_engine_tells_how_far_it_is(
    home: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tensorrt.export_tensorrt

    def building(*arguments: Any, **options: Any) -> Any:
        options["on_progress"]("timing kernels", 0.5, 12.0)
        options["on_progress"]("timing kernels", 0.04, None)
        return real(*arguments, **options)

    monkeypatch.setattr(tensorrt, "export_tensorrt", building)
    notes: list[str] = []
    job.run(Wish(model=str(net), trt=("fp32",)), on_note=notes.append)
    assert "engine 50%, about 12 s left: timing kernels" in notes
    assert "engine 4%: timing kernels" in notes


def test_stages_are_told_with_what_is_left(
    home: Path, net: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesr.export.plan.openvino_here", lambda: False)
    assert run("export", net, "--fp16", "--int8", *CALIB, "--out", "m") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line[8:9].isdigit()]
    assert [line.split()[1:3] for line in lines] == [
        ["2/5", "pictures"],
        ["3/5", "fp16"],
        ["4/5", "int8"],
        ["5/5", "measuring"],
    ]
    assert all("left)" in line for line in lines)
    assert run("export", net, "--out", "q.onnx", "--quiet") == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")
