"""edgesr's sources against what each version of TensorRT's bindings really has.

The record is made from the real wheels by `python tests/tensorrt_api.py`; here it is only read.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from tensorrt_api import CLASSES, RECORD, SOURCES, WHEELS
from trt_uses import Use, missing, uses

VERSIONS = [version for _, version in WHEELS]


@pytest.fixture(scope="module")
def listings() -> dict:
    return json.loads(RECORD.read_text(encoding="utf-8"))["listings"]


def found(listings: dict) -> list[Use]:
    return [use for path in SOURCES for use in uses(path, listings[VERSIONS[-1]])]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_exists_or_is_guarded(listings: dict, version: str) -> None:
    assert missing(found(listings), listings[version]) == []


def test_the_checker_sees_what_matters(listings: dict) -> None:
    """Else a variable of another name would hide its uses, and the test above hold by that."""
    seen = {f"{use.owner}.{use.name}" for use in found(listings)}
    assert seen >= {
        *("trt.Builder", "trt.OnnxParser", "trt.Runtime", "trt.ILogger", "trt.IProgressMonitor"),
        *("Builder.create_network", "Builder.build_serialized_network", "OnnxParser.parse"),
        *("IBuilderConfig.set_flag", "IBuilderConfig.set_timing_cache", "ITimingCache.serialize"),
        *("IBuilderConfig.progress_monitor", "IOptimizationProfile.set_shape", "ITensor.shape"),
        *("MemoryPoolType.WORKSPACE", "ParserError.node_name", "ILayer.precision"),
        *("Runtime.deserialize_cuda_engine", "ICudaEngine.create_execution_context"),
        *("ICudaEngine.get_tensor_profile_shape", "IExecutionContext.execute_async_v3"),
        *("IExecutionContext.set_input_shape", "IExecutionContext.set_tensor_address"),
    }


def test_every_method_called_by_dot_is_accounted_for(listings: dict) -> None:
    """A name that only the bindings have must have been looked up wherever it stands."""
    looked_up = {(use.where, use.name) for use in found(listings)}
    newest = listings[VERSIONS[-1]]["classes"]
    telling = {
        "execute_async_v3",
        "set_tensor_address",
        "deserialize_cuda_engine",
        "num_io_tensors",
    }
    telling |= {"get_tensor_mode", "build_serialized_network", "add_optimization_profile"}
    assert telling <= {name for members in newest.values() for name in members}
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for name in telling:
                if f".{name}" in line:
                    assert (f"{path.name}:{number}", name) in looked_up, f"{path.name}: {line}"


FAULTY = {
    "gone in 11": (
        "config = trt.Builder(log).create_builder_config()\nconfig.set_flag(trt.BuilderFlag.FP16)",
        {"11.4.0.106": "BuilderFlag.FP16"},
    ),
    "gone in 10": (
        "engine.get_binding_shape(0)",
        dict.fromkeys(VERSIONS[1:], "ICudaEngine.get_binding_shape"),
    ),
    "new in 10": (
        "kinds = trt.NetworkDefinitionCreationFlag\nreturn kinds.STRONGLY_TYPED",
        {"8.6.1": "NetworkDefinitionCreationFlag.STRONGLY_TYPED"},
    ),
    "through a method": (
        "made = trt.Builder(log)\nother = made.create_builder_config()\nother.int8_calibrator = 1",
        {"11.4.0.106": "IBuilderConfig.int8_calibrator"},
    ),
    "of self": ("self._context.execute_async_v2([])", None),
    "misspelt": ("trt.Runtme(log)", dict.fromkeys(VERSIONS, "trt.Runtme")),
    "by getattr": (
        'getattr(trt.BuilderFlag, "INT8")',
        {"11.4.0.106": "BuilderFlag.INT8"},
    ),
    "guarded by hasattr": (
        'if hasattr(config, "int8_calibrator"):\n    config.int8_calibrator',
        {},
    ),
    "guarded by getattr": ('getattr(trt.BuilderFlag, "FP16", None)', {}),
    "guarded elsewhere": (
        'if hasattr(trt, "IProgressMonitor"):\n    config.progress_monitor = 1',
        {"8.6.1": "IBuilderConfig.progress_monitor"},
    ),
    "nothing of theirs": ("log.lines.append(1)\nself._request.path.stem", {}),
}


@pytest.mark.parametrize("name", FAULTY)
def test_faults_are_found(listings: dict, tmp_path: Path, name: str) -> None:
    code, expected = FAULTY[name]
    path = tmp_path / "source.py"
    path.write_text("def f(self, trt, log, engine, config):\n" + textwrap.indent(code, "    "))
    used = uses(path, listings[VERSIONS[-1]])
    faults = {
        version: [fault.split(": ")[1] for fault in missing(used, listings[version])]
        for version in VERSIONS
    }
    if expected is None:  # 8.6 had it, none has it now
        expected = dict.fromkeys(VERSIONS[1:], "IExecutionContext.execute_async_v2")
    assert {version: lines for version, lines in faults.items() if lines} == {
        version: [line] for version, line in expected.items()
    }


def test_the_record_is_of_all_versions_and_classes(listings: dict) -> None:
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    assert list(listings) == VERSIONS == [row["name"] for row in record["rows"]]
    assert all(row["passed"] for row in record["rows"])
    for listing in listings.values():
        assert set(CLASSES) & set(listing["module"]) == set(listing["classes"])
    assert set(listings["11.4.0.106"]["classes"]) == set(CLASSES)
    assert len(RECORD.read_bytes()) < 100_000
