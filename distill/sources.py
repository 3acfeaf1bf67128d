"""What `--data` is: photos, frames of a clip, videos, or HR and LR pictures that belong together.

Names are looked at, and a few pictures, to tell a folder of frames from one of photos; `intake`
decodes. A folder may hold

    HR/0001.png, LR/x2/0001.png   pairs; also LR_bicubic/X2/0001x2.png as in the sets of EDSR
    baby_HR.png, baby_LR.png      pairs; also in a subfolder x2/
    frame_0001.png, ...           a clip, when neighbours are of one size and look alike
    *.mp4, *.mkv, ...             videos
    *.png, *.jpg, ...             photos; those in subfolders too
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgesr.distill.data import SUFFIXES, read_rgb
from edgesr.distill.footage import in_numeric_order
from edgesr.distill.scenes import CUT, glimpse
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y

Array = np.ndarray[Any, Any]

# fmt: off
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg",
    ".flv", ".wmv", ".3gp", ".ogv", ".y4m", ".264", ".h264", ".265", ".h265", ".hevc", ".ivf",
)
# fmt: on
FEWEST_FRAMES = 12  # numbered pictures that are taken for a clip


@dataclass(frozen=True, kw_only=True)
class Source:
    """Pictures that are read in one way.

    path   what it was found in: a folder, or the video
    files  the photos, the frames in order, the HR pictures, or the one video
    small  of "pairs" the LR picture of each of `files`
    """

    kind: Literal["photos", "frames", "video", "pairs"]
    path: Path
    files: tuple[Path, ...]
    small: tuple[Path, ...] = ()


def find_sources(paths: Sequence[Path], *, scale: int) -> tuple[Source, ...]:
    """What each `--data` holds. Raises UsageError where that is nothing."""
    return tuple(source for path in paths for source in find_source(path, scale=scale))


def find_source(path: Path, *, scale: int) -> list[Source]:
    if path.is_file():
        kind = path.suffix.lower()
        if kind in SUFFIXES:
            return [Source(kind="photos", path=path, files=(path,))]
        if kind in VIDEO_SUFFIXES:
            return [Source(kind="video", path=path, files=(path,))]
        raise UsageError(
            f"--data {path}: neither a picture ({' '.join(SUFFIXES)}) nor a video "
            f"({' '.join(VIDEO_SUFFIXES)})"
        )
    if not path.is_dir():
        raise UsageError(f"--data {path}: no such folder or file")
    pairs = pairs_by_folder(path, scale=scale) or pairs_by_name(path, scale=scale)
    if pairs is not None:
        return [pairs]
    pictures, videos = (files_below(path, suffixes) for suffixes in (SUFFIXES, VIDEO_SUFFIXES))
    if not pictures and not videos:
        raise UsageError(
            f"--data {path}: no pictures ({' '.join(SUFFIXES)}) or videos "
            f"({' '.join(VIDEO_SUFFIXES)}) in it"
        )
    folders: dict[Path, list[Path]] = defaultdict(list)
    for file in pictures:
        folders[file.parent].append(file)
    found, photos = [], []
    for folder, files in folders.items():
        files.sort(key=in_numeric_order)
        if are_frames(files):
            found.append(Source(kind="frames", path=folder, files=tuple(files)))
        else:
            photos += sorted(files)
    if photos:
        found.insert(0, Source(kind="photos", path=path, files=tuple(photos)))
    return found + [Source(kind="video", path=file, files=(file,)) for file in videos]


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files of these kinds, by name; not the hidden ones (`._a.jpg` of a Mac)."""
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )


def are_frames(files: Sequence[Path]) -> bool:
    """Numbered without gaps, and neighbours of one size that look alike: from one clip."""
    names = [re.fullmatch(r"(.*?)(\d+)", file.stem) for file in files]
    if len(files) < FEWEST_FRAMES or not all(names):
        return False
    numbers = [int(name[2]) for name in names if name]
    prefixes = {name[1] for name in names if name}
    if len(prefixes) > 1 or numbers != list(range(numbers[0], numbers[0] + len(files))):
        return False
    alike = 0
    places = np.linspace(0, len(files) - 2, 5).astype(int)
    for place in places:
        try:
            first, second = read_rgb(files[place]), read_rgb(files[place + 1])
        except MediaError:
            continue
        if first.shape != second.shape:
            return False
        change = np.abs(_cells(first) - _cells(second)).mean()
        alike += bool(change < CUT)
    return alike * 2 > len(places)


def _cells(picture: Array) -> Array:
    return glimpse(rgb_to_y(picture).astype(np.float32), time=0.0).cells


def pairs_by_folder(folder: Path, *, scale: int) -> Source | None:
    """HR/ beside LR/x<scale>/ (or LR_bicubic/X<scale>/). Raises UsageError for half of that."""
    inside = {entry.name.lower(): entry for entry in folder.iterdir() if entry.is_dir()}
    large, small = inside.get("hr"), inside.get("lr") or inside.get("lr_bicubic")
    if large is None or small is None:
        return None
    scales = {entry.name.lower(): entry for entry in small.iterdir() if entry.is_dir()}
    if f"x{scale}" not in scales:
        there = ", ".join(sorted(scales)) or f"no folder x{scale}"
        raise UsageError(
            f"--data {folder}: {small.name}/ has {there}, the scale is {scale}; "
            f"--data {large} makes the small pictures by MATLAB's bicubic"
        )
    partners = {file.stem: file for file in files_below(scales[f"x{scale}"], SUFFIXES)}
    files = files_below(large, SUFFIXES)
    if not files:
        raise UsageError(f"--data {folder}: no pictures in {large.name}/ ({' '.join(SUFFIXES)})")
    found = []
    for file in files:
        names = (file.stem, f"{file.stem}x{scale}", file.stem.replace("_HR", "_LR"))
        name = next((name for name in names if name in partners), None)
        if name is None:
            raise UsageError(
                f"--data {folder}: {file.name} has no partner in {small.name}/"
                f"{scales[f'x{scale}'].name} ({names[0]} or {names[1]})"
            )
        found.append(partners[name])
    return Source(kind="pairs", path=folder, files=tuple(files), small=tuple(found))


def pairs_by_name(folder: Path, *, scale: int) -> Source | None:
    """`NAME_HR.*` beside `NAME_LR.*`, in the folder or in its subfolder x<scale>."""
    inner = folder / f"x{scale}"
    files = sorted((inner if inner.is_dir() else folder).glob("*_HR.*"))
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    small = [file.with_name(file.name.replace("_HR.", "_LR.")) for file in files]
    if not files or not all(file.is_file() for file in small):
        return None
    return Source(kind="pairs", path=folder, files=tuple(files), small=tuple(small))
