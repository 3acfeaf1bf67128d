"""Cut a large picture into overlapping tiles of one size, so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Window:
    """One tile along one axis, in pixels of the input.

    start, stop    what the network sees
    first, last    the part whose result is kept; the kept parts join without gap or overlap
    """

    start: int
    stop: int
    first: int
    last: int


def windows(length: int, *, largest: int, halo: int, multiple: int = 1) -> list[Window]:
    """Cover 0..length with the fewest tiles of one size, at most `largest` (before rounding up).

    halo      pixels beside the kept part that the network must see; tiles at the picture's own
              edge have none there, so that the edge is treated as in the whole picture
    multiple  `length` is a multiple of it, and so is every start and size
    """
    if length <= max(largest, 2 * halo + multiple):
        return [Window(start=0, stop=length, first=0, last=length)]

    def up(value: int) -> int:
        return -(-value // multiple) * multiple

    halo = up(halo)
    step = max(largest - 2 * halo, multiple) // multiple * multiple
    count = -(-(length - 2 * halo) // step)
    size = min(up(-(-(length - 2 * halo) // count)) + 2 * halo, length)
    step = size - 2 * halo
    tiles: list[Window] = []
    while not tiles or tiles[-1].last < length:
        start = min(len(tiles) * step, length - size)
        end = start + size == length
        tiles.append(
            Window(
                start=start,
                stop=start + size,
                first=tiles[-1].last if tiles else 0,
                last=length if end else start + size - halo,
            )
        )
    return tiles
