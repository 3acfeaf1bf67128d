"""Model cards: what a shipped model is, how it was made, how good and fast it is, what for not.

Facts come from `index.json` (see `edgesr.models`) and from `measured.json` beside it, which
`python docs/models.py` writes from the committed results of the benchmarks:

    {"schema": 1,
     "bicubic": {"2": {"Set5": {"psnr_y": 33.674, "ssim_y": 0.9303}}},     by scale and set
     "compressed": {"2": {"clips": 5,                                      by scale
                          "psnr_y": {"ecbsr-m4c16-x2": {"18": 36.269}}}}}  by name and CRF of x264
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from edgesr.errors import ModelError, UsageError
from edgesr.models import (
    DEFAULT_MODEL,
    DEFAULT_SCALE,
    DEFAULT_STREAM_MODEL,
    ShippedModel,
    resolve,
    shipped,
)

SCHEMA = 1
VIDEO = "-video"
UNMEASURED = ("B100", "Urban100")

ABOUT = {
    "ecbsr": "3x3 convolutions with PReLU, the input added, a pixel shuffle (ECBSR, 2021); in "
    "training each of them is five parallel branches, which merge exactly into one",
    "espcn": "three convolutions with ReLU and a pixel shuffle (ESPCN, 2016)",
    "bsrn": "blueprint separable convolutions (a 1x1, then a 3x3 for each channel) with two kinds "
    "of attention, all features joined at the end (BSRN, 2022); many times the others' work",
    "fsrcnn": "narrow 3x3 convolutions, then a transposed 9x9 one that enlarges (FSRCNN, 2016)",
}
"""By the first word of the network's name."""


def find(name: str, *, scale: int | None = None) -> ShippedModel:
    """A family ("espcn", taken at `scale`, 2 when None) or a full name ("espcn-x4").

    Raises ModelError for a name that is not shipped, UsageError for another scale or a file.
    """
    found = resolve(name, scale=scale)
    for model in shipped():
        if model.onnx == found.path:
            return model
    raise UsageError(f"--card takes a name of `edgesr models`, not a file: {name}")


def listing(model: ShippedModel, *, here: Mapping[str, float]) -> dict[str, Any]:
    """What `edgesr models --json` says of a model. here: "backend precision" -> ms a frame."""
    return {
        "name": model.name,
        "scale": model.spec.scale,
        "default": (model.family, model.spec.scale) == (DEFAULT_MODEL, DEFAULT_SCALE),
        "default_of_stream": model.family == DEFAULT_STREAM_MODEL
        and model.spec.scale == DEFAULT_SCALE,
        "parameters": {
            "training": model.training_parameters,
            "deployed": model.deployed_parameters,
        },
        "macs_640x360": model.macs_640x360,
        "metrics": {name: dict(values) for name, values in model.spec.metrics.items()},
        "terms": model.spec.terms,
        "ms_640x360_here": dict(here),
        "ms_640x360_project": dict(model.speed),
        "onnx": str(model.onnx),
        "checkpoint": None if model.checkpoint is None else str(model.checkpoint),
    }


def facts(
    model: ShippedModel, *, others: Sequence[ShippedModel], here: Mapping[str, float]
) -> dict[str, Any]:
    """All that a card says, ready for JSON: `listing` and more.

    others  what else is shipped: where it fits better, the card says so
    """
    spec = model.spec
    known = measured()
    twin = _twin(model, others)
    compressed = _compressed(model, twin, known["compressed"].get(str(spec.scale), {}))
    return {
        **listing(model, here=here),
        "family": model.family,
        "about": ABOUT.get(spec.network.split("-")[0]),
        "network": spec.network,
        "colour": spec.colour,
        "halo": spec.halo,
        "bicubic": known["bicubic"].get(str(spec.scale), {}),
        "compressed": compressed,
        "measure": _commands(model),
        "not_for": _not_for(model, twin, compressed),
        "training": _training(model),
    }


def measured() -> dict[str, Any]:
    """What stands in `measured.json`. Raises ModelError."""
    file = resources.files("edgesr") / "weights" / "measured.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        if values["schema"] != SCHEMA:
            raise ModelError(f"{file} has schema {values['schema']}, not {SCHEMA}")
        return dict(values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error!r}; install edgesr again") from error


