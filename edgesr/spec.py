"""ModelSpec: the facts that travel with every model file.

A checkpoint (`.safetensors`) carries them in its metadata, a deployable (`.onnx`) in its
metadata_props, both under the key `edgesr`. Runtime and exporter ask the spec, never the user.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgesr.errors import ModelError

SCHEMA = 1
METADATA_KEY = "edgesr"

Colour = Literal["y", "rgb"]
Dtype = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True, kw_only=True)
class IoSpec:
    """How pixels enter and leave the graph: dtype, axis order and the value range of black..white.

    float16 says that a typed graph has no casts at its ends; backends are given float32 all the
    same, and convert.
    """

    dtype: Dtype = "float32"
    layout: Literal["NCHW"] = "NCHW"
    range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            allowed = ", ".join(get_args(Dtype))
            raise ModelError(f"model facts say pixels of {self.dtype!r}: {allowed} are allowed")


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """One hidden tensor of a temporal model; a null size follows the frame."""

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Facts of one trained network at one scale.

    name        what a user types, `<network>-x<scale>`
    network     key of `edgesr.networks.NETWORKS`; "foreign" for an .onnx file from elsewhere
    colour      "y": one luma plane; "rgb": three channels
    multiple    height and width must be divisible by this
    min_size    smallest height and width in pixels
    fixed_size  the only (height, width) it takes; None: any
    halo        radius of the receptive field in LR pixels, measured; None: global pooling inside,
                so the picture must never be cut into tiles
    state       hidden tensors of a temporal model
    precision   precision of the graph in the file
    recipe      digest of the training recipe
    metrics     e.g. {"Set5": {"psnr_y": 37.2, "ssim_y": 0.957}}
    terms       licence of the training data
    """

    name: str
    network: str
    scale: int
    colour: Colour
    halo: int | None
    multiple: int = 1
    min_size: int = 1
    fixed_size: tuple[int, int] | None = None
    state: tuple[StateSpec, ...] = ()
    io: IoSpec = field(default_factory=IoSpec)
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    recipe: str | None = None
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    terms: str | None = None
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ModelError(
                f"model {self.name!r} has schema {self.schema}, this edgesr reads {SCHEMA}: "
                "update edgesr, or export the model again"
            )
        if self.scale < 1:
            raise ModelError(f"model {self.name!r} has scale {self.scale}, it must be 1 or more")
        if self.colour not in ("y", "rgb"):
            raise ModelError(f"model {self.name!r} has colour {self.colour!r}, not 'y' or 'rgb'")

    @property
    def channels(self) -> int:
        return 1 if self.colour == "y" else 3

    def replace(self, **changes: Any) -> ModelSpec:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Raises ModelError when a fact is missing, unknown or out of range."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ModelError(f"model facts hold unknown entries {unknown}: update edgesr")
        facts = dict(values)
        try:
            if "io" in facts:
                io = dict(facts["io"])
                low, high = io.get("range", (0.0, 1.0))
                facts["io"] = IoSpec(**{**io, "range": (low, high)})
            if facts.get("fixed_size") is not None:
                height, width = facts["fixed_size"]
                facts["fixed_size"] = (int(height), int(width))
            if "state" in facts:
                facts["state"] = tuple(
                    StateSpec(name=s["name"], shape=tuple(s["shape"])) for s in facts["state"]
                )
            return cls(**facts)
        except (TypeError, KeyError, ValueError) as error:
            raise ModelError(f"model facts cannot be read: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"model facts are not JSON: {error}") from error
        if not isinstance(values, dict):
            raise ModelError("model facts are not a JSON object")
        return cls.from_dict(values)
