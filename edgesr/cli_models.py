"""The verb `models`: what is shipped, its cards, and every network that edgesr knows."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesr.cli_run import Json, Quiet
from edgesr.errors import UsageError

if TYPE_CHECKING:
    from edgesr.models import ShippedModel
    from edgesr.zoo import NetworkFacts


def models(
    scale: Annotated[
        int | None,
        typer.Option(
            "--scale",
            "-s",
            help="Networks at this scale only.",
            show_default="2 where it is offered",
        ),
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            metavar="NAME",
            help="All about one model: what it is, how it was trained, how good and fast it is, "
            "and when not to use it. Markdown.",
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the models that came with this installation, and all networks that edgesr knows."""
    from edgesr.cards import listing
    from edgesr.cli_progress import note
    from edgesr.models import DEFAULT_SCALE, shipped
    from edgesr.zoo import networks

    if card is not None:
        _show_card(card, scale=scale, json_=json_)
        return
    rows = [(model, _measured(model)) for model in shipped()]
    trained: dict[tuple[str, int], str] = {}
    for model, _ in rows:  # of a network that was trained in several ways, the first is named
        trained.setdefault((model.spec.network, model.spec.scale), model.name)
    facts = networks()
    offered = sorted({f.scale for f in facts})
    if scale is not None and scale not in offered:
        raise UsageError(
            f"no network is offered at scale {scale}: there is {', '.join(map(str, offered))}"
        )
    listed = [listing(model, here=ms) for model, ms in rows]
    if json_:
        known = [
            f.to_dict() | {"shipped": trained.get((f.name, f.scale))}
            for f in facts
            if scale in (None, f.scale)
        ]
        typer.echo(json.dumps({"schema": 1, "models": listed, "networks": known}, indent=2))
        return
    heads = ["model", "scale", "parameters", "GMAC", "Set5 dB", "Set14 dB", "ms"]
    _print_table(heads, [_model_row(model) for model in listed], left=1)
    if not quiet:
        note(
            "* the default, ** that of stream and bench where there is one; GMAC and ms: one "
            "640x360 frame in; ms: measured here by `edgesr bench`, with ~ by the project on two "
            "cores; dB: PSNR-Y"
        )
    typer.echo()
    scales: dict[str, list[int]] = {}
    for f in facts:
        scales.setdefault(f.name, []).append(f.scale)
    shown = {
        name: scale or (DEFAULT_SCALE if DEFAULT_SCALE in offers else offers[0])
        for name, offers in scales.items()
    }
    chosen = [f for f in facts if f.scale == shown[f.name]]
    heads = ["network", "at", "scales", "colour", "training", "deployed", "GMAC", "halo", "shipped"]
    _print_table(heads, [_network_row(f, scales[f.name], trained) for f in chosen], left=1)
    if not quiet:
        note(
            "parameters while training and as deployed; halo: radius of the receptive field in "
            "pixels, - where it is the whole picture; (lit. n): GMAC as the literature counts "
            "transposed convolutions; --scale N for another scale, --json for all of it"
        )


def _show_card(name: str, *, scale: int | None, json_: bool) -> None:
    from edgesr import cards
    from edgesr.card_text import markdown
    from edgesr.models import shipped

    model = cards.find(name, scale=scale)
    card = cards.facts(model, others=shipped(), here=_measured(model))
    if json_:
        typer.echo(json.dumps({"schema": cards.SCHEMA, **card}, indent=2))
    else:
        typer.echo(markdown(card), nl=False)


def _measured(model: ShippedModel) -> dict[str, float]:
    """What `edgesr bench` remembers of this machine at 640x360: "backend precision" -> ms."""
    from edgesr.runtime.backends.choose import recall_record

    record = recall_record(model.onnx)
    return dict(record.ms) if record.about.get("size") == "640x360" else {}


def _print_table(heads: list[str], rows: Iterable[list[str]], *, left: int) -> None:
    """Aligned columns, the first `left` of them to the left."""
    table = [heads, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(heads))]
    for row in table:
        cells = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def _network_row(
    facts: NetworkFacts, scales: list[int], trained: dict[tuple[str, int], str]
) -> list[str]:
    gmac = f"{facts.macs / 1e9:.2f}"
    if facts.macs_literature != facts.macs:
        gmac = f"(lit. {facts.macs_literature / 1e9:.2f}) {gmac}"
    shipped = [f"x{scale}" for scale in scales if (facts.name, scale) in trained]
    return [
        facts.name,
        f"x{facts.scale}",
        ",".join(map(str, scales)),
        facts.colour,
        f"{facts.training:,}",
        f"{facts.deployed:,}",
        gmac,
        "-" if facts.halo is None else str(facts.halo),
        " ".join(shipped) or "-",
    ]


def _model_row(model: dict[str, Any]) -> list[str]:
    """Of what `listing` says."""

    def db(name: str) -> str:
        value = model["metrics"].get(name, {}).get("psnr_y")
        return "-" if value is None else f"{value:.2f}"

    macs, count = model["macs_640x360"], model["parameters"]["deployed"]
    here, project = model["ms_640x360_here"], model["ms_640x360_project"]
    best = min((here or project).items(), key=lambda item: item[1], default=None)
    mark = " *" if model["default"] else " **" if model["default_of_stream"] else ""
    return [
        model["name"] + mark,
        f"x{model['scale']}",
        "-" if count is None else f"{count:,}",
        "-" if macs is None else f"{macs / 1e9:.2f}",
        db("Set5"),
        db("Set14"),
        "-" if best is None else f"{'' if here else '~'}{best[1]:.1f} {best[0]}",
    ]
