from __future__ import annotations

from pathlib import Path

import onnx
import onnx_models
import pytest
from onnx_models import write_index

from edgesr import models
from edgesr.errors import ModelError, UsageError
from edgesr.onnxmeta import read_metadata


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = {"ecbsr-m10c16-x2": 2, "ecbsr-m10c16-x4": 4, "espcn-x2": 2, "espcn-x3-video": 3}
    return write_index(tmp_path, names)


def test_metadata_is_what_the_onnx_package_reads(tmp_path: Path) -> None:
    path = onnx_models.convolutions(tmp_path / "m.onnx")
    expected = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert expected.keys() == {"made by", "edgesr"}
    assert read_metadata(path) == expected


def test_metadata_of_a_model_without_any(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    assert read_metadata(onnx_models.save(tmp_path / "m.onnx", [node], {}, None)) == {}


def test_metadata_survives_every_cut(tmp_path: Path) -> None:
    """A model cut off anywhere is refused, or, when the cut falls between fields, read."""
    data = onnx_models.nearest(tmp_path / "m.onnx").read_bytes()
    refused = 0
    for size in range(len(data)):
        cut = tmp_path / "cut.onnx"
        cut.write_bytes(data[:size])
        try:
            read_metadata(cut)
        except ModelError:
            refused += 1
    assert refused > len(data) - 10


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is text\n" * 50, b"\x00" * 99, b"\xff" * 99, b"\x08\x08"]
)
def test_metadata_of_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX model"):
        read_metadata(path)


def test_metadata_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        read_metadata(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("asked", "scale", "found"),
    [
        ("ecbsr-m10c16", None, "ecbsr-m10c16-x2"),
        ("ecbsr-m10c16", 4, "ecbsr-m10c16-x4"),
        ("ecbsr-m10c16-x4", None, "ecbsr-m10c16-x4"),
        ("ecbsr-m10c16-x4", 4, "ecbsr-m10c16-x4"),
        ("espcn-x3-video", None, "espcn-x3-video"),
        ("espcn-video", 3, "espcn-x3-video"),
    ],
)
def test_resolve_by_name(folder: Path, asked: str, scale: int | None, found: str) -> None:
    model = models.resolve(asked, scale=scale, folder=folder)
    assert (model.spec.name, model.path) == (found, folder / f"{found}.onnx")


@pytest.mark.parametrize(
    ("asked", "scale", "error", "message"),
    [
        ("ecbsr-m10c61", None, ModelError, "did you mean 'ecbsr-m10c16'.*espcn.*espcn-video"),
        ("edsr", None, ModelError, "there is .*ecbsr-m10c16, espcn"),
        ("", None, ModelError, "no model ''"),
        ("ecbsr-m10c16", 3, UsageError, "no scale 3: there is --scale 2, --scale 4"),
        ("ecbsr-m10c16-x3", None, UsageError, "no scale 3: there is --scale 2, --scale 4"),
        ("ecbsr-m10c16-x2", 4, UsageError, "--model ecbsr-m10c16 --scale 4"),
        ("espcn-video", None, UsageError, "no scale 2: there is --scale 3"),
    ],
)
def test_resolve_refuses(
    folder: Path, asked: str, scale: int | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        models.resolve(asked, scale=scale, folder=folder)


def test_resolve_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_models.nearest(tmp_path / "mine.onnx", scale=3)
    assert models.resolve(str(path)).spec.scale == 3
    assert models.resolve(str(path), scale=3).path == path
    with pytest.raises(UsageError, match="upscales 3 times, but scale 2"):
        models.resolve(str(path), scale=2)
    monkeypatch.chdir(tmp_path)
    assert models.resolve("mine.onnx").spec.scale == 3


def test_resolve_paths_that_are_no_model(tmp_path: Path) -> None:
    checkpoint = tmp_path / "a.safetensors"
    checkpoint.touch()
    other = tmp_path / "a.pth"
    other.touch()
    for path, message in [
        (tmp_path / "m.xml", "does not exist"),
        (checkpoint, "edgesr export .*a.safetensors"),
        (other, "not an .onnx file"),
        (tmp_path / "none.onnx", "does not exist"),
        (tmp_path, "is a folder"),
    ]:
        with pytest.raises(ModelError, match=message):
            models.resolve(str(path))


def test_facts_that_cannot_be_read_name_the_file(tmp_path: Path) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"edgesr": '{"scale": 2}'})
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"m\.onnx: model facts cannot be read"):
        models.load_file(path)


def test_shipped_lists_the_index(folder: Path) -> None:
    listed = models.shipped(folder=folder)
    assert [m.name for m in listed][:2] == ["ecbsr-m10c16-x2", "ecbsr-m10c16-x4"]
    assert listed[3].family == "espcn-video"
    assert listed[0].checkpoint == folder / "ecbsr-m10c16-x2.safetensors"
    assert (listed[0].training_parameters, listed[0].deployed_parameters) == (90, 20)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 9, "models": {}}', '{"schema": 1}']
)
def test_index_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(ModelError, match="index"):
        models.shipped(folder=tmp_path)


def test_index_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="carries no models"):
        models.shipped(folder=tmp_path)


def test_what_is_shipped_is_whole() -> None:
    listed = models.shipped()
    assert any(m.name == f"{models.DEFAULT_MODEL}-x{models.DEFAULT_SCALE}" for m in listed)
    for model in listed:
        assert models.load_file(model.onnx).spec == model.spec
        assert model.checkpoint is not None
        assert model.checkpoint.is_file()
