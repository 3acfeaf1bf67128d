"""The INT8 graphs of one source: each flavour made once, what they share found out once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgesr.errors import EdgesrError
from edgesr.export.candidates import Candidate
from edgesr.export.ends import of_size
from edgesr.export.measure import SMALL, measure
from edgesr.export.quantize import Flavour, Method, Scheme, Seen, convolutions, quantize
from edgesr.export.repair import repaired
from edgesr.export.repairlog import ExportRefused, Log, Step, refusal

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration
    from edgesr.export.reference import Reference
    from edgesr.export.source import Source
    from edgesr.spec import ModelSpec


class EightBits:
    """See `edgesr.export.repair` for how each is made and judged.

    known    what the source makes of the pictures that they are judged on
    on_note  called with a line for each decision, and for each picture on the way
    """

    def __init__(
        self,
        source: Source,
        calibration: Calibration,
        *,
        known: Reference,
        max_drop: float,
        qat: bool,
        method: Method = "minmax",
        on_note: Callable[[str], None],
    ) -> None:
        self.source, self.calibration, self.known = source, calibration, known
        self.max_drop, self.qat, self.method, self.on_note = max_drop, qat, method, on_note
        self.logs: list[Log] = []  # of all that was tried, also what was refused
        self._made: dict[Flavour, tuple[onnx.ModelProto, Log] | ExportRefused] = {}
        self._seen = Seen()

    def made(self, flavour: Flavour) -> tuple[onnx.ModelProto, Log]:
        """The graph, float32 in and out, and what it took. Raises ExportRefused."""
        if flavour not in self._made:
            self._made[flavour] = self._repaired(flavour)
        found = self._made[flavour]
        if isinstance(found, ExportRefused):
            raise found
        return found

    def quantised(self, scheme: Scheme) -> onnx.ModelProto:
        """As `scheme` says, not judged."""
        source = self.source
        return quantize(
            source.graph,
            source.spec,
            self.calibration,
            scheme,
            seen=self._seen,
            on_note=self.on_note,
        )

    def write_ir(self, graph: onnx.ModelProto, spec: ModelSpec, path: Path) -> None:
        """INT8 as OpenVINO's files: the Q/DQ graph for it where that is good enough, else NNCF's.

        graph, spec   of the source, for one size where that was asked for

        NNCF takes a minute or more for a network of 200 layers. Raises ExportRefused.
        """
        from edgesr.export.openvino import export_openvino, missing

        try:
            made, _ = self.made("openvino")
        except ExportRefused as refused:
            install = missing("int8")
            if install is not None:
                self.on_note(f"NNCF, which might lose less, is not here: {install}")
                raise
            self.on_note(f"int8 for openvino loses {refused.log.drop:.3f} dB: trying NNCF")
            self._write_by_nncf(graph, spec, path)
            return
        self.on_note("the IR holds the graph of int8 for openvino: within the budget, so no NNCF")
        if spec.fixed_size is not None:
            made = of_size(made, self.source.spec.replace(precision="int8"), spec.fixed_size)
        export_openvino(
            graph,
            spec,
            path,
            precision="int8",
            calibration=self.calibration,
            quantised_graph=made,
        )

    def _repaired(self, flavour: Flavour) -> tuple[onnx.ModelProto, Log] | ExportRefused:
        try:
            made = repaired(
                self.source,
                self.calibration,
                flavour=flavour,
                max_drop=self.max_drop,
                qat=self.qat,
                method=self.method,
                known=self.known,
                seen=self._seen,
                on_note=self.on_note,
            )
        except ExportRefused as refused:
            self.logs.append(refused.log)
            return refused
        self.logs.append(made[1])
        return made

    def _write_by_nncf(self, graph: onnx.ModelProto, spec: ModelSpec, path: Path) -> None:
        """All in INT8, else with the ends in float."""
        from edgesr.export.openvino import export_openvino

        names = convolutions(self.source.graph)
        log: Log | None = None
        for keep, what in (((), "all in int8"), ((names[0], names[-1]), "ends in float")):
            export_openvino(
                graph,
                spec,
                path,
                precision="int8",
                calibration=self.calibration,
                keep_float=keep,
                on_note=self.on_note,
            )
            (row,) = measure(
                [Candidate(name="NNCF", path=path, backend="openvino", precision="int8")],
                reference=self.source.graph,
                spec=self.source.spec,
                calibration=self.calibration,
                size=spec.fixed_size or SMALL,
                threads=(1,),
                rounds=1,
                known=self.known,
            )
            drop = row.likely_drop
            if drop is None:
                raise EdgesrError(f"OpenVINO int8 cannot be run here: {row.error}")
            self.on_note(f"NNCF, {what}: {drop:.3f} dB lost")
            step = Step(what=what, before=log.drop if log else 0.0, after=drop, kept=True)
            log = Log(
                flavour="openvino by NNCF",
                max_drop=self.max_drop,
                truth=row.drop is not None,
                pairs=len(self.known.pictures),
                steps=(*(log.steps if log else ()), step),
                before=log.before if log else drop,
                drop=drop,
                method="minmax",
                keep_float=keep,
            )
            if log.within:
                break
        assert log is not None
        self.logs.append(log)
        if not log.within:
            raise refusal(spec.name, log, all_float=False, qat=self.qat)
