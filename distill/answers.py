"""Teachers' answers, computed once for whole pictures and kept on disk (`--cache-teacher`).

A file for each LR picture: HEADER bytes, then uint16 in steps of 1/32768 from -0.5 up, finer than
half floats and four times finer than the luma of the photos. Crops are cut out of it at the place
of the truth's crop and turned with it, so the teacher is asked once for a picture and not once for
each of its crops. What it is asked is not quite the same:

- it sees what lies around a crop, which is zeros when it is asked for the crop alone;
- the answer for a turned crop is the turned answer (a network is not quite symmetric);
- the answer for luma stretched to full range is the stretched answer.

Measured in `tests/test_teacher_cache.py` with the shipped ecbsr-m4c16-x2: in levels of 255, RMS 1.9
by turning and 0.6 by stretching, where its distance to the truth is 6.8. All three are answers of
the same teacher, about as far from the truth.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesr.distill.data import CACHE_VERSION, Colour, PhotoSet, white_of
from edgesr.distill.feed import patch_of
from edgesr.distill.parallel import Team
from edgesr.distill.recipe import Recipe
from edgesr.distill.teachers import Teacher
from edgesr.errors import EdgesrError, Interrupted, UsageError
from edgesr.files import replacing
from edgesr.runtime.tiles import windows

Array = np.ndarray[Any, Any]

MAGIC = b"edgesr a"
HEADER = 16
LOWEST, STEPS = -0.5, 32768  # a luma teacher's answer may leave 0..1 a little
LARGEST = 512  # LR pixels of a tile's side
SAY_EVERY = 15.0  # seconds


def check_kept_answers(recipe: Recipe, names: Sequence[str]) -> None:
    """Raises UsageError where there is nothing that could be computed once."""
    if not recipe.cache_teacher:
        return
    why = None
    if not names:
        why = "there is no teacher; name one with --teacher"
    elif "pisr" in names:
        why = "pisr's teacher teaches by a feature of each crop, not by pictures"
    elif recipe.feature or recipe.affinity:
        why = "feature and affinity ask the teacher at every step; set both to 0"
    elif recipe.response == 0:
        why = "response = 0: the teacher is not asked for pictures"
    elif recipe.degradation == "blind":
        why = "degradation 'blind' makes new small pictures all the time; 'video' keeps a few"
    if why is not None:
        raise UsageError(f"--cache-teacher: {why}")


@dataclass(frozen=True, kw_only=True)
class KeptAnswers:
    """Answers for the pictures of `photos`, of `channels` each, in a folder: see `data.Answers`."""

    folder: Path
    photos: PhotoSet
    channels: int

    def crop(self, index: int, version: int | None, rows: slice, columns: slice) -> Array:
        kept = np.memmap(
            self.path(index, version), np.uint16, "r", offset=HEADER, shape=self.shape(index)
        )
        return kept[rows, columns].astype(np.float32) / np.float32(STEPS) + np.float32(LOWEST)

    def shape(self, index: int) -> tuple[int, ...]:
        height, width = (side * self.photos.scale for side in self.photos.shapes[index])
        return (height, width) if self.channels == 1 else (height, width, self.channels)

    def path(self, index: int, version: int | None) -> Path:
        return self.folder / f"{index:06}{'' if version is None else f'-{version}'}.u16"

    def pictures(self) -> list[tuple[int, int | None]]:
        """Index and version of every one."""
        versions = [None, *range(self.photos.versions)]
        return [(index, v) for index in range(len(self.photos)) for v in versions]

    def whole(self, index: int, version: int | None) -> bool:
        """Whether it is there, of the right length and with the right checksum."""
        path = self.path(index, version)
        length = HEADER + 2 * int(np.prod(self.shape(index)))
        try:
            if path.stat().st_size != length:
                return False
            content = np.memmap(path, np.uint8, "r")
        except OSError:
            return False
        magic, checksum, _ = struct.unpack("<8sII", content[:HEADER].tobytes())
        return bool(magic == MAGIC and checksum == zlib.crc32(content[HEADER:].data))

    def write(self, index: int, version: int | None, answer: Array) -> None:
        """answer: float32 of `shape`."""
        steps = np.clip(np.round((answer - np.float32(LOWEST)) * STEPS), 0, 65535)
        content = steps.astype("<u2").tobytes()
        with replacing(self.path(index, version)) as part, part.open("wb") as file:
            file.write(struct.pack("<8sII", MAGIC, zlib.crc32(content), 0) + content)

    def bytes(self) -> int:
        values = sum(int(np.prod(self.shape(index))) for index in range(len(self.photos)))
        return (values * 2 + HEADER * len(self.photos)) * (1 + self.photos.versions)


def kept_answers(
    teacher: Teacher,
    photos: PhotoSet,
    recipe: Recipe,
    *,
    folder: Path,
    colour: Colour,
    device: torch.device,
    crew: Team,
    on_note: Callable[[str], None],
    stop: Callable[[], bool],
) -> KeptAnswers:
    """All answers of a teacher in a folder inside `folder`, computed where they are not there.

    colour  of the student; a luma teacher answers an RGB student in luma

    What is there is checked by its checksum, so a damaged file is computed again; an interrupted
    run goes on at the picture where it was. Several processes share the pictures. Raises
    UsageError, Interrupted, and EdgesrError where the folder cannot be written.
    """
    if teacher.spec is None or teacher.spec.fixed_size:
        raise UsageError(
            f"--cache-teacher: {teacher.name} cannot answer pictures of any size at once"
        )
    channels = 3 if teacher.colour == colour == "rgb" else 1
    name = f"{teacher.name}-{key_of(teacher, photos, recipe, colour)}"
    kept = KeptAnswers(folder=folder / name, photos=photos, channels=channels)
    try:
        if crew.first:
            kept.folder.mkdir(parents=True, exist_ok=True)
        crew.wait()
        fill(kept, teacher, recipe, colour, device, crew=crew, on_note=on_note, stop=stop)
    except EdgesrError:  # some are OSErrors too
        raise
    except OSError as error:
        raise EdgesrError(
            f"the teacher's answers ({said_size(kept.bytes())}) in {kept.folder} cannot be "
            f"written: {error.strerror}; --cache-teacher-in DIR puts them elsewhere"
        ) from error
    crew.wait()
    return kept


def key_of(teacher: Teacher, photos: PhotoSet, recipe: Recipe, colour: Colour) -> str:
    """Name of exactly these answers: of what teacher to what pictures, computed how."""
    facts = [
        *(1, CACHE_VERSION, teacher.digest, photos.digest, photos.scale, photos.colour, colour),
        *(list(recipe.copies), patch_of(recipe), photos.versions, recipe.precision),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def fill(
    kept: KeptAnswers,
    teacher: Teacher,
    recipe: Recipe,
    colour: Colour,
    device: torch.device,
    *,
    crew: Team,
    on_note: Callable[[str], None],
    stop: Callable[[], bool],
) -> None:
    mine = kept.pictures()[crew.rank :: crew.size]
    missing = [picture for picture in mine if not kept.whole(*picture)]
    require_room(kept, len(missing) / max(1, len(mine)))
    began = said = time.monotonic()
    for done, (index, version) in enumerate(missing):
        if stop():
            raise Interrupted(
                f"stopped with the answers of {teacher.name} to {len(mine) - len(missing) + done} "
                f"of {len(mine)} pictures in {kept.folder}: the same command goes on"
            )
        pair, photos = kept.photos.pair(index), kept.photos
        small = pair[1] if version is None else photos.version(index, version)
        kept.write(index, version, answer_to(teacher, small, photos.colour, recipe, colour, device))
        now = time.monotonic()
        if now - said > SAY_EVERY and done + 1 < len(missing):
            eta = (now - began) / (done + 1) * (len(missing) - done - 1)
            on_note(f"{teacher.name}: {done + 1}/{len(missing)} pictures, ETA {eta / 60:.1f} min")
            said = now
    on_note(
        f"{teacher.name}: answers to {len(kept.pictures())} pictures in {kept.folder} "
        f"({said_size(kept.bytes())}), {len(missing)} of them new"
    )


def require_room(kept: KeptAnswers, share: float) -> None:
    free, needed = shutil.disk_usage(kept.folder).free, int(kept.bytes() * share)
    if needed > free:
        raise EdgesrError(
            f"the teacher's answers need {said_size(needed)}, and {kept.folder} has "
            f"{said_size(free)} left: --cache-teacher-in DIR puts them elsewhere"
        )


def said_size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def answer_to(
    teacher: Teacher,
    small: Array,
    seen: Colour,
    recipe: Recipe,
    colour: Colour,
    device: torch.device,
) -> Array:
    """Of a whole LR picture as it lies in the cache, in colour `seen`: float32 (sH, sW[, 3])."""
    planes = small[None] if small.ndim == 2 else np.moveaxis(small, 2, 0)
    picture = torch.from_numpy(planes.astype(np.float32) / white_of(seen))[None].to(device)
    bf16 = recipe.precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
        answer = answer_in_tiles(teacher, picture, colour)
    large = answer[0].float().cpu().numpy()
    return large[0] if len(large) == 1 else np.moveaxis(large, 0, 2)


def answer_in_tiles(
    teacher: Teacher, picture: Tensor, colour: Colour, *, largest: int = LARGEST
) -> Tensor:
    """(1, C, H, W) -> (1, C, sH, sW), the same as of the whole picture; a teacher that pools over
    all of it gets it whole."""
    spec = teacher.spec
    assert spec is not None
    height, width = picture.shape[2:]
    sides = [-(-max(n, spec.min_size) // spec.multiple) * spec.multiple for n in (height, width)]
    beside = (0, sides[1] - width, 0, sides[0] - height)
    picture = torch.nn.functional.pad(picture, beside, mode="replicate")
    halo, most = (spec.halo, largest) if spec.halo is not None else (0, max(sides))
    rows, columns = (
        windows(side, largest=most, halo=halo, multiple=spec.multiple) for side in sides
    )
    s = spec.scale
    bands = []
    for row in rows:
        pieces = []
        for column in columns:
            tile = picture[:, :, row.start : row.stop, column.start : column.stop]
            answer = teacher.answer(tile.contiguous(), colour)
            top, left = row.first - row.start, column.first - column.start
            below, right = row.last - row.start, column.last - column.start
            pieces.append(answer[:, :, top * s : below * s, left * s : right * s])
        bands.append(torch.cat(pieces, dim=3))
    return torch.cat(bands, dim=2)[:, :, : height * s, : width * s]
