"""The GPU side of ONNX Runtime without a GPU: its CPU provider stands in for the device.

What is real: the sessions, IOBinding, OrtValues, the provider options as they are handed over, and
the refusal to fall back. What is not: CUDA itself.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_models
import onnxruntime
import pytest
from tensorrt_sessions import request_for

from edgesr import cli
from edgesr.errors import BackendError, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import Request, choose, open_session, ort_cuda, ort_provider
from edgesr.runtime.backends.devices import CPU, Device, parse_device
from edgesr.runtime.backends.ort_provider import CUDA, PROBE, TENSORRT, Target

GPU = Device(kind="cuda")
STAND_IN = Target(providers={"CPUExecutionProvider": {}}, device_type="cpu", strict=False)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ort_provider._probe.cache_clear()
    yield
    ort_provider._probe.cache_clear()


def asked(path: Path, **changes: Any) -> Request:
    return request_for(path, **{"precision": "fp32", **changes})


def batch(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


class CountingValues:
    """OrtValue that counts its buffers."""

    def __init__(self) -> None:
        self.shapes: list[list[int]] = []

    def ortvalue_from_shape_and_type(self, shape: list[int], kind: Any, where: str, index: int):
        self.shapes.append(shape)
        assert (where, index) == ("cuda", 1)
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, "cpu", 0)


class FakeGpu:
    """onnxruntime whose GPU providers run on the CPU; `broken` ones are dropped, as it does."""

    def __init__(self, *, broken: tuple[str, ...] = (), folder: Path | None = None) -> None:
        self.OrtValue = CountingValues()
        self.__file__ = str((folder or Path()) / "__init__.py")
        self.broken = broken
        self.opened: list[tuple[list[tuple[str, dict[str, str]]], dict[str, Any]]] = []
        self.severities: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [TENSORRT, CUDA, "CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        print("libcudnn.so.9 was not found")

    def set_default_logger_severity(self, level: int) -> None:
        self.severities.append(level)

    def InferenceSession(self, model: Any, options: Any, *, providers: Any, **more: Any) -> Any:
        strict = options.get_session_config_entry("session.disable_cpu_ep_fallback")
        self.opened.append((providers, {"strict": strict, **more}))
        inner = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        names = [name for name, _ in providers if name not in self.broken]
        inner.get_providers = lambda: [*names, "CPUExecutionProvider"]
        return inner


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A machine with two of them, and onnxruntime-gpu."""
    import sys

    fake = FakeGpu()
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    monkeypatch.setattr(ort_provider, "has_nvidia", lambda: True)
    monkeypatch.setattr(choose, "has_nvidia", lambda: True)
    return fake


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("auto", None),
        ("cpu", CPU),
        ("cuda", Device(kind="cuda", index=0)),
        ("cuda:1", Device(kind="cuda", index=1)),
    ],
)
def test_words(word: str, expected: Device | None) -> None:
    assert parse_device(word) == expected
    if expected is not None:
        assert parse_device(str(expected)) == expected


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", "cuda:0\n"])
def test_other_words_are_refused(word: str) -> None:
    with pytest.raises(UsageError, match="there is auto, cpu, cuda or cuda:N"):
        parse_device(word)


def test_the_same_picture_as_the_cpu_session(net: Path) -> None:
    expected = open_session(
        net, spec=load_file(net).spec, backend="ort", precision="fp32", device="cpu"
    )
    session = ort_cuda.open_on(onnxruntime, asked(net), STAND_IN)
    for shape in [(1, 1, 16, 16), (1, 1, 9, 21), (3, 1, 9, 21), (1, 1, 16, 16)]:
        given = batch(*shape)
        kept = given.copy()
        np.testing.assert_array_equal(session(given), expected(given))
        np.testing.assert_array_equal(given, kept)
    view = batch(1, 1, 20, 40)[:, :, ::2, 3:30]
    np.testing.assert_array_equal(session(view), expected(view))


