"""Checkpoints: `.safetensors` with the model's facts inside, loaded without further arguments.

`__metadata__["edgesr"]` is JSON {schema, spec, network: {name, config}}.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edgesr.errors import ModelError
from edgesr.files import replacing
from edgesr.networks import build_as, find
from edgesr.networks.facts import measure_halo
from edgesr.spec import METADATA_KEY, SCHEMA, ModelSpec


def spec_of(
    network: str, model: Any, *, recipe: str | None = None, measured: bool = True
) -> ModelSpec:
    """Facts of a network straight from its module, in its training or its deployed form.

    measured    False leaves the halo out: what is on the meta device cannot be measured
    """
    spec = ModelSpec(
        name=f"{network}-x{model.config.scale}",
        network=network,
        scale=model.config.scale,
        colour=model.colour,
        multiple=getattr(model, "multiple", 1),
        min_size=getattr(model, "min_size", 1),
        fixed_size=getattr(model, "fixed_size", None),
        halo=None,
        state=getattr(model, "state_shapes", ()),
        recipe=recipe,
    )
    # What a temporal model saw lies beyond every tile, and a fixed size leaves nothing to cut.
    if not measured or find(network).kind != "picture" or spec.fixed_size is not None:
        return spec
    halo = measure_halo(
        model,
        scale=spec.scale,
        channels=spec.channels,
        multiple=spec.multiple,
        min_size=spec.min_size,
    )
    return spec.replace(halo=halo)


def save(path: Path, weights: dict[str, Tensor], *, spec: ModelSpec, model: nn.Module) -> None:
    """Write tensors and facts as one file; see the module."""
    config = dataclasses.asdict(model.config)  # type: ignore[call-overload]
    facts = {
        "schema": SCHEMA,
        "spec": spec.to_dict(),
        "network": {"name": spec.network, "config": config},
    }
    # Cloned, since a tensor that two names share may stand only once in such a file.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in weights.items()}
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
        raise ModelError(
            f"{path} holds no edgesr facts: it was not written by edgesr distill or convert"
        )
    try:
        facts = json.loads(metadata[METADATA_KEY])
        spec, config = ModelSpec.from_dict(facts["spec"]), dict(facts["network"]["config"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} holds facts that cannot be read: {error!r}") from error
    model = build_as(spec.network, config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit {spec.network}: {error}") from error
    return model.eval(), spec
