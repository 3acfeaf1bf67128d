"""What an engine is built for: sizes, precision, and the few choices that TensorRT leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgesr.errors import UsageError
from edgesr.spec import ModelSpec

Shape = tuple[int, int, int]  # (batch, height, width)
Size = tuple[int, int]  # (height, width)

LEAST: Size = (64, 64)
USUAL: Size = (360, 640)
MOST: Size = (1088, 1920)
"""Sizes of a dynamic engine when none are given. TensorRT tunes for the usual one and takes the
memory of the largest."""


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The options of one engine; all of them are part of its key.

    precision     of the graph; it decides nothing where networks are strongly typed
    least         smallest (batch, height, width) that the engine takes
    usual         the one that it is tuned for
    most          the largest
    dla           core of the deep learning accelerator of an Orin, layers that it does not know
                  go to the GPU; None: the GPU alone
    workspace     MiB of scratch memory that tactics may use; None: what the GPU has
    level         builder_optimization_level, 0 (built soon) to 5 (runs soon); None: TensorRT's own
    timing_cache  reuse the timings of earlier builds on this GPU
    """

    precision: Literal["fp32", "fp16", "int8"]
    least: Shape
    usual: Shape
    most: Shape
    dla: int | None = None
    workspace: int | None = None
    level: int | None = None
    timing_cache: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "fp16", "int8"):
            raise UsageError(f"precision is {self.precision!r}: TensorRT takes fp32, fp16 or int8")
        for low, middle, high in zip(self.least, self.usual, self.most, strict=True):
            if not 1 <= low <= middle <= high:
                raise UsageError(
                    f"sizes from {sized(self.least)} over {sized(self.usual)} to "
                    f"{sized(self.most)} (batch x height x width): each must be as large as the "
                    "one before it"
                )
        if self.dla is not None and self.dla < 0:
            raise UsageError(f"DLA core {self.dla}: cores are counted from 0")
        if self.dla is not None and self.precision == "fp32":
            raise UsageError("the DLA computes in fp16 and int8 only, not in fp32: --trt fp16")
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"a workspace of {self.workspace} MiB: it must be 1 or more")
        if self.level is not None and not 0 <= self.level <= 5:
            raise UsageError(f"optimisation level {self.level}: it must be 0 to 5")

    @property
    def fixed(self) -> bool:
        """Whether the engine takes one shape only."""
        return self.least == self.most

    def takes(self, shape: Shape) -> bool:
        return all(
            low <= side <= high
            for low, side, high in zip(self.least, shape, self.most, strict=True)
        )

    def differences(self, other: EngineOptions) -> str:
        """ "most (1, 1088, 1920), not (1, 720, 1280)", for a line."""
        return ", ".join(
            f"{name} {value}, not {theirs}"
            for name, value in dataclasses.asdict(self).items()
            if value != (theirs := getattr(other, name))
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineOptions:
        """Raises TypeError, ValueError or UsageError for what is none."""
        facts = dict(values)
        for name in ("least", "usual", "most"):
            batch, height, width = facts[name]
            facts[name] = (batch, height, width)
        return cls(**facts)


def engine_options(
    spec: ModelSpec,
    *,
    size: Size | None = None,
    least: Size | None = None,
    usual: Size | None = None,
    most: Size | None = None,
    batch: int = 1,
    **more: Any,
) -> EngineOptions:
    """Options for a model: one size, or a range of them.

    size                (H, W) when all pictures have it: one size runs faster than a range
    least, usual, most  (H, W) else; those not given are `LEAST`, `USUAL` and `MOST`, moved to hold
                        those that are. All are raised to what the network takes
    batch               the largest number of pictures at once, and the one tuned for
    more                further fields of EngineOptions; precision: that of `spec`

    Raises UsageError for sizes that exclude each other or that the network does not take.
    """
    if batch < 1:
        raise UsageError(f"a batch of {batch}: it must be 1 or more")
    if spec.fixed_size is not None:
        if any(given not in (None, spec.fixed_size) for given in (size, least, usual, most)):
            height, width = spec.fixed_size
            raise UsageError(f"{spec.name} takes {width}x{height} (width x height) and no other")
        size = spec.fixed_size
    if size is not None and (least, usual, most) != (None, None, None):
        raise UsageError("give one size, or a range of sizes, not both")
    for given in (size, least, usual, most):
        if given is not None and min(given) < 1:
            raise UsageError(f"size {given[1]}x{given[0]}: width and height must be 1 or more")
    if size is not None:
        low = middle = high = size
    else:
        low = least or _each(min, LEAST, usual or LEAST, most or LEAST)
        high = most or _each(max, MOST, usual or MOST, least or MOST)
        middle = usual or _each(max, low, _each(min, USUAL, high))
    shapes = {
        "least": (1, *_raised(low, spec)),
        "usual": (batch, *_raised(middle, spec)),
        "most": (batch, *_raised(high, spec)),
    }
    if size is not None and shapes["most"][1:] != size:
        raise UsageError(
            f"{spec.name} takes widths and heights from {spec.min_size} up that are multiples of "
            f"{spec.multiple}, not {size[1]}x{size[0]}"
        )
    return EngineOptions(**{"precision": spec.precision, **shapes, **more})


def _each(pick: Any, *sizes: Size) -> Size:
    return pick(size[0] for size in sizes), pick(size[1] for size in sizes)


def _raised(size: Size, spec: ModelSpec) -> Size:
    height, width = (-(-max(side, spec.min_size) // spec.multiple) * spec.multiple for side in size)
    return height, width


def sized(shape: Shape) -> str:
    return "x".join(map(str, shape))
