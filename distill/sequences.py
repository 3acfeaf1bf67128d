"""Short sequences of consecutive frames, for students that keep state from frame to frame.

A clip is cut into spans of at most `SPAN` frames that lie in one scene and in one part, and so
many of them as `MOST_BYTES` hold are kept in $XDG_CACHE_HOME/edgesr/sequences, as 8-bit studio
luma: what the decoder delivers. The small frames are MATLAB's bicubic of it, and with `coding` the
whole span goes through an encoder, as a clip. Batch k is a pure function of (seed, k); all frames
of a sequence share the crop, the flips, the range and what is drawn for a degradation.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgesr.bicubic import downscale
from edgesr.distill.cache import CODING_SEED, Coding, remove_entry
from edgesr.distill.chain import RealEsrganSettings
from edgesr.distill.codec_draw import encode_clip_copies
from edgesr.distill.data import MOST_DRAWS, cache_root, to_full_range, turn
from edgesr.distill.feed import CLEAN, MARGIN, OwnPairs, patch_of
from edgesr.distill.footage import digest_footage
from edgesr.distill.realesrgan import degrade, draw_chain, for_frames, sharpen
from edgesr.distill.recipe import Recipe
from edgesr.distill.scenes import Sampling
from edgesr.distill.sources import Source
from edgesr.distill.spans import read_spans
from edgesr.errors import EdgesrError
from edgesr.files import replacing

Array = np.ndarray[Any, Any]

VERSION = 1
PARTS = Sampling(count=1, part="train")
FILES = ("hr.u8", "lr.u8", "coded.u8")


@dataclass(frozen=True, kw_only=True)
class SequenceSet(OwnPairs):
    """Spans as a PhotoSet has photos, in uint8: span i has `lengths[i]` frames of `shapes[i]`."""

    lengths: tuple[int, ...] = ()

    def span(self, index: int) -> tuple[Array, Array]:
        """HR (T, sH, sW) and LR (T, H, W): views."""
        (height, width), length, s = self.shapes[index], self.lengths[index], self.scale
        hr = self.hr[self.hr_starts[index] :][: length * height * width * s * s]
        lr = self.lr[self.lr_starts[index] :][: length * height * width]
        return hr.reshape(length, height * s, width * s), lr.reshape(length, height, width)

    def coded_span(self, index: int, number: int) -> Array:
        """LR (T, H, W) of compressed version `number`."""
        assert self.coded is not None
        (height, width), length = self.shapes[index], self.lengths[index]
        count = length * height * width
        start = self.lr_starts[index] * self.versions + number * count
        return self.coded[start:][:count].reshape(length, height, width)

    def own_batch(self, recipe: Recipe, *, step: int, rank: int, size: int) -> tuple[Tensor, ...]:
        """Small (N, T, h, w) and truth (N, T, sh, sw) of batch number `step`, in 0..1."""
        rng = np.random.default_rng([recipe.seed, step])
        drawn = [self.draw(recipe, rng) for _ in range(recipe.batch)][rank::size]
        small, truth = (np.stack(crops) for crops in zip(*drawn, strict=True))
        return torch.from_numpy(small), torch.from_numpy(truth)

    def draw(self, recipe: Recipe, rng: np.random.Generator) -> tuple[Array, Array]:
        """One sequence, float32 in 0..1: LR (T, h, w) and HR. Flat ones are mostly drawn again."""
        frames, patch, s = frames_in(recipe), patch_of(recipe), self.scale
        clean = CLEAN if recipe.clean is None else recipe.clean
        for _ in range(MOST_DRAWS):
            index = int(rng.integers(len(self)))
            hr, lr = self.span(index)
            if self.versions and rng.random() >= clean:
                lr = self.coded_span(index, int(rng.integers(self.versions)))
            first = int(rng.integers(len(lr) - frames + 1))
            top, left = (int(rng.integers(side - patch + 1)) for side in lr.shape[1:])
            small = lr[first : first + frames, top : top + patch, left : left + patch]
            small = small.astype(np.float32) / np.float32(255)
            gradient = sum(np.abs(np.diff(small[0], axis=axis)).mean() for axis in (0, 1)) / 2
            if gradient >= recipe.detail or rng.random() >= recipe.redraw:
                break
        rows, columns = (slice(n * s, (n + patch) * s) for n in (top, left))
        truth = hr[first : first + frames, rows, columns].astype(np.float32) / np.float32(255)
        if recipe.degradation == "blind":
            small, truth = through_chain(truth, recipe, rng)
        if rng.random() < recipe.full_range:
            small, truth = to_full_range(small), to_full_range(truth)
        flips = int(rng.integers(8))
        small, truth = (
            np.moveaxis(turn(np.moveaxis(crop, 0, 2), flips), 2, 0) for crop in (small, truth)
        )
        return np.ascontiguousarray(small), np.ascontiguousarray(truth)


def frames_in(recipe: Recipe) -> int:
    """Frames of a training sequence; 7 as in the sets of Vimeo-90K."""
    return recipe.frames or 7


def through_chain(truth: Array, recipe: Recipe, rng: np.random.Generator) -> tuple[Array, Array]:
    """Real-ESRGAN's chain: one draw for all frames, but each has its own noise; then the crop."""
    s, patch = recipe.scale, recipe.patch
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    settings = RealEsrganSettings()
    draw = for_frames(draw_chain(1, settings, generator=generator), len(truth))
    large = sharpen(torch.from_numpy(truth)[:, None], settings)
    small = degrade(large, draw, scale=s, settings=settings)[:, 0].numpy()
    top, left = (int(n) for n in rng.integers(2 * MARGIN + 1, size=2))
    rows, columns = (slice(n * s, (n + patch) * s) for n in (top, left))
    return small[:, top : top + patch, left : left + patch], truth[:, rows, columns]


