"""The verb `models`: what is shipped, and every network that can be trained or converted."""

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
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the models that came with this installation, and all networks that edgesr knows."""
    from edgesr.cli_progress import note
    from edgesr.models import DEFAULT_MODEL, DEFAULT_SCALE, shipped
    from edgesr.runtime.backends.choose import recall_record
    from edgesr.zoo import networks

    def measured(model: ShippedModel) -> dict[str, float]:
        record = recall_record(model.onnx)
        return dict(record.ms) if record.about.get("size") == "640x360" else {}

    rows = [(model, measured(model)) for model in shipped()]
    trained = {(model.spec.network, model.spec.scale): model.name for model, _ in rows}
    facts = networks()
    offered = sorted({f.scale for f in facts})
    if scale is not None and scale not in offered:
        raise UsageError(
            f"no network is offered at scale {scale}: there is {', '.join(map(str, offered))}"
        )
    default = f"{DEFAULT_MODEL}-x{DEFAULT_SCALE}"
    if json_:
        listed = [_model_facts(m, ms, default=m.name == default) for m, ms in rows]
        known = [
            f.to_dict() | {"shipped": trained.get((f.name, f.scale))}
            for f in facts
            if scale in (None, f.scale)
        ]
        typer.echo(json.dumps({"schema": 1, "models": listed, "networks": known}, indent=2))
        return
    heads = ["model", "scale", "parameters", "GMAC", "Set5 dB", "Set14 dB", "ms"]
    _print_table(heads, [_model_row(m, ms, default=m.name == default) for m, ms in rows], left=1)
    if not quiet:
        note(
            "* the default; GMAC and ms: one 640x360 frame in; ms: measured here by "
            "`edgesr bench`, with ~ by the project on two cores; dB: PSNR-Y"
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


def _model_row(model: ShippedModel, ms: dict[str, float], *, default: bool) -> list[str]:
    def db(name: str) -> str:
        value = model.spec.metrics.get(name, {}).get("psnr_y")
        return "-" if value is None else f"{value:.2f}"

    macs, count = model.macs_640x360, model.deployed_parameters
    best = min((ms or model.speed).items(), key=lambda item: item[1], default=None)
    return [
        model.name + (" *" if default else ""),
        f"x{model.spec.scale}",
        "-" if count is None else f"{count:,}",
        "-" if macs is None else f"{macs / 1e9:.2f}",
        db("Set5"),
        db("Set14"),
        "-" if best is None else f"{'' if ms else '~'}{best[1]:.1f} {best[0]}",
    ]


def _model_facts(model: ShippedModel, ms: dict[str, float], *, default: bool) -> dict[str, Any]:
    return {
        "name": model.name,
        "scale": model.spec.scale,
        "default": default,
        "parameters": {
            "training": model.training_parameters,
            "deployed": model.deployed_parameters,
        },
        "macs_640x360": model.macs_640x360,
        "metrics": {name: dict(values) for name, values in model.spec.metrics.items()},
        "terms": model.spec.terms,
        "ms_640x360_here": ms,
        "ms_640x360_project": dict(model.speed),
        "onnx": str(model.onnx),
        "checkpoint": None if model.checkpoint is None else str(model.checkpoint),
    }
