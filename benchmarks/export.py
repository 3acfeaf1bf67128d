"""What each form of an export costs and brings, at x2: decibels, ms, bytes.

    python benchmarks/export.py --bench BENCH --clip CLIP.mp4 --photos PHOTOS \\
        --out benchmarks/results/export.json

BENCH holds Set5/ and Set14/ as for quality.py; INT8 is calibrated on the first part of CLIP and
judged on the last. Networks lose PSNR-Y against the truth. Those that are not shipped are trained
first, on PHOTOS, for the few steps of BRIEF: not good, but pictures of which decibels can be lost.
Without PHOTOS they have random weights, whose pictures are noise: they have no drop then, and stand
here for time and the distance to float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import onnx
from plan import SOAP
from rewrites import parse_size, spread_weights

from edgesr.distill.pictures import load_pairs
from edgesr.distill.recipe import load_recipe
from edgesr.distill.run import distill
from edgesr.errors import EdgesrError
from edgesr.export.calibrate import Calibration, collect
from edgesr.export.fp16 import to_fp16
from edgesr.export.gate import Candidate, GateReport, measure, pairs_in
from edgesr.export.onnx import build_onnx
from edgesr.export.openvino import export_openvino
from edgesr.export.quantize import Scheme, quantize
from edgesr.export.repair import ExportRefused, repaired
from edgesr.export.source import Source, load_source
from edgesr.metrics import rgb_to_y
from edgesr.models import shipped
from edgesr.networks import build, checkpoint
from edgesr.runtime.backends.choose import candidates
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
Sets = Mapping[str, Sequence[tuple[Array, Array]]]

NETWORKS = ("espcn", "ecbsr-m4c16", "fsrcnn", "bsrn", "srvgg-16")
BRIEF: dict[str, Any] = {
    "steps": 400,
    "batch": 8,
    "patch": 24,
    "copies": [1.0, 0.5],
    "full_range": 0.0,
    **SOAP,
    "warmup": 50,
    "ema": 0.98,
    "precision": "bf16",
}
SETS = ("Set5", "Set14")
REPAIRED_ON = "Set5"
FLAVOURS = ("ort", "openvino")
MAX_DROP = 0.1
FASTER = 1.8  # than ONNX Runtime fp32: what INT8 or bf16 should be for the shipped networks


def source_of(name: str, options: argparse.Namespace) -> tuple[Source, str]:
    """The shipped model, else the network trained a little or with random weights; and which."""
    if any(model.name == f"{name}-x2" for model in shipped()):
        return load_source(f"{name}-x2"), "shipped"
    if options.photos is not None:
        recipe = load_recipe("bicubic", student=name, scale=2, **BRIEF)
        out = options.runs / f"{name}-x2"
        val = options.bench / "Set5"
        result = distill(recipe, data=options.photos, val=val, out=out, resume=True, device="cpu")
        return load_source(str(out)), f"{recipe.steps} steps, {result.psnr_y:.2f} dB"
    network = spread_weights(build(name, 2))
    built = build_onnx(network, checkpoint.spec_of(name, network))
    return Source(graph=built.graph, spec=built.spec, origin=name, module=built.module), "random"


def planes(picture: Array, spec: ModelSpec) -> Array:
    """(1, C, H, W) float32 in 0..1, unrounded, of an 8-bit picture."""
    if spec.colour == "y":
        return (rgb_to_y(picture) / 255.0).astype(np.float32)[None, None]
    three = picture if picture.ndim == 3 else np.repeat(picture[:, :, None], 3, axis=2)
    return np.ascontiguousarray(three.transpose(2, 0, 1), dtype=np.float32)[None] / 255.0


def load_sets(bench: Path, names: Sequence[str], spec: ModelSpec) -> Sets:
    return {
        name: [
            (planes(pair.lr, spec), planes(pair.hr, spec))
            for pair in load_pairs(bench / name, scale=spec.scale)
        ]
        for name in names
    }


def artefacts(
    source: Source, calibration: Calibration, folder: Path, *, random: bool, sets: Sets
) -> tuple[dict[str, Path], dict[str, Any]]:
    """name -> file, and what was said while they were made: repair logs, refusals."""
    graph, spec = source.graph, source.spec
    files = {"": folder / "fp32.onnx"}
    said: dict[str, Any] = {}
    onnx.save(graph, files[""])

    def keep(name: str, made: Any) -> None:
        """One form that cannot be made does not take the others with it."""
        print(f"  making {name}", flush=True)
        try:
            path, log = made()
            files[name] = path
            if log is not None:
                said[name] = log.to_dict()
                print("\n".join(f"    {line}" for line in log.lines()))
        except ExportRefused as refused:
            said[name] = {"refused": str(refused).splitlines()[0], **refused.log.to_dict()}
            print(f"    {refused}")
        except (EdgesrError, RuntimeError, ValueError) as error:
            said[name] = {"absent": " ".join(str(error).split())}
            print(f"    {error}")

    def half() -> Any:
        onnx.save(to_fp16(graph, spec), folder / "fp16.onnx")
        return folder / "fp16.onnx", None

    def eight(flavour: Any) -> Any:
        path = folder / f"int8-{flavour}.onnx"
        if random:
            made, log = quantize(graph, spec, calibration, Scheme(flavour=flavour)), None
        else:
            made, log = repaired(
                source, calibration, flavour=flavour, max_drop=MAX_DROP, evaluation=sets
            )
        onnx.save(made, path)
        return path, log

    def nncf() -> Any:
        path = folder / "int8-nncf.xml"
        export_openvino(graph, spec, path, precision="int8", calibration=calibration)
        return path, None

    keep("fp16", half)
    for flavour in FLAVOURS:
        keep(f"{flavour} file", lambda flavour=flavour: eight(flavour))
    keep("NNCF", nncf)
    return files, said


def ways(files: Mapping[str, Path]) -> list[Candidate]:
    """Every way that each file runs here; the INT8 file of one runtime in the other as well."""
    found = []
    for name, path in files.items():
        precision = "int8" if "int8" in path.name else path.stem
        found += [
            Candidate(
                name=f"{way.name}{', ' if name else ''}{name}",
                path=path,
                backend=way.backend,
                precision=way.precision,
            )
            for way in candidates(precision, suffix=path.suffix)
        ]
    return found


def one(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    print(name, flush=True)
    source, weights = source_of(name, options)
    calibration = collect([options.clip], spec=source.spec, frames=options.frames)
    sets: Sets = {}
    judged = calibration
    if weights != "random":
        sets = load_sets(options.bench, options.sets, source.spec)
    # As `edgesr export --eval Set5` does; the repair does not see Set14.
    chosen = {name: pairs for name, pairs in sets.items() if name == REPAIRED_ON}
    files, said = artefacts(source, calibration, folder, random=weights == "random", sets=chosen)
    if weights == "random":
        unseen = tuple(lr for lr, _ in calibration.held_out)
        judged = dataclasses.replace(calibration, pictures=unseen, held_out=())
    rows = measure(
        ways(files),
        reference=source.graph,
        spec=source.spec,
        calibration=judged,
        evaluation=sets,
        size=options.size,
        threads=options.threads,
        rounds=options.rounds,
        on_note=lambda line: print(f"  {line}", flush=True),
    )
    report = GateReport(
        model=source.spec.name,
        origin=name,
        size=options.size,
        measured=tuple(rows),
        max_drop=MAX_DROP,
        pairs=pairs_in(judged, sets),
        parity=source.difference,
        calibration=calibration.about,
    )
    found = {"name": name, "weights": weights, "made": said, **report.to_dict()}
    for fact in ("schema", "machine", "versions", "origin", "repairs"):
        found.pop(fact)  # in the head of the file, or in `made`
    if weights == "random":
        for row in found["candidates"]:
            del row["likely_drop"], row["within"]  # of noise they would say nothing
        del found["auto"], found["verdict"]
    return found


def speed(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], threads: str) -> float | None:
    """Times as fast as ONNX Runtime fp32."""
    base = next((r["ms"].get(threads) for r in rows if r["name"] == "ort fp32"), None)
    ours = row["ms"].get(threads)
    return round(base / ours, 2) if base and ours else None


def promises(networks: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    """Of the shipped ones: an INT8 form within the budget; INT8 or bf16 so much faster."""
    kept = {}
    for network in networks:
        if network["weights"] != "shipped":
            continue
        rows = [r for r in network["candidates"] if r["error"] is None]
        eight = [r["drop"] for r in rows if r["precision"] == "int8"]
        name = network["name"]
        kept[f"{name}: INT8 loses no more than {MAX_DROP} dB"] = min(eight, default=9) <= MAX_DROP
        fast = [r for r in rows if r["precision"] in ("int8", "bf16") and r["within"]]
        for threads in rows[0]["ms"] if rows else ():
            best = max((speed(r, rows, threads) or 0.0 for r in fast), default=0.0)
            words = f"{name}: INT8 or bf16 {FASTER} times as fast as ONNX Runtime fp32"
            kept[f"{words}, threads {threads}"] = best >= FASTER
    return kept


def show(networks: Sequence[Mapping[str, Any]], threads: Sequence[int]) -> str:
    names = list(dict.fromkeys(n for network in networks for n in network["measured_on"]))
    header = ["dB lost on", *names, "dB to fp32", *(f"ms, {t} thr" for t in threads)]
    header += [f"x ort fp32, {t}" for t in threads] + ["kB"]
    lines = []
    for network in networks:
        note = "" if network["weights"] == "shipped" else f" ({network['weights']})"
        lines.append([network["name"] + note, *[""] * (len(header) - 1)])
        rows = network["candidates"]
        for row in rows:
            if row["error"]:
                lines.append([f"  {row['name']}: {row['error']}", *["-"] * (len(header) - 1)])
                continue
            cells = [f"{row['sets'][n]['drop']:.3f}" if n in row["sets"] else "-" for n in names]
            cells.append(f"{row['psnr_to_fp32']:.1f}")
            cells += [f"{row['ms'][str(t)]:.1f}" for t in threads]
            cells += [f"{speed(row, rows, str(t)) or 0:.2f}" for t in threads]
            lines.append([f"  {row['name']}", *cells, f"{row['size_bytes'] / 1000:.0f}"])
        lines += [
            [f"  {name}: {text}", *["-"] * (len(header) - 1)]
            for name, facts in network["made"].items()
            if (text := facts.get("refused") or facts.get("absent"))
        ]
    return common.table(header, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="train what is not shipped, a little")
    parser.add_argument("--runs", type=Path, default=Path("runs/export"))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--size", type=parse_size, default=(360, 640), metavar="WxH")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="two networks, small: does it work?")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    options.sets, options.frames = SETS, 32
    if options.quick:
        options.networks, options.sets = ["espcn", "fsrcnn"], SETS[:1]
        options.size, options.rounds, options.frames = (96, 160), 3, 6
    height, width = options.size
    result = common.head(
        "export",
        size=f"{width}x{height}",
        rounds=options.rounds,
        sets=list(options.sets),
        clip=common.facts(options.clip),
        quick=options.quick,
    )
    result["networks"] = []
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            result["networks"].append(one(name, options, Path(folder)))
        result["promises"] = promises(result["networks"])
        common.write(result, options.out)  # as far as it has come
    print(show(result["networks"], options.threads))
    for promise, kept in result["promises"].items():
        print(f"{'yes' if kept else 'NO '}  {promise}")


if __name__ == "__main__":
    main()
