"""INT8 that falls too far is repaired, a step at a time, and what was tried is kept.

min/max, or the method that was asked for -> min/max and percentile where they were not it -> first
and last convolution in float -> the most sensitive layers one by one -> (asked for) a short
fine-tuning with fake quantisation -> refused. A step that helps stays, another is taken back; at
the end floats that turned out not to be needed go back to int8. All is judged on the calibration's
held-out pairs and on what else there is with a truth, in ONNX Runtime or, what is for OpenVINO,
there. Entropy is no step: it lost about 1 dB more than min/max with espcn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.errors import ModelError
from edgesr.export.histograms import histograms
from edgesr.export.judge import FEW, Judge
from edgesr.export.layers import Unit, behind, units
from edgesr.export.quality import Pair
from edgesr.export.quantize import Flavour, Method, Scheme, Seen, convolutions, quantize
from edgesr.export.ranges import pictures_for
from edgesr.export.reference import Reference
from edgesr.export.repairlog import ExportRefused, Log, Step, refusal
from edgesr.runtime.backends.machine import installed

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration
    from edgesr.export.source import Source

__all__ = ["ExportRefused", "Judge", "Log", "Step", "repaired"]

Array = np.ndarray[Any, Any]
OnNote = Callable[[str], None]

GAIN = 0.005
"""dB that a step has to bring to be kept."""
PERCENTILE = 99.99
TRIED: tuple[Method, ...] = ("minmax", "percentile")
"""Methods that a repair turns to by itself."""
ENDS = "first and last convolution in float"
MOST_TRIED = 8
"""Layers whose gain is measured: those that lose most by `layers.units`' estimate."""


@dataclass(frozen=True, kw_only=True)
class _Best:
    graph: onnx.ModelProto  # quantised
    scheme: Scheme
    drop: float
    source: onnx.ModelProto  # the float32 graph that it was made from


class _Repair:
    """The state of one repair: what is best so far, and the steps."""

    def __init__(
        self,
        source: Source,
        calibration: Calibration,
        scheme: Scheme,
        *,
        evaluation: Mapping[str, Sequence[Pair]] | None,
        known: Reference | None,
        seen: Seen | None,
        on_note: OnNote,
    ) -> None:
        self.spec, self.calibration, self.on_note = source.spec, calibration, on_note
        self.few = replace(calibration, pictures=calibration.pictures[:FEW])
        self.label = f"int8 for {scheme.flavour}"
        own = scheme.flavour == "openvino" and installed("openvino")
        backend = "openvino" if own else None
        self.judge = Judge(
            source.graph,
            source.spec,
            calibration,
            backend=backend,
            evaluation=evaluation,
            known=known,
        )
        self.steps: list[Step] = []
        self.seen = seen or Seen()
        self.best = self.made(source.graph, scheme)
        self.first = self.best.drop
        self._record(_called(scheme), before=0.0, after=self.first, kept=True)

    def note(self, line: str) -> None:
        self.on_note(f"{self.label}, {line}")

    def made(self, graph: onnx.ModelProto, scheme: Scheme, *, few: bool = False) -> _Best:
        calibration = self.few if few else self.calibration
        if few:  # of many trials the order counts
            scheme = replace(scheme, rounding="nearest")
        quantised = quantize(
            graph, self.spec, calibration, scheme, seen=self.seen, on_note=self.note
        )
        drop = self.judge.drop(quantised, few=few)
        return _Best(graph=quantised, scheme=scheme, drop=drop, source=graph)

    def attempt(self, what: str, scheme: Scheme) -> bool:
        """Quantise so; it stays where it brings `GAIN`."""
        return self.settle(what, self.made(self.best.source, scheme))

    def settle(self, what: str, found: _Best, *, limit: float | None = None) -> bool:
        """limit: instead of bringing something, it has to lose no more than that."""
        before = self.best.drop
        kept = found.drop <= limit if limit is not None else found.drop < before - GAIN
        self._record(what, before=before, after=found.drop, kept=kept)
        if kept:
            self.best = found
        return kept

    def _record(self, what: str, *, before: float, after: float, kept: bool) -> None:
        self.steps.append(Step(what=what, before=before, after=after, kept=kept))
        self.note(
            f"{what}: {after:.3f} dB lost ({before:.3f} before)" + ("" if kept else ", not kept")
        )

    def log(self, max_drop: float, *, qat: bool) -> Log:
        scheme = self.best.scheme
        return Log(
            flavour=scheme.flavour,
            max_drop=max_drop,
            truth=self.judge.truth,
            pairs=self.judge.pairs,
            steps=tuple(self.steps),
            before=self.first,
            drop=self.best.drop,
            method=scheme.method,
            percentile=scheme.percentile if scheme.method == "percentile" else None,
            keep_float=tuple(sorted(scheme.keep_float)),
            qat=qat,
            frames=len(pictures_for(self.best.source, self.calibration, scheme.method)),
        )


