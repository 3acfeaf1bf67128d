"""Static HDR facts of a stream: read from a decoded picture, written as encoder options."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av

# Side data of single pictures that no encoder here takes, and how to name it.
NOT_CARRIED = {
    "DYNAMIC_HDR_PLUS": "HDR10+ dynamic metadata",
    "DYNAMIC_HDR_VIVID": "HDR Vivid dynamic metadata",
    "DOVI_METADATA": "Dolby Vision metadata",
    "DOVI_RPU_BUFFER": "Dolby Vision metadata",
    "A53_CC": "closed captions inside the video (CEA-608/708)",
    "STEREO3D": "stereo 3D layout",
    "SPHERICAL": "spherical (360 degree) projection",
    "ICC_PROFILE": "ICC profile",
}


@dataclass(frozen=True, kw_only=True)
class Mastering:
    """The display a film was graded on (SMPTE ST 2086) and its light levels (CTA 861.3).

    primaries   CIE 1931 (x, y) of red, green, blue and the white point; None when not said
    luminance   (lowest, highest) in cd/m2; (0, 0) when not said
    light       (MaxCLL, MaxFALL) in cd/m2; None when not said
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] | None = None
    luminance: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))
    light: tuple[int, int] | None = None

    def __bool__(self) -> bool:
        return self.light is not None or self.primaries is not None

    def encoder_options(self, encoder: str) -> dict[str, str]:
        """Options by which `encoder` writes these facts; {} when it cannot."""
        if encoder not in _SPELLINGS:
            return {}
        option, display_key, light_key, in_units = _SPELLINGS[encoder]
        parts = []
        if self.primaries is not None:
            display = _display(self.primaries, self.luminance, in_units=in_units)
            parts.append(f"{display_key}={display}")
        if self.light is not None:
            parts.append(f"{light_key}={self.light[0]},{self.light[1]}")
        return {option: ":".join(parts)} if parts else {}


def _display(
    primaries: Sequence[tuple[Fraction, Fraction]],
    luminance: tuple[Fraction, Fraction],
    *,
    in_units: bool,
) -> str:
    red, green, blue, white = primaries

    def number(value: Fraction, unit: int) -> str:
        return str(round(value * unit)) if in_units else f"{float(value):.6g}"

    points = zip(("G", "B", "R", "WP"), (green, blue, red, white), strict=True)
    text = "".join(f"{n}({number(x, 50000)},{number(y, 50000)})" for n, (x, y) in points)
    low, high = luminance
    return f"{text}L({number(high, 10000)},{number(low, 10000)})"


# encoder -> (option, key of the display, key of the light levels, integers in ST 2086 units)
_SPELLINGS = {
    "libx264": ("x264-params", "mastering-display", "cll", True),
    "libx265": ("x265-params", "master-display", "max-cll", True),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", False),
}


def side_data(picture: av.VideoFrame) -> dict[str, bytes]:
    """Side data of one picture by FFmpeg's short name ("DISPLAYMATRIX")."""
    try:
        found: Any = picture.side_data  # its stub knows motion vectors alone
        return {found[i].type.name: bytes(found[i]) for i in range(len(found))}
    except ValueError:  # a type newer than this PyAV
        return {}


def mastering_of(data: dict[str, bytes]) -> Mastering:
    """Read AVMasteringDisplayMetadata and AVContentLightMetadata."""
    primaries = light = None
    luminance = (Fraction(0), Fraction(0))
    if len(raw := data.get("MASTERING_DISPLAY_METADATA", b"")) >= 88:
        numbers = struct.unpack("=22i", raw[:88])
        pairs = zip(numbers[0:20:2], numbers[1:20:2], strict=True)
        values = [Fraction(top, bottom) if bottom else Fraction(0) for top, bottom in pairs]
        if numbers[20]:
            primaries = tuple(zip(values[0:8:2], values[1:8:2], strict=True))
        if numbers[21]:
            luminance = (values[8], values[9])
    if len(raw := data.get("CONTENT_LIGHT_LEVEL", b"")) >= 8:
        most, average = struct.unpack("=2I", raw[:8])
        light = (most, average)
    return Mastering(primaries=primaries, luminance=luminance, light=light)