def test_uint8(net: Path) -> None:
    given = (batch(2, 1, 12, 10) * 255).astype(np.uint8)
    expected = open_session(
        net, spec=load_file(net).spec, backend="ort", precision="fp32", device="cpu", io="uint8"
    )
    session = ort_cuda.open_on(onnxruntime, asked(net, io="uint8"), STAND_IN)
    result = session(given)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected(given))


def test_results_stay_the_callers(net: Path) -> None:
    session = ort_cuda.open_on(onnxruntime, asked(net), STAND_IN)
    first = session(batch(1, 1, 8, 8))
    kept = first.copy()
    session(batch(1, 1, 8, 8, seed=1))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("parallel", [1, 3])
def test_callers_at_the_same_time(net: Path, parallel: int) -> None:
    session = ort_cuda.open_on(onnxruntime, asked(net, parallel=parallel), STAND_IN)
    assert session.facts.parallel == parallel
    given = [batch(1, 1, 8 + i % 3, 16, seed=i) for i in range(12)]
    expected = [session(one) for one in given]
    with ThreadPoolExecutor(5) as pool:
        for _ in range(4):
            for result, right in zip(pool.map(session, given), expected, strict=True):
                np.testing.assert_array_equal(result, right)


def test_buffers_are_kept_until_the_shape_changes(net: Path, gpu: FakeGpu) -> None:
    target = Target(providers={CUDA: {}}, device_id=1)
    session = ort_cuda.open_on(gpu, asked(net), target)
    made = gpu.OrtValue.shapes
    assert made == []
    for _ in range(3):
        session(batch(1, 1, 8, 6))
    assert made == [[1, 1, 8, 6], [1, 1, 16, 12]]
    session(batch(2, 1, 8, 6))
    session(batch(1, 1, 8, 6))
    assert made[2:] == [[2, 1, 8, 6], [2, 1, 16, 12], [1, 1, 8, 6], [1, 1, 16, 12]]


def test_a_failed_allocation_is_one_line_and_passes(net: Path, gpu: FakeGpu) -> None:
    session = ort_cuda.open_on(gpu, asked(net), Target(providers={CUDA: {}}, device_id=1))
    good = gpu.OrtValue.ortvalue_from_shape_and_type
    session(batch(1, 1, 8, 8))

    def full(shape: list[int], *rest: Any) -> Any:
        if shape[2] > 16:  # of the output: the input has its buffer by then
            raise RuntimeError("CUDA failure 2:\n  out of memory")
        return good(shape, *rest)

    gpu.OrtValue.ortvalue_from_shape_and_type = full
    with pytest.raises(BackendError, match="CUDA:1: CUDA failure 2: out of memory"):
        session(batch(1, 1, 8, 8).repeat(2, axis=2))
    np.testing.assert_array_equal(
        session(batch(1, 1, 8, 8)),
        ort_cuda.open_on(onnxruntime, asked(net), STAND_IN)(batch(1, 1, 8, 8)),
    )


def test_wrong_batches_and_closed(net: Path) -> None:
    session = ort_cuda.open_on(onnxruntime, asked(net), STAND_IN)
    with pytest.raises(UsageError, match="is float32, got uint8"):
        session(np.zeros((1, 1, 8, 8), np.uint8))
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session(batch(1, 1, 8, 8))


def test_strict_refuses_the_cpu(net: Path) -> None:
    """The real runtime: with a provider that takes no node, nothing runs on the CPU instead."""
    target = Target(providers={"AzureExecutionProvider": {}}, device_type="cpu")
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime was built without the provider that takes no node")
    with pytest.raises(BackendError, match="fallback to CPU EP has been explicitly disabled"):
        ort_cuda.open_on(onnxruntime, asked(net), target)


