"""Picture files: PNG, JPEG, WebP, TIFF and BMP in and out, with what stands beside the pixels.

OpenCV reads and writes them. 8 and 16 bit, gray, colour and alpha are kept. The orientation that a
camera noted (EXIF) is applied to the pixels, and the note set to "upright". EXIF and ICC profile go
from and to PNG, JPEG and WebP; OpenCV cannot write them to TIFF and BMP, nor read them from TIFF.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesr.errors import MediaError, MissingDependency, UsageError
from edgesr.runtime.partfile import PartFile

Array = np.ndarray[Any, Any]

# What is written, and how: JPEG and WebP at quality 95, the others without loss.
WRITTEN: dict[str, list[int]] = {
    ".png": [],
    ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 95],
    ".webp": [cv2.IMWRITE_WEBP_QUALITY, 95],
    ".tif": [],
    ".tiff": [],
    ".bmp": [],
}
READ = (*WRITTEN, ".jp2", ".gif", ".avif", ".pgm", ".ppm", ".pbm", ".pnm")
_16_BIT = (".png", ".tif", ".tiff")
_ALPHA = (".png", ".webp", ".tif", ".tiff")
_METADATA = (".png", ".jpg", ".jpeg", ".webp")
_SEVERAL = (".tif", ".tiff", ".webp", ".gif", ".png")  # may hold more than one picture

_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    3: (cv2.ROTATE_180, None),
    6: (cv2.ROTATE_90_CLOCKWISE, None),
    8: (cv2.ROTATE_90_COUNTERCLOCKWISE, None),
    2: (None, 1),
    4: (None, 0),
    5: (cv2.ROTATE_90_CLOCKWISE, 1),
    7: (cv2.ROTATE_90_COUNTERCLOCKWISE, 1),
}  # value -> (turn, then the axis to mirror: 1 left and right, 0 top and bottom)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """pixels: (H, W) gray or (H, W, 3) RGB; alpha: (H, W) or None; uint8 or uint16, upright.

    exif, icc    blobs as they stood in the file, the orientation in exif set to 1; empty: none
    """

    pixels: Array
    alpha: Array | None = None
    exif: bytes = b""
    icc: bytes = b""


def read(path: Path) -> tuple[Picture, list[str]]:
    """A picture, and a line for each thing in the file that is left behind.

    Raises MediaError when the file cannot be read or holds no such picture.
    """
    if not hasattr(cv2, "imdecodeWithMetadata"):
        raise MissingDependency(
            f"OpenCV {cv2.__version__} cannot read EXIF: pip install 'opencv-python-headless>=4.13'"
        )
    try:
        data = path.read_bytes()
        if not data:
            raise MediaError(f"{path} is empty")
        pixels, kinds, blobs = cv2.imdecodeWithMetadata(
            np.frombuffer(data, np.uint8),
            flags=cv2.IMREAD_UNCHANGED,  # by name: 4 and 5 differ
        )
    except MediaError:
        raise
    except OSError as error:
        raise MediaError(f"cannot read {path}: {error.strerror or error}") from error
    except cv2.error as error:  # more pixels than OpenCV's limit, for one
        raise MediaError(f"{path} cannot be decoded: {_line(error)}") from error
    if pixels is None:
        raise MediaError(f"{path} is not a picture that can be read, or is damaged")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise MediaError(f"{path} has {pixels.dtype} samples: 8 and 16 bit can be upscaled")
    found = {kind: np.asarray(blob).tobytes() for kind, blob in zip(kinds, blobs, strict=True)}
    exif, orientation = _upright(found.get(cv2.IMAGE_METADATA_EXIF, b""))
    pixels = _turn(pixels, orientation)
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2:] == (4,) else None
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels[..., :3], cv2.COLOR_BGR2RGB)
    picture = Picture(
        pixels=pixels, alpha=alpha, exif=exif, icc=found.get(cv2.IMAGE_METADATA_ICCP, b"")
    )
    return picture, _left_behind(path)


def write(picture: Picture, path: Path, *, source: Path, overwrite: bool) -> list[str]:
    """Write it under its name once it is complete; a line for each thing that the format loses.

    Raises UsageError for a target that cannot be meant (see `check_target`), MediaError when it
    cannot be written.
    """
    check_target(path)
    suffix, pixels, alpha, losses = path.suffix.lower(), picture.pixels, picture.alpha, []
    if pixels.dtype == np.uint16 and suffix not in _16_BIT:
        losses.append(f"{path}: 16 bits become 8, as {suffix} holds no more (.png and .tif do)")
        pixels = _eight_bits(pixels)
        alpha = None if alpha is None else _eight_bits(alpha)
    if alpha is not None and suffix not in _ALPHA:
        losses.append(f"{path}: alpha is lost, as {suffix} holds none (.png, .webp and .tif do)")
        alpha = None
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    if alpha is not None:
        pixels = np.dstack([pixels if pixels.ndim == 3 else np.dstack([pixels] * 3), alpha])
    tags = {cv2.IMAGE_METADATA_EXIF: picture.exif, cv2.IMAGE_METADATA_ICCP: picture.icc}
    blobs = {kind: np.frombuffer(blob, np.uint8) for kind, blob in tags.items() if blob}
    if blobs and suffix not in _METADATA:
        names = " and ".join(
            n for n, b in (("EXIF", picture.exif), ("ICC profile", picture.icc)) if b
        )
        losses.append(f"{path}: {names} not carried to {suffix} (.png, .jpg and .webp can)")
        blobs = {}
    target = PartFile(path, source=source, overwrite=overwrite)
    try:
        # Into memory first: OpenCV's writer would take the format from the temporary name.
        good, data = cv2.imencodeWithMetadata(
            suffix, pixels, list(blobs), list(blobs.values()), WRITTEN[suffix]
        )
        if not good:
            raise MediaError(f"{path}: {suffix} cannot hold {pixels.shape[1]}x{pixels.shape[0]}")
        target.path.write_bytes(data.tobytes())
        target.commit()
    except cv2.error as error:
        target.discard()
        raise MediaError(f"{path} cannot be encoded: {_line(error)}") from error
    except MediaError:
        raise
    except OSError as error:
        target.discard()
        raise MediaError(f"{path} cannot be written: {error.strerror or error}") from error
    except BaseException:
        target.discard()
        raise
    return losses


def check_target(path: Path) -> None:
    """Raises UsageError when pictures of that name's format are not written."""
    if path.suffix.lower() not in WRITTEN:
        raise UsageError(f"{path}: pictures are written as {', '.join(WRITTEN)}")


