"""Where an export starts: names, run folders, checkpoints, .onnx files; and the ends of a graph."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest

from edgesr.errors import ModelError, UsageError
from edgesr.export.ends import check_size, of_size, with_bytes
from edgesr.export.source import load_source
from edgesr.models import shipped
from edgesr.spec import METADATA_KEY, IoSpec, ModelSpec, StateSpec


def answer(graph: onnx.ModelProto, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": picture})[0]


def facts_in(graph: onnx.ModelProto) -> ModelSpec:
    (entry,) = (p for p in graph.metadata_props if p.key == METADATA_KEY)
    return ModelSpec.from_json(entry.value)


def test_our_own_file_is_the_graph_itself(tmp_path: Path) -> None:
    path = onnx_models.convolutions(tmp_path / "m.onnx")
    source = load_source(str(path))
    assert source.graph == onnx.load(path)
    assert (source.module, source.difference, source.path) == (None, None, path)
    assert source.spec == facts_in(source.graph)


@pytest.mark.parametrize("file", ["ours", "foreign"])
def test_from_an_onnx_file_it_takes_no_torch(tmp_path: Path, file: str) -> None:
    path = onnx_models.convolutions(tmp_path / "m.onnx")
    if file == "foreign":
        graph = onnx.load(path)
        del graph.metadata_props[:]
        onnx.save(graph, path)
    code = (
        "import sys; from edgesr.export.source import load_source; "
        f"print(load_source({str(path)!r}).spec.network); assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ("tiny" if file == "ours" else "foreign")


def test_a_shipped_model_comes_with_its_network() -> None:
    torch = pytest.importorskip("torch")
    source = load_source("espcn-x2")
    assert source.origin == "espcn-x2"
    assert source.module is not None
    assert source.difference is not None
    assert source.spec == next(m.spec for m in shipped() if m.name == "espcn-x2")
    picture = np.random.default_rng(0).random((1, 1, 19, 24), dtype=np.float32)
    with torch.no_grad():
        expected = source.module(torch.from_numpy(picture)).numpy()
    assert np.abs(answer(source.graph, picture) - expected).max() < 1e-5


def test_where_nothing_can_start(tmp_path: Path) -> None:
    other, cut = tmp_path / "m.pth", tmp_path / "cut.onnx"
    other.touch()
    cut.write_bytes(onnx_models.convolutions(tmp_path / "m.onnx").read_bytes()[:300])
    for model, kind, message in (
        (other, UsageError, "edgesr convert"),
        (tmp_path / "none.onnx", ModelError, "does not exist"),
        (tmp_path / "none.safetensors", ModelError, "no such checkpoint"),
        (tmp_path, ModelError, "no run folder"),
        ("nothing", ModelError, "is shipped: there are"),
        (cut, ModelError, "cut off|cannot be read"),
    ):
        with pytest.raises(kind, match=message):
            load_source(str(model))


def test_a_file_that_is_typed_already_is_for_engines_only(tmp_path: Path) -> None:
    path = onnx_models.convolutions(tmp_path / "m.onnx", precision="int8")
    with pytest.raises(UsageError, match="is int8 already: give the float32 file"):
        load_source(str(path))
    assert load_source(str(path), typed=True).spec.precision == "int8"
    path = onnx_models.convolutions(tmp_path / "m.onnx", io=IoSpec(dtype="uint8"))
    with pytest.raises(UsageError, match="uint8 in and out already"):
        load_source(str(path))


def test_8_bit_ends_round_half_to_even_and_clamp(tmp_path: Path) -> None:
    """Nearest x2 with a gain of 1.5 and an offset: the answer is known by hand."""
    path = onnx_models.nearest(tmp_path / "m.onnx", gain=1.5, bias=-0.1)
    source = load_source(str(path))
    before = source.graph.SerializeToString()
    made = with_bytes(source.graph, source.spec)
    assert source.graph.SerializeToString() == before
    onnx.checker.check_model(made, full_check=True)
    picture = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    exact = (picture.astype(np.float64) * 1.5 - 25.5).repeat(2, 2).repeat(2, 3)
    got = answer(made, picture)
    assert got.dtype == np.uint8
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-4
    assert (got.min(), got.max()) == (0, 255)
    assert facts_in(made).io == IoSpec(dtype="uint8", range=(0.0, 255.0))


def test_a_size_is_written_into_the_graph(tmp_path: Path) -> None:
    source = load_source(str(onnx_models.convolutions(tmp_path / "m.onnx", scale=3)))
    made = of_size(source.graph, source.spec, (18, 26))
    shapes = [
        [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (made.graph.input[0], made.graph.output[0])
    ]
    assert shapes == [[1, 1, 18, 26], [1, 1, 54, 78]]
    assert facts_in(made).fixed_size == (18, 26)
    picture = np.random.default_rng(0).random((1, 1, 18, 26), dtype=np.float32)
    assert np.abs(answer(made, picture) - answer(source.graph, picture)).max() < 1e-5


def test_sizes_that_a_model_does_not_take() -> None:
    spec = onnx_models.spec(multiple=4, min_size=8)
    check_size(spec, (8, 12))
    for size in ((4, 8), (8, 10)):
        with pytest.raises(UsageError, match="from 8 up that are multiples of 4, not"):
            check_size(spec, size)
    with pytest.raises(UsageError, match=r"takes 12x8 .* and no other size, not 8x8"):
        check_size(dataclasses.replace(spec, fixed_size=(8, 12)), (8, 8))
    state = (StateSpec(name="h", shape=(None, 1, None, None)),)
    with pytest.raises(UsageError, match="keeps state"):
        check_size(dataclasses.replace(spec, state=state), (8, 12))
