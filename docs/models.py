"""Write docs/models.md, the cards of all shipped models, and edgesr/weights/measured.json.

    python docs/models.py           after `python docs/sheets.py`, which makes the pictures

Cards come from edgesr/weights/index.json; bicubic's figures and those on compressed footage from
quality.json and video*.json of benchmarks/results, through measured.json, which the wheel carries;
those of the sheets from docs/sheets/sheets.json. No figure on the page is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgesr.card_text import figures, markdown, table
from edgesr.cards import SCHEMA, facts
from edgesr.models import ShippedModel, shipped

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"
SHEETS = ROOT / "docs" / "sheets"
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ROOT / "edgesr" / "weights" / "measured.json"

INTRO = """\
# Models

What the wheel carries, a card each: what it is, how good and fast it is, when not to use it, how
it was made. `edgesr models --card NAME` prints the same, with the milliseconds of your machine
where `edgesr bench` measured them.

Written by `python docs/models.py`.
"""

SHOWN = """\
## Comparison sheets

Every row is one crop, each pixel of it shown as 2x2: bicubic, FFmpeg's lanczos, the models, the
truth. The numbers are PSNR-Y in dB of the whole picture by the published protocol. Photos are
scikit-image's, CC0 or public domain ([sheets.py](sheets.py) has the terms of each); text, lines
and zone plate are drawn by that script. None of them is a training photo. A click shows a sheet in
full size.
"""


def main() -> None:
    MEASURED.write_text(json.dumps(measured(), indent=1) + "\n")
    PAGE.write_text(page())
    print(f"{PAGE}: {len(shipped())} cards")  # noqa: T201


def measured() -> dict[str, Any]:
    """What the wheel knows of the benchmarks' results; `edgesr.cards` shows the form."""
    quality = json.loads((RESULTS / "quality.json").read_text())
    footage = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("video*.json"))]
    return {
        "schema": SCHEMA,
        "bicubic": {
            str(row["scale"]): {name: row[name] for name in quality["sets"]}
            for row in quality["rows"]
            if row["name"] == "bicubic"
        },
        "compressed": {str(video["scale"]): on_footage(video) for video in footage},
    }


def on_footage(video: dict[str, Any]) -> dict[str, Any]:
    """Of one run of benchmarks/video.py what cards show."""
    crfs = [str(crf) for crf in video["crfs"]]
    return {
        "clips": len(video["clips"]),
        "psnr_y": {
            name: {crf: of[crf]["psnr_y"] for crf in crfs} for name, of in video["means"].items()
        },
    }


def page() -> str:
    models = shipped()
    families: dict[str, list[ShippedModel]] = {}
    for model in models:
        families.setdefault(model.family, []).append(model)
    blocks = [INTRO.rstrip(), overview(models), SHOWN.rstrip(), *sheets()]
    for family, members in families.items():
        blocks += [f"## {family}", picture(family)]
        blocks += [
            markdown(facts(model, others=models, here={}), level=3).rstrip() for model in members
        ]
    return "\n\n".join(blocks) + "\n"


def overview(models: Sequence[ShippedModel]) -> str:
    """One row a model; the names lead to the cards."""
    rows = [["", "parameters", "GMAC at 640x360", "ms", "Set5", "Set14"]]
    for model in models:
        macs = model.macs_640x360
        way, ms = min(model.speed.items(), key=lambda item: item[1], default=("", None))
        rows.append(
            [
                f"[{model.name}](#{model.name})",
                f"{model.deployed_parameters:,}",
                "-" if macs is None else f"{macs / 1e9:.2f}",
                "-" if ms is None else f"{ms:.1f} {way}",
                *(figures(model.spec.metrics.get(name)) for name in ("Set5", "Set14")),
            ]
        )
    return table(rows)


def sheets() -> list[str]:
    """Each sheet with its title and the figures on it."""
    blocks = []
    for name, sheet in json.loads((SHEETS / "sheets.json").read_text())["sheets"].items():
        scores = sheet["psnr_y"]
        columns = next(iter(scores.values()))
        rows = [[row, *(f"{value:.2f}" for value in of.values())] for row, of in scores.items()]
        blocks += [
            f"### {sheet['title']}",
            linked(f"sheets/{name}.webp", sheet["title"]),
            table([["PSNR-Y", *columns], *rows]),
        ]
    return blocks


def picture(family: str) -> str:
    file = SHEETS / f"{family}.webp"
    if not file.is_file():
        raise SystemExit(f"{file} is missing: run `python docs/sheets.py` first")
    return linked(f"sheets/{file.name}", f"bicubic, {family}, truth")


def linked(file: str, title: str) -> str:
    return f"[![{title}]({file})]({file})"


if __name__ == "__main__":
    main()
