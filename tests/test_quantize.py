"""INT8 files: what each flavour must look like, and how little of the picture it may lose."""

from __future__ import annotations

import functools
import getpass
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from photos import draw_photo

from edgesr import models
from edgesr.errors import ModelError, UsageError
from edgesr.export import ranges, rounding
from edgesr.export.calibrate import Calibration
from edgesr.export.quantize import Scheme, Seen, convolutions, quantize
from edgesr.export.rounding import round_by
from edgesr.metrics import rgb_to_y
from edgesr.spec import METADATA_KEY, IoSpec, ModelSpec, StateSpec

Array = np.ndarray[Any, Any]

SHIPPED = Path(models.__file__).parent / "weights"
FLAVOURS: tuple[Any, ...] = ("trt8", "trt", "ort", "openvino")


def drawn(count: int, *, channels: int = 1, first: int = 0) -> tuple[Array, ...]:
    """(1, C, 64, 80) float32, studio luma or RGB."""
    pictures = []
    for seed in range(first, first + count):
        rgb = draw_photo(seed, height=64, width=80)
        planes = rgb_to_y(rgb)[None] if channels == 1 else np.moveaxis(rgb, 2, 0)
        pictures.append((planes[None] / 255).astype(np.float32))
    return tuple(pictures)


def calibration(*, channels: int = 1, count: int = 6) -> Calibration:
    pictures = drawn(count, channels=channels)
    return Calibration(pictures=pictures, held_out=(), digest="", about={})


def run(graph: onnx.ModelProto, picture: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {session.get_inputs()[0].name: picture})[0])


def psnr(a: Array, b: Array) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2)))


def kept(graph: onnx.ModelProto, original: onnx.ModelProto, *, channels: int = 1) -> float:
    """PSNR in dB against float32, on pictures that calibration did not see."""
    pictures = drawn(3, channels=channels, first=50)
    return min(psnr(run(original, p), run(graph, p)) for p in pictures)


@functools.cache
def shipped(name: str) -> tuple[onnx.ModelProto, ModelSpec]:
    model = models.load_file(SHIPPED / f"{name}.onnx")
    return onnx.load(model.path), model.spec


@functools.cache
def made(name: str, flavour: Any) -> onnx.ModelProto:
    graph, spec = shipped(name)
    return quantize(graph, spec, calibration(), Scheme(flavour=flavour))


def constants(graph: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}


def nodes(graph: onnx.ModelProto, kind: str) -> list[Any]:
    return [node for node in graph.graph.node if node.op_type == kind]


