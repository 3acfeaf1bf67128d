from __future__ import annotations

import getpass
import importlib.util
import socket
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest

from edgesr.errors import EdgesrError, MissingDependency, ModelError, UsageError
from edgesr.export import openvino as module
from edgesr.export.calibrate import Calibration
from edgesr.export.openvino import export_openvino
from edgesr.export.quantize import Scheme, quantize
from edgesr.export.verify import read_photo
from edgesr.models import load_file
from edgesr.runtime.backends import open_session
from edgesr.runtime.backends.openvino import has_bf16
from edgesr.sidecar import load_sidecar
from edgesr.spec import IoSpec

needs_nncf = pytest.mark.skipif(
    importlib.util.find_spec("nncf") is None, reason="nncf is not installed"
)
PARTS = (".bin", ".json", ".xml")


def source(tmp_path: Path, **facts: Any) -> tuple[onnx.ModelProto, Any]:
    path = onnx_models.convolutions(tmp_path / "source.onnx", **facts)
    return onnx.load(path), load_file(path).spec


def calibration(channels: int = 1) -> Calibration:
    photo = read_photo()[..., :channels].astype(np.float32) / 255
    crops = [photo[i : i + 48, 2 * i : 2 * i + 64] for i in range(0, 90, 15)]
    pictures = tuple(np.ascontiguousarray(c.transpose(2, 0, 1))[None] for c in crops)
    return Calibration(pictures=pictures, held_out=(), digest="", about={})


def run(path: Path, picture: np.ndarray, **options: Any) -> np.ndarray:
    session = open_session(path, spec=load_sidecar(path), **options)
    try:
        return session(picture)
    finally:
        session.close()


def by_onnx(tmp_path: Path, picture: np.ndarray) -> np.ndarray:
    path = tmp_path / "source.onnx"
    return open_session(path, spec=load_file(path).spec, backend="ort", precision="fp32")(picture)


@pytest.mark.parametrize("colour", ["y", "rgb"])
@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("fp16", 3e-3)])
def test_it_computes_what_the_onnx_computes(
    tmp_path: Path, precision: Any, limit: float, colour: str
) -> None:
    graph, spec = source(tmp_path, colour=colour)
    report = export_openvino(graph, spec, tmp_path / "m.xml", precision=precision)
    assert report.spec == spec.replace(precision=precision)
    assert load_sidecar(tmp_path / "m.xml") == report.spec
    picture = calibration(spec.channels).pictures[0]
    error = np.abs(
        run(tmp_path / "m.xml", picture, precision=precision) - by_onnx(tmp_path, picture)
    )
    assert error.max() <= limit, np.histogram(error)
    assert report.difference.max_abs <= limit
    if precision == "fp16":
        assert error.max() > 0  # the weights were halved
    assert report.size_bytes == sum((tmp_path / f"m{s}").stat().st_size for s in (".xml", ".bin"))
    assert report.to_dict()["path"] == "m.xml"


def test_fp16_halves_the_weights(tmp_path: Path) -> None:
    graph, spec = source(tmp_path, width=16)
    export_openvino(graph, spec, tmp_path / "a.xml")
    export_openvino(graph, spec, tmp_path / "b.xml", precision="fp16")
    whole, half = ((tmp_path / name).stat().st_size for name in ("a.bin", "b.bin"))
    assert half < 0.55 * whole


def test_uint8_inside(tmp_path: Path) -> None:
    facts = onnx_models.spec(io=IoSpec(dtype="uint8", range=(0, 255)))
    node = onnx.helper.make_node("Concat", ["x", "x"], ["half"], axis=3)
    other = onnx.helper.make_node("Concat", ["half", "half"], ["y"], axis=2)
    path = onnx_models.save(tmp_path / "m.onnx", [node, other], {}, facts, onnx.TensorProto.UINT8)
    report = export_openvino(onnx.load(path), facts, tmp_path / "m.xml")
    assert (report.difference.max_abs, report.psnr) == (0, None)
    batch = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    result = run(tmp_path / "m.xml", batch, io="uint8")
    np.testing.assert_array_equal(result, np.tile(batch, (1, 1, 2, 2)))


