"""Frame: the pixels of one picture and everything that must arrive with them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class ColourTags:
    """What the decoder said of the colours, as FFmpeg's enumeration values (ITU-T H.273).

    range   1: studio ("tv"), 2: full ("pc"), 0: not said
    siting  chroma location: 1 left, 2 centre, 3 top left, ...; 0 not said (taken as left)
    """

    range: int = 0
    matrix: int = 2
    primaries: int = 2
    transfer: int = 2
    siting: int = 0


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One picture: planes, when it is shown, and how to read its colours.

    planes      Y, or Y Cb Cr: (H, W) uint8 for depth 8, uint16 holding `depth` bits above that;
                chroma planes are smaller by the subsampling of `format`; alpha is not carried
    format      FFmpeg's name of the pixel format, always planar YUV or gray ("yuv420p10le")
    pts         presentation time in units of time_base
    duration    in units of time_base, 0 when unknown
    sar         sample aspect ratio (width / height of a pixel); None when not said
    """

    planes: tuple[np.ndarray[Any, Any], ...]
    format: str
    depth: int
    pts: int
    time_base: Fraction
    duration: int = 0
    colour: ColourTags = ColourTags()
    sar: Fraction | None = None

    def __post_init__(self) -> None:
        if len(self.planes) not in (1, 3):
            raise ValueError(f"a frame has 1 or 3 planes, got {len(self.planes)}")
        dtype = np.uint8 if self.depth == 8 else np.uint16
        for plane in self.planes:
            if plane.ndim != 2 or plane.dtype != dtype:
                raise ValueError(
                    f"a {self.depth}-bit plane is (H, W) {dtype.__name__}, "
                    f"got {plane.shape} {plane.dtype}"
                )

    @property
    def height(self) -> int:
        return int(self.planes[0].shape[0])

    @property
    def width(self) -> int:
        return int(self.planes[0].shape[1])

    @property
    def time(self) -> Fraction:
        """When the frame is shown, in seconds."""
        return self.pts * self.time_base

    def replace(self, **changes: Any) -> Frame:
        return dataclasses.replace(self, **changes)

    def __repr__(self) -> str:
        seconds = float(self.time)
        return f"Frame({self.width}x{self.height} {self.format}, pts={self.pts}, {seconds:.3f} s)"
