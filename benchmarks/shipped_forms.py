"""What the index of the wheel says of each model, and its INT8 forms and milliseconds.

For `train_shipped.py`, which has the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.errors import BackendError
from edgesr.models import shipped
from edgesr.runtime.backends import Session, open_session

WEIGHTS = Path(__file__).resolve().parent.parent / "edgesr" / "weights"

WAYS = (("ort", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))

PATIENCE = 20  # seconds for one way to run one model; five runs at least


def index() -> dict[str, Any]:
    file = WEIGHTS / "index.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {"schema": 1, "models": {}}


def enter(name: str, key: str, value: dict[str, Any] | None) -> None:
    """One fact of one model; None takes it away. Read anew, for others may have written."""
    values = index()
    values["models"][name].pop(key, None)
    if value is not None:
        values["models"][name][key] = value
    write_index(values)


def write_index(values: dict[str, Any]) -> None:
    (WEIGHTS / "index.json").write_text(json.dumps(values, indent=1) + "\n")


def enter_int8(photos: Path, bench: Path, names: Sequence[str]) -> None:
    """By `edgesr export`, which refuses what loses more than 0.1 dB: then none ships."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "edgesr", "export", name, "--int8", "--qat", "--quiet"]
            command += ["--calib", str(photos), "--eval", str(bench / "Set5"), "--out", folder]
            subprocess.run(command, check=False)
            made = Path(folder) / f"{name}-int8-openvino.onnx"
            if not made.is_file():
                (WEIGHTS / made.name).unlink(missing_ok=True)
                enter(name, "int8", None)
                print(f"{name}: refused", flush=True)
                continue
            report = json.loads(Path(f"{made}.report.json").read_text())
            shutil.copy(made, WEIGHTS)
        [found] = [
            way
            for way in report["candidates"]
            if (way["backend"], way["precision"]) == ("openvino", "int8")
        ]
        form = {
            "file": made.name,
            "sha256": hashlib.sha256((WEIGHTS / made.name).read_bytes()).hexdigest(),
            "drop_db": round(found["drop"], 3),
        }
        enter(name, "int8", form)
        print(name, form, flush=True)


def enter_speed(names: Sequence[str]) -> None:
    """Median ms for one 640x360 frame in and out as 8 bits, in every way that runs here."""
    noise = np.random.default_rng(0)
    for model in shipped():
        if model.name not in names:
            continue
        io, frame = "uint8", noise.integers(0, 256, (1, 1, 360, 640), dtype=np.uint8)
        if model.spec.colour == "rgb":  # as `stream` runs them
            io, frame = "float32", noise.random((1, 3, 360, 640), dtype=np.float32)
        speed = {}
        for backend, precision in WAYS:
            with (
                contextlib.suppress(BackendError),
                contextlib.closing(
                    open_session(
                        model.onnx,
                        spec=model.spec,
                        backend=backend,
                        precision=precision,
                        size=(360, 640),
                        io=io,
                    )
                ) as session,
            ):
                speed[f"{backend} {precision}"] = round(median_ms(session, frame), 1)
        enter(model.name, "speed", speed)
        print(model.name, speed, flush=True)


def median_ms(session: Session, frame: np.ndarray, *, runs: int = 25) -> float:
    times: list[float] = []
    while len(times) < 3 + runs and (len(times) < 8 or sum(times) < PATIENCE):
        start = time.perf_counter()
        session(frame)
        times.append(time.perf_counter() - start)
    times = times[3:]
    return float(np.median(times) * 1e3)
