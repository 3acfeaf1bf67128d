"""PSNR-Y and SSIM-Y of a model over a folder of pictures, by the published protocol.

Luma models: 8-bit RGB LR -> unrounded BT.601 studio Y / 255 -> model -> x255, clip, round. RGB
models: 8-bit RGB LR / 255 -> model -> x255, clip, round -> unrounded Y. Against the unrounded Y of
the truth; `scale` pixels cropped on each side; mean of the per-picture values. No torch here: a
model is any function of planes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesr.bicubic import downscale, imresize
from edgesr.distill.data import SUFFIXES, decode_picture
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import crop_border, psnr, rgb_to_y, ssim
from edgesr.models import resolve
from edgesr.runtime.backends import Io, Session, open_session
from edgesr.runtime.upscale import pad, padded
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
Upscale = Callable[[Array], Array]


SMALLEST = 11  # SSIM's window


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One test picture: the small one and the truth, (H, W, 3) RGB or (H, W) gray uint8."""

    name: str
    lr: Array
    hr: Array


@dataclass(frozen=True, kw_only=True)
class Score:
    name: str
    psnr_y: float
    ssim_y: float


def load_pairs(folder: Path, *, scale: int) -> list[Pair]:
    """`<name>_HR.*` with `<name>_LR.*`, or HR pictures alone: then MATLAB's bicubic makes the LR.

    A subfolder `x<scale>` is used when there is one. Raises UsageError, MediaError.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of pictures")
    if (folder / f"x{scale}").is_dir():
        folder = folder / f"x{scale}"
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    pairs = []
    for file in files:
        if file.stem.endswith("_LR"):
            continue
        hr = read_picture(file)
        rows, columns = hr.shape[0] // scale * scale, hr.shape[1] // scale * scale
        hr = hr[:rows, :columns]
        small = file.with_name(file.name.replace("_HR", "_LR"))
        made = not file.stem.endswith("_HR") or not small.is_file()
        lr = downscale(hr, scale) if made else read_picture(small)
        if (lr.shape[0] * scale, lr.shape[1] * scale) != hr.shape[:2]:
            raise MediaError(
                f"{small.name} is {lr.shape[1]}x{lr.shape[0]}, which is not 1/{scale} of "
                f"{file.name} ({hr.shape[1]}x{hr.shape[0]}): is it another scale?"
            )
        if min(hr.shape[:2]) < SMALLEST + 2 * scale:
            raise UsageError(
                f"{file.name} is {hr.shape[1]}x{hr.shape[0]}: SSIM at x{scale} needs "
                f"{SMALLEST + 2 * scale} pixels a side"
            )
        pairs.append(Pair(name=file.stem.removesuffix("_HR"), lr=lr, hr=hr))
    if not pairs:
        raise UsageError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    return pairs


def read_picture(file: Path) -> Array:
    """(H, W, 3) RGB or (H, W) gray uint8."""
    picture = decode_picture(file, cv2.IMREAD_ANYCOLOR)
    return picture if picture.ndim == 2 else picture[:, :, ::-1]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores of one model over a folder, beside bicubic's. `runs`: what computed them."""

    model: str
    scale: int
    runs: str
    scores: list[Score]
    bicubic: list[Score]

    def to_dict(self) -> dict[str, Any]:
        rows = {
            ours.name: {
                "psnr_y": round(ours.psnr_y, 4),
                "ssim_y": round(ours.ssim_y, 5),
                "bicubic_psnr_y": round(theirs.psnr_y, 4),
                "bicubic_ssim_y": round(theirs.ssim_y, 5),
            }
            for ours, theirs in self._rows()
        }
        mean = rows.pop("mean")
        return {
            "schema": 1,
            "model": self.model,
            "scale": self.scale,
            "runs": self.runs,
            "mean": mean,
            "pictures": rows,
        }

    def lines(self) -> list[str]:
        """The table as text, the mean last."""
        width = max(len("picture"), *(len(score.name) for score in self.scores))
        lines = [f"{'picture':{width}}  {self.model:>20}  {'bicubic':>14}   gain"]
        for ours, theirs in self._rows():
            lines.append(
                f"{ours.name:{width}}  {ours.psnr_y:11.3f} / {ours.ssim_y:.4f}"
                f"  {theirs.psnr_y:6.2f} / {theirs.ssim_y:.3f}  {ours.psnr_y - theirs.psnr_y:+.2f}"
            )
        return lines

    def _rows(self) -> list[tuple[Score, Score]]:
        means = (mean_score(self.scores), mean_score(self.bicubic))
        return [*zip(self.scores, self.bicubic, strict=True), means]


