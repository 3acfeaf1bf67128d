"""Which models there are, and from what a user types to a file and its facts.

The wheel carries `edgesr/weights/<name>.onnx`, `<name>.safetensors` and `index.json`:

    {"schema": 1,
     "models": {"ecbsr-m10c16-x2": {
        "spec": {...},                               ModelSpec, equal to the one in the .onnx
        "parameters": {"training": 90452, "deployed": 24116},
        "macs_640x360": 5474000000,                  multiply-adds for one 640x360 luma plane
        "onnx": "ecbsr-m10c16-x2.onnx",              file names beside index.json
        "checkpoint": "ecbsr-m10c16-x2.safetensors",
        "sha256": {"onnx": "...", "checkpoint": "..."},
        "training": {"recipe": "...", "data_digest": "...", "terms": "...", "seed": 1,
                     "steps": 40000, "minutes": 41.5, "machine": "..."},
        "speed": {"openvino bf16": 13.6}             ms at 640x360 on two cores; may be absent
     }}}

A name is `<family>-x<scale>`, with `-video` behind it for models trained on compressed video.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from edgesr.errors import ModelError, UsageError
from edgesr.onnxmeta import read_metadata
from edgesr.sidecar import PARTS, load_sidecar
from edgesr.spec import METADATA_KEY, ModelSpec

DEFAULT_MODEL = "ecbsr-m10c16"  # by name and the same on every machine, never chosen by speed
DEFAULT_STREAM_MODEL = f"{DEFAULT_MODEL}-video"  # of stream and bench, at the scales that ship
FASTER_MODEL = "ecbsr-m4c16"  # what is named to users whose machine does not keep up
DEFAULT_SCALE = 2
INDEX_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Model:
    """A deployable on disk and its facts.

    note    one line for the user: what a file without facts was taken for, or that the default
            is not there at this scale and which model is taken
    """

    path: Path
    spec: ModelSpec
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShippedModel:
    """One entry of `index.json`.

    onnx, checkpoint   the files; checkpoint is the training form, for fine-tuning
    training_parameters, deployed_parameters   counts before and after the branches are merged
    macs_640x360       multiply-adds for one 640x360 frame
    training, speed    how it was trained; ms a frame where the project measured it
    """

    spec: ModelSpec
    onnx: Path
    checkpoint: Path | None
    training_parameters: int | None
    deployed_parameters: int | None
    macs_640x360: int | None
    training: Mapping[str, Any]
    speed: Mapping[str, float]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def family(self) -> str:
        """The name without its scale: what stays when --scale changes."""
        return _split(self.name)[0]


def shipped(*, folder: Path | None = None) -> list[ShippedModel]:
    """The models that came with this installation (or stand in `folder`), as listed in the index.

    Raises ModelError when the index is missing or cannot be read.
    """
    folder = folder or _weights()
    index = folder / "index.json"
    try:
        values = json.loads(index.read_text(encoding="utf-8"))
        if values["schema"] != INDEX_SCHEMA:
            raise ModelError(f"{index} has schema {values['schema']}, not {INDEX_SCHEMA}")
        return [_entry(folder, entry) for entry in values["models"].values()]
    except FileNotFoundError as error:
        raise ModelError(
            f"this installation carries no models ({index} is missing): "
            "install edgesr again, or give the path of an .onnx file"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index} cannot be read: {error!r}") from error


def resolve(model: str, *, scale: int | None = None, folder: Path | None = None) -> Model:
    """Find a model by name or path.

    model   a family ("ecbsr-m10c16", taken at `scale`, 2 when None), a full name
            ("ecbsr-m10c16-x2"), or the path of an .onnx file: one made by `edgesr export`, or
            one from elsewhere, whose facts are probed
    scale   the factor that is wanted; None: whatever the model does

    Raises ModelError for a name or file that is not there or not usable, UsageError when the
    model exists but not at that scale.
    """
    if model.endswith((".onnx", ".safetensors", *PARTS)) or "/" in model:
        return _from_path(Path(model).expanduser(), scale)
    models = {m.name: m for m in shipped(folder=folder)}
    family, named = _split(model)
    scales = {m.spec.scale: m for m in models.values() if m.family == family}
    if not scales:
        raise ModelError(_unknown(model, models))
    if named is not None and scale is not None and named != scale:
        raise UsageError(
            f"model {model!r} upscales {named} times, but scale {scale} was asked for: "
            f"say --model {family} --scale {scale}, or leave --scale out"
        )
    wanted = named or scale or DEFAULT_SCALE
    if wanted not in scales:
        raise UsageError(
            f"model {family!r} has no scale {wanted}: there is "
            + ", ".join(f"--scale {s}" for s in sorted(scales))
        )
    return load_file(scales[wanted].onnx)


def resolve_for_stream(
    model: str | None, *, scale: int | None = None, folder: Path | None = None
) -> Model:
    """What `stream` and `bench` run: `resolve`, or their default where no model is named.

    That is DEFAULT_STREAM_MODEL, trained on compressed video, where it is shipped at the scale,
    else DEFAULT_MODEL, with a note when the former is shipped at other scales.
    """
    if model is not None:
        return resolve(model, scale=scale, folder=folder)
    scales = {m.spec.scale for m in shipped(folder=folder) if m.family == DEFAULT_STREAM_MODEL}
    wanted = scale or DEFAULT_SCALE
    if wanted in scales:
        return resolve(DEFAULT_STREAM_MODEL, scale=wanted, folder=folder)
    plain = resolve(DEFAULT_MODEL, scale=wanted, folder=folder)
    if not scales:
        return plain
    note = f"{DEFAULT_STREAM_MODEL} has no scale {wanted}: {plain.spec.name} is taken"
    return replace(plain, note=note)


def load_file(path: Path) -> Model:
    """An .onnx file and the facts inside it; those of a file from elsewhere are probed.

    An OpenVINO .xml and a TensorRT .plan have theirs in a .json beside them. See `edgesr.foreign`
    for what may come from elsewhere. Raises ModelError for anything else, MissingDependency when
    there is nothing to probe it with.
    """
    if path.suffix in PARTS:
        return Model(path=path, spec=load_sidecar(path))
    facts = read_metadata(path).get(METADATA_KEY)
    if facts is None:
        return _foreign(path)
    try:
        spec = ModelSpec.from_json(facts)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return Model(path=path, spec=spec)


def _foreign(path: Path) -> Model:
    from edgesr.foreign import name_of, probe

    found = probe(path)
    if found.white != 1:
        raise ModelError(
            f"{path} is for pictures in 0..{found.white} (gray tells it): make one for 0..1 with "
            f"`edgesr export {path}`"
        )
    spec = found.spec(name_of(path, found.scale))
    return Model(path=path, spec=spec, note=found.describe(path))


def _from_path(path: Path, scale: int | None) -> Model:
    if not path.is_file():
        what = "is a folder, not an .onnx file" if path.is_dir() else "does not exist"
        raise ModelError(f"model file {path} {what}; `edgesr models` lists the models by name")
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path} is a training checkpoint: make it runnable first with `edgesr export {path}`"
        )
    if path.suffix not in (".onnx", *PARTS):
        raise ModelError(f"{path} is not an .onnx file; `edgesr models` lists the models by name")
    model = load_file(path)
    if scale is not None and scale != model.spec.scale:
        raise UsageError(
            f"{path} upscales {model.spec.scale} times, but scale {scale} was asked for: "
            "leave --scale out, or give another model"
        )
    return model


def _weights() -> Path:
    return Path(str(resources.files("edgesr") / "weights"))


def _entry(folder: Path, entry: Mapping[str, Any]) -> ShippedModel:
    parameters = entry.get("parameters") or {}
    checkpoint = entry.get("checkpoint")
    return ShippedModel(
        spec=ModelSpec.from_dict(entry["spec"]),
        onnx=folder / entry["onnx"],
        checkpoint=folder / checkpoint if checkpoint else None,
        training_parameters=parameters.get("training"),
        deployed_parameters=parameters.get("deployed"),
        macs_640x360=entry.get("macs_640x360"),
        training=entry.get("training") or {},
        speed=entry.get("speed") or {},
    )


def _split(name: str) -> tuple[str, int | None]:
    """("ecbsr-x2-video") -> ("ecbsr-video", 2); a name without a scale -> (name, None)."""
    match = re.fullmatch(r"(.+)-x(\d+)(-[a-z]\w*)?", name)
    if match is None:
        return name, None
    return match[1] + (match[3] or ""), int(match[2])


def _unknown(model: str, models: Mapping[str, ShippedModel]) -> str:
    families = list(dict.fromkeys(m.family for m in models.values()))
    family = _split(model)[0]
    near = difflib.get_close_matches(family, families, n=len(families), cutoff=0.5)
    names = near + [f for f in families if f not in near]
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"no model {model!r}: {hint}there is {', '.join(names) or 'none'} "
        "(or the path of an .onnx file; `edgesr models` tells more)"
    )