@pytest.mark.parametrize("name", ["espcn-x2", "ecbsr-m4c16-x2"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_picture_stays(name: str, flavour: Any) -> None:
    graph, _ = shipped(name)
    assert kept(made(name, flavour), graph) > 40.0


@pytest.mark.parametrize("name", ["espcn-x2", "ecbsr-m4c16-x2"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_float_ends_and_facts(name: str, flavour: Any) -> None:
    graph = made(name, flavour)
    onnx.checker.check_model(graph, full_check=True)
    for value in (*graph.graph.input, *graph.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    facts = {p.key: p.value for p in graph.metadata_props}
    assert list(facts) == [METADATA_KEY]
    spec = ModelSpec.from_json(facts[METADATA_KEY])
    assert spec == shipped(name)[1].replace(precision="int8")
    assert graph.producer_name == "edgesr"
    assert run(graph, drawn(1)[0]).shape == (1, 1, 128, 160)


@pytest.mark.parametrize("name", ["espcn-x2", "ecbsr-m4c16-x2"])
@pytest.mark.parametrize(("flavour", "opset"), [("trt8", 17), ("trt", 20)])
def test_tensorrt_reads_symmetric_int8_only(name: str, flavour: Any, opset: int) -> None:
    graph = made(name, flavour)
    assert {e.domain: e.version for e in graph.opset_import} == {"": opset}
    values = constants(graph)
    pairs = nodes(graph, "QuantizeLinear") + nodes(graph, "DequantizeLinear")
    scale = np.float32 if flavour == "trt8" else np.float16
    for node in pairs:
        zero = values[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
        assert values[node.input[1]].dtype == scale
        assert (values[node.input[1]] > 0).all()
    assert not [v for v in values.values() if v.dtype == np.int32], "no quantised bias"
    dequantised = {n.output[0]: n for n in nodes(graph, "DequantizeLinear")}
    convs = nodes(graph, "Conv")
    for conv in convs:
        assert conv.input[0] in dequantised
        weight = dequantised[conv.input[1]]
        assert values[weight.input[1]].shape == (values[weight.input[0]].shape[0],), "per channel"
        assert values[conv.input[2]].dtype == scale
    assert len(dequantised) == 2 * len(convs), "nothing else is quantised"
    if flavour == "trt":
        floats = [name for name, v in values.items() if v.dtype == np.float32]
        assert floats == []


def test_onnx_runtime_gets_uint8_and_int32_bias() -> None:
    graph = made("espcn-x2", "ort")
    values = constants(graph)
    kinds = {str(values[n.input[2]].dtype) for n in nodes(graph, "QuantizeLinear")}
    assert kinds == {"uint8"}
    dequantised = {n.output[0]: n for n in nodes(graph, "DequantizeLinear")}
    for conv in nodes(graph, "Conv"):
        assert values[dequantised[conv.input[1]].input[0]].dtype == np.int8
        assert values[dequantised[conv.input[2]].input[0]].dtype == np.int32


def test_openvino_gets_asymmetric_inputs_alone() -> None:
    graph = made("ecbsr-m4c16-x2", "openvino")
    values = constants(graph)
    quantised = nodes(graph, "QuantizeLinear")
    assert {str(values[n.input[2]].dtype) for n in quantised} == {"uint8"}
    assert len(quantised) == len(nodes(graph, "Conv")), "one in front of each, none behind"
    assert all(values[conv.input[2]].dtype == np.float32 for conv in nodes(graph, "Conv"))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_openvino_agrees_with_onnx_runtime(flavour: Any) -> None:
    openvino = pytest.importorskip("openvino")
    graph = made("ecbsr-m4c16-x2", flavour)
    core = openvino.Core()
    model = core.read_model(graph.SerializeToString())
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    picture = drawn(1, first=50)[0]
    assert psnr(compiled([picture])[0], run(graph, picture)) > 50.0


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_methods_give_other_ranges(method: Any) -> None:
    graph, spec = shipped("espcn-x2")
    scheme = Scheme(flavour="trt8", method=method, percentile=99.9)
    got = quantize(graph, spec, calibration(), scheme)
    assert kept(got, graph) > (28.0 if method == "entropy" else 38.0)
    largest = {
        n.input[0]: float(constants(got)[n.input[1]]) * 127 for n in nodes(got, "QuantizeLinear")
    }
    peak = max(float(p.max()) for p in calibration().pictures)
    if method == "minmax":
        assert largest["x"] == pytest.approx(peak, rel=1e-3)
        return
    plain = made("espcn-x2", "trt8")
    whole = {
        n.input[0]: float(constants(plain)[n.input[1]]) * 127
        for n in nodes(plain, "QuantizeLinear")
    }
    assert all(largest[name] <= whole[name] * 1.001 for name in whole)
    assert any(largest[name] < 0.97 * whole[name] for name in whole), "something is cut off"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_is_kept_float_has_no_int8(flavour: Any) -> None:
    graph, spec = shipped("ecbsr-m4c16-x2")
    every = convolutions(graph)
    assert len(every) == 6
    ends = frozenset({every[0], every[-1]})
    got = quantize(graph, spec, calibration(), Scheme(flavour=flavour, keep_float=ends))
    dequantised = {n.output[0] for n in nodes(got, "DequantizeLinear")}
    quantised = {n.name for n in nodes(got, "Conv") if n.input[1] in dequantised}
    assert quantised == set(every) - ends
    assert kept(got, graph) > kept(made("ecbsr-m4c16-x2", flavour), graph)


def test_rounding_by_what_is_seen_is_closer() -> None:
    graph, spec = shipped("espcn-x2")
    nearest = quantize(graph, spec, calibration(), Scheme(flavour="trt8", rounding="nearest"))
    assert kept(made("espcn-x2", "trt8"), graph) > kept(nearest, graph) + 1.0


def test_round_by_errs_less_than_nearest_on_correlated_inputs() -> None:
    rng = np.random.default_rng(0)
    seen = rng.standard_normal((4000, 1)) @ np.ones((1, 24)) + 0.1 * rng.standard_normal((4000, 24))
    covariance = np.cov(seen.T)
    exact = rng.standard_normal((5, 24))
    scale = np.abs(exact).max(axis=1) / 7
    error = {
        name: np.mean(((codes * scale[:, None] - exact) @ seen.T) ** 2)
        for name, codes in {
            "nearest": np.rint(exact / scale[:, None]),
            "seen": round_by(exact, scale, covariance),
        }.items()
    }
    assert error["seen"] < 0.5 * error["nearest"]
    codes = round_by(exact, scale / 40, covariance)
    assert np.abs(codes).max() <= 127
    assert (codes == np.rint(codes)).all()
    dead = round_by(exact, scale, np.zeros((24, 24)))
    np.testing.assert_array_equal(dead, np.rint(exact / scale[:, None]))


def built(layers: list[Any], values: dict[str, Array], *, channels: int = 3) -> onnx.ModelProto:
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, "H", "W"]),
    ]
    tensors = [numpy_helper.from_array(v, name) for name, v in values.items()]
    graph = helper.make_graph(layers, "foreign", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def many_kinds() -> onnx.ModelProto:
    """Nameless nodes: depthwise, strided, channel attention, GELU, Resize beside, Clip, shuffle."""
    rng = np.random.default_rng(1)

    def weight(*shape: int) -> Array:
        return (rng.standard_normal(shape) * np.sqrt(1.4 / np.prod(shape[1:]))).astype("f4")

    values = {
        "w0": weight(8, 3, 3, 3),
        "b0": weight(8, 1).ravel() * np.float32(0.1),
        "s0": np.full((1, 8, 1, 1), 0.2, "f4"),
        "dw": weight(8, 1, 3, 3),
        "w1": weight(8, 8, 3, 3),
        "ca": weight(8, 8, 1, 1),
        "gw": weight(8, 4, 1, 1),
        "w2": weight(12, 8, 3, 3),
        "half": np.float32(0.5),
        "root": np.float32(np.sqrt(0.5)),
        "one": np.float32(1),
        "zero": np.float32(0),
        "scales": np.array([1, 1, 2, 2], "f4"),
    }
    conv = functools.partial(helper.make_node, "Conv", pads=[1] * 4)
    layers = [
        conv(["x", "w0", "b0"], ["c0"]),
        helper.make_node("PRelu", ["c0", "s0"], ["a0"]),
        conv(["a0", "dw"], ["d"], group=8),
        helper.make_node("Mul", ["d", "root"], ["t"]),
        helper.make_node("Erf", ["t"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["p"]),
        helper.make_node("Mul", ["d", "p"], ["q"]),
        helper.make_node("Mul", ["q", "half"], ["g"]),
        conv(["g", "w1"], ["c1"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c1"], ["pool"]),
        helper.make_node("Conv", ["pool", "ca"], ["att"]),
        helper.make_node("Sigmoid", ["att"], ["sig"]),
        helper.make_node("Mul", ["c1", "sig"], ["m"]),
        helper.make_node("Conv", ["m", "gw"], ["n"], group=2),
        helper.make_node("Relu", ["n"], ["r"]),
        conv(["r", "w2"], ["c2"]),
        helper.make_node("DepthToSpace", ["c2"], ["up"], blocksize=2, mode="CRD"),
        helper.make_node("Add", ["up", "x"], ["s"]),
        helper.make_node("Resize", ["s", "", "scales"], ["big"], mode="cubic"),
        helper.make_node("Clip", ["big", "zero", "one"], ["y"]),
    ]
    return built(layers, values)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_other_operators_come_through(flavour: Any) -> None:
    graph, spec = many_kinds(), onnx_models.spec(2, colour="rgb")
    got = quantize(graph, spec, calibration(channels=3), Scheme(flavour=flavour))
    assert kept(got, graph, channels=3) > 32.0
    names = convolutions(graph)
    assert len(names) == len(set(names)) == 6
    part = Scheme(flavour=flavour, keep_float=frozenset(names[:5]))
    rest = quantize(graph, spec, calibration(channels=3), part)
    dequantised = {n.output[0] for n in nodes(rest, "DequantizeLinear")}
    assert sum(n.input[1] in dequantised for n in nodes(rest, "Conv")) == 1


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_no_path_and_no_name_inside(flavour: Any) -> None:
    data = made("ecbsr-m4c16-x2", flavour).SerializeToString()
    for secret in (tempfile.gettempdir(), str(Path.home()), str(Path.cwd()), ".onnx", "onnx.quant"):
        assert secret.encode() not in data
    user = getpass.getuser()
    assert len(user) < 4 or f"/{user}".encode() not in data


def test_it_is_quiet_and_repeats_itself(capfd: pytest.CaptureFixture[str]) -> None:
    graph, spec = shipped("espcn-x2")
    before = graph.SerializeToString(deterministic=True)
    scheme = Scheme(flavour="ort", method="percentile")
    first, second = (quantize(graph, spec, calibration(count=3), scheme) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )
    assert graph.SerializeToString(deterministic=True) == before, "what came is untouched"
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_flavours_share_what_was_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of the float network and what its layers give are found once, with equal results."""
    graph, spec = shipped("espcn-x2")
    some = calibration(count=3)
    looked: list[str] = []
    for module, name in ((ranges, "_find_ranges"), (rounding, "_targets")):
        real = getattr(module, name)

        def counted(*arguments: Any, real: Any = real, name: str = name, **options: Any) -> Any:
            if name == "_find_ranges" or arguments[1]:  # no names: nothing is run
                looked.append(name)
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, counted)
    seen, flavours = Seen(), ("ort", "openvino", "trt8", "trt")
    layers = len(convolutions(graph))
    for flavour in flavours:
        quantize(graph, spec, some, Scheme(flavour=flavour), seen=seen)
    assert looked == ["_find_ranges", *["_targets"] * layers]
    seen = Seen()
    for flavour in ("openvino", "trt8", "trt"):
        shared = quantize(graph, spec, some, Scheme(flavour=flavour), seen=seen)
        alone = quantize(graph, spec, some, Scheme(flavour=flavour))
        assert shared.SerializeToString() == alone.SerializeToString()


def test_every_picture_is_told() -> None:
    graph, spec = shipped("espcn-x2")
    notes: list[str] = []
    quantize(graph, spec, calibration(count=2), Scheme(), on_note=notes.append)
    assert notes[:2] == ["ranges, picture 1 of 2", "ranges, picture 2 of 2"]
    assert notes[2] == "weights 1 of 3, picture 1 of 2"
    assert notes[-1] == "weights 3 of 3, picture 2 of 2"


def test_what_cannot_be_quantised() -> None:
    graph, spec = shipped("espcn-x2")
    with pytest.raises(ModelError, match="no node 'nope'"):
        quantize(graph, spec, calibration(), Scheme(keep_float=frozenset({"nope"})))
    with pytest.raises(ModelError, match="no convolution is left"):
        quantize(graph, spec, calibration(), Scheme(keep_float=frozenset(convolutions(graph))))
    state = spec.replace(state=(StateSpec(name="s", shape=(None, 4, None, None)),))
    with pytest.raises(UsageError, match="keeps state"):
        quantize(graph, state, calibration(), Scheme())
    eight = spec.replace(io=IoSpec(dtype="uint8", range=(0.0, 255.0)))
    with pytest.raises(UsageError, match="float32 file"):
        quantize(graph, eight, calibration(), Scheme())
