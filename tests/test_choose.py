from __future__ import annotations

import json
from pathlib import Path

import onnx_models
import pytest

from edgesr.errors import BackendError, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import choose as module
from edgesr.runtime.backends import open_session, openvino
from edgesr.runtime.backends.choose import choose, recall, remember


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return onnx_models.nearest(tmp_path / "net.onnx")


def machine(
    monkeypatch: pytest.MonkeyPatch,
    *,
    backends: tuple[str, ...] = ("ort", "openvino"),
    bf16: bool = True,
    x86: bool = True,
) -> None:
    monkeypatch.setattr(module, "installed", lambda name: name in backends)
    monkeypatch.setattr(module, "is_x86", lambda: x86)
    monkeypatch.setattr(openvino, "has_bf16", lambda: bf16)


def pick(path: Path, backend: str = "auto", precision: str = "auto") -> tuple[str, str, str]:
    choice = choose(path, spec=onnx_models.spec(), backend=backend, precision=precision)
    return choice.backend, choice.precision, choice.why


@pytest.mark.parametrize(
    ("backends", "bf16", "x86", "expected"),
    [
        (("ort", "openvino"), True, True, ("openvino", "bf16")),
        (("ort", "openvino"), False, True, ("openvino", "fp32")),
        (("ort", "openvino"), False, False, ("ort", "fp32")),
        (("ort",), True, True, ("ort", "fp32")),
        (("openvino",), False, False, ("openvino", "fp32")),
    ],
)
def test_rule(
    net: Path,
    monkeypatch: pytest.MonkeyPatch,
    backends: tuple[str, ...],
    bf16: bool,
    x86: bool,
    expected: tuple[str, str],
) -> None:
    machine(monkeypatch, backends=backends, bf16=bf16, x86=x86)
    assert pick(net) == (*expected, "rule")


def test_what_is_asked_for_is_honoured(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert pick(net, "ort", "fp32") == ("ort", "fp32", "asked for")
    assert pick(net, "openvino", "fp32") == ("openvino", "fp32", "asked for")
    assert pick(net, "ort") == ("ort", "fp32", "rule")
    assert pick(net, "auto", "fp32")[1] == "fp32"
    assert pick(net, "openvino") == ("openvino", "bf16", "rule")


@pytest.mark.parametrize(
    ("backend", "precision", "backends", "error", "message"),
    [
        ("ort", "bf16", ("ort", "openvino"), BackendError, "--backend openvino"),
        ("openvino", "bf16", ("openvino",), BackendError, "no bf16 .*--precision fp32"),
        ("auto", "bf16", ("ort", "openvino"), BackendError, "no bf16 .*--precision fp32"),
        ("auto", "bf16", ("ort",), BackendError, "pip install openvino"),
        ("openvino", "auto", ("ort",), BackendError, "pip install openvino"),
        ("ort", "auto", ("openvino",), BackendError, "pip install onnxruntime"),
        ("auto", "auto", (), BackendError, r"pip install 'edgesr\[cpu\]'"),
        ("auto", "int8", ("ort",), BackendError, "int8 models cannot be run yet"),
        ("tensorflow", "auto", ("ort",), UsageError, "there is auto, ort, openvino"),
        ("auto", "fp8", ("ort",), UsageError, "there is auto, fp32, bf16"),
    ],
)
def test_refusals_say_what_to_type(
    net: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    precision: str,
    backends: tuple[str, ...],
    error: type[Exception],
    message: str,
) -> None:
    machine(monkeypatch, backends=backends, bf16=False)
    with pytest.raises(error, match=message):
        pick(net, backend, precision)


def test_measured_beats_the_rule(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    remember(net, {"ort fp32": 5.0, "openvino fp32": 9.0, "openvino bf16": 7.0}, about={})
    assert pick(net) == ("ort", "fp32", "measured on this machine")
    assert pick(net, "openvino") == ("openvino", "bf16", "measured on this machine")
    assert pick(net, "openvino", "fp32") == ("openvino", "fp32", "asked for")


def test_half_a_measurement_is_none(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    remember(net, {"ort fp32": 5.0}, about={})
    assert pick(net) == ("openvino", "bf16", "rule")


def test_measurements_of_something_else_are_not_used(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"ort fp32": 5.0, "openvino fp32": 9.0, "openvino bf16": 7.0}
    remember(net, speeds, about={})
    assert recall(net) == speeds
    monkeypatch.setattr(module, "version", lambda name: "99.0")
    assert recall(net) == {}
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(net.parent / "cache"))
    assert recall(net) == speeds
    onnx_models.nearest(net, gain=0.5)
    assert recall(net) == {}


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"key": 1}', '{"ms": {"ort fp32": 1}}', "\x00\xff"]
)
def test_damaged_record_is_ignored(
    net: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    machine(monkeypatch)
    record = remember(net, {"ort fp32": 5.0}, about={})
    record.write_text(content, encoding="latin-1")
    assert recall(net) == {}
    assert pick(net)[2] == "rule"


@pytest.mark.parametrize("ms", ['"fast"', "-1", "null", "[]", "NaN"])
def test_damaged_times_are_ignored(net: Path, ms: str) -> None:
    record = remember(net, {"ort fp32": 5.0}, about={})
    values = json.loads(record.read_text())
    record.write_text(json.dumps(values).replace("5.0", ms))
    assert recall(net) == {}


def test_why_is_in_the_facts(net: Path) -> None:
    session = open_session(net, spec=load_file(net).spec)
    assert session.facts.why == "rule"
