"""What the wheel carries and how each model of it is trained, in this order.

A training's name is that of the model, `<family>-x<scale>` with `-video` behind it for compressed
footage; with `-stage1`, `-stage2` ... behind that it is not shipped, and a later one starts from it
by `init`. `recipe` is the file of the package that the settings change ("bicubic" where none is
named). Everything is made for two CPU cores; on a GPU the same trainings get `ON_GPU`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgesr.distill.recipe import Recipe, load_recipe

MSE = {"loss": "mse", "full_range": 0.1}
"""Last stages: what PSNR counts, and nearly all crops in the range that the tables are made in."""

SOAP = {"optimizer": "soap", "lr": 3e-3, "betas": [0.95, 0.95]}
WARM = {**SOAP, **MSE, "lr": 2e-3}
"""What starts from another scale, or from a first stage."""

DEEP = {**WARM, "weight_decay": 0.1}
"""Without it this one came to make values of 500 out of noise (and 37.4 dB out of photos)."""

LONG = {"loss": "l1", "schedule": "steps", "decay": 0.3}
"""Long last stages: at a constant rate the score stands still, and what was learnt in that time
shows when the rate falls. L1 ends 0.03 dB higher than MSE, which starts faster."""

VIDEO = {"recipe": "video", "lr": 5e-4}
VIDEO_SOAP = {**SOAP, "recipe": "video", "lr": 1e-3}

FSRCNN = {**WARM, "student": "fsrcnn-pisr", "batch": 16, "patch": 24}
"""Started by PISR; the many steps after it are plain ones, which are three times as fast."""

BSRN = {
    **SOAP,
    "recipe": "bsrn",
    "loss": "mse",
    "lr": 2e-3,
    "weight_decay": 0.02,
    "batch": 8,
    "patch": 32,
    "copies": [1.0, 0.5],
    "lr_end": 1e-6,
    "warmup": 500,
    "ema": 0.999,
    "precision": "bf16",
    "validate_every": 1_000,
    "save_every": 500,
}

TRAININGS: dict[str, dict[str, Any]] = {
    "ecbsr-m4c16-x2-stage1": {"steps": 40_000},
    "ecbsr-m4c16-x2-stage2": {
        "steps": 60_000,
        "lr": 5e-4,
        "loss": "mse",
        "init": "ecbsr-m4c16-x2-stage1",
    },
    "ecbsr-m4c16-x2-stage3": {
        "steps": 200_000,
        "lr": 5e-4,
        "loss": "mse",
        "init": "ecbsr-m4c16-x2-stage2",
        "validate_every": 10_000,
    },
    "ecbsr-m4c16-x2": {**MSE, "steps": 80_000, "lr": 4e-4, "init": "ecbsr-m4c16-x2-stage3"},
    "ecbsr-m4c16-x2-video": {**VIDEO, "steps": 24_000, "init": "ecbsr-m4c16-x2"},
    "fsrcnn-x2-stage1": {
        "recipe": "pisr",
        "student": "fsrcnn-pisr",
        "steps": 6_000,
        "teacher_steps": 4_000,
        "patch": 24,
        "copies": [1.0, 0.5],
        **SOAP,
        "teacher_lr": 3e-3,
        "warmup": 200,
        "ema": 0.999,
        "precision": "bf16",
    },
    "fsrcnn-x2-stage2": {**FSRCNN, "steps": 16_000, "init": "fsrcnn-x2-stage1"},
    "fsrcnn-x2": {**FSRCNN, "patch": 32, "steps": 40_000, "init": "fsrcnn-x2-stage2"},
    "ecbsr-m10c16-x2-stage1": {"steps": 60_000},
    "ecbsr-m10c16-x2": {**MSE, "steps": 24_000, "lr": 4e-4, "init": "ecbsr-m10c16-x2-stage1"},
    "ecbsr-m4c16-x3-stage1": {"steps": 8_000, "lr": 5e-4, "init": "ecbsr-m4c16-x2-stage2"},
    "ecbsr-m4c16-x3": {**WARM, "steps": 8_000, "init": "ecbsr-m4c16-x3-stage1"},
    "ecbsr-m4c16-x4-stage1": {"steps": 8_000, "lr": 5e-4, "init": "ecbsr-m4c16-x2-stage2"},
    "ecbsr-m4c16-x4-stage2": {**WARM, "steps": 30_000, "init": "ecbsr-m4c16-x4-stage1"},
    "ecbsr-m4c16-x4": {**MSE, "steps": 16_000, "lr": 3e-4, "init": "ecbsr-m4c16-x4-stage2"},
    "ecbsr-m10c16-x3-stage1": {"steps": 6_000, "lr": 5e-4, "init": "ecbsr-m10c16-x2-stage1"},
    "ecbsr-m10c16-x3": {**WARM, "steps": 7_000, "init": "ecbsr-m10c16-x3-stage1"},
    "ecbsr-m10c16-x4-stage1": {"steps": 6_000, "lr": 5e-4, "init": "ecbsr-m10c16-x2-stage1"},
    "ecbsr-m10c16-x4": {**WARM, "steps": 7_000, "init": "ecbsr-m10c16-x4-stage1"},
    "ecbsr-m4c8-x2": {**SOAP, "steps": 16_000},
    "ecbsr-m4c8-x3": {**WARM, "steps": 8_000, "init": "ecbsr-m4c8-x2"},
    "ecbsr-m4c8-x4": {**WARM, "steps": 8_000, "init": "ecbsr-m4c8-x2"},
    "fsrcnn-x3": {**FSRCNN, "steps": 6_000, "init": "fsrcnn-x2"},
    "fsrcnn-x4": {**FSRCNN, "steps": 6_000, "init": "fsrcnn-x2"},
    "ecbsr-m4c16-x3-video": {**VIDEO_SOAP, "steps": 4_000, "init": "ecbsr-m4c16-x3"},
    "ecbsr-m4c16-x4-video": {**VIDEO_SOAP, "steps": 4_000, "init": "ecbsr-m4c16-x4"},
    "ecbsr-m10c16-x2-video": {**VIDEO_SOAP, "steps": 12_000, "init": "ecbsr-m10c16-x2"},
    "ecbsr-m10c16-x3-video": {**VIDEO_SOAP, "steps": 4_000, "init": "ecbsr-m10c16-x3"},
    "ecbsr-m10c16-x4-video": {**VIDEO_SOAP, "steps": 4_000, "init": "ecbsr-m10c16-x4"},
    "ecbsr-m10c32-x4-stage1": {**DEEP, "steps": 24_000},
    "ecbsr-m10c32-x4-stage2": {
        **DEEP,
        **LONG,
        "steps": 26_000,
        "milestones": [13_000],
        "init": "ecbsr-m10c32-x4-stage1",
    },
    "ecbsr-m10c32-x4": {
        **DEEP,
        **LONG,
        "steps": 31_000,
        "milestones": [19_000, 25_500, 29_000],
        "init": "ecbsr-m10c32-x4-stage2",
    },
    "ecbsr-m10c32-x2": {**DEEP, "steps": 8_000, "init": "ecbsr-m10c32-x4-stage1"},
    "ecbsr-m10c32-x3": {**DEEP, "steps": 6_000, "init": "ecbsr-m10c32-x4-stage1"},
    "espcn-x2-stage1": {"steps": 20_000},
    "espcn-x2": {**WARM, "steps": 12_000, "init": "espcn-x2-stage1"},
    "espcn-x3-stage1": {"steps": 8_000, "lr": 5e-4, "init": "espcn-x2-stage1"},
    "espcn-x3": {**WARM, "steps": 8_000, "init": "espcn-x3-stage1"},
    "espcn-x4-stage1": {"steps": 8_000, "lr": 5e-4, "init": "espcn-x2-stage1"},
    "espcn-x4": {**WARM, "steps": 8_000, "init": "espcn-x4-stage1"},
    "bsrn-s-x4-stage1": {**BSRN, "steps": 54_000},
    "bsrn-s-x4": {
        **BSRN,
        **LONG,
        "steps": 22_000,
        "decay": 0.1,
        "milestones": [18_000],
        "init": "bsrn-s-x4-stage1",
    },
    "bsrn-s-x2": {**BSRN, "steps": 6_000, "init": "bsrn-s-x4-stage1"},
}

EIGHT_BITS = (
    *("ecbsr-m4c16-x2", "ecbsr-m4c16-x2-video", "ecbsr-m10c16-x2", "ecbsr-m10c16-x2-video"),
    "espcn-x2",
)
"""Whose INT8 form ships too: `--precision int8` takes it."""

ON_GPU: dict[str, Any] = {"batch": 32, "patch": 64}
GPU_LONGER = 10  # times as many steps


def recipe_of(name: str, *, gpu: bool = False) -> Recipe:
    family, scale, _ = parts_of(name)
    settings = {"student": family, "compile": True, **TRAININGS[name]}
    source = settings.pop("recipe", "bicubic")
    if gpu:
        settings |= ON_GPU
        for key in ("steps", "teacher_steps", "warmup"):
            if key in settings:
                settings[key] *= GPU_LONGER
        if "milestones" in settings:
            settings["milestones"] = [GPU_LONGER * step for step in settings["milestones"]]
    return load_recipe(source, scale=int(scale), **settings)


def parts_of(name: str) -> tuple[str, str, str]:
    """ "ecbsr-m4c16-x2-video" -> ("ecbsr-m4c16", "2", "-video")."""
    family, scale, rest = re.split(r"-x(\d+)", name)
    return family, scale, rest


def as_listed(names: Iterable[str]) -> list[str]:
    """In the order of the index: by family as the plan has them, the plain ones first, by scale."""
    families = [parts_of(name)[0] for name in TRAININGS]

    def place(name: str) -> tuple[int, str, str]:
        family, scale, rest = parts_of(name)
        return families.index(family), rest, scale

    return sorted(names, key=place)


def is_shipped(name: str) -> bool:
    return "-stage" not in name


def lineage(name: str) -> list[str]:
    """The training and those that it starts from, the first one first."""
    init = TRAININGS[name].get("init")
    return [*(lineage(init) if init else []), name]
