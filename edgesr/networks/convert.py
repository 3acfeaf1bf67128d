"""Other people's checkpoints: recognised by names and shapes, loaded without running their code.

Every known form of every network is tried on the tensors of a file: rename, derive the
configuration from shapes, compare all names and shapes. Only a complete match is accepted.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgesr.errors import ModelError, UsageError
from edgesr.networks import NETWORKS, build_as, checkpoint, find
from edgesr.networks.facts import count_parameters
from edgesr.networks.foreign import Form, Tensors, divide_biases
from edgesr.networks.foreign_file import ForeignFile, read
from edgesr.networks.foreign_fsrcnn import FSRCNN
from edgesr.networks.foreign_luma import LUMA
from edgesr.networks.foreign_rgb import RGB
from edgesr.networks.foreign_small import SMALL
from edgesr.networks.foreign_video import VIDEO
from edgesr.spec import ModelSpec

FORMS: tuple[Form, ...] = (*LUMA, *FSRCNN, *RGB, *SMALL, *VIDEO)

# A file of something else may lead the reading of sizes, and the building, astray in these ways.
ASTRAY = (
    ModelError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The network that was found, with its weights, and whose form it was stored in.

    assumed   what the file does not tell, and was taken as it was published
    left_out  tensors of the file that the network does not need
    """

    model: nn.Module
    spec: ModelSpec
    form: Form
    assumed: dict[str, Any]
    left_out: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "network": self.spec.network,
            "source": self.form.source,
            "config": dataclasses.asdict(self.model.config),  # type: ignore[call-overload]
            "assumed": self.assumed,
            "left_out": self.left_out,
            "note": self.form.note,
            "parameters": count_parameters(self.model),
            "spec": self.spec.to_dict(),
        }

    def __str__(self) -> str:
        spec = self.spec
        halo = "the whole picture" if spec.halo is None else f"{spec.halo} pixels"
        pixel_range = getattr(self.model.config, "pixel_range", 1.0)
        inside = "" if pixel_range == 1.0 else f" (0..{pixel_range:g} inside)"
        parts = [
            f"{spec.name}, as {self.form.source} stores it: {count_parameters(self.model):,} "
            f"parameters, {spec.colour} 0..1{inside}, sees {halo}"
        ]
        if self.assumed:
            told = ", ".join(f"{name} {value}" for name, value in self.assumed.items())
            parts.append(f"not in the file, taken as published: {told}")
        if self.left_out:
            parts.append(f"{len(self.left_out)} tensors not needed ({self.left_out[0]}, ...)")
        if self.form.note:
            parts.append(self.form.note)
        return "; ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How far one form fits: names only in the network, only in the file, and of another shape.

    unknown and other_shape are names of the file, the keys of `tensors` and missing ours.
    """

    form: Form
    config: dict[str, Any]
    tensors: Tensors
    left_out: list[str]
    matching: int
    missing: list[str]
    unknown: list[str]
    other_shape: list[str]

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unknown or self.other_shape)

    @property
    def fit(self) -> float:
        wrong = len(self.missing) + len(self.unknown) + len(self.other_shape)
        return self.matching / max(1, self.matching + wrong)


def convert(
    path: Path,
    *,
    scale: int | None = None,
    white: int | None = None,
    forms: tuple[Form, ...] = FORMS,
) -> Converted:
    """Find out what a `.pth`, `.pt`, `.ckpt` or `.safetensors` file holds, and load it.

    scale   only for networks whose tensors are the same at every scale; None: the file's name
            may tell it ("fsrcnn_x2.pth")
    white   1 or 255, on which pixels the network was trained; None: as it was published
    Raises ModelError when the file holds more than tensors, or no network that is known;
    UsageError when the scale must be said, or is not the one in the file.
    """
    if white not in (None, 1, 255):
        raise UsageError(f"--range {white}: 1 or 255, what white is for the network in the file")
    file = read(path)
    said = scale or file.scale
    nearest: Attempt | None = None
    for form in forms:
        tried = attempt(form, file, scale=said)
        if tried is not None and tried.complete:
            check_scale(path, tried, scale=scale, said=said)
            return load(path, tried, white=white)
        if tried is not None and (nearest is None or tried.fit > nearest.fit):
            nearest = tried
    for form in forms:  # perhaps a part is missing by which the size is told
        if form.network in NETWORKS and (nearest is None or nearest.fit < 0.5):
            rough = attempt(form, file, scale=said, rough=True)
            if rough is not None and (nearest is None or rough.fit > nearest.fit):
                nearest = rough
    raise ModelError(explain(path, file, nearest))


def attempt(
    form: Form, file: ForeignFile, *, scale: int | None, rough: bool = False
) -> Attempt | None:
    """Try one form; None when it is not in question, or its sizes cannot be read off.

    rough   compare with the network in its usual size, by names alone
    """
    if form.wrappers is not None and file.wrapper not in form.wrappers:
        return None
    renamed: Tensors = {}
    before: dict[str, str] = {}
    for name, tensor in file.tensors.items():
        new = name
        for pattern, replacement in form.rename:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
        before[new] = name
    if form.rename and renamed.keys() == file.tensors.keys():  # written in other names than these
        return None
    if len(renamed) < len(file.tensors):  # two names became one
        return None
    try:
        if form.arrange is not None:
            renamed = form.arrange(renamed)
        config: dict[str, Any] = {}
        offered = find(form.network).scales
        if not rough:
            config = form.config(renamed)
            if form.scale_free:
                config = config | {"scale": scale if scale in offered else offered[0]}
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that come out as nothing
            usual = NETWORKS[form.network].make
            model = usual(offered[-1]) if rough else build_as(form.network, config)
            expected = model.state_dict()
    except ASTRAY:
        return None
    left_out = [n for n in renamed if form.ignore and re.search(form.ignore, n)]
    kept = {n: t for n, t in renamed.items() if n not in left_out}
    there = {n for n in kept if n in expected and (rough or kept[n].shape == expected[n].shape)}
    return Attempt(
        form=form,
        config=config,
        tensors=kept,
        left_out=[before.get(n, n) for n in left_out],
        matching=len(there),
        missing=[n for n in expected if n not in kept],
        unknown=[before.get(n, n) for n in kept if n not in expected],
        other_shape=[before.get(n, n) for n in kept if n in expected and n not in there],
    )


def check_scale(path: Path, tried: Attempt, *, scale: int | None, said: int | None) -> None:
    name = tried.form.network
    if not tried.form.scale_free:
        if scale not in (None, tried.config["scale"]):
            raise UsageError(
                f"{path} upscales {tried.config['scale']} times, not {scale}: leave --scale out"
            )
    elif said is None:
        raise UsageError(f"{path} is {name}, whose tensors do not tell its scale: add --scale")
    elif said not in find(name).scales:
        offered = ", ".join(map(str, find(name).scales))
        raise UsageError(f"{path} is {name}, which is not offered at scale {said}: {offered}")


def load(path: Path, tried: Attempt, *, white: int | None) -> Converted:
    """Build the network of a complete match and give it the weights."""
    form, config, tensors = tried.form, dict(tried.config), tried.tensors
    if form.ranged is None and white not in (None, 1):
        raise UsageError(f"{path} is {form.network}, which knows 0..1 only: leave --range out")
    pixel_range = form.pixel_range if white is None else float(white)
    told = white is not None or "pixel_range" in config
    if form.ranged == "config" and (white is not None or not told):
        config["pixel_range"] = pixel_range
    if form.ranged == "biases" and pixel_range != 1.0:
        tensors = divide_biases(tensors, pixel_range)
    assumed = {name: config[name] for name in form.assumed if name != "range"}
    if "range" in form.assumed and not told:
        assumed["range"] = f"0..{pixel_range:g} (else --range {1 if pixel_range > 1 else 255})"

    model = build_as(form.network, config)
    model.load_state_dict(tensors)
    model.eval()
    known = name_of(form.network, model)
    spec = checkpoint.spec_of(known or form.network, model)
    if known is None:  # a size that has no name here
        spec = spec.replace(name=f"{family(form.network)}-custom-x{spec.scale}")
    return Converted(model=model, spec=spec, form=form, assumed=assumed, left_out=tried.left_out)


def family(network: str) -> str:
    """What the names of all sizes of a network start with: "ecbsr" of "ecbsr-m4c16"."""
    return network.partition("-")[0]


def name_of(network: str, model: Any) -> str | None:
    """The name under which this very configuration is known, whatever its pixel range."""
    for name, builder in NETWORKS.items():
        if family(name) == family(network) and model.config.scale in builder.scales:
            with torch.device("meta"):
                known: Any = builder.make(model.config.scale)
            if type(known) is type(model) and sizes(known) == sizes(model):
                return name
    return None


def sizes(model: Any) -> Mapping[str, Any]:
    return dataclasses.asdict(model.config) | {"pixel_range": None}


def explain(path: Path, file: ForeignFile, nearest: Attempt | None) -> str:
    """Why nothing was recognised: the nearest network and the first names that differ."""

    def shown(name: str) -> str:
        return f"{name} {tuple(file.tensors[name].shape)}" if name in file.tensors else name

    def some(names: list[str]) -> str:
        return ", ".join(map(shown, names[:3])) + (", ..." if len(names) > 3 else "")

    text = (
        f"{path}: no network that is known has its {len(file.tensors)} tensors "
        f"({some(list(file.tensors))})"
    )
    if nearest is None or nearest.matching == 0:
        return f"{text}; none is near"
    parts = [
        f"{text}; nearest is {nearest.form.network} as {nearest.form.source} stores it: "
        f"{nearest.matching} fit"
    ]
    for what, names in (
        ("missing in the file", nearest.missing),
        ("not in the network", nearest.unknown),
        ("of another shape", nearest.other_shape),
    ):
        if names:
            parts.append(f"{len(names)} {what} ({some(names)})")
    if len(parts) == 1:
        parts.append("but of sizes that make no such network")
    return ", ".join(parts)


def save(converted: Converted, path: Path) -> None:
    """Write it as a checkpoint of edgesr."""
    model = converted.model
    checkpoint.save(path, dict(model.state_dict()), spec=converted.spec, model=model)
