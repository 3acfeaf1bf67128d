"""PSNR-Y and SSIM-Y on Set5 and Set14 by the published protocol, at x2, x3 and x4.

    python benchmarks/quality.py --bench BENCH --peers GRAPHS --out benchmarks/results/quality.json

BENCH holds Set5/ and Set14/, each with x2/, x3/ and x4/ of *_HR.png and MATLAB-made *_LR.png;
GRAPHS is the folder of OpenCV's .pb files. All shipped models in every way that they run here,
beside bicubic, lanczos, OpenCV's graphs and the published numbers (published.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import common
import cv2
import numpy as np
from peers import DNN_SUPERRES, Absent, dnn_graph
from published import PUBLISHED

from edgesr.distill.evaluate import (
    Pair,
    bicubic_scores,
    by_session,
    evaluate,
    evaluate_rgb,
    load_pairs,
    luma_by_session,
    mean_score,
)
from edgesr.errors import BackendError
from edgesr.models import ShippedModel, shipped
from edgesr.runtime.backends import open_session

Array = np.ndarray[Any, Any]
Upscale = Callable[[Array], Array]
Sets = dict[str, list[Pair]]
Figures = dict[str, Any]

SETS = ("Set5", "Set14")
SCALES = (2, 3, 4)
WAYS = (
    ("ort", "fp32", "float32"),
    ("openvino", "bf16", "float32"),
    ("ort", "fp32", "uint8"),
    ("openvino", "int8", "uint8"),  # where that form ships
    ("openvino", "bf16", "uint8"),  # what `edgesr stream` runs on a CPU that has bf16
)


def load_sets(bench: Path, *, scale: int) -> Sets:
    return {name: load_pairs(bench / name, scale=scale) for name in SETS}


def scored(
    name: str, runs: str, upscale: Upscale, sets: Sets, *, scale: int, rgb: bool = False
) -> Figures:
    """One row: the means of each set. `runs` says what computed it."""
    measure = evaluate_rgb if rgb else evaluate
    means = {s: mean_score(measure(upscale, pairs, scale=scale)) for s, pairs in sets.items()}
    return row(name, runs, scale, {s: (m.psnr_y, m.ssim_y) for s, m in means.items()})


def row(name: str, runs: str, scale: int, means: dict[str, tuple[float, float]]) -> Figures:
    figures = {
        s: {"psnr_y": round(psnr_y, 3), "ssim_y": round(ssim_y, 4)}
        for s, (psnr_y, ssim_y) in means.items()
    }
    return {"name": name, "runs": runs, "scale": scale, **figures}


def bicubic(sets: Sets, *, scale: int) -> Figures:
    means = {s: mean_score(bicubic_scores(pairs, scale=scale)) for s, pairs in sets.items()}
    figures = {s: (m.psnr_y, m.ssim_y) for s, m in means.items()}
    return row("bicubic", "edgesr.bicubic, MATLAB's pixel for pixel", scale, figures)


def lanczos(sets: Sets, *, scale: int) -> Figures:
    """FFmpeg's, as the row of stream.py has it."""

    def upscale(luma: Array) -> Array:
        small = np.round(luma * 255.0).astype(np.uint8)
        return common.lanczos(small, scale=scale).astype(np.float32) / 255.0

    return scored("lanczos", "FFmpeg swscale, uint8 in and out", upscale, sets, scale=scale)


def model_rows(model: ShippedModel, sets: Sets) -> Iterator[Figures]:
    """A shipped model in each way that it runs; a way that this machine has not is absent."""
    scale, rgb = model.spec.scale, model.spec.colour == "rgb"
    by = by_session if rgb else luma_by_session
    for backend, precision, io in WAYS:
        if rgb and io == "uint8":  # `stream` converts to and from RGB in float
            continue
        runs = f"{backend} {precision}" + (", uint8 in and out" if io == "uint8" else "")
        try:
            session = open_session(
                model.onnx, spec=model.spec, backend=backend, precision=precision, io=io
            )
        except BackendError as error:
            if precision != "int8":  # most models ship without that form
                yield {"name": model.name, "runs": runs, "scale": scale, "absent": str(error)}
            continue
        with closing(session):
            yield scored(model.name, runs, by(session, io, model.spec), sets, scale=scale, rgb=rgb)


def opencv_rows(graphs: Path | None, sets: Sets, *, scale: int) -> Iterator[Figures]:
    """OpenCV's super-resolution graphs, on full-range luma as dnn_superres feeds them."""
    for name in DNN_SUPERRES:
        runs = "cv2.dnn, full-range luma"
        try:
            network = dnn_graph(name, graphs, scale=scale)
        except Absent as absent:
            yield {"name": name, "runs": runs, "scale": scale, "absent": str(absent)}
            continue

        def upscale(luma: Array, network: Any = network) -> Array:
            full = (luma * 255.0 - 16.0) / 219.0
            network.setInput(cv2.dnn.blobFromImage(full))
            return (np.squeeze(network.forward()) * 219.0 + 16.0) / 255.0

        yield scored(name, runs, upscale, sets, scale=scale)


def measure(bench: Path, graphs: Path | None, scales: tuple[int, ...]) -> list[Figures]:
    rows = []
    for scale in scales:
        sets = load_sets(bench, scale=scale)
        rows += [bicubic(sets, scale=scale), lanczos(sets, scale=scale)]
        rows += opencv_rows(graphs, sets, scale=scale)
        for model in shipped():
            if model.spec.scale == scale:
                rows += model_rows(model, sets)
    return rows


def show(rows: list[Figures]) -> str:
    lines = []
    for scale in dict.fromkeys(r["scale"] for r in rows):
        lines += [[f"x{scale}", *[""] * 3]]
        base = next((r for r in rows if (r["scale"], r["name"]) == (scale, "bicubic")), None)
        for r in rows + PUBLISHED:
            if r["scale"] != scale:
                continue
            cells = [_cell(r.get(name), (base or {}).get(name)) for name in SETS]
            lines.append([r["name"], *cells, r.get("absent") or r.get("runs") or r["source"]])
    return common.table(["", *SETS, "how, or published where"], lines)


def _cell(ours: Figures | None, base: Figures | None) -> str:
    if not ours:
        return "-"
    ssim = f"{ours['ssim_y']:.4f}" if ours.get("ssim_y") else "-"
    gain = f" ({ours['psnr_y'] - base['psnr_y']:+.2f})" if base else ""
    return f"{ours['psnr_y']:.2f} / {ssim}{gain}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--peers", type=Path, metavar="GRAPHS", help="folder of OpenCV's .pb files")
    parser.add_argument("--scales", type=int, nargs="+", choices=SCALES, default=list(SCALES))
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    result = common.head("quality", sets=list(SETS))
    result["rows"] = measure(options.bench, options.peers, tuple(options.scales))
    result["published"] = PUBLISHED
    print(show(result["rows"]))
    common.write(result, options.out)


if __name__ == "__main__":
    main()
