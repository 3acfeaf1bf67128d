"""The report of a run: `report.html`, one file that needs nothing else, and its figures as a dict.

write_report(run, rows=rows, strips=make_strips(...), environment=environment(), data="204 photos")

Curves and settings are read from `log.csv` and `recipe.toml` in the run folder; what was measured
before and after is given.
"""

from __future__ import annotations

import csv
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from edgesr.distill.curves import curve, thinned, written
from edgesr.distill.page import facts_table, whole
from edgesr.distill.scores import COLUMNS, Score
from edgesr.distill.strips import Strip, png
from edgesr.files import replacing

Log = list[dict[str, float]]

MOST_LOGGED = 16  # rows of the log that are shown as numbers

# Columns of log.csv that get no curve of their own.
NO_CURVE = (
    *("step", "steps", "lr", "steps_per_second", "eta", "best", "seconds", "ssim_y"),
    "data_share",
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One test set and its means by name: the yardstick first, the result last.

    {"bicubic": ..., "before": ..., "student": ...}: the gain is over the last but one.
    """

    name: str
    pictures: int
    scores: Mapping[str, Score]

    @property
    def gain(self) -> float:
        """dB of PSNR-Y."""
        *_, before, after = self.scores.values()
        return after.psnr_y - before.psnr_y


def environment(machine: str | None = None) -> dict[str, str]:
    """What trained: machine, system and versions of what the pixels and numbers went through.

    machine  as `edgesr.distill.room.machine` says it
    """
    import torch

    from edgesr.runtime.stats import machine_facts, versions

    facts = machine_facts()
    here = f"{facts['cpu']}, {facts['cores']} cores"
    libraries = versions() | {"torch": torch.__version__}
    names = ("edgesr", "python", "torch", "numpy", "opencv")
    return {
        "machine": machine or here,
        "processor": here,
        "system": platform.platform(),
        "versions": ", ".join(f"{name} {libraries[name]}" for name in names),
    }


def summarise(
    rows: Sequence[Row], *, environment: Mapping[str, str], data: str, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """The same figures for `summary.json`: sets, environment, data, notes."""
    sets = {}
    for row in rows:
        scores = {
            name: {
                key: round(value, COLUMNS[key][2])
                for key in COLUMNS
                if (value := getattr(score, key)) is not None
            }
            for name, score in row.scores.items()
        }
        sets[row.name] = {"pictures": row.pictures, **scores, "gain_psnr_y": round(row.gain, 4)}
    return {"sets": sets, "environment": dict(environment), "data": data, "notes": list(notes)}


def write_report(
    run: Path,
    *,
    rows: Sequence[Row] = (),
    strips: Sequence[Strip] = (),
    environment: Mapping[str, str],
    data: str,
    notes: Sequence[str] = (),
    title: str | None = None,
) -> Path:
    """Write `report.html` into the run folder, whole or not at all; its path.

    rows, strips  what was measured, the set that log.csv was validated on first; pictures of it
    environment   what it ran on, by name
    data          one line on the pictures it was trained with
    notes         sentences that belong to the result, such as what a teacher was worth
    title         None: the name of the run folder
    """
    log = read_log(run / "log.csv")
    recipe = run / "recipe.toml"
    settings = recipe.read_text() if recipe.is_file() else ""
    title = title or run.resolve().name
    body = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in (*headline(rows, log), *notes)),
        *results(rows),
        *curves(log, rows),
        *pictures(strips),
        "<h2>Data</h2>",
        f"<p>{escape(data)}</p>",
        "<h2>Settings</h2>",
        f"<pre>{escape(settings) or 'no recipe.toml'}</pre>",
        "<h2>Environment</h2>",
        facts_table(environment),
    ]
    target = run / "report.html"
    with replacing(target) as part:
        part.write_text(whole(body, title=title), encoding="utf-8")
    return target


def read_log(path: Path) -> Log:
    """Rows of log.csv in order of their steps; of a step written twice the later one."""
    if not path.is_file():
        return []
    rows: dict[float, dict[str, float]] = {}
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            row = {key: number(value) for key, value in line.items()}
            rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def headline(rows: Sequence[Row], log: Log) -> list[str]:
    lines = []
    for row in rows[:1]:
        *_, (before, worse), (after, better) = row.scores.items()
        lines.append(
            f"{after}: {better.psnr_y:.2f} dB PSNR-Y on {row.name}, "
            f"{before} {worse.psnr_y:.2f} ({row.gain:+.2f})."
        )
    if log:
        minutes = log[-1].get("seconds", math.nan) / 60
        took = f" in {minutes:.1f} minutes" if math.isfinite(minutes) else ""
        lines.append(f"{log[-1]['step']:.0f} steps{took}.")
    return lines


def results(rows: Sequence[Row]) -> list[str]:
    """A table for all sets: of each measure the columns of who was measured."""
    if not rows:
        return []
    names = list(rows[0].scores)
    shown = [
        key
        for key in COLUMNS
        if any(getattr(s, key) is not None for row in rows for s in row.scores.values())
    ]
    parts = ["<h2>Quality</h2>", '<div class="wide"><table>']
    parts.append("<thead><tr><th scope=col>set</th><th scope=col>measure</th>")
    parts += [f"<th scope=col>{escape(name)}</th>" for name in names]
    parts.append("<th scope=col>change</th></tr></thead><tbody>")
    for row in rows:
        for key in shown:
            head, decimals, _ = COLUMNS[key]
            values = [getattr(row.scores[name], key) for name in names]
            first = f"{row.name} ({row.pictures})" if key == shown[0] else ""
            cells = ["-" if v is None else f"{v:.{decimals}f}" for v in values]
            parts.append(f"<tr><th scope=row>{escape(first)}</th><td>{head}</td>")
            parts += [f"<td>{cell}</td>" for cell in cells]
            parts.append(f"{change(values, key, decimals)}</tr>")
    return [*parts, "</tbody></table></div>"]


def change(values: Sequence[float | None], key: str, decimals: int) -> str:
    before, after = values[-2:]
    if before is None or after is None:
        return "<td>-</td>"
    difference = after - before
    less_is_better = key in ("lpips", "flicker", "warped")
    better = difference < 0 if less_is_better else difference > 0
    kind = "" if round(difference, decimals) == 0 else ' class="good"' if better else ' class="bad"'
    return f"<td{kind}>{difference:+.{decimals}f}</td>"


def curves(log: Log, rows: Sequence[Row]) -> list[str]:
    if not log:
        return ["<h2>Curves</h2>", '<p class="muted">The run has no log.csv.</p>']
    columns = [key for key in log[0] if key not in NO_CURVE]
    columns.sort(key=lambda key: key != "psnr_y")
    parts = ["<h2>Curves</h2>", '<div class="curves">']
    for key in columns:
        points = [(row["step"], row.get(key, math.nan)) for row in log]
        decibels = key in ("psnr_y", "psnr_rgb")
        drawn = curve(
            points,
            name=key,
            decimals=3 if decibels else None,
            log=not decibels,
            line=yardstick(rows) if key == "psnr_y" else None,
        )
        what = f"{validated(rows)}, dB" if key == "psnr_y" else key
        parts.append(f"<figure><figcaption>{escape(what)}</figcaption>{drawn}</figure>")
    return [*parts, "</div>", *log_table(log, columns)]


def validated(rows: Sequence[Row]) -> str:
    line = yardstick(rows)
    return "PSNR-Y while training" + (f" ({line[0]}: {line[1]:.3f})" if line else "")


def yardstick(rows: Sequence[Row]) -> tuple[str, float] | None:
    """The first set is the one that was validated on."""
    if not rows:
        return None
    name, score = next(iter(rows[0].scores.items()))
    return name, score.psnr_y


def log_table(log: Log, columns: Sequence[str]) -> list[str]:
    heads = ["step", *columns, *(["minutes"] if "seconds" in log[0] else [])]
    parts = ["<details><summary>as numbers</summary>", '<div class="wide"><table><thead><tr>']
    parts += [f"<th scope=col>{escape(head)}</th>" for head in heads]
    parts.append("</tr></thead><tbody>")
    for row in thinned(log, MOST_LOGGED):
        cells = [written(row[key], 3 if key == "psnr_y" else None) for key in columns]
        if "seconds" in row:
            cells.append(f"{row['seconds'] / 60:.1f}")
        parts.append(f"<tr><th scope=row>{row['step']:.0f}</th>")
        parts += [f"<td>{cell}</td>" for cell in cells]
        parts.append("</tr>")
    return [*parts, "</tbody></table></div></details>"]


def pictures(strips: Sequence[Strip]) -> list[str]:
    if not strips:
        return []
    parts = [
        "<h2>Pictures</h2>",
        '<p class="muted">The most detailed part of each, enlarged 2x.</p>',
    ]
    for strip in strips:
        parts.append(f"<h3>{escape(strip.name)}</h3>")
        count = len(strip.pictures)
        narrow = 3 if count == 3 else 2  # columns on a phone
        parts.append(f'<div class="strip" style="--count: {count}; --narrow: {narrow}">')
        for name, picture in strip.pictures.items():
            height, width = picture.shape[:2]
            parts.append(
                f'<figure><img src="{png(picture)}" width="{2 * width}" height="{2 * height}" '
                f'alt="{escape(strip.name)}, {escape(name)}">'
                f"<figcaption>{escape(name)}</figcaption></figure>"
            )
        parts.append("</div>")
    return parts
