"""PSNR-Y and SSIM-Y of a model over a folder of pictures, by the published protocol.

8-bit RGB LR -> unrounded BT.601 studio Y / 255 -> model -> x255, clip, round; against the unrounded
Y of the truth; `scale` pixels cropped on each side; mean of the per-picture values. No torch here:
a model is any function of luma.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesr.bicubic import downscale, imresize
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import crop_border, psnr, rgb_to_y, ssim

Array = np.ndarray[Any, Any]
Upscale = Callable[[Array], Array]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
        pairs.append(Pair(name=file.stem.removesuffix("_HR"), lr=lr, hr=hr))
    if not pairs:
        raise UsageError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    return pairs


def read_picture(file: Path) -> Array:
    """(H, W, 3) RGB or (H, W) gray uint8."""
    picture = cv2.imdecode(np.fromfile(file, dtype=np.uint8), cv2.IMREAD_ANYCOLOR)
    if picture is None:
        raise MediaError(f"{file}: not a picture that can be read")
    return picture if picture.ndim == 2 else np.asarray(picture)[:, :, ::-1]


def evaluate(upscale: Upscale, pairs: list[Pair], *, scale: int) -> list[Score]:
    """`upscale` takes (H, W) float32 luma in 0..1 and gives (sH, sW) in 0..1, not clamped."""
    scores = []
    for pair in pairs:
        small = (rgb_to_y(pair.lr) / 255.0).astype(np.float32)
        output = np.round(np.clip(upscale(small).astype(np.float64) * 255.0, 0.0, 255.0))
        ours = crop_border(output, border=scale)
        truth = crop_border(rgb_to_y(pair.hr), border=scale)
        scores.append(Score(name=pair.name, psnr_y=psnr(ours, truth), ssim_y=ssim(ours, truth)))
    return scores


def mean_score(scores: list[Score], *, name: str = "mean") -> Score:
    return Score(
        name=name,
        psnr_y=float(np.mean([s.psnr_y for s in scores])),
        ssim_y=float(np.mean([s.ssim_y for s in scores])),
    )


def bicubic_scores(pairs: list[Pair], *, scale: int) -> list[Score]:
    """What MATLAB's bicubic upscaling of the 8-bit RGB picture scores: the yardstick."""
    scores = []
    for pair in pairs:
        ours = crop_border(rgb_to_y(imresize(pair.lr, scale)), border=scale)
        truth = crop_border(rgb_to_y(pair.hr), border=scale)
        scores.append(Score(name=pair.name, psnr_y=psnr(ours, truth), ssim_y=ssim(ours, truth)))
    return scores
