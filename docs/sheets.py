"""Make docs/sheets/: crops as bicubic, as lanczos, as every shipped model, and as they are.

    python docs/sheets.py           needs scikit-image and edgesr[cpu,train]

The models are those of the index: run it again after a training, then docs/models.py. Pictures come
with scikit-image, or are drawn here (CC0):

    astronaut   NASA (Eileen Collins); public domain
    chelsea     Stefan van der Walt; CC0
    coffee      Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0
    rocket      SpaceX (DSCOVR launch, Cape Canaveral); public domain
    camera      Lav Varshney; CC0
    brick       CC0Textures, Bricks25; CC0
    grass       linolafett, Grass-01; CC0

MATLAB's bicubic makes the small pictures. On the sheet of compressed footage they pan for eight
frames through x264, and the one in the middle is shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from compare import Array, Box, beside, by_model, likeness, panel
from skimage import data

from edgesr.bicubic import downscale, imresize
from edgesr.cards import VIDEO
from edgesr.distill.codec_draw import Encoding, Pan, degrade_photo
from edgesr.models import ShippedModel, shipped

FOLDER = Path(__file__).resolve().parent / "sheets"
ZOOM = 2
WIDE, TALL = 96, 72
CRF, PRESET = 28, "superfast"  # from veryfast on, x264's output differs from run to run (mbtree)
PAN = Pan(frames=8, take=4, velocity=(1.5, 0.5))  # pixels of the small picture a frame
LOSSLESS = 101  # of cv2's WebP qualities
STEP = 4  # of 255: pixels are rounded to multiples of it, two levels off at most


def text() -> Array:
    """Black on white and the reverse, capitals from 20 to 6 pixels tall."""
    picture = np.full((288, 384, 3), 255, np.uint8)
    picture[144:] = (30, 60, 120)
    for top, colour in ((0, (20, 20, 20)), (144, (240, 240, 230))):
        y = top + 6
        for size in (20, 16, 12, 9, 7, 6):
            y += size + 5
            font = (cv2.FONT_HERSHEY_SIMPLEX, size / 22, colour, 1, cv2.LINE_AA)
            cv2.putText(picture, "Every frame at its time: 0123456789", (6, y), *font)
    return picture


def lines() -> Array:
    """A fan of thin lines from a corner, and gratings."""
    picture = np.full((288, 384, 3), 235, np.uint8)
    for angle in range(0, 91, 3):
        end = (round(300 * np.cos(np.radians(angle))), round(300 * np.sin(np.radians(angle))))
        cv2.line(picture, (0, 0), end, (30, 30, 160), 1, cv2.LINE_AA)
    for number, period in enumerate((2, 3, 4, 6, 8)):
        stripes = np.arange(80) % period < period / 2
        top = 20 + 50 * number
        picture[top : top + 40, 300:380][:, stripes] = (40, 40, 40)
    return picture


def zone_plate() -> Array:
    """Rings that grow finer from the middle to one wave in two pixels at the sides."""
    y, x = np.mgrid[-144:144, -192:192]
    wave = 127.5 + 100 * np.cos(np.pi * (x**2 + y**2) / 384)
    return np.round(wave)[:, :, None].repeat(3, axis=2).astype(np.uint8)


@dataclass(frozen=True)
class Crop:
    picture: Callable[[], Array]
    box: Box


def at(left: int, top: int) -> Box:
    return Box(left, top, WIDE, TALL)


CROPS = {
    "astronaut": Crop(data.astronaut, at(119, 352)),
    "chelsea": Crop(data.chelsea, at(130, 80)),
    "coffee": Crop(data.coffee, at(315, 255)),
    "rocket": Crop(data.rocket, at(540, 150)),
    "camera": Crop(data.camera, at(260, 120)),
    "brick": Crop(data.brick, at(180, 0)),
    "grass": Crop(data.grass, at(200, 200)),
    "text": Crop(text, at(6, 36)),
    "lines": Crop(lines, at(60, 40)),
    "zone plate": Crop(zone_plate, at(210, 120)),
}


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """crf: of x264, through which the small pictures go; None: they do not."""

    title: str
    scale: int
    rows: tuple[str, ...]
    crf: int | None = None


def compressed(scale: int, *rows: str) -> Sheet:
    return Sheet(
        title=f"x{scale}, compressed: x264 {PRESET} at CRF {CRF}",
        scale=scale,
        rows=rows,
        crf=CRF,
    )


SHEETS = {
    "x2": Sheet(title="x2", scale=2, rows=tuple(CROPS)),
    "x4": Sheet(title="x4", scale=4, rows=tuple(CROPS)),
    f"x2-crf{CRF}": compressed(2, "astronaut", "chelsea", "coffee", "rocket", "text"),
    f"x4-crf{CRF}": compressed(4, "astronaut", "coffee"),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    models = shipped()
    sheets = {name: draw(name, sheet, models) for name, sheet in SHEETS.items()}
    for family in dict.fromkeys(model.family for model in models):
        example(family, [model for model in models if model.family == family])
    values = {"models": {model.name: digest(model.onnx) for model in models}, "sheets": sheets}
    (FOLDER / "sheets.json").write_text(json.dumps(values, indent=1) + "\n")
    whole = sum(file.stat().st_size for file in FOLDER.iterdir())
    print(f"{FOLDER}: {whole / 1000:.0f} kB")  # noqa: T201


def draw(name: str, sheet: Sheet, models: Sequence[ShippedModel]) -> dict[str, Any]:
    """Write a sheet. Returns what is known of it: PSNR-Y in dB, row by row."""
    wanted = [model for model in models if model.spec.scale == sheet.scale]
    strips, scores = [], {}
    for row in sheet.rows:
        pictures = compared(CROPS[row].picture(), wanted, scale=sheet.scale, crf=sheet.crf)
        scores[row] = rated(pictures, scale=sheet.scale)
        strips.append(strip(pictures, scores[row], CROPS[row].box))
    save(name, strips)
    return {"title": sheet.title, "psnr_y": scores}


def example(family: str, models: Sequence[ShippedModel]) -> None:
    """Write one picture of a family: a row for each scale."""
    crop, crf = CROPS["astronaut"], CRF if family.endswith(VIDEO) else None
    strips = []
    for model in models:
        scale = model.spec.scale
        made = compared(crop.picture(), [model], scale=scale, crf=crf)
        pictures = {
            f"bicubic x{scale}": made["bicubic"],
            family: made[family],
            "truth": made["truth"],
        }
        strips.append(strip(pictures, rated(pictures, scale=scale), crop.box))
    save(family, strips)


def compared(
    truth: Array, models: Sequence[ShippedModel], *, scale: int, crf: int | None
) -> dict[str, Array]:
    """The picture, shrunk and enlarged again in each way, and itself: (H, W, 3) RGB uint8."""
    truth = np.atleast_3d(truth)
    truth = truth[: truth.shape[0] // scale * scale, : truth.shape[1] // scale * scale]
    truth = np.ascontiguousarray(np.broadcast_to(truth, (*truth.shape[:2], 3)))
    small = downscale(truth, scale)
    if crf is not None:
        small = degrade_photo(small, Encoding(codec="libx264", crf=crf, preset=PRESET), PAN)
    return {
        "bicubic": imresize(small, scale),
        "lanczos": lanczos(small, scale=scale),
        **{model.family: by_model(model.name, small, scale=scale) for model in models},
        "truth": truth,
    }


def rated(pictures: Mapping[str, Array], *, scale: int) -> dict[str, float]:
    """PSNR-Y in dB of each picture but the truth."""
    truth = pictures["truth"]
    return {
        name: round(likeness(picture, truth, scale=scale), 2)
        for name, picture in pictures.items()
        if name != "truth"
    }


def strip(pictures: Mapping[str, Array], scores: Mapping[str, float], box: Box) -> Array:
    labels = {name: f"{name}  {score:.1f}" for name, score in scores.items()}
    return beside(
        [
            panel(box.cut(picture), labels.get(name, name), zoom=ZOOM)
            for name, picture in pictures.items()
        ]
    )


def lanczos(small: Array, *, scale: int) -> Array:
    """FFmpeg's, plane by plane: of RGB its scaler would halve the colours' resolution."""
    reformatter = VideoReformatter()
    size = {"width": small.shape[1] * scale, "height": small.shape[0] * scale}
    planes = []
    for plane in np.moveaxis(small, 2, 0):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(plane), format="gray")
        big = reformatter.reformat(frame, **size, format="gray", interpolation="LANCZOS")
        planes.append(big.to_ndarray())
    return np.stack(planes, axis=2)


def save(name: str, strips: Sequence[Array]) -> None:
    """Lossless but for the last bits: WebP's lossy form halves the colours and rings at edges."""
    whole = np.concatenate(strips, axis=0)
    coarse = np.minimum(np.round(whole / STEP) * STEP, 255).astype(np.uint8)
    file = FOLDER / f"{name}.webp"
    cv2.imwrite(str(file), coarse[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, LOSSLESS])


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
