"""Record what each version of TensorRT's Python bindings has, from the real wheels.

    python tests/tensorrt_api.py [--out benchmarks/results/tensorrt_api.json]

Downloads the bindings (1 MB each) from PyPI and imports them over stub libraries, see trt_stubs.py;
no GPU, no TensorRT. test_tensorrt_api.py holds edgesr's sources against the record, without a
network. Python 3.11 is the newest for which 8.6.1 has a wheel.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from trt_stubs import download, listing, make_stubs
from trt_uses import missing, uses

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks" / "results" / "tensorrt_api.json"
SOURCES = sorted((ROOT / "runtime" / "backends").glob("tensorrt*.py"))

WHEELS = (
    ("tensorrt_bindings", "8.6.1"),
    ("tensorrt_cu12_bindings", "10.3.0"),
    ("tensorrt_cu13_bindings", "10.13.3.9"),
    ("tensorrt_cu13_bindings", "11.4.0.106"),
)
CLASSES = (
    *(
        "Builder",
        "IBuilderConfig",
        "INetworkDefinition",
        "IOptimizationProfile",
        "ITensor",
        "ILayer",
    ),
    *("OnnxParser", "ParserError", "OnnxParserFlag", "ITimingCache", "IProgressMonitor"),
    *("Runtime", "ICudaEngine", "IExecutionContext", "IHostMemory", "ILogger", "Logger", "Dims"),
    *("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "DeviceType"),
    *("ILayer", "LayerType"),
    *("TensorIOMode", "DataType", "TensorFormat", "TensorLocation", "HardwareCompatibilityLevel"),
)


def record(folder: Path) -> dict[str, Any]:
    """Version -> its listing."""
    found = {}
    for package, version in WHEELS:
        unpacked = download(package, version, folder)
        stubs = folder / f"stubs-{version}"
        stubs.mkdir()
        make_stubs(unpacked / "tensorrt_bindings" / "tensorrt.so", stubs)
        found[version] = {"package": package} | listing(unpacked, stubs, CLASSES)
        print(f"{package} {version}: {len(found[version]['module'])} names")
    return found


def check(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a version: how many uses were looked up, and those that are not there."""
    rows = []
    for version, entry in found.items():
        everything = [use for path in SOURCES for use in uses(path, found[WHEELS[-1][1]])]
        faults = missing(everything, entry)
        row = {"name": version, "package": entry["package"], "uses": len(everything)}
        guarded = len([use for use in everything if use.guarded])
        rows.append(row | {"guarded": guarded, "missing": faults, "passed": not faults})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from common import head

    with tempfile.TemporaryDirectory() as folder:
        found = record(Path(folder))
    rows = check(found)
    for row in rows:
        print(f"{row['name']}: {row['uses']} uses, {'ok' if row['passed'] else row['missing']}")
    result = head("tensorrt_api", wheels_for=f"cp{''.join(platform.python_version_tuple()[:2])}")
    result |= {"sources": [path.name for path in SOURCES], "rows": rows}
    lines = [json.dumps(result, indent=1)[:-2] + ',\n "listings": {']
    lines += [",\n".join(f'  "{v}": {json.dumps(entry)}' for v, entry in found.items())]
    options.out.write_text("\n".join([*lines, " }\n}"]) + "\n", encoding="utf-8")
    print(f"written: {options.out}")
    sys.exit(any(not row["passed"] for row in rows))


if __name__ == "__main__":
    main()
