"""Read the metadata of an `.onnx` file without the `onnx` package, which a board does not have.

An ONNX file is one protobuf message, `ModelProto`. Its fields stand one after another, each behind
a tag (field number << 3 | wire type), so those that do not matter, above all the graph with its
weights, are stepped over without being read.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from edgesr.errors import ModelError

# Field numbers of ModelProto (onnx.proto), fixed for ever by protobuf's rules.
_IR_VERSION = 1
_GRAPH = 7
_METADATA_PROPS = 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata_props of an ONNX file, key to value; empty when it has none.

    Raises ModelError when the file cannot be read, is cut off, or is no ONNX model.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _metadata(data)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:  # ValueError: mmap of an empty file, too
        raise ModelError(f"{path} is not an ONNX model, or is cut off: {error}") from error


def _metadata(data: mmap.mmap) -> dict[str, str]:
    metadata: dict[str, str] = {}
    seen = set()
    for number, start, end in _fields(data, 0, len(data)):
        seen.add(number)
        if number == _METADATA_PROPS:
            entry = {n: data[a:b].decode() for n, a, b in _fields(data, start, end) if n in (1, 2)}
            metadata[entry.get(1, "")] = entry.get(2, "")
    if not {_IR_VERSION, _GRAPH} <= seen:  # a text file may parse as protobuf by chance
        raise ValueError("no graph in it")
    return metadata


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, first byte, byte after the last) of each field of a message."""
    position = start
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, stop = _varint(data, position)
        elif wire == _FIXED64:
            stop = position + 8
        elif wire == _FIXED32:
            stop = position + 4
        elif wire == _BYTES:
            size, position = _varint(data, position)
            stop = position + size
        else:
            raise ValueError(f"unknown field type {wire} at byte {position}")
        if number == 0 or stop > end:
            raise ValueError(f"field {number} at byte {position} runs past the end")
        yield number, position, stop
        position = stop


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    """A little-endian base-128 number and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number without end at byte {position}")