def _called(scheme: Scheme) -> str:
    """The method's name in a step."""
    words = {"minmax": "min/max", "percentile": f"percentile {scheme.percentile:g}"}
    return words.get(scheme.method, scheme.method)


def repaired(
    source: Source,
    calibration: Calibration,
    *,
    flavour: Flavour,
    max_drop: float,
    qat: bool = False,
    method: Method = "minmax",
    evaluation: Mapping[str, Sequence[Pair]] | None = None,
    known: Reference | None = None,
    seen: Seen | None = None,
    on_note: OnNote = lambda line: None,
) -> tuple[onnx.ModelProto, Log]:
    """The INT8 graph that loses no more than `max_drop` dB, and what it took.

    flavour  see `edgesr.export.quantize`
    qat      allow a short fine-tuning at the end; needs torch and a source from a checkpoint
    method   how ranges are drawn at first: what the user asked for
    evaluation  pairs with a truth that it is judged on too: set -> (LR, HR)
    known    what the float graph makes of all these pairs, where it has run already
    seen     what was found out while other flavours were made
    on_note  called with a line for each decision, and for each picture on the way

    Raises ExportRefused, with the table of what was tried, when nothing was enough; UsageError for
    `qat` without a torch network; ModelError where nothing in the graph can be quantised.
    """
    nodes = convolutions(source.graph)
    if not nodes:
        raise ModelError(f"{source.spec.name} has no convolution to quantise: int8 is not for it")
    if qat:
        from edgesr.export.qat import check_source

        check_source(source)  # not after minutes of trying
    scheme = Scheme(flavour=flavour, method=method)
    work = _Repair(
        source,
        calibration,
        scheme,
        evaluation=evaluation,
        known=known,
        seen=seen,
        on_note=on_note,
    )
    tuned = False
    for _ in _steps(work, source.graph, nodes, max_drop):
        if work.best.drop <= max_drop:
            break
    if work.best.drop > max_drop and qat:
        tuned = _fine_tune(work, source, max_drop)
    if work.best.drop <= max_drop:
        _take_back(work, nodes, max_drop)
    log = work.log(max_drop, qat=tuned)
    if not log.within or set(nodes) <= work.best.scheme.keep_float:
        raise refusal(source.spec.name, log, all_float=log.within, qat=qat)
    spread = histograms(work.best.graph, work.best.source, calibration.pictures)
    return work.best.graph, replace(log, ranges=spread)


