"""Curves as inline SVG: no script, no resource; colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TypeVar

WIDTH, HEIGHT = 420, 250  # of the view box: text of 12 stays readable on a phone
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 30
MOST_DOTS = 60

T = TypeVar("T")
Points = Sequence[tuple[float, float]]


def curve(
    points: Points, *, name: str, decimals: int | None, log: bool, line: tuple[str, float] | None
) -> str:
    """An <svg> of value over step. Values that are not finite are left out.

    decimals  of the values in tooltips; None: four digits
    log       logarithmic axis, where all values are above 0
    line      name and value of a dashed line to compare with, where it is near the curve
    """
    points = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return '<p class="muted">nothing logged</p>'
    log = log and all(y > 0 for _, y in points)
    values = [y for _, y in points]
    if line is not None:
        span = max(values) - min(values)
        # Far away it would press the curve flat.
        if min(values) - span <= line[1] <= max(values) + span:
            values.append(line[1])
        else:
            line = None
    marks = ticks(min(values), max(values), log=log)
    low, high = min([*marks, *values]), max([*marks, *values])
    last = max(x for x, _ in points)
    across = [x for x in ticks(0, last, log=False) if x <= last]

    def at_x(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / last if last else float(LEFT)

    def at_y(y: float) -> float:
        bottom, top = (math.log(low), math.log(high)) if log else (low, high)
        share = ((math.log(y) if log else y) - bottom) / (top - bottom) if top > bottom else 0.5
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)} over steps">'
    ]
    for mark in marks:
        y = at_y(mark)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.2f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.2f}">{short(mark)}</text>')
    parts += [
        f'<text class="x" x="{at_x(x):.2f}" y="{HEIGHT - BOTTOM + 18}">{short(x)}</text>'
        for x in across
    ]
    if line is not None:
        y = at_y(line[1])
        parts.append(f'<path class="line" d="M{LEFT} {y:.2f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="named" x="{WIDTH - RIGHT}" y="{y - 5:.2f}">'
            f"{escape(line[0])} {written(line[1], decimals)}</text>"
        )
    path = " ".join(f"{at_x(x):.2f},{at_y(y):.2f}" for x, y in points)
    parts.append(f'<polyline class="curve" points="{path}"/>')
    for x, y in thinned(points, MOST_DOTS):
        parts.append(
            f'<circle cx="{at_x(x):.2f}" cy="{at_y(y):.2f}" r="3">'
            f"<title>step {x:.0f}: {written(y, decimals)}</title></circle>"
        )
    return "\n".join([*parts, "</svg>"])


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many, evenly spread, the last among them."""
    return items[::-1][:: -(-len(items) // most)][::-1]


def ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round values around low..high: three to eight of them."""
    if log and high / low > 3:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        digits = (1, 2, 5) if high / low < 200 else (1,)
        marks = [digit * 10.0**power for power in powers for digit in digits]
        below = max((m for m in marks if m <= low), default=marks[0])
        above = min((m for m in marks if m >= high), default=marks[-1])
        return [m for m in marks if below <= m <= above]
    if high <= low:
        return [low]
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= max(m for m in (1, 2, 5) if step * m <= (high - low) / 3)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def short(value: float) -> str:
    """60000 -> "60k", 0.0005 -> "0.0005", 37.5 -> "37.5"."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"


def written(value: float, decimals: int | None) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"
