from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import pytest

from edgesr.errors import BackendError, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import Session, open_session
from edgesr.runtime.backends.openvino import has_bf16
from edgesr.runtime.backends.uint8 import to_float, to_uint8
from edgesr.spec import METADATA_KEY, IoSpec

BACKENDS = ["ort", "openvino"]
# Largest difference between two runtimes of the same fp32 network on 0..1.
FP32 = 1e-4
SIZES = [(16, 16), (37, 53), (1, 1), (5, 240)]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.convolutions(tmp_path_factory.mktemp("net") / "net.onnx")


@pytest.fixture(scope="module")
def nearest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_models.nearest(tmp_path_factory.mktemp("nearest") / "nearest.onnx")


def opened(path: Path, backend: str, **options: Any) -> Session:
    options.setdefault("precision", "fp32")
    return open_session(path, spec=load_file(path).spec, backend=backend, **options)


def picture(height: int, width: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(height).random((1, channels, height, width), np.float32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("fixed", [False, True])
def test_runtimes_agree(net: Path, size: tuple[int, int], threads: int, fixed: bool) -> None:
    batch = picture(*size)
    options = {"threads": threads, "size": size if fixed else None}
    results = [opened(net, backend, **options)(batch) for backend in BACKENDS]
    for result in results:
        assert result.shape == (1, 1, 2 * size[0], 2 * size[1])
        assert result.dtype == np.float32
    error = np.abs(results[0] - results[1])
    assert error.max() <= FP32, np.histogram(error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_known_answer(nearest: Path, backend: str) -> None:
    batch = picture(9, 7)
    expected = batch.repeat(2, axis=2).repeat(2, axis=3)
    np.testing.assert_array_equal(opened(nearest, backend)(batch), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rgb_and_batches_of_several(tmp_path: Path, backend: str) -> None:
    path = onnx_models.nearest(tmp_path / "rgb.onnx", colour="rgb", scale=3)
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    result = opened(path, backend, io="uint8")(batch)
    np.testing.assert_array_equal(result, batch.repeat(3, axis=2).repeat(3, axis=3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_uint8_keeps_every_value(nearest: Path, backend: str) -> None:
    batch = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    result = opened(nearest, backend, io="uint8")(batch)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[0, 0, ::2, ::2], batch[0, 0])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES)
def test_uint8_is_float32_rounded(net: Path, backend: str, size: tuple[int, int]) -> None:
    batch = np.random.default_rng(1).integers(0, 256, (1, 1, *size), np.uint8)
    values = opened(net, backend)(batch.astype(np.float32) / np.float32(255))
    expected = np.clip(np.rint(values * np.float32(255)), 0, 255)
    np.testing.assert_array_equal(opened(net, backend, io="uint8")(batch), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_uint8_is_clamped(tmp_path: Path, backend: str) -> None:
    path = onnx_models.nearest(tmp_path / "steep.onnx", gain=4.0, bias=-1.5)
    batch = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    result = opened(path, backend, io="uint8")(batch)[0, 0, ::2, ::2].ravel()
    assert not result[:95].any()  # what is below 0 must not come back as its absolute value
    assert (result[160:] == 255).all()
    assert (np.diff(result.astype(int)) >= 0).all()


def test_rounding_on_and_around_every_tie() -> None:
    ties = (np.arange(-40, 560, dtype=np.float32) / 2) / np.float32(255)
    far = np.float32([-np.inf, -1e30, -8.5e6, -0.0, 8.5e6, 1e30, np.inf])
    values = np.concatenate([ties, np.nextafter(ties, far[-1]), np.nextafter(ties, far[0]), far])
    expected = np.clip(np.rint(values.astype(np.float32) * np.float32(255)), 0, 255)
    np.testing.assert_array_equal(to_uint8(values[None, None, None])[0, 0, 0], expected)
    assert to_uint8(np.full((1, 1, 1, 1), np.nan, np.float32)) == 0


def test_scaling_is_a_division() -> None:
    values = np.arange(256, dtype=np.uint8)[None, None, None]
    np.testing.assert_array_equal(to_float(values), values.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_results_and_inputs_stay_the_callers(net: Path, backend: str, io: Any) -> None:
    session = opened(net, backend, io=io, size=(8, 8))
    one, two = np.zeros((1, 1, 8, 8), io), np.ones((1, 1, 8, 8), io)
    first = session(one)
    kept = first.copy()
    session(two)
    np.testing.assert_array_equal(first, kept)
    assert not one.any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_views_are_taken(net: Path, backend: str, io: Any) -> None:
    """A decoder's plane has longer lines than the picture is wide, and may be read-only."""
    lines = np.random.default_rng(2).integers(0, 256, (12, 64)).astype(io)
    lines = lines / 255 if io == "float32" else lines
    view = lines.astype(io)[:, :20]
    view.flags.writeable = False
    session = opened(net, backend, io=io)
    np.testing.assert_array_equal(session(view[None, None]), session(view.copy()[None, None]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_batches(tmp_path: Path, backend: str) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx", multiple=2, min_size=4)
    session = opened(path, backend)
    fixed = opened(path, backend, size=(8, 8))
    for target, shape, message in [
        (session, (8, 8), r"\(N, 1, H, W\), got \(8, 8\)"),
        (session, (1, 3, 8, 8), r"\(N, 1, H, W\), got \(1, 3, 8, 8\)"),
        (session, (1, 1, 0, 8), "got"),
        (session, (1, 1, 7, 8), "multiples of 2, got 7x8"),
        (session, (1, 1, 2, 8), "from 4 up"),
        (fixed, (1, 1, 8, 10), r"opened for \(1, 1, 8, 8\), got \(1, 1, 8, 10\)"),
        (fixed, (2, 1, 8, 8), "opened for"),
    ]:
        with pytest.raises(UsageError, match=message):
            target(np.zeros(shape, np.float32))
    with pytest.raises(UsageError, match="is float32, got uint8"):
        session(np.zeros((1, 1, 8, 8), np.uint8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_facts_are_read_back(net: Path, backend: str) -> None:
    for threads in (1, 2):
        facts = opened(net, backend, threads=threads).facts
        assert (facts.backend, facts.precision, facts.threads) == (backend, "fp32", threads)
        assert (facts.device, facts.why) == ("CPU", "asked for")
        assert facts.version[0].isdigit()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize("parallel", [1, 2])
def test_callers_at_the_same_time(net: Path, backend: str, io: Any, parallel: int) -> None:
    """More callers than it was opened for wait; nobody gets another one's picture."""
    session = opened(net, backend, threads=2, parallel=parallel, io=io, size=(64, 48))
    assert (session.facts.threads, session.facts.parallel) == (2, parallel)
    peak = 256 if io == "uint8" else 1
    batches = [(picture(64, 48) * peak * i / 12).astype(io) for i in range(1, 13)]
    expected = [session(batch) for batch in batches]
    with ThreadPoolExecutor(5) as pool:
        for _ in range(5):
            for result, right in zip(pool.map(session, batches), expected, strict=True):
                np.testing.assert_array_equal(result, right)


@pytest.mark.parametrize("backend", BACKENDS)
def test_closed(net: Path, backend: str) -> None:
    session = opened(net, backend)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session(picture(8, 8))


@pytest.mark.parametrize("backend", BACKENDS)
def test_damaged_model_is_one_line(tmp_path: Path, net: Path, backend: str) -> None:
    path = tmp_path / "damaged.onnx"
    path.write_bytes(net.read_bytes()[:-900])
    with pytest.raises(BackendError, match=r"cannot load .*damaged\.onnx") as caught:
        open_session(path, spec=load_file(net).spec, backend=backend, precision="fp32")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", BACKENDS)
def test_graph_with_8_bit_inside(tmp_path: Path, backend: str) -> None:
    """`export --io uint8`: nothing is converted around it."""
    facts = onnx_models.spec(io=IoSpec(dtype="uint8", range=(0, 255)))
    node = onnx.helper.make_node("Concat", ["x", "x"], ["y"], axis=3)
    path = onnx_models.save(tmp_path / "m.onnx", [node], {}, facts, onnx.TensorProto.UINT8)
    batch = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    result = opened(path, backend, io="uint8")(batch)
    np.testing.assert_array_equal(result, np.concatenate([batch, batch], axis=3))
    with pytest.raises(BackendError, match="8-bit values"):
        opened(path, backend, io="float32")


def quantised(path: Path, **facts: Any) -> Path:
    """Nearest x2 as a Q/DQ graph of steps of 1/255: an 8-bit picture comes out as it went in.

    The names of its input and output are not those of edgesr's own files.
    """
    tensors = {
        "step": np.float32(1 / 255),
        "zero": np.uint8(0),
        "weight": np.full((4, 1, 1, 1), 127, np.int8),
        "steps": np.full(4, 1 / 127, np.float32),
        "zeros": np.zeros(4, np.int8),
    }
    node = onnx.helper.make_node
    nodes = [
        node("QuantizeLinear", ["picture", "step", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        node("DequantizeLinear", ["weight", "steps", "zeros"], ["w"], axis=0),
        node("Conv", ["d", "w"], ["h"], kernel_shape=[1, 1]),
        node("DepthToSpace", ["h"], ["big"], blocksize=2, mode="CRD"),
    ]
    return written(path, nodes, tensors, onnx.TensorProto.FLOAT, precision="int8", **facts)


def halved(path: Path, *, ends: int = onnx.TensorProto.FLOAT) -> Path:
    """Nearest x2 in float16, its ends in float32 or float16."""
    node, half = onnx.helper.make_node, onnx.TensorProto.FLOAT16
    nodes = [
        node("Cast", ["picture"], ["small"], to=half),
        node("Conv", ["small", "weight"], ["h"], kernel_shape=[1, 1]),
        node("DepthToSpace", ["h"], ["large"], blocksize=2, mode="CRD"),
        node("Cast", ["large"], ["big"], to=ends),
    ]
    tensors = {"weight": np.ones((4, 1, 1, 1), np.float16)}
    io = IoSpec(dtype="float16" if ends == half else "float32")
    return written(path, nodes, tensors, ends, precision="fp16", io=io)


def written(path: Path, nodes: list[Any], tensors: Any, dtype: int, **facts: Any) -> Path:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "made by a test",
        [info("picture", dtype, ["n", 1, "h", "w"])],
        [info("big", dtype, ["n", 1, "H", "W"])],
        [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()],
    )
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    spec = onnx_models.spec(halo=0, **facts)
    onnx.helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("io", ["float32", "uint8"])
@pytest.mark.parametrize("fixed", [False, True])
def test_int8_graphs_run_as_they_are(tmp_path: Path, backend: str, io: Any, fixed: bool) -> None:
    path = quantised(tmp_path / "m.onnx")
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 8, 32)
    batch = levels if io == "uint8" else levels.astype(np.float32) / np.float32(255)
    size = (8, 32) if fixed else None
    session = opened(path, backend, precision="auto", io=io, size=size)
    result = session(batch)
    assert (session.facts.precision, session.facts.file) == ("int8", str(path))
    bf16 = backend == "openvino" and has_bf16()
    assert session.facts.floats == ("bf16" if bf16 else "fp32")
    expected = levels.repeat(2, axis=2).repeat(2, axis=3)
    error = np.abs(result.astype(np.float32) * (1 if io == "uint8" else 255) - expected)
    assert error.max() <= (1 if bf16 else 1e-3), np.histogram(error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_int8_rounds_to_its_steps(tmp_path: Path, backend: str) -> None:
    """What lies between two steps is lost: the graph is not run as if it were float."""
    path = quantised(tmp_path / "m.onnx")
    batch = np.full((1, 1, 8, 8), 100.4 / 255, np.float32)
    result = opened(path, backend, precision="int8")(batch)
    # To 100/255, and bf16, where it is used behind that, has steps of 1/512 there.
    assert np.abs(result - 100 / 255).max() <= 1 / 1024
    assert np.abs(result - 100.4 / 255).min() > 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("ends", [onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16])
@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_fp16_graphs_run_as_they_are(tmp_path: Path, backend: str, ends: int, io: Any) -> None:
    path = halved(tmp_path / "m.onnx", ends=ends)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    batch = levels if io == "uint8" else levels.astype(np.float32) / np.float32(256)
    session = opened(path, backend, precision="fp16", io=io)
    result = session(batch)
    assert (session.facts.precision, session.facts.floats) == ("fp16", "fp32")
    assert result.dtype == batch.dtype
    np.testing.assert_array_equal(result, batch.repeat(2, axis=2).repeat(2, axis=3))


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16")
def test_fp16_as_bf16(tmp_path: Path) -> None:
    session = opened(halved(tmp_path / "m.onnx"), "openvino", precision="bf16")
    assert (session.facts.precision, session.facts.floats) == ("bf16", "bf16")
    batch = picture(9, 8)
    error = np.abs(session(batch) - batch.repeat(2, axis=2).repeat(2, axis=3))
    assert 0 < error.max() <= 1 / 256


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_int8_form_of_an_fp32_model(tmp_path: Path, backend: str) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx", gain=0.5, network="tiny")
    form = quantised(tmp_path / "m-int8.onnx")
    spec = load_file(path).spec
    session = open_session(path, spec=spec, backend=backend, precision="int8", io="uint8")
    assert session.facts.file == str(form)
    assert (session(np.full((1, 1, 8, 8), 200, np.uint8)) >= 199).all()
    assert (opened(path, backend, io="uint8")(np.full((1, 1, 8, 8), 200, np.uint8)) == 100).all()


@pytest.mark.skipif(not has_bf16(), reason="this CPU has no bf16")
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("io", ["float32", "uint8"])
def test_bf16(net: Path, fixed: bool, io: Any) -> None:
    batch = picture(40, 30)
    batch = batch if io == "float32" else (batch * 255).astype(np.uint8)
    size = (40, 30) if fixed else None
    session = opened(net, "openvino", precision="bf16", io=io, size=size)
    assert session.facts.precision == "bf16"
    error = np.abs(session(batch).astype(np.float32) - opened(net, "ort", io=io)(batch))
    step = 1 if io == "float32" else 255
    assert error.max() <= 0.03 * step, np.histogram(error)
    assert 0 < error.mean() <= 0.004 * step  # 0: it was fp32 after all


def test_options_at_the_door(net: Path) -> None:
    for options in ({"threads": 0}, {"parallel": 0}, {"io": "float16"}, {"size": (0, 8)}):
        with pytest.raises(UsageError):
            opened(net, "ort", **options)


def test_first_calls_from_two_threads_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """OpenVINO's bindings could hang here: see `open_session`. A new process has nothing warm."""
    code = """
import sys, threading
import numpy as np
from edgesr.models import resolve
from edgesr.runtime.backends import open_session
model = resolve("ecbsr-m4c16-x2")
session = open_session(
    model.path, spec=model.spec, backend="openvino", precision="fp32", parallel=2, io="uint8"
)
batch = np.zeros((1, 1, 16, 16), np.uint8)
threads = [threading.Thread(target=session, args=(batch,)) for _ in range(2)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    for _ in range(4):  # the timeout only turns a hang into a failure
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_ctrl_c_after_openvino_is_no_crash() -> None:
    """Two Cores freed in the order of their making left a signal stack that was gone."""
    code = """
import os, signal
from edgesr.models import resolve
from edgesr.runtime.backends import open_session
model = resolve("ecbsr-m4c16-x2")
held = [
    open_session(model.path, spec=model.spec, backend="openvino", precision="fp32")
    for _ in range(2)
]
while held:
    held.pop(0).close()
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    raise SystemExit(42)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 42
