"""Export: ONNX Runtime against torch, what lies in the file, and what must not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnx
import onnxruntime
import torch.nn.functional as F
from tolerances import assert_close

from edgesr.errors import ModelError, UsageError
from edgesr.export import onnx as export
from edgesr.export.onnx import ParityError, export_onnx, find_checkpoint
from edgesr.export.opset import lowered
from edgesr.export.verify import check_inputs, compare
from edgesr.networks import build, checkpoint, deployed
from edgesr.onnxmeta import read_metadata
from edgesr.spec import METADATA_KEY, ModelSpec

SIZES = [(16, 16), (17, 31), (40, 24), (33, 65), (64, 48)]
NAMES = ["espcn", "espcn-tanh", "fsrcnn", "ecbsr-m4c8"]


def exported(tmp_path: Path, name: str, *, scale: int = 2, io: str = "float32"):
    torch.manual_seed(0)
    model = build(name, scale)
    with torch.no_grad():  # as training leaves it: no two slopes or biases alike
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    spec = checkpoint.spec_of(name, model)
    path = tmp_path / "m.onnx"
    return model, export_onnx(model, spec, path, io=io), path


def run(path: Path, picture: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": picture})[0]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_what_torch_does(tmp_path: Path, name: str) -> None:
    """Our own look, at five sizes and batches of one and three; export checks by itself too."""
    model, report, path = exported(tmp_path, name)
    assert report.difference.max_abs <= 1e-4
    rng = np.random.default_rng(1)
    for count, (height, width) in zip([1, 3, 1, 3, 1], SIZES, strict=True):
        picture = rng.random((count, 1, height, width), dtype=np.float32)
        with torch.no_grad():
            expected = deployed(model)(torch.from_numpy(picture)).numpy()
        assert_close(run(path, picture), expected, dtype="float32")


@pytest.mark.parametrize("scale", [3, 4])
def test_other_scales(tmp_path: Path, scale: int) -> None:
    _, report, path = exported(tmp_path, "ecbsr-m4c8", scale=scale)
    picture = np.random.default_rng(0).random((1, 1, 11, 20), dtype=np.float32)
    assert run(path, picture).shape == (1, 1, 11 * scale, 20 * scale)
    assert report.spec.scale == scale


def test_the_file_is_what_a_deployable_must_be(tmp_path: Path) -> None:
    _, report, path = exported(tmp_path, "ecbsr-m4c8")
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert graph.ir_version == 8
    assert list(tmp_path.iterdir()) == [path]  # no external data, no part file
    facts = ModelSpec.from_json(read_metadata(path)[METADATA_KEY])
    assert facts == report.spec
    assert (facts.halo, facts.colour, facts.scale) == (6, "y", 2)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds == ["Conv", "PRelu"] * 5 + ["Conv", "Add", "DepthToSpace"]
    assert report.rewrites == ()
    slopes = {node.input[1] for node in graph.graph.node if node.op_type == "PRelu"}
    shapes = {tuple(t.dims) for t in graph.graph.initializer if t.name in slopes}
    assert shapes == {(1, 8, 1, 1)}


class Halved(torch.nn.Module):
    """RGB, on a quarter of the pixels: height and width must be even."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(12, 48, 3, padding=1)

    def forward(self, x):
        return F.pixel_shuffle(self.conv(F.pixel_unshuffle(x, 2)), 4)


@pytest.mark.parametrize("fixed", [None, (18, 26)])
def test_rgb_of_even_size(tmp_path: Path, fixed: tuple[int, int] | None) -> None:
    spec = ModelSpec(
        name="halved-x2",
        network="halved",
        scale=2,
        colour="rgb",
        halo=2,
        multiple=2,
        min_size=6,
        fixed_size=fixed,
    )
    path, model = tmp_path / "m.onnx", Halved().eval()
    report = export_onnx(model, spec, path)
    assert report.difference.max_abs <= 1e-5
    sides = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[2:]
    assert [side.dim_value for side in sides] == list(fixed or (0, 0))
    for size in [fixed] if fixed else [(6, 6), (8, 14), (34, 20)]:
        picture = np.random.default_rng(0).random((3, 3, *size), dtype=np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(picture)).numpy()
        assert_close(run(path, picture), expected, dtype="float32")


