"""`edgesr convert` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import official as big
from conversions import by_hand, laid_out, output, picture, stored

from edgesr import cli
from edgesr.export.onnx import export_onnx
from edgesr.networks import checkpoint
from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig


@pytest.fixture
def fsrcnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return stored(laid_out(big.fsrcnn_lornatang).official, tmp_path / "fsrcnn.pth")


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_verb_then_load_and_export(
    fsrcnn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, fsrcnn.name, "-o", "m.safetensors", "--scale", 3)
    assert (code, err) == (0, "")
    assert out.startswith("m.safetensors: fsrcnn-custom-x3, as Lornatang/FSRCNN-PyTorch stores it")
    assert out.endswith("; next: edgesr export m.safetensors\n")
    assert out.count("\n") == 1

    model, spec = checkpoint.load(tmp_path / "m.safetensors")
    assert (spec.network, spec.scale, spec.colour, spec.halo) == ("fsrcnn", 3, "y", 6)
    config = FsrcnnConfig(scale=3, features=6, shrunk=3, mappings=2)
    reference = by_hand(laid_out(big.fsrcnn_lornatang), Fsrcnn, config)
    x = picture(reference)
    assert torch.equal(output(model, x), output(reference, x))
    report = export_onnx(model, spec, tmp_path / "m.onnx", io="float32")
    assert report.to_dict()["difference"]["max_abs"] <= 1e-4


def test_verb_json(fsrcnn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, fsrcnn, "-s", 2, "--range", 255, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["path"] == str(fsrcnn.with_suffix(".safetensors"))
    assert report["network"] == "fsrcnn"
    assert report["source"] == "Lornatang/FSRCNN-PyTorch"
    assert report["config"]["mappings"] == 2
    assert report["spec"]["scale"] == 2
    assert report["assumed"] == {}


def test_verb_refusals(fsrcnn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(code: int, message: str, *arguments: object) -> None:
        got, out, err = said(capsys, *arguments)
        assert (got, out) == (code, "")
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1

    refused(2, "add --scale", fsrcnn)
    assert not fsrcnn.with_suffix(".safetensors").exists()
    (tmp_path / "m.safetensors").write_bytes(b"mine")
    refused(2, "exists already: add --overwrite", fsrcnn, "-o", "m.safetensors", "-s", 2)
    assert (tmp_path / "m.safetensors").read_bytes() == b"mine"
    refused(2, "a checkpoint ends in .safetensors", fsrcnn, "-o", "m.pth")
    refused(2, "there is no folder", fsrcnn, "-o", "no/m.safetensors")
    refused(1, "nowhere.pth: no such file", "nowhere.pth")
    refused(2, "--range 3: 1 or 255", fsrcnn, "--range", 3, "-s", 2)

    assert said(capsys, fsrcnn, "-o", "m.safetensors", "-s", 2, "-y", "-q") == (0, "", "")
    refused(2, "is the file to be converted", "m.safetensors", "-y")
    refused(1, "is a checkpoint of edgesr already", "m.safetensors", "-o", "n.safetensors")