def _not_for(
    model: ShippedModel, twin: ShippedModel | None, compressed: Mapping[str, Any]
) -> list[str]:
    """When to take something else, a sentence each."""
    spec = model.spec
    lines = []
    if not model.name.endswith(VIDEO):
        lines.append(
            "Compressed, noisy or already sharpened sources: its small pictures were clean bicubic "
            "downscales, so it sharpens blocks, ringing and noise like detail"
            + _fading_gain(model.name, compressed)
            + ("." if twin is None else f"; take {twin.name}.")
            + " To train it on footage like yours: `edgesr distill --on CLIP.mp4`."
        )
    else:
        if twin is not None and (better := _better_on(twin, model)):
            lines.append(
                f"Clean sources (masters, photos): {twin.name} is nearer to the truth there, "
                f"{', '.join(better)}."
            )
        lines.append(
            "Damage of other kinds: it knows x264, x265, VP9 and MPEG-2 at usual qualities; AV1, "
            "JPEG, camera noise and blur were not in its training."
        )
    if spec.colour == "y":
        lines.append(
            "Edges between colours of equal brightness: it sees luma only, colour is interpolated "
            "and stays as soft as before."
        )
    lines.append(
        "Anime, drawings, screen text: it was trained on photos only, and no figure was measured "
        "on such sets."
    )
    lines.append(
        "Texture that the small picture has lost: it was trained for likeness (PSNR), invents "
        "nothing, and leaves fine texture smooth."
    )
    if spec.scale > 2:
        lines.append(
            f"Small text and fine regular lines: at x{spec.scale} they come out sharp, but as "
            "other shapes than they were."
        )
    if not spec.state:
        lines.append(
            "Flicker and interlacing: frames are enlarged one by one, as they are; "
            "deinterlace first."
        )
    return lines


def _training(model: ShippedModel) -> dict[str, Any]:
    """From the index; empty where it has nothing."""
    known = model.training
    if not known.get("stages"):
        return {}
    stages = []
    for stage in known["stages"]:
        settings = stage["settings"]
        stages.append(
            {
                "name": stage["name"],
                "init": settings.get("init"),
                "recipe": stage["recipe"],
                "teacher": settings.get("teacher"),
                "loss": settings["loss"],
                "optimizer": settings.get("optimizer") or "adam",
                "lr": settings["lr"],
                "steps": stage["steps"],
                "minutes": stage["minutes"],
            }
        )
    last = known["stages"][-1]["settings"]
    return {
        "photos": known["photos"],
        "data_digest": known["data_digest"],
        "small_pictures": _small_pictures(last),
        "chosen_by": known["chosen_by"],
        "machine": known["machine"],
        "seed": known["seed"],
        "steps": known["steps"],
        "minutes": known["minutes"],
        "stages": stages,
        "command": f"{known['command']} --photos PHOTOS --bench BENCH --only {model.name} --again",
    }


def _small_pictures(settings: Mapping[str, Any]) -> str:
    """How they were made in the last stage."""
    kind = settings.get("degradation") or "bicubic"
    if kind == "video":
        clean = settings.get("clean")
        return (
            "made small by MATLAB's bicubic and then sent through x264, x265, VP9 or MPEG-2 at "
            f"drawn qualities, {0.2 if clean is None else clean:.0%} of the crops through none"
        )
    if kind == "bicubic":
        return "made small by MATLAB's bicubic and nothing else"
    return f"made small by the degradation {kind!r}"


def _compressed(
    model: ShippedModel, twin: ShippedModel | None, known: Mapping[str, Any]
) -> dict[str, Any]:
    """The rows of `measured.json` that belong on a card; empty where the model has none."""
    scores = known.get("psnr_y", {})
    if model.name not in scores:
        return {}
    names = ["bicubic", *sorted({model.name, *([twin.name] if twin is not None else [])})]
    return {
        "clips": known["clips"],
        "psnr_y": {name: scores[name] for name in names if name in scores},
    }


def _commands(model: ShippedModel) -> list[str]:
    lines = [f"edgesr data get {' '.join(UNMEASURED)} --out data"]
    lines += [f"edgesr eval --model {model.name} --data data/{name}/HR" for name in UNMEASURED]
    if model.name.endswith(VIDEO):
        lines.append(f"edgesr eval --model {model.name} --data CLIPS/ --crf 28  # your footage")
    return lines


def _twin(model: ShippedModel, others: Sequence[ShippedModel]) -> ShippedModel | None:
    """The same network at the same scale, trained for compressed video, or the one for clean."""
    name = model.name
    wanted = name.removesuffix(VIDEO) if name.endswith(VIDEO) else name + VIDEO
    return next((other for other in others if other.name == wanted), None)


def _fading_gain(name: str, compressed: Mapping[str, Any]) -> str:
    """What is left of the gain over bicubic at the least and the most compression measured."""
    if not compressed:
        return ""
    ours, base = compressed["psnr_y"][name], compressed["psnr_y"]["bicubic"]
    first, *_, last = ours
    gains = [f"{ours[crf] - base[crf]:+.2f} dB at CRF {crf}" for crf in (first, last)]
    return f" (over bicubic {gains[0]}, {gains[1]})"


def _better_on(model: ShippedModel, other: ShippedModel) -> list[str]:
    """ "Set5 37.17 to 36.60 dB" for each set on which `model` is above `other`."""
    theirs = other.spec.metrics
    return [
        f"{name} {values['psnr_y']:.2f} to {theirs[name]['psnr_y']:.2f} dB"
        for name, values in model.spec.metrics.items()
        if name in theirs and values["psnr_y"] > theirs[name]["psnr_y"]
    ]