def test_the_report_names_what_was_rewritten(tmp_path: Path) -> None:
    _, report, path = exported(tmp_path, "fsrcnn")
    assert [applied.rewrite for applied in report.rewrites] == ["convolve", "block tail"]
    first = report.to_dict()["rewrites"][0]
    assert (first["rewrite"], first["nodes"]) == ("convolve", -1)
    json.dumps(report.to_dict())
    assert "ConvTranspose" not in {node.op_type for node in onnx.load(path).graph.node}


def test_pictures_may_be_split(tmp_path: Path) -> None:
    """The exporter leaves an attribute of a later opset at Split."""
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.forward = lambda x: sum(x.split(1, 1)).repeat(1, 3, 1, 1)
    spec = ModelSpec(name="split-x1", network="split", scale=1, colour="rgb", halo=0)
    assert export_onnx(model.eval(), spec, tmp_path / "m.onnx").difference.max_abs <= 1e-6


def test_nothing_private_is_left_in_the_file(tmp_path: Path) -> None:
    _, _, path = exported(tmp_path, "espcn")
    content = path.read_bytes()
    for secret in (
        ".py",
        "stack_trace",
        "pkg.torch",
        "site-packages",
        str(Path.home()),
        str(tmp_path),
    ):
        assert secret.encode() not in content, secret


@pytest.mark.parametrize("name", NAMES)
def test_uint8_rounds_and_clamps_inside(tmp_path: Path, name: str) -> None:
    model, report, path = exported(tmp_path, name, io="uint8")
    assert report.spec.io.dtype == "uint8"
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 30, 41), dtype=np.uint8)
    got = run(path, picture)
    assert got.dtype == np.uint8
    with torch.no_grad():
        exact = deployed(model)(torch.from_numpy(picture).float() / 255).numpy() * 255
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.5 + 1e-3