def load_sequences(
    sources: Sequence[Source],
    recipe: Recipe,
    *,
    part: str,
    coding: Coding | None = None,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_warning: Callable[[str], None] = lambda line: None,
) -> SequenceSet:
    """Decode clips into spans, or map what an earlier run has decoded.

    part  "train" or "held-out" (see `scenes.Sampling`); most: spans of each clip

    Raises UsageError where no `recipe.frames` frames follow each other without a cut, MediaError,
    EdgesrError where the cache cannot be written.
    """
    sampling = replace(PARTS, part=part)  # type: ignore[arg-type]
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{digest_footage(source.path, sampling)}\n".encode())
    frames, patch = frames_in(recipe), patch_of(recipe)
    key = [VERSION, digest.hexdigest(), recipe.scale, frames, patch, most]
    key += [CODING_SEED, asdict(coding)] if coding is not None else []
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    cache = cache_root() / "sequences" / name
    if not (cache / "index.json").is_file():
        spans = (
            (source.path.name, start, hr)
            for source in sources
            for start, hr in read_spans(
                source.path,
                sampling,
                frames=frames,
                least=patch * recipe.scale,
                most=most,
                progress=progress,
                on_warning=on_warning,
            )
        )
        write_spans(cache, spans, scale=recipe.scale, coding=coding)
    index = json.loads((cache / "index.json").read_text())
    hr, lr = (np.memmap(cache / file, dtype=np.uint8, mode="r") for file in FILES[:2])
    return SequenceSet(
        hr=hr,
        lr=lr,
        hr_starts=tuple(index["hr_starts"]),
        lr_starts=tuple(index["lr_starts"]),
        shapes=tuple((h, w) for h, w in index["shapes"]),
        lengths=tuple(index["lengths"]),
        scale=recipe.scale,
        digest=digest.hexdigest(),
        coded=None if coding is None else np.memmap(cache / FILES[2], dtype=np.uint8, mode="r"),
        versions=0 if coding is None else coding.versions,
    )


def write_spans(
    cache: Path,
    spans: Iterator[tuple[str, int, Array]],
    *,
    scale: int,
    coding: Coding | None,
) -> None:
    """Fill a cache folder; `index.json` comes last and marks it complete."""
    index: dict[str, list[Any]] = {
        name: [] for name in ("names", "hr_starts", "lr_starts", "shapes", "lengths")
    }
    hr_end = lr_end = 0
    names = FILES if coding is not None else FILES[:2]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        parts = [cache / f"{name}.part" for name in names]
        files = [part.open("wb") for part in parts]
        try:
            for number, (name, start, span) in enumerate(spans):
                height, width = (side // scale for side in span.shape[1:])
                hr = span[:, : height * scale, : width * scale]
                lr = np.stack([downscale(frame, scale) for frame in hr])
                coded = []
                if coding is not None:
                    made = encode_clip_copies(
                        lr,
                        copies=coding.versions,
                        settings=coding.settings,
                        seed=CODING_SEED + number,
                    )
                    coded = [np.stack([version for version, _ in made])]
                for file, pixels in zip(files, (hr, lr, *coded), strict=True):
                    file.write(np.ascontiguousarray(pixels).tobytes())
                index["names"].append(f"{name}@{start}")
                index["hr_starts"].append(hr_end)
                index["lr_starts"].append(lr_end)
                index["shapes"].append([height, width])
                index["lengths"].append(len(span))
                hr_end, lr_end = hr_end + hr.size, lr_end + lr.size
        finally:
            for file in files:
                file.close()
        for part, name in zip(parts, names, strict=True):
            part.replace(cache / name)
        with replacing(cache / "index.json") as part:
            part.write_text(json.dumps(index))
    except EdgesrError:  # some are OSErrors too
        raise
    except OSError as error:
        raise EdgesrError(
            f"the cache of sequences in {cache} cannot be written: {error.strerror}; "
            "XDG_CACHE_HOME=DIR puts it elsewhere"
        ) from error
    finally:
        if not (cache / "index.json").is_file():
            remove_entry(cache, [*names, *(f"{name}.part" for name in names)])