def evaluate_model(
    model: str,
    folder: Path,
    *,
    scale: int | None = None,
    backend: str = "auto",
    precision: str = "fp32",
    threads: int | None = None,
) -> Table:
    """Score a model by name or path. Raises ModelError, BackendError, UsageError, MediaError."""
    found = resolve(model, scale=scale)
    spec = found.spec
    pairs = load_pairs(folder, scale=spec.scale)
    io: Io = "uint8" if spec.io.dtype == "uint8" else "float32"
    session = open_session(
        found.path, spec=spec, backend=backend, precision=precision, threads=threads, io=io
    )

    with closing(session):
        if spec.colour == "rgb":
            scores = evaluate_rgb(by_session(session, io, spec), pairs, scale=spec.scale)
        else:
            scores = evaluate(luma_by_session(session, io, spec), pairs, scale=spec.scale)
    facts = session.facts
    runs = f"{facts.backend} {facts.version} {facts.precision} on {facts.device}, {io} in and out"
    return Table(
        model=spec.name,
        scale=spec.scale,
        runs=runs,
        scores=scores,
        bicubic=bicubic_scores(pairs, scale=spec.scale),
    )


def by_session(session: Session, io: Io, spec: ModelSpec) -> Upscale:
    """A session opened for `io` as a function (C, H, W) -> (C, sH, sW) in 0..1.

    uint8 rounds, in and out. A size that the model does not take is filled up by repeating edges.
    """

    def upscale(planes: Array) -> Array:
        height, width = planes.shape[1:]
        size = padded((height, width), spec)
        whole = np.stack([pad(plane, size) for plane in planes])[None]
        if io == "float32":
            big = session(whole)[0]
        else:
            small = np.round(whole * 255.0).astype(np.uint8)
            big = session(small)[0].astype(np.float32) / 255.0
        return big[:, : height * spec.scale, : width * spec.scale]

    return upscale


def luma_by_session(session: Session, io: Io, spec: ModelSpec) -> Upscale:
    """The same for one plane: (H, W) -> (sH, sW)."""
    planes = by_session(session, io, spec)
    return lambda luma: planes(luma[None])[0]


def evaluate(upscale: Upscale, pairs: list[Pair], *, scale: int) -> list[Score]:
    """`upscale` takes (H, W) float32 luma in 0..1 and gives (sH, sW) in 0..1, not clamped."""
    scores = []
    for pair in pairs:
        small = (rgb_to_y(pair.lr) / 255.0).astype(np.float32)
        output = np.round(np.clip(upscale(small).astype(np.float64) * 255.0, 0.0, 255.0))
        scores.append(score(pair, output, scale=scale))
    return scores


def evaluate_rgb(upscale: Upscale, pairs: list[Pair], *, scale: int) -> list[Score]:
    """The same for (3, H, W) RGB: the output is rounded to 8 bit, then its luma is taken."""
    scores = []
    for pair in pairs:
        rgb = pair.lr if pair.lr.ndim == 3 else np.dstack([pair.lr] * 3)
        small = np.ascontiguousarray(np.moveaxis(rgb, 2, 0), dtype=np.float32) / 255.0
        output = np.round(np.clip(np.moveaxis(upscale(small), 0, 2) * 255.0, 0.0, 255.0))
        scores.append(score(pair, rgb_to_y(output.astype(np.uint8)), scale=scale))
    return scores


def score(pair: Pair, luma: Array, *, scale: int) -> Score:
    """luma: (sH, sW) BT.601 studio luma of the output on the 8-bit scale."""
    ours = crop_border(luma, border=scale)
    truth = crop_border(rgb_to_y(pair.hr), border=scale)
    return Score(name=pair.name, psnr_y=psnr(ours, truth), ssim_y=ssim(ours, truth))


def mean_score(scores: list[Score], *, name: str = "mean") -> Score:
    return Score(
        name=name,
        psnr_y=float(np.mean([s.psnr_y for s in scores])),
        ssim_y=float(np.mean([s.ssim_y for s in scores])),
    )


def bicubic_scores(pairs: list[Pair], *, scale: int) -> list[Score]:
    """What MATLAB's bicubic upscaling of the 8-bit RGB picture scores: the yardstick."""
    return [score(pair, rgb_to_y(imresize(pair.lr, scale)), scale=scale) for pair in pairs]