@pytest.mark.parametrize("tensorrt", [False, True])
def test_a_provider_that_was_dropped_is_refused(net: Path, tensorrt: bool) -> None:
    broken = TENSORRT if tensorrt else CUDA
    fake = FakeGpu(broken=(broken,))
    request = asked(net)
    target = ort_cuda.target_of(request, GPU, tensorrt=tensorrt)
    name = broken.removesuffix("ExecutionProvider")
    with pytest.raises(BackendError, match=f"took .*CPUExecutionProvider instead of {name}"):
        ort_cuda.open_on(fake, request, target)
    assert fake.opened[0][1] == {"strict": "1", "enable_fallback": 0}
    assert fake.severities == [4, 2]


def test_options_of_the_providers(net: Path) -> None:
    def cuda(tensorrt: bool = False, **changes: Any) -> Any:
        target = ort_cuda.target_of(
            asked(net, **changes), Device(kind="cuda", index=2), tensorrt=tensorrt
        )
        assert target.device_id == 2
        assert all(given["device_id"] == "2" for given in target.providers.values())
        assert target.graph == ("size" in changes)
        return target.providers

    loose, fixed = cuda()[CUDA], cuda(size=(8, 8))[CUDA]
    assert (loose["cudnn_conv_algo_search"], loose["enable_cuda_graph"]) == ("HEURISTIC", "0")
    assert (fixed["cudnn_conv_algo_search"], fixed["enable_cuda_graph"]) == ("EXHAUSTIVE", "1")
    assert (fixed["use_tf32"], fixed["prefer_nhwc"]) == ("0", "0")
    assert cuda(precision="fp16")[CUDA]["prefer_nhwc"] == "1"
    both = cuda(tensorrt=True, size=(8, 8), precision="int8")
    assert list(both) == [TENSORRT, CUDA]
    assert both[CUDA]["enable_cuda_graph"] == "0"  # one of them records
    first = both[TENSORRT]
    assert (first["trt_int8_enable"], first["trt_fp16_enable"]) == ("1", "0")
    assert first["trt_cuda_graph_enable"] == "1"


def test_with_one_size_a_graph_is_recorded_and_runs_alone(net: Path, gpu: FakeGpu) -> None:
    session = open_session(
        net, spec=load_file(net).spec, backend="ort", device="cuda:1", size=(8, 6), parallel=2
    )
    assert session.facts.parallel == 1  # a graph replays on fixed addresses
    assert gpu.OrtValue.shapes == [[1, 1, 8, 6], [1, 1, 16, 12]]  # tried when it was opened
    facts = session.facts
    assert (facts.backend, facts.device, facts.precision) == ("ort", "CUDA:1", "fp32")
    assert gpu.opened[-1][0][0][1]["enable_cuda_graph"] == "1"


def test_probe_is_a_model_of_one_node() -> None:
    onnx.checker.check_model(onnx.load_from_string(PROBE))
    session = onnxruntime.InferenceSession(PROBE, providers=["CPUExecutionProvider"])
    for value, expected in ((-3.0, 0.0), (2.0, 2.0)):
        assert session.run(None, {"x": np.float32([value])})[0] == expected


def test_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if CUDA not in onnxruntime.get_available_providers():
        told = ort_provider.probe(onnxruntime, GPU, CUDA)
        assert told is not None
        assert "no CUDA provider" in told
        assert "pip install 'edgesr[gpu]'" in told
    monkeypatch.setattr(ort_provider, "has_nvidia", lambda: False)
    assert "nvidia-smi" in str(ort_provider.probe(FakeGpu(), GPU, CUDA))
    monkeypatch.setattr(ort_provider, "has_nvidia", lambda: True)
    assert ort_provider.probe(FakeGpu(), GPU, CUDA) is None
    told = str(ort_provider.probe(FakeGpu(broken=(CUDA,)), GPU, CUDA))
    assert "does not start on cuda:0" in told
    assert "cuDNN (pip install 'onnxruntime-gpu[cuda,cudnn]')" in told
    assert "\n" not in told
    library = tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so"
    library.parent.mkdir()
    library.write_bytes(b"no library")
    told = str(ort_provider.probe(FakeGpu(broken=(TENSORRT,), folder=tmp_path), GPU, TENSORRT))
    assert f"{library}: " in told
    assert told.endswith("and TensorRT")


