"""What a repair tried, step by step, and the refusal that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from edgesr.errors import EdgesrError

if TYPE_CHECKING:
    from edgesr.export.histograms import Histogram
    from edgesr.export.quantize import Method


@dataclass(frozen=True, kw_only=True)
class Step:
    """One decision. before, after: dB lost; kept: whether it stayed."""

    what: str
    before: float
    after: float
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Log:
    """What was tried, in order.

    truth       dB are PSNR-Y against the truth; False: likely ones, from the distance to float32
    pairs       pictures that they are means over
    before      dB lost by the first method, all in int8
    drop        dB lost in the end
    method      where the ranges come from in the end
    percentile  for method "percentile", else None: how much of the values lies inside the range
    keep_float  nodes that stay in float
    qat         the weights were fine-tuned
    frames      calibration pictures that the ranges come from
    ranges      value in the graph -> how it fills its range; none of what was refused
    """

    flavour: str
    max_drop: float
    truth: bool
    pairs: int
    steps: tuple[Step, ...]
    before: float
    drop: float
    method: Method
    keep_float: tuple[str, ...]
    percentile: float | None = None
    qat: bool = False
    frames: int = 0
    ranges: Mapping[str, Histogram] = field(default_factory=dict)

    @property
    def within(self) -> bool:
        return self.drop <= self.max_drop

    def to_dict(self) -> dict[str, Any]:
        """Without `ranges`, see `ranges_to_dict`."""
        facts = {name: value for name, value in asdict(self).items() if name != "ranges"}
        return {**facts, "steps": [asdict(s) for s in self.steps], "within": self.within}

    def ranges_to_dict(self) -> dict[str, Any]:
        return {
            "flavour": self.flavour,
            "method": self.method,
            "percentile": self.percentile,
            "frames": self.frames,
            "values": {name: asdict(histogram) for name, histogram in self.ranges.items()},
        }

    def lines(self) -> list[str]:
        """A table of the steps, the first line its header."""
        judged = "held-out pairs" if self.truth else "pictures, likely (no truth was given)"
        head = (
            f"int8 for {self.flavour}: dB lost on {self.pairs} {judged}, {self.max_drop:g} allowed"
        )
        width = max((len(step.what) for step in self.steps), default=0)
        rows = [
            f"  {step.what.ljust(width)}  {step.before:6.3f} -> {step.after:6.3f}"
            f"  {'kept' if step.kept else 'not kept'}"
            for step in self.steps
        ]
        return [head, *rows, *self._range_line()]

    def _range_line(self) -> list[str]:
        if not self.ranges:
            return []
        name, worst = max(self.ranges.items(), key=lambda item: item[1].clipped)
        clipped = (
            f"at most {worst.clipped:.3%} clipped, of {name}" if worst.clipped else "unclipped"
        )
        inside = "" if self.percentile is None else f" {self.percentile:g}"
        count = f"{len(self.ranges)} values, {self.frames} pictures"
        return [f"  ranges by {self.method}{inside} ({count}): {clipped}"]


class ExportRefused(EdgesrError):
    """INT8 loses more than is allowed whatever was tried; the message and `log` hold the table.

    earlier  logs of other graphs for the same wish that were refused before this one
    """

    def __init__(self, message: str, *, log: Log) -> None:
        super().__init__(message)
        self.log = log
        self.earlier: tuple[Log, ...] = ()

    @property
    def reason(self) -> str:
        """The message without its table."""
        return str(self).partition(". Tried:")[0]


def refusal(name: str, log: Log, *, all_float: bool, qat: bool) -> ExportRefused:
    why = (
        "within the budget only with every convolution in float"
        if all_float
        else f"int8 loses {log.drop:.3f} dB, {log.max_drop:g} are allowed (--max-drop)"
    )
    hint = "" if qat else "; from a checkpoint, --qat fine-tunes it"
    table = "\n".join(log.lines())
    return ExportRefused(f"{name}: {why}; nothing was written{hint}. Tried:\n{table}", log=log)
