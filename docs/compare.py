"""Make docs/comparison.png: one crop as bicubic, as edgesr and as it is, a pixel shown as 3x3.

    python docs/compare.py          needs scikit-image and edgesr[cpu]

The picture is scikit-image's `astronaut` (NASA; public domain). MATLAB's bicubic halves it, then
bicubic and the default model double it again; the labels give PSNR-Y of the whole picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import data

import edgesr
from edgesr.bicubic import downscale, imresize
from edgesr.metrics import crop_border, psnr, rgb_to_y
from edgesr.models import DEFAULT_MODEL

Array = np.ndarray[Any, Any]

OUT = Path(__file__).resolve().parent / "comparison.png"
SCALE, ZOOM = 2, 3
GAP, LABEL = 6, 30


@dataclass(frozen=True)
class Box:
    """Part of a picture, in its pixels."""

    left: int
    top: int
    wide: int
    tall: int

    def cut(self, picture: Array) -> Array:
        return picture[self.top : self.top + self.tall, self.left : self.left + self.wide]


PATCH = Box(118, 344, 98, 92)


def main() -> None:
    truth = data.astronaut()
    small = downscale(truth, SCALE)
    bicubic = imresize(small, SCALE)
    ours = by_model(DEFAULT_MODEL, small, scale=SCALE)
    labels = {
        f"bicubic, {likeness(bicubic, truth, scale=SCALE):.1f} dB": bicubic,
        f"edgesr {DEFAULT_MODEL}, {likeness(ours, truth, scale=SCALE):.1f} dB": ours,
        "truth": truth,
    }
    whole = beside([panel(PATCH.cut(p), label, zoom=ZOOM) for label, p in labels.items()])
    cv2.imwrite(str(OUT), whole[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{OUT}: {whole.shape[1]}x{whole.shape[0]}, {OUT.stat().st_size / 1000:.0f} kB")  # noqa: T201


def by_model(name: str, small: Array, *, scale: int) -> Array:
    with edgesr.load(name, scale=scale, backend="ort", precision="fp32") as upscale:
        return upscale(small)


def likeness(picture: Array, truth: Array, *, scale: int) -> float:
    """PSNR-Y by the published protocol."""
    ours, theirs = (crop_border(rgb_to_y(p), border=scale) for p in (picture, truth))
    return psnr(ours, theirs)


def panel(crop: Array, label: str, *, zoom: int) -> Array:
    """The crop, enlarged without any smoothing, below its label."""
    big = crop.repeat(zoom, axis=0).repeat(zoom, axis=1)
    strip = np.full((LABEL, big.shape[1], 3), 255, np.uint8)
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    cv2.putText(strip, label, (4, 20), *font)
    return np.concatenate([strip, big], axis=0)


def beside(panels: Sequence[Array]) -> Array:
    """Panels of one size in a row, a white gap between."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    row = [panels[0]]
    for other in panels[1:]:
        row += [gap, other]
    return np.concatenate(row, axis=1)


if __name__ == "__main__":
    main()
