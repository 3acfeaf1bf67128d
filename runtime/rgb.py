"""Frames for RGB models: Y'CbCr to RGB and back, by the stream's own matrix, range and siting."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgesr.colour import (
    BT601,
    BT709,
    chroma_of_luma_size,
    chroma_to_luma_size,
    rgb_to_ycbcr,
    subsampling,
    ycbcr_to_rgb_float,
)
from edgesr.runtime.frame import ColourTags, Frame

Array = np.ndarray[Any, Any]

FULL_RANGE = 2  # ColourTags.range
NOT_SAID = 2  # ColourTags.matrix
HD_HEIGHT = 720


def matrix_of(colour: ColourTags, *, height: int) -> int:
    """Where the stream does not say its matrix, what players take: BT.709 from 720 lines on."""
    if colour.matrix != NOT_SAID:
        return colour.matrix
    return BT709 if height >= HD_HEIGHT else BT601


def to_rgb(frame: Frame) -> Array:
    """(3, H, W) float32, black 0 and white 1, unclamped; gray three times over.

    Raises UsageError for a matrix that is not BT.601, BT.709 or BT.2020.
    """
    scale = np.float32(1 / (1 << (frame.depth - 8)))  # to the 8-bit scale
    full = frame.colour.range == FULL_RANGE
    if full:
        scale = np.float32(255 / ((1 << frame.depth) - 1))
    luma = frame.planes[0].astype(np.float32) * scale
    if len(frame.planes) == 1:
        chroma = [np.full_like(luma, 128.0)] * 2
    else:
        chroma = [
            chroma_to_luma_size(
                plane.astype(np.float32) * scale, luma=luma.shape, siting=frame.colour.siting
            )
            for plane in frame.planes[1:]
        ]
    matrix = matrix_of(frame.colour, height=frame.height)
    rgb = ycbcr_to_rgb_float(np.dstack([luma, *chroma]), matrix=matrix, full=full)
    rgb *= np.float32(1 / 255)
    return np.ascontiguousarray(np.moveaxis(rgb, 2, 0))


def from_rgb(rgb: Array, *, like: Frame) -> tuple[Array, ...]:
    """(3, sH, sW) in 0..1 -> planes of the format, matrix, range and siting of `like`."""
    peak = (1 << like.depth) - 1
    full = like.colour.range == FULL_RANGE
    scale = np.float32(peak / 255 if full else 1 << (like.depth - 8))
    picture = np.moveaxis(np.clip(rgb, 0.0, 1.0), 0, 2) * np.float32(255)
    matrix = matrix_of(like.colour, height=like.height)
    ycbcr = rgb_to_ycbcr(picture, matrix=matrix, full=full)
    planes = [ycbcr[..., 0]]
    if len(like.planes) == 3:
        factors = subsampling(like.planes[0].shape, like.planes[1].shape)
        planes += [
            chroma_of_luma_size(
                np.ascontiguousarray(ycbcr[..., c]), factors=factors, siting=like.colour.siting
            )
            for c in (1, 2)
        ]
    dtype = np.uint8 if like.depth == 8 else np.uint16
    return tuple(np.clip(np.rint(plane * scale), 0, peak).astype(dtype) for plane in planes)
