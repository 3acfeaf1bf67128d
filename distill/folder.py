"""The run folder at the start of a training: made, or the same training found in it."""

from __future__ import annotations

from pathlib import Path

from edgesr.distill.data import PhotoSet
from edgesr.distill.parallel import Team
from edgesr.distill.recipe import Recipe
from edgesr.errors import UsageError


def open_together(out: Path, recipe: Recipe, photos: PhotoSet, crew: Team, *, resume: bool) -> None:
    """`open_run` by the first process; the others have to see the same folder and pictures."""
    if crew.first:
        open_run(out, recipe, resume=resume)
    other = crew.differing(photos.digest)  # and all wait for the folder
    if other is not None:
        raise UsageError(f"process {other} of {crew.size} has other pictures in --data")
    written = out / "recipe.toml"
    if not written.is_file() or written.read_text() != recipe.to_toml():
        raise UsageError(
            f"process {crew.rank} of {crew.size} does not see {written} as the first one wrote it: "
            "--out has to be one folder that all machines share, the command the same on all"
        )


def check_run(out: Path, recipe: Recipe, *, resume: bool) -> bool:
    """Whether `out` holds this training. Raises UsageError where it holds another one."""
    written = out / "recipe.toml"
    if not written.is_file():
        return False
    if not resume:
        raise UsageError(f"{out} holds a training already: add --resume, or choose another --out")
    if written.read_text() != recipe.to_toml():
        raise UsageError(
            f"{written} is another recipe than the one asked for: resume with the same options"
        )
    return True


def open_run(out: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the run folder, or check that it holds the same training."""
    if check_run(out, recipe, resume=resume):
        return
    written = out / "recipe.toml"
    try:
        out.mkdir(parents=True, exist_ok=True)
        written.write_text(recipe.to_toml())
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}") from error