@needs_nncf
def test_int8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph, spec = source(tmp_path, width=16)
    before = graph.SerializeToString()
    report = export_openvino(
        graph, spec, tmp_path / "m.xml", precision="int8", calibration=calibration()
    )
    assert capsys.readouterr() == ("", "")
    assert graph.SerializeToString() == before
    assert report.nncf is not None
    assert report.psnr is not None
    assert report.psnr > 30
    text = (tmp_path / "m.xml").read_text()
    assert "FakeQuantize" in text or 'element_type="i8"' in text
    picture = calibration().pictures[0]
    session = open_session(tmp_path / "m.xml", spec=report.spec)
    assert session.facts.precision == "int8"
    assert session.facts.floats == ("bf16" if has_bf16() else "fp32")
    error = session(picture) - by_onnx(tmp_path, picture)
    assert error.any()  # it was quantised
    assert -10 * np.log10(np.mean(error**2)) > 30


def test_int8_of_a_qdq_graph_takes_no_nncf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spec = source(tmp_path, width=16)
    eight = quantize(graph, spec, calibration(), Scheme(flavour="openvino"))
    onnx.save(eight, tmp_path / "eight.onnx")
    monkeypatch.setattr(module, "quantised", None)
    export_openvino(
        graph,
        spec,
        tmp_path / "m.xml",
        precision="int8",
        calibration=calibration(),
        quantised_graph=eight,
    )
    picture = calibration().pictures[0]
    ours = run(tmp_path / "m.xml", picture)
    facts = load_file(tmp_path / "eight.onnx").spec
    direct = open_session(tmp_path / "eight.onnx", spec=facts, backend="openvino")(picture)
    np.testing.assert_allclose(ours, direct, atol=1e-6)
    assert np.abs(ours - by_onnx(tmp_path, picture)).max() > 0


@needs_nncf
def test_nncf_tells_of_every_look(tmp_path: Path) -> None:
    graph, spec = source(tmp_path)
    notes: list[str] = []
    export_openvino(
        graph,
        spec,
        tmp_path / "m.xml",
        precision="int8",
        calibration=calibration(),
        on_note=notes.append,
    )
    count = len(calibration().pictures)
    assert notes[0] == f"NNCF, look 1 at one of {count} pictures"
    assert len(notes) >= count


@needs_nncf
def test_nodes_that_stay_float(tmp_path: Path) -> None:
    graph, spec = source(tmp_path)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    for i, node in enumerate(convolutions):
        node.name = f"conv {i}"

    def quantisers(*keep: str) -> int:
        export_openvino(
            graph,
            spec,
            tmp_path / "m.xml",
            precision="int8",
            calibration=calibration(),
            keep_float=keep,
        )
        return (tmp_path / "m.xml").read_text().count('type="FakeQuantize"')

    every = quantisers()
    assert every > len(convolutions) // 2
    one = quantisers("conv 1")
    assert one < every
    assert quantisers(*(node.name for node in convolutions)) < one
    with pytest.raises(UsageError, match=r"no nodes \['conv 9'\]"):
        quantisers("conv 1", "conv 9")


@needs_nncf
def test_int8_is_found_beside_its_model(tmp_path: Path) -> None:
    graph, spec = source(tmp_path)
    export_openvino(
        graph, spec, tmp_path / "source-int8.xml", precision="int8", calibration=calibration()
    )
    session = open_session(tmp_path / "source.onnx", spec=spec, precision="int8")
    assert session.facts.file == str(tmp_path / "source-int8.xml")


def test_int8_that_is_broken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spec = source(tmp_path)
    other, _ = source(tmp_path, layers=1)
    wrong = module._read(other)
    monkeypatch.setattr(module, "quantised", lambda *_, **__: (wrong, "0"))
    monkeypatch.setattr(module, "_need", lambda *_: None)
    monkeypatch.setattr(module, "LEAST_PSNR", 60.0)
    with pytest.raises(EdgesrError, match=r"int8 OpenVINO model is .* dB from the float one"):
        export_openvino(
            graph, spec, tmp_path / "m.xml", precision="int8", calibration=calibration()
        )
    assert [p.name for p in tmp_path.iterdir()] == ["source.onnx"]