def _steps(
    work: _Repair, graph: onnx.ModelProto, nodes: list[str], max_drop: float
) -> Iterator[None]:
    """Yields after each step, so that whoever iterates can end it."""
    yield
    late: list[str] = []
    asked = work.best.scheme.method
    for method in TRIED:
        if method == asked:
            continue
        scheme = replace(work.best.scheme, method=method, percentile=PERCENTILE)
        if not work.attempt(_called(scheme), scheme) and method == "percentile":
            late.append(method)
        yield
    ends = frozenset({nodes[0], nodes[-1]})
    if work.best.scheme.flavour == "ort":
        # It quantises what follows too: 8 bits for the sum with the input, and for the result.
        ends |= behind(graph, nodes[-1])
    if len(nodes) > 2:
        if not work.attempt(ENDS, _floating(work, ends, nodes)):
            late.append("ends")
        yield
    for unit in _by_gain(work, graph, nodes):
        scheme = _floating(work, unit.nodes, nodes)
        left = set(nodes) - scheme.keep_float
        if unit.nodes <= work.best.scheme.keep_float or len(left) < max(1, len(nodes) // 3):
            continue  # mostly in float is not what was asked for
        helped = work.attempt(f"{unit.label} in float", scheme)
        yield
        # What one layer drowned may help now.
        if helped and "percentile" in late:
            late.remove("percentile")
            scheme = replace(work.best.scheme, method="percentile", percentile=PERCENTILE)
            work.attempt(f"{_called(scheme)} again", scheme)
            yield
        if helped and "ends" in late:
            late.remove("ends")
            work.attempt(f"{ENDS} again", _floating(work, ends, nodes))
            yield


def _floating(work: _Repair, more: frozenset[str], nodes: list[str]) -> Scheme:
    """With `more` in float; without what was there before, where nothing would be left for int8."""
    scheme = work.best.scheme
    both = scheme.keep_float | more
    return replace(scheme, keep_float=more if set(nodes) <= both else both)


def _by_gain(work: _Repair, graph: onnx.ModelProto, nodes: list[str]) -> list[Unit]:
    """Units by what one of them in float brings, most first; measured on few pictures."""
    flavour = work.best.scheme.flavour
    found = units(graph, nodes, work.few.pictures, outputs=flavour in ("ort", "openvino"))
    tried = [unit for unit in found if set(nodes) - unit.nodes][:MOST_TRIED]
    base = work.made(work.best.source, work.best.scheme, few=True).drop
    gains = []
    for number, unit in enumerate(tried):
        work.note(f"sensitivity {number + 1} of {len(tried)}: {unit.label}")
        scheme = _floating(work, unit.nodes, nodes)
        gains.append((base - work.made(work.best.source, scheme, few=True).drop, unit))
    # Of those that bring the same, the smaller.
    ranked = sorted(gains, key=lambda pair: (-round(pair[0], 2), len(pair[1].nodes)))
    return [unit for gain, unit in ranked if gain > GAIN]


def _fine_tune(work: _Repair, source: Source, max_drop: float) -> bool:
    """All in int8 first, which is the fastest; where that is not enough, with the floats so far."""
    from edgesr.export.qat import fine_tuned

    # The weights learned for the nearest step; the float network that they make is no target.
    best = replace(work.best.scheme, rounding="nearest")
    for scheme in (replace(best, keep_float=frozenset()), best):
        graph = fine_tuned(source, work.calibration, scheme=scheme, on_note=work.on_note)
        kept = (
            "all in int8" if not scheme.keep_float else f"{len(scheme.keep_float)} nodes in float"
        )
        limit = max_drop if scheme != best else None
        if work.settle(f"fine-tuned, {kept}", work.made(graph, scheme), limit=limit):
            return True
        if scheme == best:
            break
    return False


def _take_back(work: _Repair, nodes: list[str], max_drop: float) -> None:
    """Ends that are not needed in float once other layers are, go back to int8."""
    kept = work.best.scheme.keep_float
    for what, ends in (("first", nodes[0]), ("last", nodes[-1])):
        if ends in kept and kept & set(nodes[1:-1]):
            scheme = replace(work.best.scheme, keep_float=work.best.scheme.keep_float - {ends})
            found = work.made(work.best.source, scheme)
            work.settle(f"{what} convolution back to int8", found, limit=max_drop)
