"""What the trainings of one run share: their pictures, the held-out ones, the device."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from edgesr.bicubic import downscale
from edgesr.distill.answers import kept_answers
from edgesr.distill.cache import Coding, load_photos
from edgesr.distill.data import Colour, PhotoSet
from edgesr.distill.evaluate import Pair
from edgesr.distill.events import open_events
from edgesr.distill.feed import colour_of, patch_of
from edgesr.distill.folder import check_run
from edgesr.distill.intake import read_pictures
from edgesr.distill.lesson import Lesson
from edgesr.distill.parallel import team
from edgesr.distill.recipe import Recipe
from edgesr.distill.scenes import Sampling
from edgesr.distill.sources import Source
from edgesr.distill.state import State
from edgesr.distill.train import Progress, choose_device, train
from edgesr.errors import EdgesrError, Interrupted, UsageError

HELD_OUT = Sampling(count=8, part="held-out")  # of each clip; photos have their own rule
HELD_OUT_SIZE = (480, 480)
SMALLEST = 8  # LR pixels of a held-out picture
VERSIONS = 4  # of a "video" recipe that does not say


@dataclass(frozen=True, kw_only=True)
class Room:
    """What all trainings of one run share: pictures, device, and who is told."""

    data: tuple[Path, ...]
    sampling: Sampling
    pairs: list[Pair]
    device: str
    terms: str | None
    on_decode: Callable[[int, int], None] | None
    on_progress: Callable[[Progress], None] | None
    on_note: Callable[[str], None]
    stop: Callable[[], bool]
    answers: Path | None = None
    """Where teachers' answers are kept; None: in the run folder."""
    warned: set[str] = field(default_factory=set)

    def warn(self, line: str) -> None:
        """Once, however many trainings read the same pictures."""
        if line not in self.warned:
            self.warned.add(line)
            self.on_note(f"warning: {line}")

    def photos(self, recipe: Recipe, colour: Colour) -> PhotoSet:
        video = recipe.degradation == "video"
        return load_photos(
            self.data,
            scale=recipe.scale,
            copies=recipe.copies,
            patch=patch_of(recipe),
            colour=colour_of(recipe, colour),
            sampling=self.sampling,
            coding=Coding(versions=recipe.versions or VERSIONS) if video else None,
            progress=self.on_decode,
            on_warning=self.warn,
        )

    def with_answers(
        self, photos: PhotoSet, recipe: Recipe, lesson: Lesson, folder: Path
    ) -> PhotoSet:
        """The pictures, and what the lesson's teachers answer to them."""
        model: Any = lesson.model
        kept = [
            kept_answers(
                teacher,
                photos,
                recipe,
                folder=folder,
                colour=model.colour,
                device=torch.device(choose_device(self.device)),
                crew=team(),
                on_note=self.on_note,
                stop=self.stop,
            )
            for teacher in lesson.teachers
        ]
        return replace(photos, answers=tuple(kept))

    def learn(self, recipe: Recipe, lesson: Lesson, out: Path, *, resume: bool) -> State:
        """Train to the end. Raises Interrupted when stopped before."""
        photos = team().in_turn(lambda: self.photos(recipe, lesson.colour))
        if recipe.cache_teacher and lesson.teachers:
            if team().first:
                check_run(out, recipe, resume=resume)
            team().wait()
            folder = self.answers or out / "teacher-answers"
            photos = self.with_answers(photos, recipe, lesson, folder)
        state = train(
            recipe,
            photos,
            lesson,
            out=out,
            resume=resume,
            device=self.device,
            on_progress=self.on_progress,
            stop=self.stop,
            open_journal=lambda step: open_events(out / "tb", recipe, self.pairs, step=step),
        )
        if state.step < recipe.steps:
            raise Interrupted(
                f"stopped at step {state.step} of {recipe.steps}, saved in {out}: "
                "the same command with --resume goes on"
            )
        return state


def check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device!r}: auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """A full disk, or a folder that cannot be written, in one line."""
    try:
        yield
    except EdgesrError:  # some are OSErrors too
        raise
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise EdgesrError(
            f"--out {out} cannot be written: {why}; with room there, --resume goes on"
        ) from error


def named_kind(sources: Sequence[Source]) -> str:
    kinds = {"frames" if source.kind in ("video", "frames") else "photos" for source in sources}
    return kinds.pop() if len(kinds) == 1 else "photos and frames"


def cut_pairs(
    sources: Sequence[Source],
    recipe: Recipe,
    *,
    sampling: Sampling = HELD_OUT,
    size: tuple[int, int] = HELD_OUT_SIZE,
) -> list[Pair]:
    """The middle of each held-out picture, `size` (H, W) at most, LR by MATLAB's bicubic."""
    pairs = []
    scale = recipe.scale
    pictures = read_pictures(sources, scale=scale, patch=SMALLEST, sampling=sampling)
    for picture in pictures:
        hr, lr = picture.hr, picture.lr
        height, width = (
            min(side, most) // scale * scale for side, most in zip(hr.shape[:2], size, strict=True)
        )
        top, left = (hr.shape[0] - height) // 2, (hr.shape[1] - width) // 2
        if lr is not None:
            top, left = top // scale * scale, left // scale * scale
            lr = lr[top // scale :, left // scale :][: height // scale, : width // scale]
        hr = hr[top : top + height, left : left + width]
        pairs.append(Pair(name=picture.name, lr=downscale(hr, scale) if lr is None else lr, hr=hr))
    return pairs


def names_in(data: Sequence[Path]) -> str:
    names = [path.resolve().name for path in data]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def machine(device: str) -> str:
    """What trained: processor or GPU, threads, torch version."""
    if device != "cpu" and torch.cuda.is_available():
        where = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        plural = "" if threads == 1 else "s"
        where = f"{platform.machine()} CPU, {os.cpu_count()} cores, {threads} thread{plural}"
    return f"{where}, torch {torch.__version__}"
