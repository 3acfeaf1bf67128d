"""What the graph rewrites of the export bring: each network before and after, at x2.

    python benchmarks/rewrites.py --out benchmarks/results/rewrites.json

Random weights (speed does not depend on them, rewrites do: no two slopes or biases are alike).
The float32 outputs of both forms are compared before anything is timed; bf16 is held against
float32. Then before, after, before, after ... in each way that this machine has.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
import torch
from torch import nn

from edgesr.errors import BackendError
from edgesr.export.onnx import tidy, trace
from edgesr.export.rewrite import rewrite
from edgesr.networks import build, checkpoint, deployed
from edgesr.runtime.backends import Session, open_session

Array = np.ndarray[Any, Any]

NETWORKS = (
    *("ecbsr-m4c8", "ecbsr-m4c16", "ecbsr-m10c16", "ecbsr-m4c16-rgb", "espcn", "sesr-m5"),
    *("fsrcnn", "fsrcnn-pisr", "srvgg-16", "abpn", "lapsrn"),
)
WAYS = (("ort", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))
FORMS = ("before", "after")
EXACT = 1e-5
"""Largest difference of the float32 outputs, relative to the largest output if that is over 1."""
NEAR = 3e-2
"""The same for bf16 against float32."""


def spread_weights(model: nn.Module) -> nn.Module:
    """Random in every parameter, as training leaves them: shared slopes or no bias are gone."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def measure(name: str, *, size: tuple[int, int], rounds: int, threads: int, folder: Path) -> Any:
    """All ways of one network: a list of rows."""
    model = spread_weights(build(name, 2))
    spec = checkpoint.spec_of(name, model, measured=False)
    traced = trace(deployed(model), spec)
    rewritten, applied = rewrite(traced)
    counts = dict(Counter(step.rewrite for step in applied))
    nodes = [len(traced.graph.node), len(rewritten.graph.node)]
    paths = {}
    for form, graph in zip(FORMS, (traced, rewritten), strict=True):
        paths[form] = folder / f"{name}-{form}.onnx"
        onnx.save(tidy(graph, spec), paths[form])
    picture = np.random.default_rng(0).random((1, spec.channels, *size), dtype=np.float32)
    facts = {"name": name, "scale": 2, "rewrites": counts, "nodes": nodes}
    rows, reference = [], None
    for backend, precision in WAYS:
        row = {**facts, "runs": f"{backend} {precision}"}
        with ExitStack() as opened:
            try:
                sessions = {
                    form: open_session(
                        paths[form],
                        spec=spec,
                        backend=backend,
                        precision=precision,
                        threads=threads,
                        size=size,
                    )
                    for form in FORMS
                }
            except BackendError as error:
                rows.append({**row, "absent": str(error)})
                continue
            for session in sessions.values():
                opened.callback(session.close)
            outputs = {form: session(picture) for form, session in sessions.items()}
            if reference is None:
                reference = outputs["before"]
            row |= _compared(outputs, reference, exact=precision == "fp32")
            if "broken" not in row:
                row |= _timed(sessions, picture, rounds, f"{name} {backend} {precision}")
        rows.append(row)
    return rows


def _compared(outputs: dict[str, Array], reference: Array, *, exact: bool) -> dict[str, Any]:
    largest = max(1.0, float(np.abs(reference).max()))
    apart = {
        form: float(np.abs(output - reference).max()) / largest for form, output in outputs.items()
    }
    found: dict[str, Any] = {"difference": {form: float(f"{d:.2e}") for form, d in apart.items()}}
    limit = EXACT if exact else NEAR
    if not max(apart.values()) <= limit:  # also true for NaN
        found["broken"] = f"outputs differ by {max(apart.values()):.1e}, allowed {limit:g}"
    return found


def _timed(sessions: dict[str, Session], picture: Array, rounds: int, what: str) -> dict[str, Any]:
    wall: dict[str, list[float]] = {form: [] for form in FORMS}
    work: dict[str, list[float]] = {form: [] for form in FORMS}

    def once(form: str) -> None:
        busy, started = time.process_time(), time.perf_counter()
        sessions[form](picture)
        wall[form].append((time.perf_counter() - started) * 1e3)
        work[form].append((time.process_time() - busy) * 1e3)

    print(what, flush=True)
    for form in FORMS:
        once(form)
    for times in (*wall.values(), *work.values()):
        times.clear()
    for _ in range(rounds):
        for form in FORMS:
            once(form)
    medians = {form: float(np.median(times)) for form, times in wall.items()}
    return {
        "wall_ms": {form: common.spread(times) for form, times in wall.items()},
        "cpu_ms": {form: common.spread(times) for form, times in work.items()},
        "ratio": round(medians["before"] / medians["after"], 2),
    }


def show(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        if trouble := row.get("absent") or row.get("broken"):
            lines.append([row["name"], row["runs"], *["-"] * 4, trouble])
            continue
        before, after = (row["wall_ms"][form]["median"] for form in FORMS)
        cpu = " ".join(f"{row['cpu_ms'][form]['median']:.1f}" for form in FORMS)
        apart = f"{row['difference']['after']:.0e}"
        cells = [f"{before:.1f}", f"{after:.1f}", f"x{row['ratio']:.2f}", cpu, apart]
        lines.append([row["name"], row["runs"], *cells])
    header = ["network", "runs", "before, ms", "after, ms", "faster", "CPU ms", "difference"]
    return common.table(header, lines)


def parse_size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--size", type=parse_size, default=(360, 640), metavar="WxH")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    height, width = options.size
    result = common.head(
        "rewrites", size=f"{width}x{height}", rounds=options.rounds, threads=options.threads
    )
    result["rows"] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            result["rows"] += measure(
                name,
                size=options.size,
                rounds=options.rounds,
                threads=options.threads,
                folder=Path(folder),
            )
    print(show(result["rows"]))
    common.write(result, options.out)


if __name__ == "__main__":
    main()
