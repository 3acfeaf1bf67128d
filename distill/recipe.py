"""Recipe: every setting of a training, typed and checked, read from a TOML file.

A recipe file holds the fields below at top level, and optionally a `[quick]` table whose values
replace them when `--set quick=true` is given: the same training, small enough to try out.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgesr.errors import MissingDependency, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    try:
        import tomli as tomllib
    except ImportError:
        raise MissingDependency(
            "reading recipes needs tomli: pip install 'edgesr[train]'"
        ) from None


class Recipe(BaseModel):
    """One training. Sizes are in pixels of the small picture, differences in 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: str = "ecbsr-m10c16"
    scale: Literal[2, 3, 4] = 2
    init: str | None = None
    """Checkpoint or shipped model whose fitting tensors are the start (another scale will do)."""

    steps: int = Field(default=60_000, ge=1)
    batch: int = Field(default=16, ge=1)
    patch: int = Field(default=40, ge=8)
    seed: int = 1

    loss: Literal["l1", "mse", "charbonnier"] = "l1"
    lr: float = Field(default=1e-3, gt=0)
    lr_end: float = Field(default=1e-6, ge=0)
    warmup: int = Field(default=500, ge=0)
    """Steps of linear rise to `lr`; one cosine leads from there to `lr_end` at the last step."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """Through torch.compile: faster steps after half a minute; on a CPU it needs g++."""

    copies: tuple[float, ...] = (1.0, 0.5)
    """Sizes at which each photo enters the training set (shrunk by MATLAB's bicubic)."""
    detail: float = Field(default=0.03, ge=0)
    redraw: float = Field(default=0.7, ge=0, le=1)
    """A crop whose mean absolute gradient is below `detail` is drawn again with this chance."""
    full_range: float = Field(default=0.5, ge=0, le=1)
    """Share of crops stretched from studio range (16..235) to full range: streams come in both."""

    validate_every: int = Field(default=2000, ge=1)
    save_every: int = Field(default=2000, ge=1)

    def digest(self) -> str:
        """Short name of exactly these settings."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        values = self.model_dump(exclude_none=True)
        return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def load_recipe(
    source: str | Path | None = None, *, overrides: Sequence[str] = (), **given: Any
) -> Recipe:
    """Defaults < recipe file < `given` (command-line options) < `overrides` ("key=value").

    `source` is a path or the name of a shipped recipe ("bicubic"). Raises UsageError.
    """
    values = read_toml(source) if source is not None else {}
    quick = values.pop("quick", {})
    values |= {key: value for key, value in given.items() if value is not None}
    settings = dict(parse_override(text) for text in overrides)
    if settings.pop("quick", False):
        values |= quick
    values |= settings
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        known = (
            "" if key in Recipe.model_fields else f"; known are {', '.join(Recipe.model_fields)}"
        )
        raise UsageError(f"recipe: {key} = {first['input']!r}: {first['msg']}{known}") from None


def read_toml(source: str | Path) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".toml":
        folder = resources.files("edgesr.distill")
        names = sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml"))
        if str(source) not in names:
            raise UsageError(
                f"no recipe {str(source)!r}: give a .toml file or one of {', '.join(names)}"
            )
        return tomllib.loads((folder / f"{source}.toml").read_text())
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"recipe {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"recipe {path}: {error}") from None


def parse_override(text: str) -> tuple[str, Any]:
    """ "lr=5e-4" -> ("lr", 0.0005); the value is TOML, a bare word is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set {text!r}: write key=value, for example --set lr=5e-4")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
