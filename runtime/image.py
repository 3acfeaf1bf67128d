"""`edgesr image`: one picture, or every picture of a folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.colour import upscale_chroma
from edgesr.errors import MediaError, UsageError
from edgesr.runtime.backends import Facts
from edgesr.runtime.picture import READ, WRITTEN, Picture, check_target, read, write
from edgesr.runtime.upscaler import Upscaler


@dataclass(frozen=True, kw_only=True)
class Done:
    """One written picture: width and height of the output in pixels, seconds for all of it."""

    input: Path
    output: Path
    width: int
    height: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """What was written, what failed and why (path, one line), and what ran it."""

    done: list[Done]
    failed: list[tuple[Path, str]]
    model: str
    facts: Facts

    @property
    def runs(self) -> str:
        facts = self.facts
        return f"{self.model} on {facts.backend} {facts.precision} ({facts.why})"

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "done": [
                {**asdict(d), "input": str(d.input), "output": str(d.output)} for d in self.done
            ],
            "failed": [{"input": str(path), "error": why} for path, why in self.failed],
            "model": self.model,
            "backend": asdict(self.facts),
        }


def upscale_images(
    input: Path,
    output: Path,
    *,
    load: Callable[[], Upscaler],
    overwrite: bool = False,
    on_done: Callable[[Done], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> ImageReport:
    """Upscale a picture to a picture, or the pictures of a folder to a folder.

    load        opens the model; called once the paths are known to be good
    overwrite   replace existing outputs; without it one of them refuses the whole job
    on_done     called after each picture; on_warning: with each thing that is not carried over

    In a folder a picture that cannot be read or written is reported, and the others go on; formats
    that are read but not written become .png; subfolders are not entered. Raises UsageError,
    MediaError, and what `load` raises.
    """
    tell, warn = on_done or _ignore, on_warning or _ignore
    single = not input.is_dir()
    jobs = [(input, output)] if single else _jobs(input, output, warn)
    _check(jobs, single=single, overwrite=overwrite)
    done: list[Done] = []
    failed: list[tuple[Path, str]] = []
    with load() as upscale:
        if not single:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise MediaError(f"cannot make {output}: {error.strerror or error}") from error
        for source, target in jobs:
            try:
                done.append(_upscale_file(source, target, upscale, overwrite, warn))
            except MediaError as error:
                if single:
                    raise
                failed.append((source, str(error)))
            else:
                tell(done[-1])
        return ImageReport(done=done, failed=failed, model=upscale.spec.name, facts=upscale.facts)


def upscale_picture(picture: Picture, upscale: Upscaler) -> Picture:
    """The pixels through the model, alpha by bicubic; EXIF and ICC profile as they were."""
    alpha = picture.alpha
    if alpha is not None:
        scale = upscale.spec.scale
        alpha = upscale_chroma(alpha, scale=scale, luma=(alpha.shape[0], alpha.shape[1]))
    return Picture(pixels=upscale(picture.pixels), alpha=alpha, exif=picture.exif, icc=picture.icc)


def _upscale_file(
    source: Path, target: Path, upscale: Upscaler, overwrite: bool, warn: Callable[[str], None]
) -> Done:
    start = time.perf_counter()
    picture, left = read(source)
    big = upscale_picture(picture, upscale)
    lost = write(big, target, source=source, overwrite=overwrite)
    for line in left + lost:
        warn(line)
    height, width = np.shape(big.pixels)[:2]
    seconds = time.perf_counter() - start
    return Done(input=source, output=target, width=width, height=height, seconds=seconds)


def _jobs(folder: Path, output: Path, warn: Callable[[str], None]) -> list[tuple[Path, Path]]:
    if output.exists() and not output.is_dir():
        raise UsageError(f"{folder} is a folder, so OUT must be one too; {output} is a file")
    if output.exists() and output.samefile(folder):
        raise UsageError(f"{output} is the input folder itself; choose another for the output")
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    pictures = [p for p in entries if p.is_file() and p.suffix.lower() in READ]
    if not pictures:
        raise UsageError(f"no pictures in {folder}: looked for {', '.join(READ)}")
    if len(entries) > len(pictures):
        warn(f"{folder}: {len(entries) - len(pictures)} other files or folders are left out")
    jobs: dict[Path, Path] = {}
    for picture in pictures:
        kept = picture.suffix.lower() in WRITTEN
        target = output / (picture.name if kept else f"{picture.stem}.png")
        if target in jobs:
            raise UsageError(f"{jobs[target]} and {picture} would both become {target}")
        jobs[target] = picture
    return [(source, target) for target, source in jobs.items()]


def _check(jobs: list[tuple[Path, Path]], *, single: bool, overwrite: bool) -> None:
    """Refuse before any work what could only fail after it."""
    if single:
        source, target = jobs[0]
        if not source.exists():
            raise MediaError(f"{source}: no such file or folder")
        if target.is_dir():
            raise UsageError(f"{target} is a folder; name a file in it")
        check_target(target)
        if target.exists() and target.samefile(source):
            raise UsageError(f"{target} is the input itself; choose another name for the output")
        if not target.parent.is_dir():
            raise MediaError(f"{target} cannot be written: there is no folder {target.parent}")
    if not overwrite:
        existing = [target for _, target in jobs if target.exists()]
        if existing:
            more = f" (and {len(existing) - 1} more)" if existing[1:] else ""
            raise UsageError(f"{existing[0]}{more} exists; pass --overwrite to replace it")


def _ignore(_: Any) -> None:
    pass
