"""What an INT8 graph loses, as a repair asks it again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.errors import ModelError
from edgesr.export.quality import (
    Pair,
    by_backend,
    by_graph,
    distance,
    fitted,
    likely_drop,
    scores,
)
from edgesr.export.reference import Reference

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration
    from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]

FEW = 4
"""Calibration pictures and held-out pairs for the gain of one layer; decisions take all of them."""


class Judge:
    """dB that a graph loses to the float32 one, on the set that loses most.

    The sets are the calibration's held-out pairs and those of `evaluation`. Without any it is what
    the graph likely loses, by its distance on the calibration's pictures.

    backend     runs the int8 graphs; None: ONNX Runtime, in memory
    evaluation  set -> (LR, truth) pairs, beside the held-out ones
    known       what `graph` makes of all these, where it has run already
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        spec: ModelSpec,
        calibration: Calibration,
        *,
        backend: str | None = None,
        evaluation: Mapping[str, Sequence[Pair]] | None = None,
        known: Reference | None = None,
    ) -> None:
        known = known or Reference(graph, spec, calibration, evaluation)
        self.spec, self.backend = spec, backend
        self.truth = bool(known.sets)
        self.truths = [[hr for _, hr in pairs] for pairs in known.sets.values()]
        self.sets: list[list[Array]] = []
        self.expected: list[list[Array]] = []
        at = 0
        for count in [len(pairs) for pairs in known.sets.values()] or [len(known.pictures)]:
            self.sets.append(known.pictures[at : at + count])
            self.expected.append(known.expected[at : at + count])
            at += count

    @property
    def pairs(self) -> int:
        return sum(len(pictures) for pictures in self.sets)

    def drop(self, graph: onnx.ModelProto, *, few: bool = False) -> float:
        """few: on the first `FEW` pictures of each. Raises ModelError for what is not finite."""
        count = FEW if few else None
        drops = []
        for number, pictures in enumerate(self.sets):
            outputs = self._outputs(graph, pictures[:count])
            if not all(np.isfinite(output).all() for output in outputs):
                raise ModelError(
                    f"{self.spec.name}: the int8 graph gives values that are not finite"
                )
            expected = self.expected[number][:count]
            if not self.truth:
                drops.append(likely_drop(distance(outputs, expected).psnr))
                continue
            before, after = (
                scores(values, self.truths[number][:count], scale=self.spec.scale)
                for values in (expected, outputs)
            )
            drops.append(before.psnr_y - after.psnr_y)
        return max(drops)

    def _outputs(self, graph: onnx.ModelProto, pictures: Sequence[Array]) -> list[Array]:
        if self.backend is None:
            run = by_graph(graph)
        else:
            run = by_backend(graph, self.spec.replace(precision="int8"), self.backend)
        run = fitted(run, self.spec)
        return [run(picture) for picture in pictures]
