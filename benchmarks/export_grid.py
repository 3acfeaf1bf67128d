"""Every network at every scale, in full size: exported, then ONNX Runtime against torch.

    python benchmarks/export_grid.py [--only NAME ...] [--out benchmarks/results/export_grid.json]

Three sizes each, one of them odd where the network takes odd ones, random weights, random pictures.
A difference passes within 1e-4 of the largest value (at least 1), and within 1e-3 of the largest
value whatever that is: an untrained network may be nearly silent. An hour on two cores; the tests
run the same over reduced networks. With --only the rows of other networks stay in the file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import head, write

from edgesr.export.onnx import export_onnx
from edgesr.networks import NETWORKS, checkpoint, deployed
from edgesr.spec import ModelSpec

SIZES = ((24, 32), (33, 47), (40, 26))
"""(height, width); raised to what a network takes."""

ALLOWED = 1e-4
ALLOWED_OF_LARGEST = 1e-3


@dataclass(frozen=True, kw_only=True)
class Check:
    """One export at one size: largest difference to torch, and the largest value of torch."""

    name: str
    scale: int
    input: tuple[int, ...]
    difference: float
    largest: float

    @property
    def passed(self) -> bool:
        small = self.difference <= ALLOWED * max(1.0, self.largest)  # False for NaN
        return bool(small and self.difference <= ALLOWED_OF_LARGEST * self.largest)


def check(name: str, model: Any, *, folder: Path) -> list[Check]:
    """Export a network to a file in `folder` and compare at three sizes."""
    spec = checkpoint.spec_of(name, deployed(model), measured=False)
    path = folder / f"{spec.name}.onnx"
    export_onnx(model, spec, path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    plain = deployed(model)
    rng = np.random.default_rng(0)
    checks = []
    for shape in input_shapes(spec, NETWORKS[name].kind):
        picture = rng.random(shape, dtype=np.float32)
        ours = session.run(None, {"x": picture})
        with torch.no_grad():
            result = plain(torch.from_numpy(picture))
        theirs = result if isinstance(result, tuple) else (result,)
        for got, expected in zip(ours, theirs, strict=True):
            assert got.shape == expected.shape, f"{name}: {got.shape}, not {expected.shape}"
            difference = np.abs(got - expected.numpy()).max()
            checks.append(
                Check(
                    name=name,
                    scale=spec.scale,
                    input=shape,
                    difference=float(difference),
                    largest=float(expected.abs().max()),
                )
            )
    path.unlink()
    return checks


def input_shapes(spec: ModelSpec, kind: str) -> list[tuple[int, ...]]:
    if spec.fixed_size is not None:
        return [(1, spec.channels, *spec.fixed_size)]
    factor = spec.scale if kind == "teacher" else 1  # a teacher sees the large picture
    return [(1, spec.channels, *(factor * raised(side, spec) for side in size)) for size in SIZES]


def raised(side: int, spec: ModelSpec) -> int:
    return -(-max(side, spec.min_size) // spec.multiple) * spec.multiple


def kept_rows(out: Path | None, only: list[str] | None) -> list[dict[str, Any]]:
    """With --only: what an earlier run found of the other networks."""
    if out is None or only is None or not out.is_file():
        return []
    return [row for row in json.loads(out.read_text())["rows"] if row["name"] not in only]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = head("export_grid", allowed=ALLOWED)
    rows = kept_rows(options.out, options.only)
    for name in options.only or [n for n, b in NETWORKS.items() if b.kind == "picture"]:
        for scale in NETWORKS[name].scales:
            torch.manual_seed(0)
            started = time.perf_counter()
            try:
                with tempfile.TemporaryDirectory() as folder:
                    checks = check(name, NETWORKS[name].make(scale), folder=Path(folder))
            except Exception as error:  # one network that cannot must not hide the others
                print(f"{name} x{scale}: FAILED {type(error).__name__}: {error}", flush=True)
                rows.append({"name": name, "scale": scale, "passed": False, "error": str(error)})
                continue
            for found in checks:
                rows.append(dataclasses.asdict(found) | {"passed": found.passed})
            worst = max(c.difference / c.largest for c in checks)
            verdict = "ok" if all(c.passed for c in checks) else "TOO FAR"
            seconds = time.perf_counter() - started
            print(
                f"{name} x{scale}: {verdict}, {worst:.1e} of largest, {seconds:.0f} s", flush=True
            )
    failed = sum(not row["passed"] for row in rows)
    print(f"{len(rows)} checks, {failed} failed")
    write(results | {"rows": rows}, options.out)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
