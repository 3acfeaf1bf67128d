"""Calibration pictures: what the network will see, from images, folders and videos.

Crops of real frames at their own size, as the runtime would feed them. A part of the material
(other pictures, the later part of a clip) is held out as pairs whose truth is known. Kept in the
user's cache: $XDG_CACHE_HOME/edgesr/calibration (~/.cache/edgesr/calibration).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.errors import UsageError
from edgesr.export.frames import Crop, gather, wanted_size
from edgesr.files import replacing
from edgesr.runtime.picture import READ
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]

VERSION = 1
CROP, SMALL_CROP = 128, 64
DEEP = 32
"""Convolutions above which crops are small."""
FLAT = 1.0 / 255.0
BINS = 16
CLIPS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mpg", ".mpeg"),
    *(".flv", ".wmv", ".ogv", ".3gp", ".264", ".h264", ".265", ".hevc", ".y4m"),
)
"""What is taken from a folder beside pictures; a file that is named may be called anything."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Pictures to take ranges from, and pairs to judge by.

    pictures  each (1, C, H, W) float32 in 0..1, all of one size: LR as the network will see it
    held_out  (LR (1, C, h, w), HR (1, C, s*h, s*w)) float32 in 0..1, of frames that are not in
              `pictures`; LR is MATLAB's bicubic of HR. Empty where there is only one picture
    digest    of all the numbers
    about     frames, held_out, files, skipped, size, min, max, mean, std, histogram (16 bins, 0..1)
    """

    pictures: tuple[Array, ...]
    held_out: tuple[tuple[Array, Array], ...]
    digest: str
    about: dict[str, Any]


def collect(
    paths: Sequence[Path], *, spec: ModelSpec, frames: int = 32, size: int = CROP, seed: int = 0
) -> Calibration:
    """Calibration pictures from images, folders of images, and videos.

    frames  how many pictures; fewer where the material has no more that differ
    size    side of the crops in pixels, raised to what the model takes; smaller pictures are
            reflected at their border
    seed    of the choice of pictures and crops: equal arguments give equal numbers

    Luma models see the luma plane as it is stored (pictures: BT.601 studio luma), RGB models RGB.
    Frames are spread over the clip, and of those the ones that differ most are taken. The last
    fifth of a clip and every fifth picture are held out.

    Raises UsageError for a path that is not there, an empty folder, material that is one flat
    colour, and where no file can be read; files that cannot be read among others are named in
    `about["skipped"]`.
    """
    if frames < 1 or size < 1:
        raise UsageError(f"calibration with {frames} frames of {size} pixels: both are 1 or more")
    if not paths:
        raise UsageError("calibration needs pictures: --calib takes images, folders and videos")
    files = _files(paths)
    cache = _cache_path(files, spec=spec, frames=frames, size=size, seed=seed)
    kept = _load(cache)
    if kept is not None:
        return kept
    crop = Crop(spec=spec, size=wanted_size(spec, size))
    pictures, held_out, skipped = gather(files, crop=crop, frames=frames, seed=seed)
    made = _calibration(pictures, held_out, files=files, skipped=skipped)
    if made.about["std"] < FLAT:
        raise UsageError(
            f"the calibration pictures are one flat colour (mean {made.about['mean']:.3f}, "
            f"deviation {made.about['std']:.4f}): give pictures or clips with something in them"
        )
    _save(made, cache)
    return made


def crop_side(layers: Sequence[str]) -> int:
    """Side of the crops in pixels, by the names of the network's convolutions.

    Ranges and weights of a deep network are found on a quarter of the pixels: they are taken from
    each of its values, picture by picture, which are minutes at full size.
    """
    return SMALL_CROP if len(layers) > DEEP else CROP


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files of all paths, folders opened (not their subfolders), without repetitions."""
    files: dict[Path, None] = {}
    for given in paths:
        path = given.expanduser()
        if not path.exists():
            raise UsageError(f"calibration: {path} does not exist")
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.name[0] != ".")
            inside = [p for p in inside if p.suffix.lower() in (*READ, *CLIPS)]
            if not inside:
                raise UsageError(f"calibration: the folder {path} holds no picture and no video")
        files |= dict.fromkeys(inside)
    return list(files)


def _calibration(
    pictures: Sequence[Array],
    held_out: Sequence[tuple[Array, Array]],
    *,
    files: Sequence[Path],
    skipped: Sequence[str],
) -> Calibration:
    every = np.concatenate([picture.ravel() for picture in pictures])
    digest = hashlib.sha256()
    for numbers in (*pictures, *(half for pair in held_out for half in pair)):
        digest.update(repr(numbers.shape).encode())
        digest.update(np.ascontiguousarray(numbers).tobytes())
    counts, _ = np.histogram(every, bins=BINS, range=(0.0, 1.0))
    about = {
        "frames": len(pictures),
        "held_out": len(held_out),
        "files": len(files),
        "names": [path.name for path in files[:20]],
        "skipped": list(skipped),
        "size": list(pictures[0].shape[2:]),
        "min": float(every.min()),
        "max": float(every.max()),
        "mean": float(every.mean(dtype=np.float64)),
        "std": float(every.std(dtype=np.float64)),
        "histogram": [int(count) for count in counts],
    }
    return Calibration(
        pictures=tuple(pictures),
        held_out=tuple(held_out),
        digest=digest.hexdigest(),
        about=about,
    )


def _cache_path(
    files: Sequence[Path], *, spec: ModelSpec, frames: int, size: int, seed: int
) -> Path:
    stats = [(path, path.stat()) for path in files]
    key = {
        "version": VERSION,
        "files": [[str(path.absolute()), stat.st_size, stat.st_mtime_ns] for path, stat in stats],
        "model": [spec.colour, spec.scale, spec.multiple, spec.min_size, spec.fixed_size],
        "asked": [frames, size, seed],
    }
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    root = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(root) if root else Path.home() / ".cache") / "edgesr" / "calibration"
    return folder / f"{digest}.npz"


def _load(path: Path) -> Calibration | None:
    """What was kept; None where there is nothing, or something else than was written."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            about = json.loads(str(held["about"]))
            digest = str(held["digest"])
            pictures = [held["pictures"][i : i + 1] for i in range(about["frames"])]
            held_out = [(held[f"low{i}"], held[f"high{i}"]) for i in range(about["held_out"])]
        kept = _calibration(pictures, held_out, files=(), skipped=())
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if kept.digest != digest:
        return None
    return dataclasses.replace(kept, about=about)


def _save(made: Calibration, path: Path) -> None:
    """A cache that cannot be written is no reason to fail."""
    arrays: dict[str, Any] = {"pictures": np.concatenate(made.pictures)}
    for i, (low, high) in enumerate(made.held_out):
        arrays |= {f"low{i}": low, f"high{i}": high}
    arrays |= {"about": np.array(json.dumps(made.about)), "digest": np.array(made.digest)}
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, **arrays)
