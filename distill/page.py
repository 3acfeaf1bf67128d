"""The frame of a report page: one file, system fonts, light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

STYLE = """
:root { --paper: #fff; --ink: #1a1c1e; --muted: #5b6168; --rule: #d9dde1; --curve: #1f66c2;
        --good: #1a7f37; --bad: #b3261e; --panel: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171a; --ink: #e6e8ea; --muted: #9aa1a9; --rule: #343a40; --curve: #7db4ff;
          --good: #63c979; --bad: #ff8a80; --panel: #1e2125; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem 1rem 4rem; max-width: 70rem; background: var(--paper);
       color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; font-weight: 500; margin: 0 0 .4rem; }
p { margin: .4rem 0; }
.muted, figcaption, caption { color: var(--muted); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, .facts td { text-align: left; }
.facts td { white-space: normal; overflow-wrap: anywhere; } .facts th { vertical-align: top; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
.good { color: var(--good); } .bad { color: var(--bad); }
.curves { display: grid; gap: .8rem 1.2rem;
          grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.strip { display: grid; gap: .5rem; grid-template-columns: repeat(var(--count), minmax(0, 256px));
         margin-bottom: 1.2rem; }
@media (max-width: 40rem) { .strip { grid-template-columns: repeat(var(--narrow), 1fr); }
  table { font-size: .8rem; } th, td { padding-right: .4rem; } }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; max-width: 40rem; }
svg text { font-size: 12px; fill: var(--muted); }
svg .y, svg .named { text-anchor: end; } svg .x { text-anchor: middle; }
.grid { stroke: var(--rule); } .line { stroke: var(--muted); stroke-dasharray: 5 4; }
.curve { fill: none; stroke: var(--curve); stroke-width: 2; stroke-linejoin: round; }
circle { fill: var(--curve); }
img { display: block; width: 100%; height: auto; image-rendering: pixelated; }
pre { background: var(--panel); padding: .8rem; overflow-x: auto; font-size: .85rem; }
summary { cursor: pointer; color: var(--muted); }
"""


def whole(body: Sequence[str], *, title: str) -> str:
    """A complete HTML document; `body` is HTML, `title` is text."""
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}: edgesr training report</title>",
        f"<style>{STYLE}</style>",
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def facts_table(facts: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(k)}</th><td>{escape(str(v))}</td></tr>"
        for k, v in facts.items()
    )
    return f'<table class="facts"><tbody>{rows}</tbody></table>'
