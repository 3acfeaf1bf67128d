"""The float32 network on the pictures that its forms are judged on: run once for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgesr.export.quality import Pair, Scores, by_graph, cut_to, fitted, scores
from edgesr.export.verify import check_inputs
from edgesr.spec import ModelSpec

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration
    from edgesr.export.source import Source

Array = np.ndarray[Any, Any]

HELD_OUT = "held-out pairs"


class Reference:
    """Pictures, their truth where it is known, and the float32 outputs.

    sets      name -> pairs with a truth: the calibration's held-out ones and those of `evaluation`
    pictures  the LR pictures of all sets; without any set those of the calibration, or of a photo
              that edgesr carries
    expected  what the graph makes of `pictures`; scored: set -> its scores

    Raises UsageError for pictures that the model cannot take, or too small for SSIM.
    """

    def __init__(
        self,
        graph: onnx.ModelProto,
        spec: ModelSpec,
        calibration: Calibration | None,
        evaluation: Mapping[str, Sequence[Pair]] | None = None,
    ) -> None:
        given: dict[str, Sequence[Pair]] = {}
        if calibration is not None:
            given[HELD_OUT] = calibration.held_out
        given |= evaluation or {}
        self.spec = spec
        self.sets = {
            name: [cut_to(pair, spec) for pair in pairs] for name, pairs in given.items() if pairs
        }
        self.pictures = [lr for pairs in self.sets.values() for lr, _ in pairs]
        if not self.pictures:
            self.pictures = list(calibration.pictures) if calibration else _own_pictures(spec)
        run = fitted(by_graph(graph), spec)
        self.expected = [run(picture) for picture in self.pictures]
        self.scored = self.scores_of(self.expected)

    def scores_of(self, outputs: Sequence[Array]) -> dict[str, Scores]:
        """outputs: one for each of `pictures`."""
        found, at = {}, 0
        for name, pairs in self.sets.items():
            truths = [hr for _, hr in pairs]
            found[name] = scores(outputs[at : at + len(pairs)], truths, scale=self.spec.scale)
            at += len(pairs)
        return found


def reference_of(
    source: Source, calibration: Calibration | None, sets: Mapping[str, Sequence[Pair]]
) -> Reference | None:
    """None for what is not measured here: networks with state, and files that are typed already."""
    spec = source.spec
    if spec.state or spec.precision != "fp32" or spec.io.dtype != "float32":
        return None
    return Reference(source.graph, spec, calibration, sets)


def _own_pictures(spec: ModelSpec) -> list[Array]:
    """Crops of a photo; noise, which no camera sends, is left out."""
    least = max(spec.fixed_size) if spec.fixed_size else spec.min_size
    photos = check_inputs(channels=spec.channels, least=least, multiple=spec.multiple)[1::2]
    if spec.fixed_size is None:
        return photos
    height, width = spec.fixed_size
    return [photo[:, :, :height, :width] for photo in photos]
