"""Training pictures from what `sources` found: decoded one at a time, the useless left out.

Photos come as they are, clips as frames that differ (`footage`). What cannot be read among good
files, and what is smaller than a crop, is left out and counted; nothing at all is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.distill.data import digest_files, read_rgb
from edgesr.distill.footage import digest_footage, sample_frames
from edgesr.distill.scenes import Sampling
from edgesr.distill.sources import Source
from edgesr.errors import EdgesrError, MediaError, UsageError

Array = np.ndarray[Any, Any]

FRAMES = Sampling(count=120)  # of each clip
MOST_HELD_OUT = 8  # photos


@dataclass(frozen=True, kw_only=True)
class Picture:
    """hr (H, W, 3) RGB uint8; lr its partner of 1/scale the size, None where it is to be made."""

    name: str
    hr: Array
    lr: Array | None = None


def digest_sources(sources: Sequence[Source], *, sampling: Sampling = FRAMES) -> str:
    """Name of exactly these pictures: SHA-256 over names, contents and the choice of frames."""
    total = hashlib.sha256()
    for source in sources:
        if source.kind in ("video", "frames"):
            line = digest_footage(source.path, sampling)
        else:
            folder = source.path.parent if source.path.is_file() else source.path
            line = f"{digest_files([*source.files, *source.small], folder)} {sampling.part}"
        total.update(f"{source.kind} {line}\n".encode())
    return total.hexdigest()


def read_pictures(
    sources: Sequence[Source],
    *,
    scale: int,
    patch: int,
    sampling: Sampling = FRAMES,
    leave_out: Collection[Path] = (),
    progress: Callable[[str, int, int | None], None] | None = None,
    on_warning: Callable[[str], None] = lambda line: None,
) -> Iterator[Picture]:
    """Every picture that a crop of `patch` LR pixels fits into.

    sampling    frames of each clip; its `part` holds for photos too: some are held out, spread
                over the list
    progress    called with the name of a source, pictures (or frames of a video) done, and in all
    on_warning  what was left out, in a line for each reason when all are read

    Raises MediaError for pairs whose sizes do not belong together, and where nothing can be read;
    UsageError where every picture is too small.
    """
    unread: list[str] = []
    small: list[tuple[int, int]] = []
    given = 0
    for source in sources:

        def tell(done: int, total: int | None, name: str = source.path.name) -> None:
            if progress is not None:
                progress(name, done, total)

        pictures = (
            _stills(source, sampling, tell, on_warning)
            if source.kind in ("video", "frames")
            else _files(source, sampling.part, leave_out, scale, tell)
        )
        for picture in pictures:
            if isinstance(picture, EdgesrError):
                unread.append(str(picture))
                continue
            height, width = picture.hr.shape[:2]
            if min(height, width) // scale < patch:
                small.append((height, width))
                continue
            given += 1
            yield picture
    crop = f"a crop of {patch} pixels at x{scale} ({patch * scale}x{patch * scale})"
    if not given:
        _refuse(sources, unread, small, crop=crop, scale=scale)
    if unread:
        on_warning(f"{len(unread)} of the --data left out: {'; '.join(unread[:3])}")
    if small:
        on_warning(f"{len(small)} of the pictures left out: smaller than {crop}")


def _refuse(
    sources: Sequence[Source],
    unread: Sequence[str],
    small: Sequence[tuple[int, int]],
    *,
    crop: str,
    scale: int,
) -> None:
    names = ", ".join(str(source.path) for source in sources[:3])
    if not small:
        first = f" ({unread[0]})" if unread else ""
        raise MediaError(f"--data {names}: nothing in it can be used{first}")
    height, width = max(small, key=min)
    largest = min(height, width) // scale
    advice = f", or --set patch={largest}" if largest >= 8 else ""
    also = f", {len(unread)} more cannot be read" if unread else ""
    raise UsageError(
        f"--data {names}: all {len(small)} pictures are smaller than {crop}, the largest is "
        f"{width}x{height}{also}: give larger pictures{advice}"
    )


def _stills(
    source: Source,
    sampling: Sampling,
    tell: Callable[[int, int | None], None],
    on_warning: Callable[[str], None],
) -> Iterator[Picture | EdgesrError]:
    try:
        for still in sample_frames(source.path, sampling, progress=tell, on_warning=on_warning):
            yield Picture(name=f"{source.path.name}@{still.index}", hr=still.picture)
    except (MediaError, UsageError) as error:
        yield error


def _files(
    source: Source,
    part: str,
    leave_out: Collection[Path],
    scale: int,
    tell: Callable[[int, int | None], None],
) -> Iterator[Picture | EdgesrError]:
    chosen = photos_of_part(source, part)
    partners = dict(zip(source.files, source.small, strict=False))
    for done, file in enumerate(chosen):
        if file in leave_out:
            continue
        try:
            hr = read_rgb(file)
            lr = read_rgb(partners[file]) if file in partners else None
        except MediaError as error:
            yield error
        else:
            yield Picture(name=file.stem, hr=_fitting(hr, lr, file, scale), lr=lr)
        tell(done + 1, len(chosen))


def photos_of_part(source: Source, part: str) -> list[Path]:
    """Of photos and pairs: a tenth, at most 8, spread over the list, is held out."""
    files = list(source.files)
    if part == "all":
        return files
    if len(files) < 2:
        raise UsageError(
            f"--data {source.path}: one picture is not enough to train and validate; add --val"
        )
    count = min(MOST_HELD_OUT, max(1, len(files) // 10))
    held_out = files[:: len(files) // count][:count]
    return held_out if part == "held-out" else [file for file in files if file not in held_out]


def _fitting(hr: Array, lr: Array | None, file: Path, scale: int) -> Array:
    """HR cut to `scale` times LR where it has a few pixels more. Raises MediaError."""
    if lr is None:
        return hr
    height, width = lr.shape[0] * scale, lr.shape[1] * scale
    if not (0 <= hr.shape[0] - height < scale and 0 <= hr.shape[1] - width < scale):
        raise MediaError(
            f"the LR picture of {file} is {lr.shape[1]}x{lr.shape[0]}, which is not 1/{scale} of "
            f"{hr.shape[1]}x{hr.shape[0]}: is it of another scale?"
        )
    return hr[:height, :width]
