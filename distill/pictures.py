"""Pictures by the published protocol: pairs from a folder, what a model makes of them, scores.

Luma models: 8-bit RGB LR -> unrounded BT.601 studio Y / 255 -> model -> x255, clip, round. RGB
models: 8-bit RGB LR / 255 -> model -> x255, clip, round -> unrounded Y. Against the unrounded Y of
the truth; `scale` pixels cropped on each side; mean of the per-picture values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesr.bicubic import downscale, imresize
from edgesr.colour import rgb_to_ycbcr, ycbcr_to_rgb
from edgesr.distill.data import SUFFIXES, decode_picture
from edgesr.distill.scores import MOST_DB, Score
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import MS_SSIM_SMALLEST, crop_border, ms_ssim, psnr, rgb_to_y, ssim
from edgesr.runtime.backends import Io, Session
from edgesr.runtime.upscale import pad, padded
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]
Upscale = Callable[[Array], Array]
Lpips = Callable[[Array, Array], float]  # two (H, W, 3) uint8 RGB pictures

SMALLEST = 11  # SSIM's window
LPIPS_SMALLEST = 32  # AlexNet's last layer sees one pixel of it


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One test picture: the small one and the truth, (H, W, 3) RGB or (H, W) gray uint8."""

    name: str
    lr: Array
    hr: Array


@dataclass(frozen=True, kw_only=True)
class More:
    """What is measured beside PSNR-Y and SSIM-Y, and PSNR-RGB of RGB models."""

    ms_ssim: bool = False
    lpips: Lpips | None = None


NOTHING_MORE = More()


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
        check_sizes(hr.shape[:2], lr.shape[:2], names=(file.name, small.name), scale=scale)
        pairs.append(Pair(name=file.stem.removesuffix("_HR"), lr=lr, hr=hr))
    if not pairs:
        raise UsageError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    return pairs


def check_sizes(
    hr: tuple[int, ...], lr: tuple[int, ...], *, names: tuple[str, str], scale: int
) -> None:
    """(H, W) of both; names: of the truth and of the small one. Raises MediaError, UsageError."""
    if (lr[0] * scale, lr[1] * scale) != (hr[0], hr[1]):
        raise MediaError(
            f"{names[1]} is {lr[1]}x{lr[0]}, which is not 1/{scale} of "
            f"{names[0]} ({hr[1]}x{hr[0]}): is it another scale?"
        )
    if min(hr) < SMALLEST + 2 * scale:
        raise UsageError(
            f"{names[0]} is {hr[1]}x{hr[0]}: SSIM at x{scale} needs "
            f"{SMALLEST + 2 * scale} pixels a side"
        )


def read_picture(file: Path) -> Array:
    """(H, W, 3) RGB or (H, W) gray uint8."""
    picture = decode_picture(file, cv2.IMREAD_ANYCOLOR)
    return picture if picture.ndim == 2 else picture[:, :, ::-1]


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


def luma_output(upscale: Upscale, lr: Array) -> Array:
    """(sH, sW) luma in 0..255, clipped and rounded, of a function of (H, W) luma in 0..1."""
    small = (rgb_to_y(lr) / 255.0).astype(np.float32)
    return np.round(np.clip(upscale(small).astype(np.float64) * 255.0, 0.0, 255.0))


def rgb_output(upscale: Upscale, lr: Array) -> Array:
    """(sH, sW, 3) uint8 of a function of (3, H, W) RGB in 0..1."""
    small = np.ascontiguousarray(np.moveaxis(three_channels(lr), 2, 0), dtype=np.float32) / 255.0
    output = np.moveaxis(upscale(small), 0, 2) * 255.0
    return np.round(np.clip(output, 0.0, 255.0)).astype(np.uint8)


def three_channels(picture: Array) -> Array:
    return picture if picture.ndim == 3 else np.dstack([picture] * 3)


def coloured(luma: Array, lr: Array) -> Array:
    """The picture of a luma model: its (sH, sW) luma and MATLAB-bicubic colour, as uint8 RGB."""
    scale = luma.shape[0] // lr.shape[0]
    small = rgb_to_ycbcr(three_channels(lr))[..., 1:]
    return ycbcr_to_rgb(np.dstack([luma, imresize(small, scale)]))


def evaluate(
    upscale: Upscale, pairs: Sequence[Pair], *, scale: int, more: More = NOTHING_MORE
) -> list[Score]:
    """`upscale` takes (H, W) float32 luma in 0..1 and gives (sH, sW) in 0..1, not clamped."""
    return [score(pair, luma_output(upscale, pair.lr), scale=scale, more=more) for pair in pairs]


def evaluate_rgb(
    upscale: Upscale, pairs: Sequence[Pair], *, scale: int, more: More = NOTHING_MORE
) -> list[Score]:
    """The same for (3, H, W) RGB: the output is rounded to 8 bit, then its luma is taken."""
    return [score_rgb(pair, rgb_output(upscale, pair.lr), scale=scale, more=more) for pair in pairs]


def score(pair: Pair, luma: Array, *, scale: int, more: More = NOTHING_MORE) -> Score:
    """luma: (sH, sW) BT.601 studio luma of the output on the 8-bit scale.

    LPIPS sees it with bicubic colour.
    """
    colour = coloured(luma, pair.lr) if more.lpips is not None else None
    return scored(pair, luma, colour, scale=scale, more=more)


def score_rgb(pair: Pair, rgb: Array, *, scale: int, more: More = NOTHING_MORE) -> Score:
    """rgb: (sH, sW, 3) or gray (sH, sW) output, uint8."""
    result = scored(pair, rgb_to_y(rgb), rgb, scale=scale, more=more)
    ours, truth = (crop_border(three_channels(p), border=scale) for p in (rgb, pair.hr))
    return result.replace(psnr_rgb=min(psnr(ours, truth), MOST_DB))


def scored(pair: Pair, luma: Array, colour: Array | None, *, scale: int, more: More) -> Score:
    ours = crop_border(luma, border=scale)
    truth = crop_border(rgb_to_y(pair.hr), border=scale)
    multi = more.ms_ssim and min(ours.shape) >= MS_SSIM_SMALLEST
    lpips = None
    if more.lpips is not None and colour is not None and min(ours.shape) >= LPIPS_SMALLEST:
        lpips = more.lpips(
            *(crop_border(three_channels(p), border=scale) for p in (colour, pair.hr))
        )
    return Score(
        name=pair.name,
        psnr_y=min(psnr(ours, truth), MOST_DB),
        ssim_y=ssim(ours, truth),
        ms_ssim_y=ms_ssim(ours, truth) if multi else None,
        lpips=lpips,
    )


def bicubic_scores(
    pairs: Sequence[Pair], *, scale: int, rgb: bool = False, more: More = NOTHING_MORE
) -> list[Score]:
    """What MATLAB's bicubic upscaling of the 8-bit RGB picture scores: the yardstick.

    rgb: beside an RGB model, with PSNR-RGB.
    """
    scores = [score_rgb(p, imresize(p.lr, scale), scale=scale, more=more) for p in pairs]
    return scores if rgb else [s.replace(psnr_rgb=None) for s in scores]
