"""Training pairs from a folder of photos: decoded once, cut fresh for every step.

Batch k is a pure function of (seed, k), so a resumed training sees the same crops as one that was
never stopped, and no loader state is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from edgesr.bicubic import downscale, imresize
from edgesr.errors import MediaError, UsageError
from edgesr.files import replacing
from edgesr.metrics import rgb_to_y

Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CACHE_VERSION = 1
MOST_DRAWS = 100  # photos without any detail are taken as they are
Y_STEPS = 256  # luma is kept as uint16 in 1/256 of a level: MATLAB's Y is not rounded

Colour = Literal["y", "rgb"]


@dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """All photos at both sizes, memory-mapped from the cache.

    Luma ("y") is studio range times 256 (uint16); "rgb" is uint8. Photo i has `shapes[i]` LR
    pixels from `lr_starts[i]`, and `scale` times as many rows and columns of HR pixels from
    `hr_starts[i]`.
    """

    hr: Array
    lr: Array
    hr_starts: tuple[int, ...]
    lr_starts: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    scale: int
    digest: str
    colour: Colour = "y"

    def __len__(self) -> int:
        return len(self.shapes)

    def pair(self, index: int) -> tuple[Array, Array]:
        """HR (sH, sW) and LR (H, W) luma of one photo, or (sH, sW, 3) and (H, W, 3): views."""
        height, width = self.shapes[index]
        big = (height * self.scale, width * self.scale)
        hr = self.hr[self.hr_starts[index] :][: big[0] * big[1]]
        lr = self.lr[self.lr_starts[index] :][: height * width]
        return hr.reshape(*big, *hr.shape[1:]), lr.reshape(height, width, *lr.shape[1:])


def load_photos(
    folder: Path,
    *,
    scale: int,
    copies: Sequence[float],
    patch: int,
    colour: Colour = "y",
    leave_out: Collection[Path] = (),
    progress: Callable[[int, int], None] | None = None,
) -> PhotoSet:
    """Decode every photo below `folder` once, or map what an earlier run has decoded.

    The cache lies in $XDG_CACHE_HOME/edgesr/photos, named by the content of the photos. Photos
    smaller than one crop are left out. Raises UsageError and MediaError.
    """
    files = [file for file in find_photos(folder) if file not in leave_out]
    digest = digest_files(files, folder)
    key = json.dumps(
        [CACHE_VERSION, digest, scale, list(copies), patch, *(["rgb"] if colour == "rgb" else [])]
    )
    cache = cache_root() / "photos" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not (cache / "index.json").is_file():
        decode_photos(
            files,
            cache,
            scale=scale,
            copies=copies,
            patch=patch,
            colour=colour,
            progress=progress,
        )
    index = json.loads((cache / "index.json").read_text())
    if not index["shapes"]:
        raise UsageError(f"--data {folder}: every photo is smaller than a crop of {patch} pixels")
    hr, lr = (map_pixels(cache / name, colour) for name in pixel_files(colour))
    return PhotoSet(
        hr=hr,
        lr=lr,
        hr_starts=tuple(index["hr_starts"]),
        lr_starts=tuple(index["lr_starts"]),
        shapes=tuple((h, w) for h, w in index["shapes"]),
        scale=scale,
        digest=digest,
        colour=colour,
    )


def pixel_files(colour: Colour) -> tuple[str, str]:
    return ("hr.u16", "lr.u16") if colour == "y" else ("hr.rgb", "lr.rgb")


def map_pixels(file: Path, colour: Colour) -> Array:
    """(pixels,) uint16 luma, or (pixels, 3) uint8 RGB."""
    if colour == "y":
        return np.memmap(file, dtype=np.uint16, mode="r")
    return np.memmap(file, dtype=np.uint8, mode="r").reshape(-1, 3)


def find_photos(folder: Path) -> list[Path]:
    """All pictures below a folder, in order of their names. Raises UsageError."""
    if not folder.is_dir():
        raise UsageError(f"--data {folder}: no such folder of photos")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise UsageError(f"--data {folder}: no photos in it ({', '.join(SUFFIXES)})")
    return files


def cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgesr"


def digest_files(files: Sequence[Path], folder: Path) -> str:
    """Name of exactly these photos: SHA-256 over relative names and contents."""
    total = hashlib.sha256()
    for file in files:
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{content} {file.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def decode_photos(
    files: Sequence[Path],
    cache: Path,
    *,
    scale: int,
    copies: Sequence[float],
    patch: int,
    colour: Colour,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill a cache folder; `index.json` comes last and marks it complete."""
    cache.mkdir(parents=True, exist_ok=True)
    index: dict[str, list[Any]] = {"hr_starts": [], "lr_starts": [], "shapes": []}
    hr_end = lr_end = 0
    hr_name, lr_name = pixel_files(colour)
    with (
        replacing(cache / hr_name) as hr_part,
        replacing(cache / lr_name) as lr_part,
        hr_part.open("wb") as hr_file,
        lr_part.open("wb") as lr_file,
    ):
        for done, file in enumerate(files):
            photo = read_rgb(file)
            for copy in copies:
                hr = photo if copy == 1 else imresize(photo, Fraction(copy).limit_denominator(64))
                rows, columns = hr.shape[0] // scale, hr.shape[1] // scale
                if min(rows, columns) < patch:
                    continue
                hr = hr[: rows * scale, : columns * scale]
                lr = downscale(hr, scale)
                hr_file.write(stored(hr, colour).tobytes())
                lr_file.write(stored(lr, colour).tobytes())
                index["hr_starts"].append(hr_end)
                index["lr_starts"].append(lr_end)
                index["shapes"].append([rows, columns])
                hr_end += rows * columns * scale**2
                lr_end += rows * columns
            if progress is not None:
                progress(done + 1, len(files))
    with replacing(cache / "index.json") as index_part:
        index_part.write_text(json.dumps(index))


