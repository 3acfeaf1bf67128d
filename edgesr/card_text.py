"""A model card as Markdown: `facts` of `edgesr.cards` for the command line and docs/models.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgesr.cards import UNMEASURED, VIDEO

OPTIMIZERS = {"adam": "Adam", "sgd": "SGD", "soap": "SOAP"}
"""As their authors write them."""


def markdown(card: Mapping[str, Any], *, level: int = 1) -> str:
    """A card out of `facts`. level: of its first heading."""
    mark = "#" * level
    about = f"{card['about'][0].upper()}{card['about'][1:]}." if card["about"] else ""
    sections = {
        "": [about, table([["", ""], *_short(card)])],
        "Quality": _quality(card),
        "When not to use it": ["\n".join(f"- {line}" for line in card["not_for"])],
        "Speed": _speed(card),
        "Training": _how(card),
    }
    blocks = [f"{mark} {card['name']}"]
    for title, paragraphs in sections.items():
        written = [paragraph for paragraph in paragraphs if paragraph]
        blocks += [f"{mark}# {title}", *written] if title and written else written
    return "\n\n".join(blocks) + "\n"


def _short(card: Mapping[str, Any]) -> list[list[str]]:
    count, macs = card["parameters"], card["macs_640x360"]
    return [
        ["network", f"`{card['network']}`"],
        ["colour", "luma; colour is interpolated" if card["colour"] == "y" else "RGB"],
        ["scale", str(card["scale"])],
        ["parameters", f"{_number(count['deployed'])} ({_number(count['training'])} in training)"],
        ["GMAC at 640x360", "-" if macs is None else f"{macs / 1e9:.2f}"],
        ["halo", "the whole picture" if card["halo"] is None else f"{card['halo']} pixels"],
        ["terms", card["terms"] or "not recorded"],
    ]


def _quality(card: Mapping[str, Any]) -> list[str]:
    metrics, base = card["metrics"], card["bicubic"]
    blocks = []
    if metrics:
        rows = [["PSNR-Y / SSIM-Y", *metrics]]
        if any(name in base for name in metrics):
            rows.append(["bicubic", *(figures(base.get(name)) for name in metrics)])
        rows.append([card["name"], *(figures(values) for values in metrics.values())])
        blocks.append(table(rows))
        if card["name"].endswith(VIDEO):
            blocks.append("Set5 and Set14 are clean, which is not what it is for.")
        chosen = card["training"].get("chosen_by")
        if chosen:
            blocks.append(
                f"By the published protocol. The weights were chosen by {chosen}, "
                "so that set is not wholly unseen."
            )
    blocks += _on_footage(card["compressed"])
    blocks.append(f"Not measured by the project: {' and '.join(UNMEASURED)}. On your machine:")
    blocks.append(_code(card["measure"]))
    return blocks


def _on_footage(compressed: Mapping[str, Any]) -> list[str]:
    if not compressed:
        return []
    scores = compressed["psnr_y"]
    crfs = list(next(iter(scores.values())))
    rows = [["PSNR-Y by CRF of x264", *crfs]]
    rows += [[name, *(f"{of[crf]:.2f}" for crf in crfs)] for name, of in scores.items()]
    return [
        table(rows),
        f"Means over {compressed['clips']} clips, made small, encoded and decoded, 8-bit luma in "
        "and out.",
    ]


def _speed(card: Mapping[str, Any]) -> list[str]:
    project, here = card["ms_640x360_project"], card["ms_640x360_here"]
    columns = {"by the project, two cores": project, "here": here}
    shown = {title: ms for title, ms in columns.items() if ms}
    bench = f"`edgesr bench --model {card['name']}`"
    if not shown:
        return [f"Not measured yet: {bench} does."]
    rows = [["ms for a 640x360 frame", *shown]]
    for way in dict.fromkeys([*project, *here]):
        cells = (f"{ms[way]:.1f}" if way in ms else "-" for ms in shown.values())
        rows.append([way, *cells])
    return [table(rows), "" if here else f"{bench} measures it on yours."]


def _how(card: Mapping[str, Any]) -> list[str]:
    how = card["training"]
    if not how:
        return ["Not recorded."]
    rows = [["stage", "starts from", "recipe", "loss", "optimiser", "rate", "steps", "minutes"]]
    for stage in how["stages"]:
        steps = [f"{stage['steps']:,}", str(stage["minutes"])]
        recipe = stage["recipe"]
        if stage["teacher"]:
            recipe += f", teacher {stage['teacher']}"
        how_far = [stage["loss"], OPTIMIZERS[stage["optimizer"]], f"{stage['lr']:g}", *steps]
        rows.append([stage["name"], stage["init"] or "-", recipe, *how_far])
    return [
        f"On {how['photos']} photos, {how['small_pictures']}. Digest of the photos: "
        f"`{how['data_digest']}`.",
        table(rows),
        f"{how['steps']:,} steps in {how['minutes']:g} minutes, seed {how['seed']}, on "
        f"{how['machine']}. All settings: `edgesr/weights/index.json`. The same again, from the "
        "checkout:",
        _code([how["command"]]),
    ]


def figures(values: Mapping[str, float] | None) -> str:
    """ "37.17 / 0.9568": PSNR-Y in dB, SSIM-Y."""
    return f"{values['psnr_y']:.2f} / {values['ssim_y']:.4f}" if values else "-"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _code(lines: Iterable[str]) -> str:
    return "\n".join(["```sh", *lines, "```"])


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the head first, in Markdown."""
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *rest])
