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


QUICK_TEACHERS: dict[str, dict[str, Any]] = {
    "rrdb": {"blocks": 2, "width": 32, "growth": 16},
    "edsr": {"blocks": 4, "width": 32},
    "edsr-baseline": {"blocks": 4, "width": 32},
    "rcan": {"groups": 2, "blocks": 2, "width": 32},
    "rdn": {"blocks": 2, "layers": 4, "growth": 16, "width": 32},
    "bsrn": {"blocks": 2, "features": 32},
}
"""Small forms for `--set quick=true`: a step of the full ones takes seconds on a CPU."""


SHORT_NAMES = {"causal": "causal-r5c16"}
"""Students whose published or usual form has a longer name."""


class Recipe(BaseModel):
    """One training. Sizes are in pixels of the small picture, differences in 0..1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    student: str = "ecbsr-m10c16"
    scale: Literal[2, 3, 4, 8, 16, 32, 64] = 2
    init: str | None = None
    """Checkpoint or shipped model whose fitting tensors are the start (another scale will do)."""

    steps: int = Field(default=60_000, ge=1)
    batch: int = Field(default=16, ge=1)
    patch: int = Field(default=40, ge=8)
    seed: int = 1

    config: dict[str, Any] | None = None
    """Settings of the student's own configuration that differ from the named network's."""

    teacher: str | None = None
    """A network, a checkpoint or an .onnx file; several joined by "+" are averaged; "pisr"."""
    teacher_steps: int | None = Field(default=None, ge=1)
    """Length of a teacher's own training when it has no weights; None: `steps`."""
    teacher_lr: float | None = Field(default=None, gt=0)
    """Rate of that training; None: 2e-4, the rate of most large networks, with SOAP 3e-3; of pisr's
    teacher `lr`."""
    teacher_config: dict[str, Any] | None = None
    """As `config`, for a teacher that is named by its network."""
    truth: float | None = Field(default=None, ge=0)
    """Weight of `loss` against the truth beside a teacher; None: 1."""
    response: float | None = Field(default=None, ge=0)
    """Weight of L1 between the outputs of student and teacher; None: 1 (0 for pisr)."""
    feature: float | None = Field(default=None, ge=0)
    """Weight of L1 between features, the student's through 1x1 adapters."""
    affinity: float | None = Field(default=None, ge=0)
    """Weight of L1 between spatial affinities of features (FAKD; 10 in the paper)."""
    cache_teacher: bool | None = None
    """The teachers' answers to whole pictures are computed once, and crops are cut from them."""
    vid: float | None = Field(default=None, ge=0)
    """Weight of PISR's variational feature loss (1e-6 in the paper)."""
    imitation: float | None = Field(default=None, ge=0)
    """Weight of L1 between PISR's compact feature and the small picture (1e-4 in the paper)."""

    loss: Literal["l1", "mse", "charbonnier"] = "l1"
    lr: float = Field(default=1e-3, gt=0)
    lr_end: float = Field(default=1e-6, ge=0)
    warmup: int = Field(default=500, ge=0)
    """Steps of linear rise to `lr`; one cosine leads from there to `lr_end` at the last step."""
    ema: float = Field(default=0.999, ge=0, lt=1)
    clip: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    """Through torch.compile: faster steps after half a minute; on a CPU it needs g++."""

    optimizer: Literal["adam", "sgd", "soap"] | None = None
    """None: Adam; SGD has momentum 0.9; SOAP (rate about 3e-3) needs fewer steps."""
    betas: tuple[float, float] | None = None
    """None: 0.9, 0.99 of Adam; 0.95, 0.95 of SOAP."""
    weight_decay: float | None = Field(default=None, ge=0)
    schedule: Literal["cosine", "steps", "restarts"] | None = None
    """Of the rate. None: one cosine; "steps": times `decay` at every milestone, `lr_end` at least;
    "restarts": warm-up and cosine again every `cycle` steps (may be longer than the training)."""
    milestones: tuple[int, ...] | None = None
    decay: float | None = Field(default=None, gt=0, lt=1)
    """None: 0.5."""
    cycle: int | None = Field(default=None, ge=1)
    warmup_from: float | None = Field(default=None, ge=0, le=1)
    """Share of `lr` at which the rise begins; None: 0."""
    clip_theta: float | None = Field(default=None, gt=0)
    """Every element of the gradient is clipped to +-theta / rate (VDSR)."""

    supervise: Literal["levels", "recursions", "gradient"] | None = None
    """What is compared with the truth on the way to the picture: LapSRN's levels, DRCN's
    recursions (their share falls from 1 to 0), SPSR's gradient branch (see `branch`)."""
    branch: float | None = Field(default=None, ge=0)
    """Weight of L1 between SPSR's gradient branch and the truth's map; None: 0.5, as published."""
    extra: dict[str, float] | None = None
    """Weights of further losses by name, for example {tv = 1e-5, fft = 0.05, gradient = 0.01}."""
    best_buddy: float | None = Field(default=None, ge=0)
    back_projection: float | None = Field(default=None, ge=0)
    perceptual: Literal["srgan", "esrgan", "spsr", "bebygan", "realesrgan", "glean"] | None = None
    """Layers and distance of the VGG loss: whose setting. The weights are a local file's."""
    perceptual_weight: float | None = Field(default=None, ge=0)
    """None: 1."""
    perceptual_random: int | None = Field(default=None, ge=1, le=64)
    """A VGG of random weights with so many filters at first (the real one: 64), for trials."""
    usm: bool | None = None
    """All of these compare with the truth sharpened as in Real-ESRGAN; a discriminator does not."""

    gan: Literal["vanilla", "relativistic"] | None = None
    """A discriminator is trained along, and its word is a term of the loss."""
    gan_weight: float | None = Field(default=None, ge=0)
    """None: 5e-3, ESRGAN's."""
    gan_gradient: float | None = Field(default=None, ge=0)
    """Weight of a second discriminator's word, which sees gradient maps (SPSR: 5e-3)."""
    discriminator: str | None = None
    discriminator_config: dict[str, Any] | None = None
    discriminator_lr: float | None = Field(default=None, gt=0)
    """None: `lr`. It follows the same schedule."""
    mask_flat: bool | None = None
    """The discriminator does not see flat regions (Beby-GAN)."""
    only: str | None = None
    """Only parameters with this in their names are trained in the first `only_steps` steps."""
    only_steps: int | None = Field(default=None, ge=1)
    psnr: dict[str, Any] | None = None
    """Settings of a stage without discriminator that is trained first where no `init` is given."""

    copies: tuple[float, ...] = (1.0, 0.5)
    """Sizes at which each photo enters the training set (shrunk by MATLAB's bicubic)."""
    detail: float = Field(default=0.03, ge=0)
    redraw: float = Field(default=0.7, ge=0, le=1)
    """A crop whose mean absolute gradient is below `detail` is drawn again with this chance."""
    full_range: float = Field(default=0.5, ge=0, le=1)
    """Share of crops stretched from studio range (16..235) to full range: streams come in both."""

    degradation: Literal["bicubic", "video", "blind"] | None = None
    """How small pictures are made: MATLAB's bicubic (None), then real video codecs, or
    Real-ESRGAN's chain."""
    versions: int | None = Field(default=None, ge=1)
    """Compressed versions of each small picture ("video"); None: 4."""
    clean: float | None = Field(default=None, ge=0, le=1)
    """Share of crops that no codec has touched ("video"); None: 0.2."""

    frames: int | None = Field(default=None, ge=2)
    """Consecutive frames of a training sequence, for students with state; None: 7."""
    temporal: float | None = Field(default=None, ge=0)
    """Weight of L1 between the changes from frame to frame of output and truth; None: 0."""
    scales: tuple[Literal[2, 3, 4, 8], ...] | None = None
    """Several in one training, by networks with one set of weights for all of them."""

    validate_every: int = Field(default=2000, ge=1)
    save_every: int = Field(default=2000, ge=1)
    tensorboard: bool | None = None
    """Write event files for TensorBoard; None: where it is installed."""

    def digest(self) -> str:
        """Short name of exactly these settings."""
        text = json.dumps(self.model_dump(exclude_none=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_toml(self) -> str:
        values = self.model_dump(exclude_none=True)
        return "".join(f"{key} = {toml(value)}\n" for key, value in values.items())


def toml(value: Any) -> str:
    """A value of a recipe as TOML: JSON, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(v)}" for key, v in value.items()) + "}"
    return json.dumps(value)


def load_recipe(
    source: str | Path | None = None, *, overrides: Sequence[str] = (), **given: Any
) -> Recipe:
    """Defaults < recipe file < `given` (command-line options) < `overrides` ("key=value").

    `source` is a path or the name of a shipped recipe ("bicubic"). Raises UsageError.
    """
    values = read_toml(source) if source is not None else {}
    quick = values.pop("quick", {})
    if given.get("student") not in (None, values.get("student")):
        quick.pop("config", None)  # another network: it has settings of its own
        values.pop("config", None)
    values |= {key: value for key, value in given.items() if value is not None}
    settings = dict(parse_override(text) for text in overrides)
    if settings.pop("quick", False):
        values |= quick
        small = QUICK_TEACHERS.get(str(values.get("teacher")))
        if small is not None:
            values.setdefault("teacher_config", small)
    values |= settings
    if values.get("student") in SHORT_NAMES:
        values["student"] = SHORT_NAMES[values["student"]]
    if values.get("teacher") == "none":  # said, or in the file: the same as not said
        del values["teacher"]
    return checked(values)


def checked(values: dict[str, Any]) -> Recipe:
    """Raises UsageError, which names the setting."""
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
        found = [f.name[:-5] for f in folder.iterdir() if f.name.endswith(".toml")]
        names = sorted(found, key=lambda name: (name != "bicubic", name))  # the default first
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
