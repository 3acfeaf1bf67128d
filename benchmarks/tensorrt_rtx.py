"""Every network x fp32, fp16, INT8 as TensorRT sees it: parsed and built, without a GPU.

    pip install --target RTX --no-deps tensorrt_rtx_cu13_libs tensorrt_rtx_cu13_bindings
    PYTHONPATH=RTX python benchmarks/tensorrt_rtx.py --out benchmarks/results/tensorrt_rtx.json

TensorRT-RTX has the parser and the strong typing of TensorRT 10 and 11 and builds on a plain CPU,
so a graph that it refuses would fail on the device too. It says nothing about speed, and without
a GPU nothing is run. Built by edgesr's own `build_engine`. All networks in a reduced size (those of
the tests), in full size those of up to `SMALL_ENOUGH` parameters and what --only names. Minutes on
two cores; with --only or --form the other rows stay in the file.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import torch
from common import ROOT, head, write

from edgesr.errors import EdgesrError
from edgesr.export.calibrate import Calibration
from edgesr.export.fp16 import to_fp16
from edgesr.export.onnx import export_onnx
from edgesr.export.quantize import Scheme, quantize
from edgesr.export.verify import check_inputs
from edgesr.networks import NETWORKS, checkpoint, deployed
from edgesr.runtime.backends.engine_options import engine_options
from edgesr.runtime.backends.tensorrt_builder import build_engine
from edgesr.spec import ModelSpec

SMALL_ENOUGH = 100_000
CALIBRATED = 4  # pictures: what is asked here is whether it builds, not how good it is

FORMS = ("reduced", "full")

Make = Callable[[int], torch.nn.Module]


def networks(only: list[str] | None, forms: list[str]) -> Iterator[tuple[str, str, int, Make]]:
    """(name, "reduced" or "full", scale, what makes it)."""
    sys.path.insert(0, str(ROOT / "tests"))
    from small_networks import SMALL

    for name, make in SMALL.items() if "reduced" in forms else ():
        if deployable(name) and (not only or name in only):
            yield name, "reduced", NETWORKS[name].scales[0], make
    for name, builder in NETWORKS.items() if "full" in forms else ():
        if not deployable(name) or (only and name not in only):
            continue
        scale = builder.scales[0]
        with torch.device("meta"):
            weights = sum(p.numel() for p in deployed(builder.make(scale)).parameters())
        if only or weights <= SMALL_ENOUGH:
            yield name, "full", scale, builder.make


def deployable(name: str) -> bool:
    return NETWORKS[name].kind == "picture" or name.startswith("causal")


def graph_of(name: str, make: Make, scale: int, folder: Path) -> tuple[Path, ModelSpec]:
    """The canonical float32 file, with random weights."""
    torch.manual_seed(0)
    model = make(scale)
    spec = checkpoint.spec_of(name, model, measured=False)
    path = folder / "fp32.onnx"
    export_onnx(model, spec, path)
    return path, spec


def typed(precision: str, path: Path, spec: ModelSpec, folder: Path) -> Path:
    """The file of that precision for TensorRT 10 and 11."""
    if precision == "fp32":
        return path
    graph = onnx.load(path)
    made = (
        to_fp16(graph, spec)
        if precision == "fp16"
        else quantize(graph, spec, calibration(spec), Scheme(flavour="trt"))
    )
    target = folder / f"{precision}.onnx"
    target.write_bytes(made.SerializeToString())
    return target


def calibration(spec: ModelSpec) -> Calibration:
    """A photo and noise."""
    least = max(spec.fixed_size or (64, 64))
    found = check_inputs(channels=spec.channels, least=least, multiple=spec.multiple)
    height, width = spec.fixed_size or found[0].shape[2:]
    pictures = tuple(p[..., :height, :width] for p in found if p.shape[2] >= height)
    pictures = tuple(p for p in pictures if p.shape[2:] == (height, width))[:CALIBRATED]
    return Calibration(pictures=pictures, held_out=(), digest="photo", about={})


def row(trt: Any, name: str, form: str, scale: int, make: Make, folder: Path) -> Iterator[Any]:
    """A result for each precision."""
    path, spec = graph_of(name, make, scale, folder)
    for precision in ("fp32", "fp16", "int8"):
        if precision == "int8" and spec.state:
            continue  # one frame depends on the last: INT8 is for single pictures
        facts = {"name": f"{name}-x{scale}", "form": form, "precision": precision}
        started = time.perf_counter()
        try:
            file = typed(precision, path, spec, folder)
            options = engine_options(spec.replace(precision=precision))
            built = build_engine(
                file, spec=spec.replace(precision=precision), options=options, trt=trt
            )
        except EdgesrError as error:
            yield facts | {"passed": False, "error": str(error)}
            continue
        yield facts | {
            "passed": True,
            "seconds": round(time.perf_counter() - started, 2),
            "build_s": round(built.seconds, 2),
            "onnx_bytes": file.stat().st_size,
            "plan_bytes": len(built.plan),
            "warnings": list(built.warnings),
        }


def kept_rows(out: Path | None, again: set[tuple[str, str]]) -> list[dict[str, Any]]:
    """What an earlier run found of the others."""
    if out is None or not out.is_file():
        return []
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    return [found for found in rows if (found["name"], found["form"]) not in again]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS))
    parser.add_argument("--form", nargs="*", choices=FORMS, default=list(FORMS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    import tensorrt_rtx_bindings as trt

    torch.set_num_threads(1)
    result = head("tensorrt_rtx", tensorrt_rtx=trt.__version__)
    wanted = list(networks(options.only, options.form))
    rows = kept_rows(options.out, {(f"{name}-x{scale}", form) for name, form, scale, _ in wanted})
    for name, form, scale, make in wanted:
        with tempfile.TemporaryDirectory() as folder:
            for found in row(trt, name, form, scale, make, Path(folder)):
                rows.append(found)
                what = "ok" if found["passed"] else f"FAILED {found['error']}"
                print(f"{found['name']} {form} {found['precision']}: {what}", flush=True)
    failed = sum(not found["passed"] for found in rows)
    print(f"{len(rows)} engines, {failed} failed")
    write(result | {"rows": rows}, options.out)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
