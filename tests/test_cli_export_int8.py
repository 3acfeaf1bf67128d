"""`edgesr export --int8`: the method of the ranges, past the budget, a form for each runtime."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import export_folder
import onnx_models
import pytest
from export_folder import CALIB, Captured, made, run

from edgesr import models
from edgesr.export import job, plan, tensorrt
from edgesr.export.eight import EightBits
from edgesr.export.plan import Wish
from edgesr.export.quantize import convolutions
from edgesr.export.repair import ExportRefused, repaired
from edgesr.export.repairlog import Log, Step, refusal
from edgesr.export.source import load_source
from edgesr.runtime.backends.choose import choose
from edgesr.runtime.backends.siblings import sibling

needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="no nncf")
NAME = "convolutions-x2"

home = export_folder.home
net = export_folder.net


def test_a_method_for_the_ranges(home: Path, net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As typed: into the file, and into the report with its pictures and histograms."""
    monkeypatch.setattr("edgesr.export.plan.openvino_here", lambda: False)
    files = []
    for method in ("minmax", "entropy"):
        out = f"{method}.onnx"
        words = ["--int8", "--calib-method", method, *CALIB, "--out", out, "--quiet"]
        assert run("export", net, *words) == 0
        files.append((home / out).read_bytes())
        report = json.loads((home / f"{out}.report.json").read_text())
        (log,), (ranges,) = report["repairs"], report["ranges"]
        assert log["method"] == ranges["method"] == method
        assert log["frames"] == ranges["frames"] == report["calibration"]["frames"] > 1
        assert sum(report["calibration"]["histogram"]) > 0
        for value in ranges["values"].values():
            assert value["low"] < value["high"]
            assert len(value["counts"]) == 16
    assert files[0] != files[1]


