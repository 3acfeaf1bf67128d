"""Read what an `.onnx` file says of itself without the `onnx` package, which a board does not have.

An ONNX file is one protobuf message, `ModelProto`. Its fields stand one after another, each behind
a tag (field number << 3 | wire type), so those that do not matter, above all the graph with its
weights, are stepped over without being read.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from edgesr.errors import ModelError

# Field numbers of ModelProto (onnx.proto), fixed for ever by protobuf's rules.
_IR_VERSION = 1
_GRAPH = 7
_METADATA_PROPS = 14
# Of GraphProto, NodeProto and TensorProto.
_NODE, _INITIALIZER = 1, 5
_INPUT, _OP_TYPE = 1, 4
_DIMS, _NAME = 1, 8

Found = TypeVar("Found")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata_props of an ONNX file, key to value; empty when it has none.

    Raises ModelError when the file cannot be read, is cut off, or is no ONNX model.
    """
    return _read(path, _metadata)


def read_slopes(path: Path) -> list[tuple[int, ...]]:
    """The shapes of the PReLU slopes that lie in an ONNX file. Raises ModelError as above."""
    return _read(path, _slopes)


def _read(path: Path, what: Callable[[mmap.mmap], Found]) -> Found:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return what(data)
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


def _slopes(data: mmap.mmap) -> list[tuple[int, ...]]:
    names: set[str] = set()
    shapes: dict[str, tuple[int, ...]] = {}
    for number, start, end in _fields(data, 0, len(data)):
        if number != _GRAPH:
            continue
        for part, a, b in _fields(data, start, end):
            if part == _NODE:
                texts = [(n, data[i:j]) for n, i, j in _fields(data, a, b) if n in (1, 4)]
                if (_OP_TYPE, b"PRelu") in texts:
                    names |= {text.decode() for n, text in texts if n == _INPUT}
            elif part == _INITIALIZER:
                name, dims = _tensor(data, a, b)
                shapes[name] = dims
    return [shapes[name] for name in sorted(names & set(shapes))]


def _tensor(data: mmap.mmap, start: int, end: int) -> tuple[str, tuple[int, ...]]:
    """Name and shape. Sizes stand one by one or, as protobuf also allows, in one packed field."""
    name, dims = "", []
    for number, a, b in _fields(data, start, end):
        if number == _NAME:
            name = data[a:b].decode()
        elif number == _DIMS:
            while a < b:
                size, a = _varint(data, a)
                dims.append(size)
    return name, tuple(dims)


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
