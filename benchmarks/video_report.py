"""From the rows of video.py to its means, its claims, the tables that it prints, and crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import common
import cv2
import numpy as np

Array = np.ndarray[Any, Any]
Figures = dict[str, Any]
Means = dict[str, dict[str, Figures]]

DECIMALS = {"psnr_y": 3, "ssim_y": 4, "flicker": 3}
VIDEO = "-video"
LEAST_GAIN, LEAST_GAIN_AT_WORST = 0.3, 0.1  # dB over lanczos
CROP = (200, 240)  # height and width of what is shown, from the middle of the picture
ZOOM, GAP, LABEL = 2, 6, 28


def means(rows: Sequence[Figures]) -> Means:
    """Name of a method -> CRF, name of a clip, or "all" -> mean of its rows."""
    grouped: dict[str, dict[str, list[Figures]]] = {}
    for row in rows:
        if "absent" not in row:
            groups = grouped.setdefault(row["name"], {})
            for key in ("all", str(row["crf"]), row["clip"]):
                groups.setdefault(key, []).append(row)
    return {
        name: {key: mean(some) for key, some in groups.items()} for name, groups in grouped.items()
    }


def mean(rows: Sequence[Figures]) -> Figures:
    return {key: round(fmean(row[key] for row in rows), n) for key, n in DECIMALS.items()}


def claims(found: Means, *, worst: int) -> dict[str, bool | None]:
    """What the project promises of each `-video` model, held against this run.

    None where it did not run. worst: the CRF at which the least is promised.
    """
    told: dict[str, bool | None] = {}
    for name in [n for n in found if n.endswith(VIDEO)] or [VIDEO]:
        base, mine, without = found["lanczos"], found.get(name), found.get(name.removesuffix(VIDEO))
        steady = None if mine is None else mine["all"]["flicker"] <= base["all"]["flicker"]
        told |= {
            f"{name} >= lanczos + {LEAST_GAIN} dB, mean of all": above(mine, base, by=LEAST_GAIN),
            f"{name} >= lanczos + {LEAST_GAIN_AT_WORST} dB at CRF {worst}": above(
                mine, base, by=LEAST_GAIN_AT_WORST, at=str(worst)
            ),
            f"{name} flickers no more than lanczos, mean of all": steady,
            f"{name} >= the same network without {VIDEO}, mean of all": above(mine, without),
        }
    return told


def above(mine: Any, other: Any, *, by: float = 0.0, at: str = "all") -> bool | None:
    if mine is None or other is None or at not in mine:
        return None
    return round(mine[at]["psnr_y"] - other[at]["psnr_y"], DECIMALS["psnr_y"]) >= by


def show(result: Figures) -> str:
    found: Means = result["means"]
    crfs = [str(crf) for crf in result["crfs"]]
    clips = [clip["name"] for clip in result["clips"]]
    told = {True: "yes", False: "NO", None: "not measured"}
    return "\n".join(
        [
            gains(found, [*crfs, "all"], what="PSNR-Y by CRF, dB (to lanczos)"),
            "",
            gains(found, clips, what="PSNR-Y by clip"),
            "",
            plain(found, [*crfs, "all"], "ssim_y", what="SSIM-Y"),
            "",
            plain(found, [*crfs, "all"], "flicker", what="flicker, 8-bit codes"),
            "",
            *(
                f"{row['name']}: absent: {row['absent']}"
                for row in result["rows"]
                if "absent" in row
            ),
            *(f"{claim}: {told[held]}" for claim, held in result["claims"].items()),
        ]
    )


def gains(found: Means, keys: Sequence[str], *, what: str) -> str:
    def cell(name: str, key: str) -> str:
        ours, base = found[name][key]["psnr_y"], found["lanczos"][key]["psnr_y"]
        return f"{ours:.2f} ({ours - base:+.2f})"

    return common.table([what, *keys], [[n, *(cell(n, key) for key in keys)] for n in found])


def plain(found: Means, keys: Sequence[str], measure: str, *, what: str) -> str:
    n = DECIMALS[measure]
    lines = [[name, *(f"{of[key][measure]:.{n}f}" for key in keys)] for name, of in found.items()]
    return common.table([what, *keys], lines)


def write_picture(target: Path, lumas: dict[str, list[Array]]) -> None:
    """The middle frame of a clip: lanczos, the plain models, their `-video` ones, the truth."""
    video = [name for name in lumas if name.endswith(VIDEO)]
    plain = [name for v in video if (name := v.removesuffix(VIDEO)) in lumas]
    panels = []
    for name in ["lanczos", *plain, *video, "truth"]:
        luma = lumas[name][len(lumas[name]) // 2]
        top, left = (max(0, (n - c) // 2) for n, c in zip(luma.shape, CROP, strict=True))
        crop = luma[top : top + CROP[0], left : left + CROP[1]].astype(np.uint8)
        big = crop.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
        panel = cv2.copyMakeBorder(big, LABEL, 0, 0, GAP, cv2.BORDER_CONSTANT, value=255)
        cv2.putText(panel, name, (4, LABEL - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 0, 1, cv2.LINE_AA)
        panels.append(panel)
    target.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(target), np.hstack(panels))
