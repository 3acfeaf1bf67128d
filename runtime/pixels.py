"""Pixel formats: which ones a Frame can hold, and planes in and out of FFmpeg's pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import av
import numpy as np
from av.video.format import VideoFormat

Plane = np.ndarray[Any, Any]

# (chroma columns, chroma rows) are 2**-shift of luma's -> name of the layout.
_LAYOUTS = {(1, 1): "yuv420p", (1, 0): "yuv422p", (0, 0): "yuv444p", (0, 1): "yuv440p"}
_DEPTHS = (8, 9, 10, 12, 14, 16)


def describe(name: str) -> tuple[str, int]:
    """Layout ("gray", "yuv420p", ...: the nearest one) and bits of FFmpeg's pixel format `name`.

    Alpha is left out; RGB and palettes count as 4:4:4. "nv12" -> ("yuv420p", 8).
    """
    pixel = VideoFormat(name)
    parts = [part for part in pixel.components if not part.is_alpha]
    bits = max(part.bits for part in parts)
    depth = next((depth for depth in _DEPTHS if depth >= bits), _DEPTHS[-1])
    if pixel.has_palette:
        return "yuv444p", 8
    if len(parts) == 1:
        return "gray", depth
    shift_x = (16 // pixel.chroma_width(16)).bit_length() - 1
    shift_y = (16 // pixel.chroma_height(16)).bit_length() - 1
    # 4:1:1 and 4:1:0 have no Frame of their own: they go to the next finer layout.
    return _LAYOUTS[min(shift_x, 1), min(shift_y, 1)], depth


def native(name: str) -> str:
    """The format in which a Frame holds pictures of pixel format `name`, nothing lost but alpha.

    "yuvj420p" -> "yuv420p" (its full range is a tag), "nv12" -> "yuv420p", "gbrp10le" ->
    "yuv444p10le".
    """
    layout, depth = describe(name)
    if layout == "yuv440p" and depth not in (8, 10, 12):
        layout = "yuv444p"
    return layout if depth == 8 else f"{layout}{depth}le"


def same_samples(name: str) -> bool:
    """Whether pictures of format `name` already are what `native(name)` says, tag aside."""
    return name == native(name) or name.replace("yuvj", "yuv") == native(name)


def is_rgb(name: str) -> bool:
    return bool(VideoFormat(name).is_rgb or VideoFormat(name).has_palette)


def nearest(source: str, allowed: Sequence[str]) -> str:
    """The planar YUV or gray format of `allowed` that loses least of `source`.

    Colour comes before depth, depth before chroma resolution, and of those that lose nothing the
    smallest is taken. An encoder that takes no planar YUV gives ValueError.
    """
    chroma = {"gray": 0, "yuv420p": 1, "yuv440p": 2, "yuv422p": 2, "yuv444p": 4}
    layout, depth = describe(source)

    def cost(name: str) -> tuple[bool, int, bool, int, int, bool]:
        other, bits = describe(name)
        return (
            other == "gray" != layout,
            max(depth - bits, 0),
            chroma[other] < chroma[layout] or {other, layout} == {"yuv440p", "yuv422p"},
            chroma[other] - chroma[layout],
            bits - depth,
            "yuvj" in name,
        )

    usable = [name for name in allowed if same_samples(name) and "yuvj" not in name]
    if not usable:
        raise ValueError(f"no planar YUV format among {', '.join(allowed)}")
    return min(usable, key=cost)


def lost(source: str, target: str) -> str | None:
    """What a change of format takes away, in words; None when nothing."""
    (layout, depth), (new_layout, new_depth) = describe(source), describe(target)
    losses = []
    if new_depth < depth:
        losses.append(f"{depth} bits become {new_depth}")
    order = ("gray", "yuv420p", "yuv440p", "yuv422p", "yuv444p")
    if order.index(new_layout) < order.index(layout):
        losses.append(f"{layout[:6]} chroma becomes {new_layout[:6]}")
    return " and ".join(losses) or None


def planes_of(picture: av.VideoFrame) -> tuple[Plane, ...]:
    """Views of the planes, no copy: (H, W) uint8 or uint16, read-only.

    The views keep the picture alive. They are read-only because the decoder may still predict
    later frames from this memory.
    """
    depth = picture.format.components[0].bits
    dtype = np.dtype(np.uint8 if depth == 8 else np.uint16)
    views = []
    for plane in picture.planes:
        rows = np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)  # (H, line size)
        view = rows[:, : plane.width]  # (H, W)
        view.flags.writeable = False
        views.append(view)
    return tuple(views)


def picture_of(
    planes: Sequence[Plane], format: str, *, size: tuple[int, int] | None = None
) -> av.VideoFrame:
    """A picture in FFmpeg's memory with a copy of the planes.

    size    (width, height) of the picture; what the planes do not fill repeats their edge
    """
    height, width = planes[0].shape
    full_width, full_height = size or (width, height)
    picture = av.VideoFrame(full_width, full_height, format)
    shape = VideoFormat(format, width, height)
    for target, plane, part in zip(picture.planes, planes, shape.components, strict=True):
        if plane.shape != (part.height, part.width):
            raise ValueError(
                f"a plane of a {width}x{height} {format} frame is {part.width}x{part.height}, "
                f"got {plane.shape[1]}x{plane.shape[0]}"
            )
        rows = np.frombuffer(memoryview(target), plane.dtype).reshape(
            target.height, -1
        )  # (H, line size)
        rows[: part.height, : part.width] = plane
        rows[: part.height, part.width : target.width] = plane[:, -1:]
        rows[part.height :] = rows[part.height - 1]
    return picture
