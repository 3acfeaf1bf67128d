"""Make docs/sample.mp4, the clip that README and benchmarks use: 6 s, 640x360, with sound.

    python docs/make_sample.py          needs scikit-image, which brings the pictures

All of them are free of rights, and so is the clip (CC0):

    coffee      Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0
    astronaut   NASA (Eileen Collins); public domain
    rocket      SpaceX (DSCOVR launch, Cape Canaveral); public domain
    hubble      NASA (Hubble eXtreme Deep Field); public domain

The sound is made up here. No picture is enlarged: every frame has real detail up to its last pixel.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from skimage import data

Array = np.ndarray[Any, Any]

OUT = Path(__file__).resolve().parent / "sample.mp4"
WIDTH, HEIGHT, RATE = 640, 360, 24
SOUND_RATE = 48_000
BT709 = 1


def main() -> None:
    frames = [*shelf(72), *launch(36), *sky(36)]
    with av.open(str(OUT), "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"crf": "20", "preset": "veryslow"}
        context = video.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1  # studio
        sound = container.add_stream("aac", rate=SOUND_RATE, layout="mono", bit_rate=48_000)
        for index, picture in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace=BT709, dst_color_range=1)
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        samples = av.AudioFrame.from_ndarray(tone(len(frames) / RATE), format="fltp", layout="mono")
        samples.sample_rate, samples.pts = SOUND_RATE, 0
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    print(f"{OUT}: {len(frames)} frames, {OUT.stat().st_size / 1000:.0f} kB")  # noqa: T201


def shelf(count: int) -> list[Array]:
    """Past two pictures that stand side by side, from left to right."""
    pictures = [data.coffee(), data.astronaut()[:400]]
    strip = np.concatenate([shrink(p, HEIGHT / 400) for p in pictures], axis=1)
    way = strip.shape[1] - WIDTH
    return [view(strip, x=way * ease(i, count), y=0.0) for i in range(count)]


def launch(count: int) -> list[Array]:
    """Down a picture, at its own size."""
    picture = data.rocket()
    way = picture.shape[0] - HEIGHT
    return [view(picture, x=0.0, y=way * ease(i, count)) for i in range(count)]


def sky(count: int) -> list[Array]:
    """Out of the middle of a picture: it is shown at 1 to 0.64 times its size."""
    picture = data.hubble_deep_field()
    height, width = picture.shape[:2]
    frames = []
    for i in range(count):
        wide = WIDTH + (width - WIDTH) * ease(i, count)
        tall = wide * HEIGHT / WIDTH
        crop = cv2.getRectSubPix(picture, (round(wide), round(tall)), (width / 2, height / 2))
        frames.append(np.asarray(cv2.resize(crop, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)))
    return frames


def view(picture: Array, *, x: float, y: float) -> Array:
    """The WIDTH x HEIGHT pixels at (x, y), between pixels too: a pan that does not jerk."""
    shift = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
    return np.asarray(
        cv2.warpAffine(
            picture,
            shift,
            (WIDTH, HEIGHT),
            flags=cv2.INTER_LANCZOS4,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


def shrink(picture: Array, factor: float) -> Array:
    size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def ease(index: int, count: int) -> float:
    """0 to 1, slow at both ends."""
    return float(0.5 - 0.5 * np.cos(np.pi * index / (count - 1)))


def tone(seconds: float) -> Array:
    """A soft chord that swells and fades: (1, samples) float32."""
    time = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) / pitch for pitch in (220.0, 277.18, 329.63))
    swell = np.sin(np.pi * time / seconds) ** 2
    return (20.0 * chord * swell)[None].astype(np.float32)


if __name__ == "__main__":
    main()
