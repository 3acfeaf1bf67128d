from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx_models
import pytest

from edgesr.errors import BackendError, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import choose as module
from edgesr.runtime.backends import open_session, openvino, record
from edgesr.runtime.backends.choose import choose, recall, refusals, remember


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return onnx_models.nearest(tmp_path / "net.onnx")


def form(net: Path, precision: str, *, name: str | None = None, **facts: object) -> Path:
    """Another form of `net` beside it; what is inside does not matter for choosing."""
    spec = {**load_file(net).spec.to_dict(), "precision": precision, **facts}
    path = net.with_name(name or f"{net.stem}-{precision}.onnx")
    spec.pop("io")
    return onnx_models.nearest(path, gain=0.75, **spec)


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


def chosen(path: Path, backend: str = "auto", precision: str = "auto", device: str = "auto") -> Any:
    spec = load_file(path).spec
    return choose(path, spec=spec, backend=backend, precision=precision, device=device)


def pick(path: Path, backend: str = "auto", precision: str = "auto") -> tuple[str, str, str]:
    choice = chosen(path, backend, precision)
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
        (
            "auto",
            "int8",
            ("ort",),
            BackendError,
            "no int8 form .*export .* --int8 --calib",
        ),
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
    monkeypatch.setattr(record, "version", lambda name: "99.0")
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
    kept = remember(net, {"ort fp32": 5.0}, about={})
    kept.write_text(content, encoding="latin-1")
    assert recall(net) == {}
    assert pick(net)[2] == "rule"


@pytest.mark.parametrize("ms", ['"fast"', "-1", "null", "[]", "NaN"])
def test_damaged_times_are_ignored(net: Path, ms: str) -> None:
    kept = remember(net, {"ort fp32": 5.0}, about={})
    values = json.loads(kept.read_text())
    kept.write_text(json.dumps(values).replace("5.0", ms))
    assert recall(net) == {}


SLOW = {"ort fp32": 5.0, "openvino fp32": 9.0, "openvino bf16": 7.0}


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_form_beside_it_is_taken_when_asked_for(
    net: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    machine(monkeypatch)
    beside = form(net, precision)
    choice = chosen(net, "ort", precision)
    assert (choice.backend, choice.precision, choice.why) == ("ort", precision, "asked for")
    assert choice.model.path == beside
    assert choice.model.spec.precision == precision
    assert chosen(net, "auto", precision).backend == "openvino"
    assert chosen(net).model.path == net  # never by rule
    own = form(net, precision, name=f"net-{precision}-ort.onnx")
    assert chosen(net, "ort", precision).model.path == own
    assert chosen(net, "openvino", precision).model.path == beside


def test_openvino_takes_its_own_form_first(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    beside = form(net, "int8")
    own = form(net, "int8", name="net-int8-openvino.onnx")
    assert chosen(net, "openvino", "int8").model.path == own
    assert chosen(net, "auto", "int8").model.path == own
    assert chosen(net, "ort", "int8").model.path == beside
    own.unlink()
    spec = load_file(beside).spec
    for suffix, text in ((".xml", ""), (".json", spec.to_json())):
        net.with_name("net-int8" + suffix).write_text(text)
    assert chosen(net, "openvino", "int8").model.path == beside  # its .bin is missing
    net.with_name("net-int8.bin").write_bytes(b"")
    assert chosen(net, "openvino", "int8").model.path == net.with_name("net-int8.xml")
    assert chosen(net, "ort", "int8").model.path == beside


@pytest.mark.parametrize(
    "facts", [{"scale": 3}, {"colour": "rgb"}, {"network": "other"}, {"recipe": "other"}]
)
def test_a_file_of_another_model_is_no_form(
    net: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object]
) -> None:
    machine(monkeypatch)
    form(net, "int8", **facts)
    with pytest.raises(BackendError, match=r"no int8 form of .*net-int8\.onnx"):
        chosen(net, "auto", "int8")
    with pytest.raises(
        BackendError, match=r"; net-int8\.onnx is none: of another model or training"
    ):
        chosen(net, "auto", "int8")
    remember(net, {**SLOW, "ort int8": 1.0}, about={})
    assert chosen(net).precision == "fp32"


@pytest.mark.parametrize("content", [b"", b"nothing of the kind"])
def test_a_damaged_form_is_none(net: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    machine(monkeypatch)
    net.with_name("net-int8.onnx").write_bytes(content)
    with pytest.raises(BackendError, match="no int8 form"):
        chosen(net, "auto", "int8")


def test_the_command_names_what_export_takes(
    net: Path, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)
    with pytest.raises(BackendError, match=f"edgesr export {net} --fp16`"):
        chosen(net, "auto", "fp16")
    shipped = zoo.rename(zoo.with_name("weights")) / "espcn-x2.onnx"
    with pytest.raises(BackendError, match=r"edgesr export espcn-x2 --int8 --calib clip\.mp4`"):
        chosen(shipped, "auto", "int8")


def test_auto_takes_a_form_only_where_it_measured_faster(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)
    beside = form(net, "int8")
    remember(net, {**SLOW, "openvino int8": 6.0}, about={})
    assert chosen(net).precision == "fp32"
    remember(net, {**SLOW, "openvino int8": 3.0}, about={})
    choice = chosen(net)
    assert (choice.backend, choice.precision, choice.why) == (
        "openvino",
        "int8",
        "measured on this machine",
    )
    assert choice.model.path == beside
    assert chosen(net, "ort").precision == "fp32"
    assert chosen(net, "auto", "bf16").model.path == net
    remember(net, {"openvino int8": 3.0}, about={})  # nothing that it is faster than
    assert chosen(net).why == "rule"


def test_measurements_of_another_form_are_not_used(
    net: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)
    form(net, "int8")
    speeds = {**SLOW, "openvino int8": 3.0}
    remember(net, speeds, about={})
    assert recall(net) == speeds
    form(net, "int8", halo=3)
    assert recall(net) == {}
    assert chosen(net).why == "rule"


def test_an_int8_file_runs_as_it_is(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    path = form(net, "int8")
    assert pick(path) == ("openvino", "int8", "rule")
    assert pick(path, "ort") == ("ort", "int8", "rule")
    assert pick(path, "ort", "int8") == ("ort", "int8", "asked for")
    for precision in ("fp32", "bf16", "fp16"):
        with pytest.raises(BackendError, match="is an int8 model and runs as int8"):
            pick(path, "auto", precision)


def test_an_fp16_file_may_run_as_bf16(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    path = form(net, "fp16")
    assert pick(path) == ("openvino", "bf16", "rule")
    assert pick(path, "openvino", "fp16") == ("openvino", "fp16", "asked for")
    assert pick(path, "ort") == ("ort", "fp16", "rule")
    with pytest.raises(BackendError, match="is an fp16 model"):
        pick(path, "auto", "fp32")
    machine(monkeypatch, bf16=False)
    assert pick(path) == ("openvino", "fp16", "rule")


def test_refusals_name_the_form_that_is_missing(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    spec = load_file(net).spec
    lines = refusals(net, spec=spec)
    assert len(lines) == 1
    assert lines[0].startswith("int8: there is no int8 form of ")
    form(net, "int8")
    assert refusals(net, spec=spec) == []
    machine(monkeypatch, backends=("ort",))
    assert refusals() == ["openvino is not installed: " + module.INSTALL["openvino"]]


def test_why_is_in_the_facts(net: Path) -> None:
    session = open_session(net, spec=load_file(net).spec)
    assert session.facts.why == "rule"
