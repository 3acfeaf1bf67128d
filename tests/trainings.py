"""Trainings that test_parallel.py runs twice: in one process, and started by torchrun in several.

python -m torch.distributed.run --nproc-per-node 2 tests/trainings.py PHOTOS OUT CASE...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from edgesr.distill.parallel import joined, team
from edgesr.distill.recipe import Recipe
from edgesr.distill.run import distill
from edgesr.errors import EdgesrError, Interrupted

TINY: dict[str, Any] = {
    "student": "ecbsr-m4c8",
    "steps": 12,
    "batch": 6,
    "patch": 16,
    "lr": 2e-4,
    "warmup": 2,
    "ema": 0.5,
    "validate_every": 6,
    "save_every": 6,
    "copies": [1.0],
    "tensorboard": False,
}
RGB: dict[str, Any] = {
    **TINY,
    "student": "ecbsr-m4c16-rgb",
    "config": {"blocks": 1, "width": 4},
    "full_range": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {**TINY, "clip": 0.05, "compile": False},
    "teacher": {  # RGB, trained first: crops are stretched to full range in the lesson
        **TINY,
        "teacher": "rrdb",
        "teacher_config": {"blocks": 1, "width": 8, "growth": 4},
        "teacher_steps": 4,
        "feature": 0.1,
    },
    "kept": {**TINY, "teacher": "espcn-x2", "cache_teacher": True},
    "pisr": {**TINY, "student": "espcn", "teacher": "pisr", "teacher_steps": 4},
    "gan": {
        **RGB,
        "gan": "vanilla",
        "gan_weight": 0.01,
        "discriminator": "unet-sn",
        "discriminator_config": {"width": 4},
        "best_buddy": 0.1,
        "mask_flat": True,
    },
    "blind": {**TINY, "degradation": "blind"},
}


def learn(case: str, photos: Path, out: Path) -> None:
    """A case of RECIPES in the folder OUT/CASE; "parts" is "plain" stopped and resumed."""
    if case != "parts":
        distill(Recipe(**RECIPES[case]), data=photos, out=out / case, device="cpu")
        return
    recipe, asked = Recipe(**RECIPES["plain"]), 0

    def stop() -> bool:  # one process is asked alone, as by a signal that reaches it first
        nonlocal asked
        asked += 1
        return asked == 5 and team().rank == team().size - 1

    try:
        distill(recipe, data=photos, out=out / case, device="cpu", stop=stop)
    except Interrupted as error:
        print(f"{team().rank}: {error}", flush=True)
    distill(recipe, data=photos, out=out / case, device="cpu", resume=True)


def fail(photos: Path, out: Path) -> None:
    """The last process fails in the middle of the training; the others notice."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        if asked == 5 and team().rank == team().size - 1:
            raise EdgesrError("the last process has had enough")
        return False

    distill(Recipe(**RECIPES["plain"]), data=photos, out=out / "fail", device="cpu", stop=stop)


def main() -> None:
    photos, out, *cases = sys.argv[1:]
    torch.set_num_threads(1)
    with joined("cpu"):
        for case in cases:
            if case == "fail":
                fail(Path(photos), Path(out))
            else:
                learn(case, Path(photos), Path(out))


if __name__ == "__main__":
    main()
