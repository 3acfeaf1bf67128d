"""Training pictures of any source, decoded once: at both sizes in the cache, mapped into memory.

An entry lies in $XDG_CACHE_HOME/edgesr/photos, named by the content of the pictures and by what is
made of them. With `Coding` every small picture has compressed versions beside it (`codec_draw`):
frames of footage are drawn seconds apart, so they get their pans like photos.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgesr.bicubic import downscale, imresize
from edgesr.distill.codec import ENCODERS
from edgesr.distill.codec_draw import CodecSettings, encode_copies
from edgesr.distill.data import (
    CACHE_VERSION,
    Colour,
    PhotoSet,
    cache_root,
    digest_files,
    map_pixels,
    pixel_files,
    stored,
)
from edgesr.distill.intake import (
    FRAMES,
    Picture,
    digest_sources,
    photos_of_part,
    read_pictures,
)
from edgesr.distill.scenes import Sampling
from edgesr.distill.sources import Source, find_sources
from edgesr.errors import EdgesrError, UsageError
from edgesr.files import replacing

Array = np.ndarray[Any, Any]

Part = Literal["all", "train", "held-out"]

CODING_SEED = 0  # not the recipe's: trainings with other seeds share the cache


@dataclass(frozen=True, kw_only=True)
class Coding:
    """So many compressed versions of each small picture, drawn from `settings`."""

    versions: int
    settings: CodecSettings = field(default_factory=CodecSettings)


def load_photos(
    data: Path | Sequence[Path],
    *,
    scale: int,
    copies: Sequence[float],
    patch: int,
    colour: Colour = "y",
    sampling: Sampling = FRAMES,
    coding: Coding | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_warning: Callable[[str], None] = lambda line: None,
) -> PhotoSet:
    """Decode what `data` names (`sources`), or map what an earlier run has decoded.

    copies      sizes at which pictures enter; those that came with a small one only as they are
    sampling    frames of each clip; its `part` holds for photos too
    progress    called with pictures (or frames of a video) done, and in all
    on_warning  what was left out, also when it was left out by an earlier run

    Raises UsageError and MediaError for what cannot be used, EdgesrError where the cache cannot be
    written; it then holds nothing of it.
    """
    sources = sources_of([data] if isinstance(data, Path) else data, scale=scale)
    digest = digest_of(sources, sampling)
    key = [CACHE_VERSION, digest, scale, list(copies), patch]
    key += ["rgb"] if colour == "rgb" else []
    if coding is not None:
        encoders = {name: asdict(row) for name, row in ENCODERS.items()}
        key += ["coded", CODING_SEED, asdict(coding), encoders]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    cache = cache_root() / "photos" / name
    if not (cache / "index.json").is_file():
        warnings: list[str] = []
        pictures = read_pictures(
            sources,
            scale=scale,
            patch=patch,
            sampling=sampling,
            progress=None if progress is None else counted(progress),
            on_warning=warnings.append,
        )
        pairs = cut_copies(pictures, scale=scale, copies=copies, patch=patch)
        write_cache(cache, pairs, scale=scale, colour=colour, coding=coding, warnings=warnings)
    index = json.loads((cache / "index.json").read_text())
    for line in index.get("warnings", []):
        on_warning(line)
    if not index["shapes"]:
        raise UsageError(
            f"--data {sources[0].path}: every picture is smaller than a crop of {patch} pixels"
        )
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
        coded=map_pixels(cache / coded_file(colour), colour) if coding is not None else None,
        versions=coding.versions if coding is not None else 0,
    )


def sources_of(data: Sequence[Path], *, scale: int) -> list[Source]:
    """What `data` names, photos in the order of their paths, by which digests are made."""
    return [
        replace(source, files=tuple(sorted(source.files))) if source.kind == "photos" else source
        for source in find_sources(data, scale=scale)
    ]


def digest_of(sources: Sequence[Source], sampling: Sampling) -> str:
    """Name of exactly these pictures; of a folder of photos, of those alone that are taken."""
    if len(sources) == 1 and sources[0].kind == "photos":
        photos = sources[0]
        folder = photos.path.parent if photos.path.is_file() else photos.path
        return digest_files(photos_of_part(photos, sampling.part), folder)
    return digest_sources(sources, sampling=sampling)


def counted(progress: Callable[[int, int], None]) -> Callable[[str, int, int | None], None]:
    def tell(name: str, done: int, total: int | None) -> None:
        if total is not None:
            progress(done, total)

    return tell


def cut_copies(
    pictures: Iterator[Picture], *, scale: int, copies: Sequence[float], patch: int
) -> Iterator[tuple[Array, Array]]:
    """HR (sH, sW, 3) and LR (H, W, 3) uint8 of each copy that a crop fits into."""
    for picture in pictures:
        if picture.lr is not None:
            yield picture.hr, picture.lr
            continue
        for copy in copies:
            hr = picture.hr
            if copy != 1:
                hr = imresize(hr, Fraction(copy).limit_denominator(64))
            rows, columns = hr.shape[0] // scale, hr.shape[1] // scale
            if min(rows, columns) >= patch:
                hr = hr[: rows * scale, : columns * scale]
                yield hr, downscale(hr, scale)


def coded_pairs(
    pairs: Iterator[tuple[Array, Array]], coding: Coding
) -> Iterator[tuple[Array, Array, Array]]:
    """Beside HR and LR the compressed versions of LR, (versions, H, W, 3) uint8."""
    waiting: deque[tuple[Array, Array]] = deque()

    def small() -> Iterator[Array]:
        for pair in pairs:
            waiting.append(pair)
            yield pair[1]

    made = encode_copies(
        small(),
        copies=coding.versions,
        settings=coding.settings,
        seed=CODING_SEED,
        workers=os.cpu_count() or 1,
    )
    for versions, _ in made:
        yield (*waiting.popleft(), versions)


def coded_file(colour: Colour) -> str:
    return "coded.u16" if colour == "y" else "coded.rgb"


def write_cache(
    cache: Path,
    pairs: Iterator[tuple[Array, Array]],
    *,
    scale: int,
    colour: Colour,
    coding: Coding | None,
    warnings: Sequence[str],
) -> None:
    """Fill a cache folder; `index.json` comes last and marks it complete."""
    names = [*pixel_files(colour), *([coded_file(colour)] if coding is not None else [])]
    everything = coded_pairs(pairs, coding) if coding is not None else pairs
    index: dict[str, list[Any]] = {"hr_starts": [], "lr_starts": [], "shapes": []}
    hr_end = lr_end = 0
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            parts = [stack.enter_context(replacing(cache / name)) for name in names]
            files = [stack.enter_context(part.open("wb")) for part in parts]
            for hr, *small in everything:
                for file, picture in zip(files, (hr, *small), strict=True):
                    file.write(stored(picture, colour).tobytes())
                rows, columns = small[0].shape[:2]
                index["hr_starts"].append(hr_end)
                index["lr_starts"].append(lr_end)
                index["shapes"].append([rows, columns])
                hr_end += rows * columns * scale**2
                lr_end += rows * columns
        with replacing(cache / "index.json") as part:
            part.write_text(json.dumps(index | {"warnings": list(warnings)}))
    except EdgesrError:  # some are OSErrors too
        raise
    except OSError as error:
        raise EdgesrError(
            f"the cache of pictures in {cache} cannot be written: {error.strerror}; "
            "XDG_CACHE_HOME=DIR puts it elsewhere"
        ) from error
    finally:
        if not (cache / "index.json").is_file():
            remove_entry(cache, names)


def remove_entry(cache: Path, names: Sequence[str]) -> None:
    for name in names:
        (cache / name).unlink(missing_ok=True)
    if cache.is_dir() and not any(cache.iterdir()):
        cache.rmdir()