def test_layers_of_an_engine_that_go_back_to_float_keep_the_method(
    home: Path, net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an engine that is too far asks for: the same ranges, with a layer more in float."""
    real, asked = tensorrt.export_tensorrt, []

    def far(source: Any, **options: Any) -> Any:
        (first, *_) = convolutions(source.graph)
        asked.append(options["quantised"]("trt8", frozenset({first})))
        return real(source, **options)

    monkeypatch.setattr(tensorrt, "export_tensorrt", far)
    calib = {"calib": (home / "photos",), "calib_method": "percentile", "max_drop": 3.0}
    job.run(Wish(model=str(net), trt=("int8",), **calib))  # type: ignore[arg-type]
    convs = [node for node in asked[0].graph.node if node.op_type == "Conv"]
    made_by = {name: node.op_type for node in asked[0].graph.node for name in node.output}
    weights = [made_by.get(node.input[1]) for node in convs]
    assert weights == [None, *["DequantizeLinear"] * (len(convs) - 1)], "the first as it was"


def refuse_all_but(*good: str, patch: pytest.MonkeyPatch) -> None:
    """INT8 of other flavours is refused at once."""

    def judged(source: Any, calibration: Any, *, flavour: Any, **rest: Any) -> Any:
        if flavour in good:
            return repaired(source, calibration, flavour=flavour, **rest)
        log = Log(
            flavour=flavour, max_drop=1.0, truth=True, pairs=1, before=1.25, drop=1.25,
            method="minmax", keep_float=(),
            steps=(Step(what="min/max", before=0.0, after=1.25, kept=True),),
        )  # fmt: skip
        raise refusal(source.spec.name, log, all_float=False, qat=False)

    patch.setattr("edgesr.export.eight.repaired", judged)


def test_past_the_budget_nothing_is_written(
    home: Path, net: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_all_but(patch=monkeypatch)
    assert run("export", net, "--int8", "--calib", "photos") == 1
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: convolutions-x2: int8 loses 1.250 dB, 1 are")
    flavours = ("ort", "openvino") if plan.openvino_here() else ("ort",)
    for flavour in flavours:  # the tables of what was tried
        assert f"int8 for {flavour}: dB lost on" in said
    assert said.count("  min/max") == len(flavours)
    assert made(home) == set()


@pytest.mark.parametrize("good", ["ort", "openvino"])
def test_of_int8_what_is_within_the_budget_is_written(
    home: Path, net: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, good: str
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("edgesr.export.plan.is_x86", lambda: True)
    refuse_all_but(good, patch=monkeypatch)
    assert run("export", net, "--int8", *CALIB, "--out", "m.onnx") == 0
    said = capsys.readouterr().out.splitlines()
    written, name = "m.onnx", "ONNX int8 for OpenVINO"
    if good == "openvino":
        written, name = "m-openvino.onnx", "ONNX int8"
    assert made(home) == {written, f"{written}.report.json"}
    assert said[-2].startswith(f"{written}: ONNX int8")
    assert said[-1].startswith(f"no {name}: convolutions-x2: int8 loses 1.250 dB, 1 are allowed")
    report = json.loads((home / f"{written}.report.json").read_text())
    assert {log["flavour"]: log["within"] for log in report["repairs"]} == {
        "ort": good == "ort",
        "openvino": good == "openvino",
    }


@needs_nncf
def test_nncf_where_the_graph_for_openvino_loses_too_much(
    home: Path, net: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_all_but("ort", patch=monkeypatch)
    assert run("export", net, "--int8", "--openvino", *CALIB, "--out", "m", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert "m-int8.xml" in made(home)
    assert "m-int8-openvino.onnx" not in made(home)
    assert [entry["name"] for entry in report["refused"]] == ["ONNX int8 for OpenVINO"]
    by_nncf = report["gate"]["repairs"][-1]
    assert by_nncf["flavour"] == "openvino by NNCF"
    assert by_nncf["steps"][0]["what"] == "all in int8"
    assert by_nncf["within"]
    (row,) = [r for r in report["gate"]["candidates"] if r["file"] == "m-int8.xml"]
    assert row["drop"] == pytest.approx(by_nncf["drop"], abs=1e-3)


def test_without_nncf_the_refusal_stands(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_all_but(patch=monkeypatch)
    monkeypatch.setattr("edgesr.export.openvino.missing", lambda precision: "pip install nncf")
    source = load_source(str(net))
    given: dict[str, Any] = {"calibration": None, "known": None, "max_drop": 1.0, "qat": False}
    notes: list[str] = []
    eight = EightBits(source, **given, on_note=notes.append)
    with pytest.raises(ExportRefused, match=r"int8 loses 1\.250 dB"):
        eight.write_ir(source.graph, source.spec, Path("m.xml"))
    assert notes == ["NNCF, which might lose less, is not here: pip install nncf"]
    assert [log.flavour for log in eight.logs] == ["openvino"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """float32, INT8 for both runtimes and an IR, in a folder that was not there."""
    pytest.importorskip("openvino")
    from photos import write_photos

    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setattr("edgesr.export.report.TIMED", (32, 48))
        patch.setattr("edgesr.export.measure.ROUNDS", 3)
        patch.setattr("edgesr.export.plan.is_x86", lambda: True)
        write_photos(folder / "photos", 5)
        net = onnx_models.convolutions(folder / "tiny.onnx", layers=3)
        words = ["--int8", "--calib", folder / "photos", "--max-drop", 3, "--quiet", "--out"]
        assert run("export", net, "--onnx", "--openvino", *words, f"{folder}/new/deep/") == 0
        assert run("export", net, *words, f"{folder}/again/") == 0
        yield folder


def test_a_folder_that_was_not_there(pair: Path) -> None:
    files = [f"{NAME}.onnx", f"{NAME}-int8.onnx", f"{NAME}-int8-openvino.onnx", f"{NAME}-int8.xml"]
    reports = {f"{name}.report.json" for name in files}
    beside = {f"{NAME}-int8.bin", f"{NAME}-int8.json"}
    assert {path.name for path in (pair / "new/deep").iterdir()} == {*files, *reports, *beside}


def test_the_same_command_gives_the_same_bytes(pair: Path) -> None:
    for name in (f"{NAME}-int8.onnx", f"{NAME}-int8-openvino.onnx"):
        assert (pair / "new/deep" / name).read_bytes() == (pair / "again" / name).read_bytes()


def test_each_runtime_finds_its_own(pair: Path) -> None:
    model = models.load_file(pair / "new/deep" / f"{NAME}.onnx")
    for backend, name in (("openvino", f"{NAME}-int8-openvino.onnx"), ("ort", f"{NAME}-int8.onnx")):
        found = sibling(model.path, spec=model.spec, precision="int8", backend=backend)
        assert found is not None
        assert found.path.name == name
        chosen = choose(model.path, spec=model.spec, backend=backend, precision="int8")
        assert chosen.model.path == found.path


def test_each_is_measured_where_it_runs(pair: Path) -> None:
    report = json.loads((pair / "new/deep" / f"{NAME}-int8.onnx.report.json").read_text())
    eight = {(r["file"], r["backend"]) for r in report["candidates"] if r["precision"] == "int8"}
    assert eight == {
        (f"{NAME}-int8.onnx", "ort"),
        (f"{NAME}-int8-openvino.onnx", "openvino"),
        (f"{NAME}-int8.xml", "openvino"),
    }
    drops = {r["name"]: r["drop"] for r in report["candidates"]}
    logs = {log["flavour"]: log["drop"] for log in report["repairs"]}
    assert drops["ort int8"] == pytest.approx(logs["ort"], abs=2e-3)
    assert drops["openvino int8"] == pytest.approx(logs["openvino"], abs=2e-3)
    # The IR is the same graph.
    assert drops["openvino int8 IR"] == pytest.approx(drops["openvino int8"], abs=2e-3)
