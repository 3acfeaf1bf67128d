"""Checkpoints: `.safetensors` with the model's facts inside, loaded without further arguments.

`__metadata__["edgesr"]` is JSON {schema, spec, network: {name, config}}.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgesr.errors import ModelError
from edgesr.files import replacing
from edgesr.networks import build
from edgesr.networks.facts import measure_halo
from edgesr.spec import METADATA_KEY, SCHEMA, ModelSpec


def spec_of(network: str, model: nn.Module, *, recipe: str | None = None) -> ModelSpec:
    """Facts of a network straight from its module."""
    scale = model.config.scale  # type: ignore[union-attr]
    colour = model.colour
    channels = 1 if colour == "y" else 3
    return ModelSpec(
        name=f"{network}-x{scale}",
        network=network,
        scale=scale,  # type: ignore[arg-type]
        colour=colour,  # type: ignore[arg-type]
        halo=measure_halo(model, scale=scale, channels=channels),  # type: ignore[arg-type]
        recipe=recipe,
    )


def save(path: Path, weights: dict[str, Tensor], *, spec: ModelSpec, model: nn.Module) -> None:
    """Write tensors and facts as one file; see the module."""
    config = dataclasses.asdict(model.config)  # type: ignore[call-overload]
    facts = {
        "schema": SCHEMA,
        "spec": spec.to_dict(),
        "network": {"name": spec.network, "config": config},
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in weights.items()}
    with replacing(path) as part:
        save_file(tensors, part, metadata={METADATA_KEY: json.dumps(facts)})


def load(path: Path) -> tuple[nn.Module, ModelSpec]:
    """The training form with its weights, and its facts. Raises ModelError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{path}: no such checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors checkpoint: {error}") from error
    if METADATA_KEY not in metadata:
        raise ModelError(f"{path} holds no edgesr facts: it was not written by edgesr distill")
    try:
        facts = json.loads(metadata[METADATA_KEY])
        spec, network = ModelSpec.from_dict(facts["spec"]), facts["network"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{path} holds facts that cannot be read: {error!r}") from error
    model = build(spec.network, spec.scale)
    config = json.loads(json.dumps(dataclasses.asdict(model.config)))  # type: ignore[call-overload]
    if network["config"] != config:
        raise ModelError(
            f"{path} is a {spec.network} of another shape: {network['config']} there, {config} here"
        )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit {spec.network}: {error}") from error
    return model.eval(), spec
