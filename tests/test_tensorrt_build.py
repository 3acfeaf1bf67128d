"""The builder: what it asks of each version of TensorRT, and TensorRT-RTX where it is installed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx_models import convolutions, nearest
from trt_fakes import PLAN, Trt, Trt8, Trt10, Trt11

from edgesr.errors import BackendError, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends.build_progress import Steps
from edgesr.runtime.backends.engine_options import engine_options
from edgesr.runtime.backends.tensorrt_builder import Built, build_engine
from edgesr.runtime.backends.tensorrt_hooks import logger_of


def build(path: Path, trt: Trt, *, precision: str = "fp32", **options) -> Built:
    spec = load_file(path).spec.replace(precision=precision)
    told = {
        name: options.pop(name) for name in ("timings", "on_note", "on_progress") if name in options
    }
    return build_engine(path, spec=spec, options=engine_options(spec, **options), trt=trt, **told)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return nearest(tmp_path / "net.onnx")


FLAGS = {
    (Trt8, "fp32"): ["no TF32"],
    (Trt8, "fp16"): ["FP16"],
    (Trt8, "int8"): ["INT8", "FP16"],
    (Trt10, "fp32"): ["STRONGLY_TYPED", "no TF32"],
    (Trt10, "fp16"): ["STRONGLY_TYPED"],
    (Trt10, "int8"): ["STRONGLY_TYPED"],
    (Trt11, "fp32"): ["STRONGLY_TYPED", "no TF32"],
    (Trt11, "fp16"): ["STRONGLY_TYPED"],
    (Trt11, "int8"): ["STRONGLY_TYPED"],
}


@pytest.mark.parametrize(("kind", "precision"), FLAGS, ids=str)
def test_flags(net: Path, kind: type[Trt], precision: str) -> None:
    trt = kind("1.2.3")
    built = build(net, trt, precision=precision)
    assert list(built.flags) == FLAGS[kind, precision]
    assert built.plan == PLAN + net.read_bytes()
    created = "EXPLICIT_BATCH" if kind is Trt8 else "STRONGLY_TYPED"
    assert ("network", [created]) in trt.calls
    set_flags = [call[1] for call in trt.calls if call[0] == "flag"]
    assert set_flags == ([] if kind is not Trt8 else [f for f in built.flags if f != "no TF32"])
    assert (("no flag", "TF32") in trt.calls) == (precision == "fp32")


def test_a_version_that_has_neither_choice_is_strongly_typed(net: Path) -> None:
    class Trt12(Trt11):
        creation = ()

    trt = Trt12("12.0")
    assert "STRONGLY_TYPED" in build(net, trt, precision="int8").flags
    assert ("network", []) in trt.calls


def test_profile_and_limits(net: Path) -> None:
    trt = Trt10("10.3.0")
    sizes = {"least": (32, 48), "usual": (90, 160), "most": (270, 480)}
    build(net, trt, batch=4, workspace=256, level=5, **sizes)
    shapes = {"x": ((1, 1, 32, 48), (4, 1, 90, 160), (4, 1, 270, 480))}
    assert ("profile", shapes) in trt.calls
    assert ("memory", "WORKSPACE", 256 * 2**20) in trt.calls
    assert trt.config.builder_optimization_level == 5
    plain = Trt10("10.3.0")
    build(net, plain)
    assert not [call for call in plain.calls if call[0] == "memory"]


def test_state_follows_the_frame(net: Path) -> None:
    graph = onnx.load(net)
    state = onnx.helper.make_tensor_value_info("s", 1, ["n", 8, "h", "w"])
    graph.graph.input.append(state)
    onnx.save(graph, net)
    trt = Trt10("10.3.0")
    build(net, trt, size=(20, 30))
    assert ("profile", {"x": ((1, 1, 20, 30),) * 3, "s": ((1, 8, 20, 30),) * 3}) in trt.calls


def test_a_static_graph(net: Path) -> None:
    graph = onnx.load(net)
    for dim, size in zip(
        graph.graph.input[0].type.tensor_type.shape.dim, (1, 1, 24, 40), strict=True
    ):
        dim.Clear()
        dim.dim_value = size
    onnx.save(graph, net)
    trt = Trt10("10.3.0")
    build(net, trt, size=(24, 40))
    assert not [call for call in trt.calls if call[0] == "profile"]
    with pytest.raises(UsageError, match=r"takes 40x24 \(width x height\) and no other"):
        build(net, trt, size=(24, 48))


def test_timings_are_used_again(net: Path) -> None:
    trt = Trt10("10.3.0")
    assert build(net, trt).timings == b"T"
    assert build(net, trt, timings=b"T").timings == b"TT"
    assert ("timings", b"T") in trt.calls
    assert build(net, trt, timings=b"damaged").timings == b"T"
    assert build(net, trt, timings=b"T", timing_cache=False).timings is None


@pytest.mark.parametrize("kind", [Trt8, Trt10, Trt11])
def test_the_dla(net: Path, kind: type[Trt]) -> None:
    """Weakly typed where that is to be had (8 and 10), else by the graph alone."""
    trt = kind("1.2.3", dla=2)
    built = build(net, trt, precision="fp16", dla=1)
    assert trt.config.DLA_core == 1
    assert trt.config.default_device_type.name == "DLA"
    weak = kind is not Trt11
    assert list(built.flags) == (
        ["FP16", "GPU_FALLBACK"] if weak else ["STRONGLY_TYPED", "GPU_FALLBACK"]
    )
    assert (("parser flag", "ADJUST_FOR_DLA") in trt.calls) == (kind is not Trt8)
    with pytest.raises(UsageError, match="DLA core 2 is not on this device: it has 2"):
        build(net, trt, precision="fp16", dla=2)
    with pytest.raises(UsageError, match="it has none; leave --dla out"):
        build(net, kind("1.2.3"), precision="fp16", dla=0)


def test_float_islands_are_held_in_weak_typing(tmp_path: Path) -> None:
    """TensorRT 8 may take half for any layer: those that the graph keeps float must be told."""
    path = convolutions(tmp_path / "net.onnx", layers=2)
    graph = onnx.load(path)
    convs = [node for node in graph.graph.node if node.op_type == "Conv"]
    convs[1].name = "float_1"
    onnx.save(graph, path)
    trt = Trt8("8.6.1")
    built = build(path, trt, precision="fp16")
    assert built.flags == ("FP16", "OBEY_PRECISION_CONSTRAINTS for 1 layers")
    assert ("flag", "OBEY_PRECISION_CONSTRAINTS") in trt.calls
    held = [layer.precision for layer in trt.network.layers if layer.precision is not None]
    assert held == [trt.DataType.FLOAT]
    typed = Trt10("10.3.0")
    assert build(path, typed, precision="fp16").flags == ("STRONGLY_TYPED",)
    assert all(layer.precision is None for layer in typed.network.layers)


def test_errors_are_one_line(net: Path) -> None:
    for kind, node in ((Trt8, "node 3"), (Trt10, "node 'Conv_3' (Conv)")):
        trt = kind("1.2.3")
        trt.refuses["parse"] = "Assertion failed:\n  no such thing"
        with pytest.raises(BackendError) as raised:
            build(net, trt)
        assert str(raised.value) == (
            f"TensorRT 1.2.3 cannot read net.onnx: {node}: Assertion failed: no such thing"
        )
    trt = Trt8("8.6.1")
    trt.refuses["parse"] = "Q/DQ of opset 20"
    with pytest.raises(BackendError, match="takes the INT8 file of opset 17"):
        build(net, trt, precision="int8")
    for what, line in (
        ("Builder", "no builder .is there a usable GPU.*: CUDA error 35"),
        ("build", "cannot build net.onnx for 1x64x64 to 1x1088x1920: CUDA error 35"),
    ):
        trt = Trt10("10.3.0")
        trt.refuses[what] = "CUDA\n error 35"
        with pytest.raises(BackendError, match=line):
            build(net, trt)
    trt = Trt10("10.3.0")
    trt.refuses["profile"] = "-"
    with pytest.raises(BackendError, match="takes no profile from 1x64x64 over 1x360x640"):
        build(net, trt)
    text = net.with_name("text.onnx")
    text.write_bytes(b"hello")
    spec = load_file(net).spec
    with pytest.raises(BackendError, match="holds no network: it is no ONNX file"):
        build_engine(text, spec=spec, options=engine_options(spec), trt=Trt10("10.3.0"))


def test_the_logger_keeps_warnings_and_the_last_error(net: Path) -> None:
    trt = Trt10("10.3.0")
    log = logger_of(trt)
    assert logger_of(trt) is log  # TensorRT takes one for all
    assert build(net, trt).warnings == ("a layer was slow",)
    log.log(log.INFO, "x")
    for number in range(40):
        log.log(log.ERROR, f"error {number}")
    assert log.reason() == "error 39"
    assert len(log.lines) == 20
    log.clear()
    assert log.reason() == "it gave no reason"


def test_progress(net: Path) -> None:
    seen: list[tuple] = []
    build(net, Trt10("10.3.0"), on_progress=lambda *told: seen.append(told))
    parts = [part for _, part, _ in seen]
    assert parts == sorted(parts)
    assert parts[0] == 0.0
    assert parts[-1] == 1.0
    assert len(set(parts)) > 10
    assert {name for name, _, _ in seen} == {"Building engine", "Cloning", "Timing"}
    assert build(net, Trt8("8.6.1"), on_progress=lambda *told: None).plan  # it has no monitor


def test_time_left() -> None:
    now, seen = [0.0], []
    steps = Steps(lambda *told: seen.append(told), clock=lambda: now[0])
    steps.start("a", None, 10)
    for step in range(10):
        now[0] += 2.0
        steps.step("a", step)
    assert [round(left, 3) for _, _, left in seen[1:]] == [18, 16, 14, 12, 10, 8, 6, 4, 2, 0]
    assert seen[0][2] is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("x")])
def test_what_the_listener_raises_ends_the_build(net: Path, error: BaseException) -> None:
    def listen(*told) -> None:
        raise error

    with pytest.raises(type(error)):
        build(net, Trt10("10.3.0"), on_progress=listen)


# With the real parser and builder of TensorRT-RTX, which need no GPU.

PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def rtx():
    return pytest.importorskip(
        "tensorrt_rtx_bindings",
        reason="pip install --no-deps tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings (95 MB)",
    )


@pytest.mark.parametrize("name", ["espcn", "ecbsr-m4c16-rgb", "fsrcnn", "bsrn", "rcan", "abpn"])
def test_tensorrt_rtx_builds_networks(rtx, tmp_path: Path, monkeypatch, name: str) -> None:
    """A handful of benchmarks/tensorrt_rtx.py, which has them all."""
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "benchmarks"))
    import tensorrt_rtx
    from small_networks import SMALL

    rows = list(tensorrt_rtx.row(rtx, name, "reduced", 2, SMALL[name], tmp_path))
    assert [row["precision"] for row in rows] == list(PRECISIONS)
    assert [row.get("error") for row in rows] == [None] * 3
    assert all(row["plan_bytes"] > 1000 for row in rows)


def test_tensorrt_rtx_names_the_node_it_cannot_read(rtx, tmp_path: Path) -> None:
    path = nearest(tmp_path / "net.onnx")
    graph = onnx.load(path)
    graph.graph.node[0].op_type = "BitwiseNot"
    graph.graph.node[0].name = "bits"
    del graph.graph.node[0].input[1:]
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(BackendError, match=r"cannot read net.onnx: node 'bits' \(BitwiseNot\): "):
        build(path, rtx)


def test_tensorrt_rtx_tells_how_far_it_is(rtx, tmp_path: Path) -> None:
    seen: list[tuple] = []
    path = convolutions(tmp_path / "net.onnx")
    built = build(path, rtx, on_progress=lambda *told: seen.append(told))
    parts = [part for _, part, _ in seen]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert built.timings
    assert build(path, rtx, timings=built.timings).plan

    def stop(*told) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(path, rtx, on_progress=stop)