def test_auto_takes_a_gpu_that_opens(net: Path, gpu: FakeGpu) -> None:
    spec = load_file(net).spec
    assert open_session(net, spec=spec).facts.device == "CUDA:0"
    assert open_session(net, spec=spec, device="cpu").facts.device == "CPU"
    assert open_session(net, spec=spec, backend="openvino").facts.device == "CPU"
    ort_provider._probe.cache_clear()
    gpu.broken = (CUDA, TENSORRT)
    assert open_session(net, spec=spec).facts.device == "CPU"
    with pytest.raises(BackendError, match="does not start on cuda:0"):
        open_session(net, spec=spec, device="cuda")


def test_the_tensorrt_provider_is_a_backend(net: Path, gpu: FakeGpu) -> None:
    session = open_session(net, spec=load_file(net).spec, backend="ort-tensorrt", device="auto")
    assert (session.facts.backend, session.facts.device) == ("ort-tensorrt", "Tensorrt:0")
    assert [name for name, _ in gpu.opened[-1][0]] == [TENSORRT, CUDA]


def test_refusals_on_the_way(net: Path) -> None:
    spec = load_file(net).spec
    for options, message in (
        ({"backend": "openvino", "device": "cuda"}, "say --device cpu"),
        ({"backend": "ort-tensorrt", "device": "cpu"}, "say --device cuda"),
        ({"backend": "tensorrt", "device": "cpu"}, "say --device cuda"),
    ):
        with pytest.raises(BackendError, match=message):
            open_session(net, spec=spec, **options)


def test_measured_times_hold_for_their_device(net: Path, gpu: FakeGpu) -> None:
    spec = load_file(net).spec
    ways = choose.ways(net, spec=spec, backend="auto", precision="auto")
    speeds = {way.name: 9.0 for way in ways}
    assert {"ort fp32", "ort fp32 cuda:0", "ort-tensorrt fp32 cuda:0"} <= set(speeds)
    choose.remember(net, {**speeds, "ort fp32": 1.0}, about={})
    options = {"spec": spec, "backend": "auto", "precision": "auto"}
    choice = choose.choose(net, **options)
    assert (choice.name, choice.why) == ("ort fp32", "measured on this machine")
    choice = choose.choose(net, **options, device="cuda:1")
    assert (choice.device.index, choice.why) == (1, "rule")


def test_command_line(net: Path, clip: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out.mp4"
    line = ["stream", str(clip), str(out), "--model", str(net)]
    assert cli.run([*line, "--device", "gpu"]) == 2
    assert "there is auto, cpu, cuda or cuda:N" in capsys.readouterr().err
    if CUDA not in onnxruntime.get_available_providers():
        assert cli.run([*line, "--device", "cuda"]) == 1
        said = capsys.readouterr().err
        assert "pip install 'edgesr[gpu]'" in said
        assert said.count("\n") == 1
    assert not out.exists()
    assert cli.run([*line, "--device", "cpu", "-q"]) == 0


def test_upscaler_stays_on_its_device(net: Path, gpu: FakeGpu) -> None:
    from edgesr.runtime.upscaler import load

    with load(str(net), device="cuda:1") as upscale:
        big = upscale(np.zeros((8, 6), np.uint8))
        assert upscale.facts.device == "CUDA:1"
    assert big.shape == (16, 12)
    assert gpu.OrtValue.shapes == [[1, 1, 8, 6], [1, 1, 16, 12]]


def test_batches_of_rgb(tmp_path: Path) -> None:
    path = onnx_models.nearest(tmp_path / "rgb.onnx", colour="rgb", scale=3)
    given = batch(2, 3, 5, 4)
    session = ort_cuda.open_on(onnxruntime, asked(path), STAND_IN)
    np.testing.assert_array_equal(session(given), given.repeat(3, axis=2).repeat(3, axis=3))
