"""Whole wall time of decode -> enlarge twice -> encode of one clip: edgesr beside what people use.

    python benchmarks/stream.py --clip CLIP.mp4 --peers GRAPHS --out benchmarks/results/stream.json

GRAPHS is a folder with OpenCV's ESPCN_x2.pb, FSRCNN_x2.pb and FSRCNNs_x2.pb. The rules are in
README.md beside this file. A quick look: --rounds 1 --rows ecbsr-m4c16 lanczos
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import common
import peers
import report

from edgesr.models import DEFAULT_MODEL, FASTER_MODEL, shipped

HERE = Path(__file__).resolve().parent
SCALE = 2
EIGHT = "-int8"
WARM_UP_FRAMES = 24
PATIENCE = 3600.0  # seconds for one run of one row
X264 = f"libx264 {peers.PRESET} crf {peers.CRF}"
MP4V = "mp4v by cv2.VideoWriter (its wheels have no h264), no sound"
PEERS = {  # name -> what it is, what it writes, whether it gets the cut clip
    "lanczos": ("FFmpeg scale=flags=lanczos through PyAV, sound copied", X264, False),
    "bicubic-loop": ("cv2 loop, cv2.resize bicubic", MP4V, False),
    "onnxruntime-loop": (f"cv2 loop, {peers.NETWORK} in onnxruntime, defaults", MP4V, True),
    "torch-loop": (f"cv2 loop, {peers.NETWORK} in torch, defaults, no_grad", MP4V, True),
    "dnn-espcn": ("cv2 loop, cv2.dnn_superres ESPCN", MP4V, True),
    "dnn-fsrcnn": ("cv2 loop, cv2.dnn_superres FSRCNN", MP4V, True),
    "dnn-fsrcnn-small": ("cv2 loop, cv2.dnn_superres FSRCNN-small", MP4V, True),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """what, encoder: for the reader. slow: runs on the first --frames frames only.

    Ours are named by their model, with "-int8" behind it where its INT8 form runs.
    """

    name: str
    what: str
    encoder: str
    slow: bool = False

    def command(self, clip: str, out: str, *, stats: str, graphs: str | None) -> list[str]:
        if self.name in PEERS:
            command = ["python", "benchmarks/peers.py", self.name, clip, out]
            return [*command, "--peers", graphs] if graphs and "dnn" in self.name else command
        model = self.name.removesuffix(EIGHT)
        precision = "auto" if model == self.name else "int8"
        return [
            *("python", "-m", "edgesr", "stream", clip, out, "--model", model),
            *("--precision", precision),
            *("--scale", str(SCALE), "--codec", "h264", "--preset", peers.PRESET),
            *("--crf", peers.CRF, "--quiet", "--overwrite", "--stats", stats),
        ]


def all_rows() -> list[Row]:
    families = [m.family for m in shipped() if m.spec.scale == SCALE]
    families += [f + EIGHT for f in families if f.startswith((DEFAULT_MODEL, FASTER_MODEL))]
    ours = [Row(name=f, what="edgesr stream, sound copied", encoder=X264) for f in families]
    return ours + [
        Row(name=name, what=what, encoder=encoder, slow=slow)
        for name, (what, encoder, slow) in PEERS.items()
    ]


def run_once(row: Row, clip: common.Clip, folder: Path, graphs: Path | None) -> dict[str, Any]:
    """Run a row in a process of its own and check what came out.

    Returns its figures, or {"absent": why}, or {"broken": why}.
    """
    out, stats = folder / f"{row.name}.mp4", folder / "stats.json"
    command = row.command(
        str(clip.path), str(out), stats=str(stats), graphs=str(graphs) if graphs else None
    )
    command[0] = sys.executable
    command[1] = command[1].replace("benchmarks", str(HERE))
    try:
        wall, printed = common.run(command, cwd=folder, patience=PATIENCE)
        ours = row.name not in PEERS
        facts = _from_stats(stats) if ours else json.loads(printed.splitlines()[-1])
        if "absent" in facts:
            return facts
        checked = clip.check(out)
    except (ValueError, RuntimeError, av.FFmpegError) as error:
        return {"broken": str(error).replace(str(folder), "...")}
    finally:
        out.unlink(missing_ok=True)
    return {**facts, "wall_s": wall, "check": checked}


def _from_stats(file: Path) -> dict[str, Any]:
    stats = json.loads(file.read_text(encoding="utf-8"))
    backend = stats["backend"]
    return {
        "frames": stats["frames"]["out"],
        "duplicates": stats["frames"]["duplicates"],
        "loop_s": stats["seconds"]["total"],
        "sustained_fps": stats["fps"],
        "first_frame_s": stats["seconds"]["first_frame"],
        "slowest": stats["slowest"],
        "peak_rss_mb": stats["peak_rss_mb"],
        "backend": f"{backend['backend']} {backend['version']} {backend['precision']}",
    }


def measure(
    rows: list[Row], source: Path, *, rounds: int, frames: int, graphs: Path | None
) -> list[dict[str, Any]]:
    """Check and warm up each row on a few frames, then time those that work, in turns."""
    by_name = {row.name: row for row in rows}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in by_name}
    with tempfile.TemporaryDirectory(prefix="edgesr-bench-") as name:
        folder = Path(name)
        few, cut = (
            common.cut(source, folder / f"{n}.mp4", frames=n) for n in (WARM_UP_FRAMES, frames)
        )
        whole_clip, cut_clip = (common.open_clip(c, scale=SCALE) for c in (source, cut))
        few_clip = common.open_clip(few, scale=SCALE)

        def warm_up(name: str) -> None:
            runs[name].append(run_once(by_name[name], few_clip, folder, graphs))

        def once(name: str) -> None:
            clip = cut_clip if by_name[name].slow else whole_clip
            runs[name].append(run_once(by_name[name], clip, folder, graphs))

        common.interleaved(list(by_name), 1, warm_up, "warm-up")
        works = [name for name, (first,) in runs.items() if "check" in first]
        for name in works:
            runs[name].clear()
        common.interleaved(works, rounds, once)
    return [entry(by_name[name], runs[name]) for name in by_name]


def entry(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the JSON."""
    command = row.command("IN.mp4", "OUT.mp4", stats="STATS.json", graphs="GRAPHS")
    failed = [run for run in runs if "check" not in run]
    return {
        "name": row.name,
        "what": row.what,
        "peer": row.name in PEERS,
        "encoder": row.encoder,
        "command": " ".join(command),
        "cut_clip": row.slow,
        **(failed[0] if failed else report.figures(runs)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", type=Path, default=HERE.parent / "docs" / "sample.mp4")
    parser.add_argument("--peers", type=Path, metavar="GRAPHS", help="folder of OpenCV's .pb files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--frames", type=int, default=120, help="how much of the clip the slow dnn rows get"
    )
    known = all_rows()
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in known])
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    rows = [row for row in known if options.rows is None or row.name in options.rows]
    graphs = options.peers.resolve() if options.peers else None
    result = common.head(
        "stream",
        clip=common.facts(options.clip),
        scale=SCALE,
        rounds=options.rounds,
        cut_frames=options.frames,
    )
    source = options.clip.resolve()
    result["rows"] = measure(
        rows, source, rounds=options.rounds, frames=options.frames, graphs=graphs
    )
    result["ratios"] = report.ratios(result["rows"])
    result["claims"] = report.claims(result["rows"], result["ratios"])
    print(report.show(result))
    common.write(result, options.out)


if __name__ == "__main__":
    main()