def test_a_wrong_graph_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tidy = export.tidy

    def spoil(graph: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
        graph = tidy(graph, spec)
        bias = next(t for t in graph.graph.initializer if t.name.endswith("0.weight"))
        values = onnx.numpy_helper.to_array(bias) + 0.01
        bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        return graph

    monkeypatch.setattr(export, "tidy", spoil)
    with pytest.raises(ParityError, match=r"differs from torch: max .*allowed 0.0001"):
        exported(tmp_path, "fsrcnn")
    assert not list(tmp_path.iterdir())


def test_check_inputs_are_noise_and_a_real_photo_at_odd_and_even_sizes() -> None:
    inputs = check_inputs(channels=1)
    assert {picture.shape[2] % 2 for picture in inputs} == {0, 1}
    noise, photo = inputs[0][0, 0], inputs[1][0, 0]
    neighbours = [np.corrcoef(p[:, 1:].ravel(), p[:, :-1].ravel())[0, 1] for p in (noise, photo)]
    assert abs(neighbours[0]) < 0.1
    assert neighbours[1] > 0.5
    assert all(p.shape[2] % 4 == 0 for p in check_inputs(channels=3, multiple=4))


def test_compare_counts_and_refuses_other_shapes() -> None:
    inputs = [np.zeros((1, 1, 2, 2), np.float32)] * 2
    found = compare(lambda x: x, lambda x: x + 0.5, inputs)
    assert (found.max_abs, found.mean_abs, found.largest, found.inputs) == (0.5, 0.5, 0.0, 2)
    assert found.within(0.5)
    assert not found.within(0.4)
    assert compare(lambda x: x + 9, lambda x: x + 9.5, inputs).within(0.06)  # of the largest, 9
    lost = compare(lambda x: x, lambda x: x * np.nan, inputs)
    assert not lost.within(1e9)
    with pytest.raises(ValueError, match="outputs are"):
        compare(lambda x: x, lambda x: x[..., :1], inputs)


def test_where_a_checkpoint_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no run folder"):
        find_checkpoint(str(tmp_path))
    with pytest.raises(UsageError, match=r"give a \.safetensors"):
        find_checkpoint("model.pth")
    with pytest.raises(ModelError, match=r"no checkpoint of a model 'nothing'"):
        find_checkpoint("nothing")
    (tmp_path / "best.safetensors").touch()
    assert find_checkpoint(str(tmp_path)) == tmp_path / "best.safetensors"


def test_shipped_checkpoints_give_the_shipped_onnx() -> None:
    """Both files of a shipped model are one network with the same facts."""
    from edgesr.models import shipped

    for entry in shipped():
        assert entry.checkpoint is not None
        model, spec = checkpoint.load(entry.checkpoint)
        onnx_spec = ModelSpec.from_json(read_metadata(entry.onnx)[METADATA_KEY])
        assert spec == onnx_spec == entry.spec
        picture = np.random.default_rng(0).random((1, spec.channels, 19, 24), dtype=np.float32)
        with torch.no_grad():
            expected = deployed(model)(torch.from_numpy(picture)).numpy()
        assert_close(run(entry.onnx, picture), expected, dtype="float32")
        assert entry.training["terms"] == spec.terms
        json.dumps(dict(entry.training))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_network_with_state_becomes_one_step(tmp_path: Path, scale: int) -> None:
    """Our own look: a clip of odd size through ONNX Runtime, its state fed back, against torch."""
    torch.manual_seed(0)
    model = build("causal-r2c8", scale).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    report = export_onnx(model, checkpoint.spec_of("causal-r2c8", model), tmp_path / "m.onnx")
    assert [state.name for state in report.spec.state] == ["previous", "hidden"]
    assert report.spec.halo is None
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    clip = np.random.default_rng(0).random((2, 7, 1, 21, 34), dtype=np.float32)
    state = [np.zeros((2, 1, 21, 34), np.float32), np.zeros((2, 8, 21, 34), np.float32)]
    pictures = []
    for t in range(7):
        feeds = {"x": clip[:, t], "previous": state[0], "hidden": state[1]}
        picture, *state = session.run(["y", "previous_out", "hidden_out"], feeds)
        pictures.append(picture)
    with torch.no_grad():
        expected = model(torch.from_numpy(clip)).numpy()
    assert_close(np.stack(pictures, axis=1), expected, dtype="float32")
    assert np.abs(state[1]).max() > 0  # the state is not idle


def test_what_has_no_deployable_is_refused(tmp_path: Path) -> None:
    for name in ("basicvsr-15", "pisr-teacher"):
        with torch.device("meta"):
            model = build(name, 4)
        spec = checkpoint.spec_of(name, model, measured=False)
        with pytest.raises(UsageError, match="can teach, but not be deployed"):
            export_onnx(model, spec, tmp_path / "m.onnx")
    model = build("causal-r2c8", 2)
    spec = checkpoint.spec_of("causal-r2c8", model)
    with pytest.raises(UsageError, match="keeps state between frames: --io float32"):
        export_onnx(model, spec, tmp_path / "m.onnx", io="uint8")


def test_operators_of_opset_18_are_brought_down(tmp_path: Path) -> None:
    """torch's converter gives up on a whole graph for one of these."""

    class Newer(torch.nn.Module):
        def forward(self, x):
            framed = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
            return framed[..., 1:-1, 1:-1] - framed.mean(dim=(2, 3), keepdim=True)

    spec = ModelSpec(name="newer-x1", network="newer", scale=1, colour="y", halo=None, min_size=2)
    export_onnx(Newer().eval(), spec, tmp_path / "m.onnx")
    graph = onnx.load(tmp_path / "m.onnx")
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", 17)]
    assert {"Pad", "ReduceMean"} <= {node.op_type for node in graph.graph.node}


def test_a_graph_that_is_newer_is_refused() -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, 4, 4])
    node = onnx.helper.make_node("Mish", ["x"], ["y"])
    graph = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [result]))
    graph.opset_import[0].version = 18
    spec = ModelSpec(name="mish-x1", network="mish", scale=1, colour="y", halo=None)
    with pytest.raises(ParityError, match=r"no valid graph of opset 17: .*Mish"):
        export.tidy(lowered(graph), spec)
    graph.opset_import[0].version = 19
    with pytest.raises(ParityError, match="no valid graph of opset 17: it imports"):
        export.tidy(lowered(graph), spec)