def _left_behind(path: Path) -> list[str]:
    losses = []
    if path.suffix.lower() in _SEVERAL:
        count = cv2.imcount(str(path), cv2.IMREAD_UNCHANGED)
        if count > 1:
            losses.append(f"{path}: only the first of {count} pictures is taken")
    return losses


def _eight_bits(plane: Array) -> Array:
    return ((plane.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _turn(pixels: Array, orientation: int) -> Array:
    turn, mirror = _TURNS.get(orientation, (None, None))
    if turn is not None:
        pixels = cv2.rotate(pixels, turn)
    return pixels if mirror is None else cv2.flip(pixels, mirror)


def _upright(exif: bytes) -> tuple[bytes, int]:
    """The blob with orientation 1, and the orientation that it had; 1 when it says none."""
    blob = bytearray(exif)
    start = 6 if blob[:6] == b"Exif\0\0" else 0
    order = {b"II": "<", b"MM": ">"}.get(bytes(blob[start : start + 2]))
    if order is None:
        return exif, 1
    try:
        (ifd,) = struct.unpack_from(order + "I", blob, start + 4)
        (count,) = struct.unpack_from(order + "H", blob, start + ifd)
        for entry in range(start + ifd + 2, start + ifd + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from(order + "H", blob, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + "H", blob, entry + 8)
                struct.pack_into(order + "H", blob, entry + 8, 1)
                return bytes(blob), value
    except struct.error:  # cut off: no orientation then
        pass
    return exif, 1


def _line(error: cv2.error) -> str:
    return " ".join(str(error.err or error).split())