def test_what_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spec = source(tmp_path)
    export_openvino(graph, spec, tmp_path / "m.xml")
    before = {suffix: (tmp_path / f"m{suffix}").read_bytes() for suffix in PARTS}
    other, _ = source(tmp_path, layers=1)
    wrong = module._read(other)
    monkeypatch.setattr(module, "_read", lambda _: wrong)
    with pytest.raises(EdgesrError, match="differs from the ONNX graph: max"):
        export_openvino(graph, spec, tmp_path / "m.xml")
    assert {suffix: (tmp_path / f"m{suffix}").read_bytes() for suffix in PARTS} == before
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_of_this_machine_is_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, spec = source(tmp_path)
    secret = str(tmp_path)
    onnx.helper.set_model_props(graph, {"made in": secret})
    for node in graph.graph.node:
        node.doc_string = f"File {secret}/model.py, line 3"
    graph.doc_string = secret
    export_openvino(graph, spec, tmp_path / "m.xml")
    words = {secret, str(Path.home()), str(Path.cwd()), socket.gethostname(), "made in"}
    if len(getpass.getuser()) > 4:
        words.add(getpass.getuser())
    for suffix in PARTS:
        content = (tmp_path / f"m{suffix}").read_bytes()
        for word in words - {"/"}:
            assert word.encode() not in content, (suffix, word)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "m.onnx"}, r"ends in \.xml"),
        ({"path": "none/m.xml"}, "no folder"),
        ({"precision": "bf16"}, "fp32, fp16 or int8"),
        ({"precision": "int8"}, "--calib"),
        ({"spec": onnx_models.spec(precision="int8")}, "give the fp32 graph"),
    ],
)
def test_refusals(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    graph, spec = source(tmp_path)
    path = tmp_path / options.pop("path", "m.xml")
    spec = options.pop("spec", spec)
    with pytest.raises(UsageError, match=message):
        export_openvino(graph, spec, path, **options)
    assert [p.name for p in tmp_path.iterdir()] == ["source.onnx"]


@pytest.mark.parametrize(("gone", "precision"), [("openvino", "fp32"), ("nncf", "int8")])
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, precision: Any
) -> None:
    graph, spec = source(tmp_path)
    find = importlib.util.find_spec
    hidden = types.SimpleNamespace(
        util=types.SimpleNamespace(find_spec=lambda n: None if n == gone else find(n)),
    )
    monkeypatch.setattr(module, "importlib", hidden)
    assert module.missing(precision) == f"pip install {gone}"
    with pytest.raises(MissingDependency, match=f"pip install {gone}"):
        export_openvino(
            graph, spec, tmp_path / "m.xml", precision=precision, calibration=calibration()
        )


@pytest.mark.parametrize("suffix", PARTS)
def test_a_missing_part_is_named(tmp_path: Path, suffix: str) -> None:
    graph, spec = source(tmp_path)
    export_openvino(graph, spec, tmp_path / "m.xml")
    (tmp_path / f"m{suffix}").unlink()
    with pytest.raises(ModelError, match=rf"no m\{suffix} beside it"):
        load_sidecar(tmp_path / "m.xml")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"name": "a"}', "\x00"])
def test_a_damaged_sidecar_is_one_line(tmp_path: Path, content: str) -> None:
    for suffix in PARTS:
        (tmp_path / f"m{suffix}").write_text(content)
    with pytest.raises(ModelError, match=r"m\.json holds no facts") as caught:
        load_sidecar(tmp_path / "m.xml")
    assert "\n" not in str(caught.value)


def test_needs_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    source(tmp_path)
    code = f"""
import sys
from pathlib import Path
import onnx
from edgesr.export.openvino import export_openvino
from edgesr.models import load_file
path = Path({str(tmp_path / "source.onnx")!r})
export_openvino(onnx.load(path), load_file(path).spec, path.with_name("m.xml"), precision="fp16")
assert not {{"torch", "nncf"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
