"""Training pairs from decoded pictures (`cache`), cut fresh for every step.

Batch k is a pure function of (seed, k), so a resumed training sees the same crops as one that was
never stopped, and no loader state is kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np

from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y

Array = np.ndarray[Any, Any]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
CACHE_VERSION = 1
MOST_DRAWS = 100  # photos without any detail are taken as they are
Y_STEPS = 256  # luma is kept as uint16 in 1/256 of a level: MATLAB's Y is not rounded

ALL = slice(None)

Colour = Literal["y", "rgb"]


class Answers(Protocol):
    """What a teacher made of every LR picture."""

    def crop(self, index: int, version: int | None, rows: slice, columns: slice) -> Array:
        """Of photo `index` (None: of its clean LR): (h, w) or (h, w, 3) float32 in 0..1, HR."""


@dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """All photos at both sizes, memory-mapped from the cache.

    coded    LR pixels after compression, `versions` times for each photo; None: there are none
    answers  of each teacher whose answers are kept

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
    coded: Array | None = None
    versions: int = 0
    answers: tuple[Answers, ...] = ()

    def __len__(self) -> int:
        return len(self.shapes)

    def pair(self, index: int) -> tuple[Array, Array]:
        """HR (sH, sW) and LR (H, W) luma of one photo, or (sH, sW, 3) and (H, W, 3): views."""
        height, width = self.shapes[index]
        big = (height * self.scale, width * self.scale)
        hr = self.hr[self.hr_starts[index] :][: big[0] * big[1]]
        lr = self.lr[self.lr_starts[index] :][: height * width]
        return hr.reshape(*big, *hr.shape[1:]), lr.reshape(height, width, *lr.shape[1:])

    def version(self, index: int, number: int) -> Array:
        """LR of one photo as compressed version `number` has it: a view of the shape of LR."""
        assert self.coded is not None
        height, width = self.shapes[index]
        start = self.lr_starts[index] * self.versions + number * height * width
        lr = self.coded[start:][: height * width]
        return lr.reshape(height, width, *lr.shape[1:])


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
        content = hashlib.sha256(content_of(file)).hexdigest()
        total.update(f"{content} {file.relative_to(folder).as_posix()}\n".encode())
    return total.hexdigest()


def content_of(file: Path) -> bytes:
    """Nothing, where it cannot be opened: `read_rgb` says so, and it is left out."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def read_rgb(file: Path) -> Array:
    """(H, W, 3) RGB uint8. Raises MediaError."""
    return decode_picture(file, cv2.IMREAD_COLOR)[:, :, ::-1]


def decode_picture(file: Path, flags: int) -> Array:
    """As OpenCV gives it, BGR or gray. Raises MediaError."""
    content = np.frombuffer(content_of(file), dtype=np.uint8)
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
    clean: float = 0.0,
    samples: slice = ALL,
) -> tuple[Array, ...]:
    """Batch number `step`, float32 in 0..1: LR (N, C, patch, patch) and HR, `scale` times that.

    Where photos have compressed versions, a share `clean` of LR is cut from none of them. Luma of
    a share `full_range` of the crops is stretched to full range; RGB always has it. `samples` of
    the batch are made alone. The crops of `photos.answers` follow, treated as HR is.
    """
    rng = np.random.default_rng([seed, step])
    wanted = range(batch)[samples]
    made: list[list[Array]] = []
    for number in range(batch):
        place, small = draw_place(
            photos, rng, patch=patch, detail=detail, redraw=redraw, clean=clean
        )
        full = rng.random() < full_range and photos.colour == "y"
        flips = int(rng.integers(8))  # one of the 8 flips and quarter turns
        if number not in wanted:
            continue
        crops = [small, *large_crops(photos, place, patch=patch)]
        made.append([turn(to_full_range(crop) if full else crop, flips) for crop in crops])
    return tuple(as_planes(np.stack(crops)) for crops in zip(*made, strict=True))


def as_planes(crops: Array) -> Array:
    """(N, H, W) or (N, H, W, 3) -> (N, C, H, W), contiguous."""
    return crops[:, None] if crops.ndim == 3 else np.ascontiguousarray(np.moveaxis(crops, 3, 1))


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a crop lies, in LR pixels. version: of the compressed ones; None: it is clean."""

    index: int
    version: int | None
    top: int
    left: int


def draw_place(
    photos: PhotoSet,
    rng: np.random.Generator,
    *,
    patch: int,
    detail: float,
    redraw: float,
    clean: float,
) -> tuple[Place, Array]:
    """A place and its LR crop, float32 in 0..1; flat ones are mostly drawn again."""
    white = white_of(photos.colour)
    for _ in range(MOST_DRAWS):
        index = int(rng.integers(len(photos)))
        version = None
        lr = photos.pair(index)[1]
        if photos.versions and rng.random() >= clean:
            version = int(rng.integers(photos.versions))
            lr = photos.version(index, version)
        top = int(rng.integers(lr.shape[0] - patch + 1))
        left = int(rng.integers(lr.shape[1] - patch + 1))
        small = lr[top : top + patch, left : left + patch].astype(np.float32)
        small /= white
        gradient = (
            np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()
        ) / 2
        if gradient >= detail or rng.random() >= redraw:
            break
    return Place(index=index, version=version, top=top, left=left), small


def large_crops(photos: PhotoSet, place: Place, *, patch: int) -> list[Array]:
    """HR there, and every teacher's answer, float32 in 0..1."""
    rows, columns = (
        slice(start * photos.scale, (start + patch) * photos.scale)
        for start in (place.top, place.left)
    )
    big = photos.pair(place.index)[0][rows, columns].astype(np.float32) / white_of(photos.colour)
    return [big, *(a.crop(place.index, place.version, rows, columns) for a in photos.answers)]


def white_of(colour: Colour) -> np.float32:
    """What 1 is in the cache."""
    return np.float32(255.0 * Y_STEPS if colour == "y" else 255.0)


def to_full_range(y: Array) -> Array:
    """Studio luma (16..235)/255 stretched to 0..1."""
    return (y - np.float32(16 / 255)) * np.float32(255 / 219)


def turn(crop: Array, which: int) -> Array:
    crop = crop.swapaxes(0, 1) if which & 4 else crop
    crop = crop[::-1] if which & 2 else crop
    return crop[:, ::-1] if which & 1 else crop