def read_rgb(file: Path) -> Array:
    """(H, W, 3) RGB uint8. Raises MediaError."""
    return decode_picture(file, cv2.IMREAD_COLOR)[:, :, ::-1]


def decode_picture(file: Path, flags: int) -> Array:
    """As OpenCV gives it, BGR or gray. Raises MediaError."""
    content = np.fromfile(file, dtype=np.uint8)
    picture = cv2.imdecode(content, flags) if content.size else None
    if picture is None:
        raise MediaError(f"{file}: not a picture that can be read")
    return np.asarray(picture)


def stored(rgb: Array, colour: Colour) -> Array:
    """(H, W, 3) uint8 as it lies in the cache."""
    return rgb if colour == "rgb" else np.round(rgb_to_y(rgb) * Y_STEPS).astype(np.uint16)


def draw_batch(
    photos: PhotoSet,
    *,
    seed: int,
    step: int,
    batch: int,
    patch: int,
    detail: float,
    redraw: float,
    full_range: float,
) -> tuple[Array, Array]:
    """Batch number `step`, float32 in 0..1: LR (N, C, patch, patch) and HR, `scale` times that.

    Luma of a share `full_range` of the crops is stretched to full range; RGB always has it.
    """
    rng = np.random.default_rng([seed, step])
    lr_crops, hr_crops = [], []
    for _ in range(batch):
        lr, hr = draw_crop(photos, rng, patch=patch, detail=detail, redraw=redraw)
        if rng.random() < full_range and photos.colour == "y":
            lr, hr = to_full_range(lr), to_full_range(hr)
        flips = int(rng.integers(8))  # one of the 8 flips and quarter turns
        lr_crops.append(turn(lr, flips))
        hr_crops.append(turn(hr, flips))
    if photos.colour == "y":
        return np.stack(lr_crops)[:, None], np.stack(hr_crops)[:, None]
    small, big = (np.moveaxis(np.stack(crops), 3, 1) for crops in (lr_crops, hr_crops))
    return np.ascontiguousarray(small), np.ascontiguousarray(big)


def draw_crop(
    photos: PhotoSet, rng: np.random.Generator, *, patch: int, detail: float, redraw: float
) -> tuple[Array, Array]:
    """One aligned pair of crops, float32 in 0..1; flat ones are mostly drawn again."""
    scale = photos.scale
    white = np.float32(255.0 * Y_STEPS if photos.colour == "y" else 255.0)
    for _ in range(MOST_DRAWS):
        hr, lr = photos.pair(int(rng.integers(len(photos))))
        top = int(rng.integers(lr.shape[0] - patch + 1))
        left = int(rng.integers(lr.shape[1] - patch + 1))
        small = lr[top : top + patch, left : left + patch].astype(np.float32)
        small /= white
        gradient = (
            np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
        ) / 2
        if gradient >= detail or rng.random() >= redraw:
            break
    big = hr[top * scale : (top + patch) * scale, left * scale : (left + patch) * scale]
    return small, big.astype(np.float32) / white


def to_full_range(y: Array) -> Array:
    """Studio luma (16..235)/255 stretched to 0..1."""
    return (y - np.float32(16 / 255)) * np.float32(255 / 219)


def turn(crop: Array, which: int) -> Array:
    crop = crop.swapaxes(0, 1) if which & 4 else crop
    crop = crop[::-1] if which & 2 else crop
    return crop[:, ::-1] if which & 1 else crop
