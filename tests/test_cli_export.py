"""`edgesr export` as a user types it: every form, its report, what is refused, what is left."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import onnxruntime
import pytest

from edgesr import cli, models
from edgesr.export import job, plan, report, tensorrt
from edgesr.export.calibrate import crop_side
from edgesr.export.eight import EightBits
from edgesr.export.plan import Form, Wish, places
from edgesr.export.quantize import convolutions
from edgesr.export.repair import ExportRefused, repaired
from edgesr.export.repairlog import Log, Step, refusal
from edgesr.export.source import load_source
from edgesr.runtime.backends.choose import choose
from edgesr.runtime.backends.siblings import sibling

Captured = pytest.CaptureFixture[str]
TELLTALE = "tell-tale-folder-of-somebody"
needs_nncf = pytest.mark.skipif(importlib.util.find_spec("nncf") is None, reason="no nncf")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of a name that must not be found again, and pictures in it."""
    from photos import write_photos

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What is timed is not what is tested: a small picture, few rounds.
    monkeypatch.setattr("edgesr.export.report.TIMED", (32, 48))
    monkeypatch.setattr("edgesr.export.measure.ROUNDS", 3)
    folder = tmp_path / TELLTALE
    folder.mkdir()
    write_photos(folder / "photos", 5)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def net(home: Path) -> Path:
    return onnx_models.convolutions(home / "tiny.onnx", layers=2)


def run(*arguments: Any) -> int:
    return cli.run([str(argument) for argument in arguments])


def made(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()} - {"photos", "tiny.onnx"}


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


FORMS = ("--onnx", "--fp16", "--int8", "--trt", "fp32", "--trt", "fp16", "--trt", "int8")
CALIB = ("--calib", "photos", "--max-drop", "3")


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


NAME = "convolutions-x2"


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
