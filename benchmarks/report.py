"""From the runs of stream.py to its JSON rows, its claims and the table that it prints."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import common

from edgesr.models import DEFAULT_STREAM_MODEL


def figures(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one row, of all rounds as median, min, max."""
    entry: dict[str, Any] = {}
    last = runs[-1]
    entry["frames"] = last["frames"]
    entry["wall_s"] = [round(r["wall_s"], 3) for r in runs]
    entry["fps"] = common.spread([r["frames"] / r["wall_s"] for r in runs])
    entry["loop_fps"] = common.spread([r["frames"] / r["loop_s"] for r in runs])
    for key in ("sustained_fps", "first_frame_s"):
        if last.get(key):
            entry[key] = common.spread([r[key] for r in runs], 3)
    entry["peak_rss_mb"] = round(max(r["peak_rss_mb"] for r in runs), 1)
    return entry | {k: last[k] for k in ("duplicates", "slowest", "backend", "check") if k in last}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each of our models to each peer: how many times as many frames a second.

    Ours with everything, start-up included. A peer on the cut clip counts without its start-up,
    which a short clip would overstate.
    """
    ran = [r for r in rows if "fps" in r]
    peers = {r["name"]: r["loop_fps" if r["cut_clip"] else "fps"] for r in ran if r["peer"]}
    return {
        r["name"]: {
            peer: round(r["fps"]["median"] / fps["median"], 3) for peer, fps in peers.items()
        }
        for r in ran
        if not r["peer"]
    }


def claims(
    rows: Sequence[dict[str, Any]], by: dict[str, dict[str, float]]
) -> dict[str, bool | None]:
    """What the project promises, held against this run; None when a row of it did not run."""
    ours = {r["name"]: r for r in rows if "fps" in r}

    def least(peer: str, ratio: float, *, name: str = "ecbsr-m4c16") -> bool | None:
        found = by.get(name, {})
        return found[peer] >= ratio if peer in found else None

    default = ours.get(DEFAULT_STREAM_MODEL)
    return {
        "ecbsr-m4c16 >= 5 x dnn_superres ESPCN": least("dnn-espcn", 5.0),
        "ecbsr-m4c16 >= 2 x onnxruntime loop": least("onnxruntime-loop", 2.0),
        "ecbsr-m4c16 >= 3 x torch loop": least("torch-loop", 3.0),
        "ecbsr-m4c16 <= 3.5 x wall time of lanczos": least("lanczos", 1 / 3.5),
        "ecbsr-m4c16-int8 <= 3.5 x wall time of lanczos": least(
            "lanczos", 1 / 3.5, name="ecbsr-m4c16-int8"
        ),
        f"{DEFAULT_STREAM_MODEL} >= 30 fps, whole wall time": (
            default["fps"]["median"] >= 30 if default else None
        ),
    }


def show(result: dict[str, Any]) -> str:
    lines = []
    for r in result["rows"]:
        if "fps" not in r:
            reason = f"absent: {r['absent']}" if "absent" in r else f"BROKEN: {r['broken']}"
            lines.append([r["name"], *["-"] * 6, reason])
            continue
        fps = r["fps"]
        extra = [
            f"{r[key]['median']:.1f}" if key in r else "-"
            for key in ("sustained_fps", "first_frame_s")
        ]
        lines.append(
            [
                *(r["name"], str(r["frames"]), f"{median(r['wall_s']):.2f}"),
                *(f"{fps['median']:.1f} ({fps['min']:.1f}-{fps['max']:.1f})", *extra),
                *(f"{r['peak_rss_mb']:.0f}", r["encoder"].split(",")[0].split(" by")[0]),
            ]
        )
    header = [
        "row",
        "frames",
        "wall s",
        "fps (spread)",
        "sustained",
        "first s",
        "RSS MB",
        "encoder",
    ]
    told = {True: "yes", False: "NO", None: "not measured"}
    return "\n".join(
        [common.table(header, lines), ""]
        + [f"{claim}: {told[held]}" for claim, held in result["claims"].items()]
    )
