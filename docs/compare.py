"""Make docs/comparison.png: one crop as bicubic, as edgesr and as it is, a pixel shown as 3x3.

    python docs/compare.py          needs scikit-image and edgesr[cpu]

The picture is scikit-image's `astronaut` (NASA; public domain). MATLAB's bicubic halves it, then
bicubic and the default model double it again; the labels give PSNR-Y of the whole picture.
"""

from __future__ import annotations

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
LEFT, TOP, WIDE, TALL = 118, 344, 98, 92
GAP, LABEL = 6, 30


def main() -> None:
    truth = data.astronaut()
    small = downscale(truth, SCALE)
    bicubic = imresize(small, SCALE)
    with edgesr.load(DEFAULT_MODEL, scale=SCALE, precision="fp32") as upscale:
        ours = upscale(small)
    panels = [
        panel(bicubic, f"bicubic, {likeness(bicubic, truth):.1f} dB"),
        panel(ours, f"edgesr {DEFAULT_MODEL}, {likeness(ours, truth):.1f} dB"),
        panel(truth, "truth"),
    ]
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    whole = np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1)
    cv2.imwrite(str(OUT), whole[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    print(f"{OUT}: {whole.shape[1]}x{whole.shape[0]}, {OUT.stat().st_size / 1000:.0f} kB")  # noqa: T201


def likeness(picture: Array, truth: Array) -> float:
    """PSNR-Y by the published protocol."""
    ours, theirs = (crop_border(rgb_to_y(p), border=SCALE) for p in (picture, truth))
    return psnr(ours, theirs)


def panel(picture: Array, label: str) -> Array:
    """The crop, enlarged without any smoothing, below its label."""
    crop = picture[TOP : TOP + TALL, LEFT : LEFT + WIDE]
    big = crop.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)
    strip = np.full((LABEL, big.shape[1], 3), 255, np.uint8)
    font = (cv2.FONT_HERSHEY_SIMPLEX, 0.5, (30, 30, 30), 1, cv2.LINE_AA)
    cv2.putText(strip, label, (4, 20), *font)
    return np.concatenate([strip, big], axis=0)


if __name__ == "__main__":
    main()
