"""How a training ends: what it reached, as `summary.json` and `report.html`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgesr.distill.evaluate import bicubic_scores, mean_score
from edgesr.distill.lesson import planes_function, score_network
from edgesr.distill.recipe import Recipe
from edgesr.distill.report import Row, environment, write_report
from edgesr.distill.room import Room, machine, names_in
from edgesr.distill.sanity import complaint, range_on_noise
from edgesr.distill.strips import make_strips
from edgesr.distill.terms import notes_of
from edgesr.files import replacing
from edgesr.networks import checkpoint, deployed


@dataclass(frozen=True, kw_only=True)
class Result:
    """Where a finished training lies and what it reached on its validation set.

    plain_psnr_y    of the same student without a teacher at equal steps, where that was asked for
    data_share      of the time of the steps, spent waiting for batches
    """

    out: Path
    steps: int
    minutes: float
    psnr_y: float
    bicubic_psnr_y: float
    validation: str
    plain_psnr_y: float | None = None
    data_share: float = 0.0


def conclude(recipe: Recipe, room: Room, result: Result) -> None:
    """Write `summary.json` and `report.html`; warn of a network that explodes on noise."""
    out, scale = result.out, recipe.scale
    model, spec = checkpoint.load(out / "best.safetensors")
    planes = planes_function(deployed(model))
    scores = {"bicubic": mean_score(bicubic_scores(room.pairs, scale=scale))}
    if result.plain_psnr_y is not None:
        plain, _ = checkpoint.load(out / "plain" / "best.safetensors")
        scores["without teacher"] = score_network(
            deployed(plain), spec.colour, room.pairs, scale=scale
        )
    scores["student"] = score_network(deployed(model), spec.colour, room.pairs, scale=scale)
    rows = [Row(name=result.validation, pictures=len(room.pairs), scores=scores)]
    photos = room.photos(recipe, spec.colour)
    line = f"{len(photos)} pictures from {names_in(room.data)}, digest {photos.digest[:16]}"
    facts = environment(machine(room.device))
    strips = make_strips(
        room.pairs,
        {"student": planes if spec.colour == "rgb" else lambda luma: planes(luma[None])[0]},
        scale=scale,
        colour=spec.colour,
    )
    write_report(
        out, rows=rows, strips=strips, environment=facts, data=line, notes=notes_of(recipe)
    )
    noise = range_on_noise(model, spec)
    if wrong := complaint(noise):
        room.warn(f"the network is wild: {wrong}")
    summary: dict[str, Any] = {
        "pictures": len(photos),
        "validation": result.validation,
        "psnr_y": round(result.psnr_y, 4),
        "plain_psnr_y": None if result.plain_psnr_y is None else round(result.plain_psnr_y, 4),
        "bicubic_psnr_y": round(result.bicubic_psnr_y, 4),
        "range_on_noise": [round(value, 3) for value in noise],
        "notes": notes_of(recipe),
    }
    write_summary(out, recipe, result, digest=photos.digest, device=room.device, more=summary)


class Ran(Protocol):
    """What every kind of training knows of itself at its end."""

    @property
    def steps(self) -> int: ...

    @property
    def minutes(self) -> float: ...

    @property
    def data_share(self) -> float: ...


def write_summary(
    out: Path, recipe: Recipe, result: Ran, *, digest: str, device: str, more: dict[str, Any]
) -> None:
    """`summary.json`: what all trainings say, and `more`. digest: of the pictures or frames."""
    summary = {
        "schema": 1,
        "recipe": recipe.model_dump(),
        "recipe_digest": recipe.digest(),
        "data_digest": digest,
        "steps": result.steps,
        "minutes": round(result.minutes, 1),
        **more,
        "data_share": result.data_share,
        "machine": machine(device),
    }
    with replacing(out / "summary.json") as part:
        part.write_text(json.dumps(summary, indent=1) + "\n")
