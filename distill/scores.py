"""Scores of pictures and clips, their means, and the tables made of them: text, JSON and CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgesr.errors import UsageError
from edgesr.files import replacing


@dataclass(frozen=True, kw_only=True)
class Score:
    """What one picture, clip or set scores; None: not measured, or cannot be.

    psnr_y, psnr_rgb  dB, MOST_DB where nothing differs
    ssim_y, ms_ssim_y up to 1; MS-SSIM needs 176 pixels a side
    lpips             0 and up, less is better
    flicker, warped   mean |difference| in 8-bit codes from frame to frame, less is better
    warped_truth      the same for the truth itself
    """

    name: str
    psnr_y: float
    ssim_y: float
    ms_ssim_y: float | None = None
    psnr_rgb: float | None = None
    lpips: float | None = None
    flicker: float | None = None
    warped: float | None = None
    warped_truth: float | None = None

    def replace(self, **changes: Any) -> Score:
        return replace(self, **changes)


# Field of a Score -> how a column is headed, decimals in a text table, decimals in JSON and CSV.
COLUMNS = {
    "psnr_y": ("PSNR-Y", 3, 4),
    "ssim_y": ("SSIM-Y", 4, 5),
    "ms_ssim_y": ("MS-SSIM-Y", 4, 5),
    "psnr_rgb": ("PSNR-RGB", 3, 4),
    "lpips": ("LPIPS", 4, 5),
    "flicker": ("flicker", 3, 4),
    "warped": ("warped", 3, 4),
}

MOST_DB = 100.0  # of equal pictures, so that a mean over others and them is a number


def mean_score(scores: Sequence[Score], *, name: str = "mean") -> Score:
    """Means over the pictures; of a measure that one of them lacks there is none."""
    means: dict[str, Any] = {}
    for field in fields(Score)[1:]:
        values = [getattr(score, field.name) for score in scores]
        means[field.name] = None if None in values else sum(values) / len(values)
    return Score(name=name, **means)


def clip_score(frames: Sequence[Score], *, name: str) -> Score:
    """Means over the frames of a clip; temporal ones over the frames that have them."""
    temporal = ("flicker", "warped", "warped_truth")
    found = {key: [v for f in frames if (v := getattr(f, key)) is not None] for key in temporal}
    means = {key: sum(values) / len(values) if values else None for key, values in found.items()}
    return mean_score(frames, name=name).replace(**means)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores of one model over a set, beside bicubic's.

    runs    what computed them
    name    of the set
    kind    what a row is: "pictures" or "clips"
    frames  (ours, bicubic) of each frame of each clip; empty for pictures
    """

    model: str
    scale: int
    runs: str
    scores: list[Score]
    bicubic: list[Score]
    name: str = ""
    kind: str = "pictures"
    frames: Sequence[tuple[Score, Score]] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; measures that were not taken are left out."""
        return {
            "schema": 1,
            "model": self.model,
            "scale": self.scale,
            "runs": self.runs,
            **self.figures(),
        }

    def figures(self) -> dict[str, Any]:
        rows = {ours.name: row(ours, theirs) for ours, theirs in self.rows()}
        return {"mean": rows.pop("mean"), self.kind: rows}

    def lines(self) -> list[str]:
        """The table as text, the mean last."""
        return lines(self.rows(), of=self.kind.removesuffix("s"))

    def rows(self) -> list[tuple[Score, Score]]:
        """(ours, bicubic) of each picture or clip, the means last."""
        means = (mean_score(self.scores), mean_score(self.bicubic))
        return [*zip(self.scores, self.bicubic, strict=True), means]


def lines(rows: Sequence[tuple[Score, Score]], *, of: str) -> list[str]:
    """A text table: what was measured of any row, bicubic's beside it; `of` heads the names."""
    shown = [k for k in COLUMNS if any(getattr(ours, k) is not None for ours, _ in rows)]
    after = {"psnr_y": ["gain"], "warped": ["truth"]}
    heads = [of]
    for key in shown:
        heads += [COLUMNS[key][0], "bicubic", *after.get(key, ())]
    table = [heads, *([ours.name, *cells(ours, theirs, shown)] for ours, theirs in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        )
        for first, *rest in table
    ]


def summary_lines(tables: Sequence[Table]) -> list[str]:
    """The means of several sets, one a row."""
    means = [table.rows()[-1] for table in tables]
    named = [(a.replace(name=t.name), b) for t, (a, b) in zip(tables, means, strict=True)]
    return lines(named, of="set")


def cells(ours: Score, theirs: Score, shown: Sequence[str]) -> list[str]:
    texts = []
    for key in shown:
        decimals = COLUMNS[key][1]
        values = (getattr(ours, key), getattr(theirs, key))
        texts += ["-" if v is None else f"{v:.{decimals}f}" for v in values]
        if key == "psnr_y":
            texts.append(f"{ours.psnr_y - theirs.psnr_y:+.3f}")
        elif key == "warped":
            texts.append("-" if ours.warped_truth is None else f"{ours.warped_truth:.{decimals}f}")
    return texts


def row(ours: Score, theirs: Score) -> dict[str, float]:
    """Rounded: {"psnr_y": ..., "ssim_y": ..., "bicubic_psnr_y": ..., ...}."""
    figures = {}
    for prefix, score in (("", ours), ("bicubic_", theirs)):
        for key, (_, _, decimals) in COLUMNS.items():
            value = getattr(score, key)
            if value is not None:
                figures[prefix + key] = round(value, decimals)
    if ours.warped_truth is not None:
        figures["warped_truth"] = round(ours.warped_truth, COLUMNS["warped"][2])
    return figures


def to_dict(tables: Sequence[Table]) -> dict[str, Any]:
    """Of one set as `Table.to_dict`; of several {"sets": {name: {"mean", "pictures"}}, ...}."""
    first = tables[0].to_dict()
    if len(tables) == 1:
        return first
    shared = {key: first[key] for key in ("schema", "model", "scale", "runs")}
    return shared | {"sets": {table.name: table.figures() for table in tables}}


def write_csv(path: Path, tables: Sequence[Table]) -> None:
    """A row for each picture, or for each frame of each clip. Raises UsageError."""
    rows: list[dict[str, Any]] = []
    for table in tables:
        pairs = table.frames or table.rows()[:-1]
        rows += [{"set": table.name, "name": a.name} | row(a, b) for a, b in pairs]
    names = list(dict.fromkeys(name for entry in rows for name in entry))
    try:
        with replacing(path) as part, part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise UsageError(f"--csv {path} cannot be written: {error.strerror}") from error
