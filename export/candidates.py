"""Candidates: ways to run an artefact, and what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgesr.errors import EdgesrError
from edgesr.export import quality
from edgesr.models import load_file
from edgesr.runtime.backends import Io, Session, Size, open_session
from edgesr.spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run one artefact.

    name       what the table calls it, such as "ort int8"
    path       .onnx, or an OpenVINO IR's .xml or a plan with its facts as JSON beside it
    backend    key of `edgesr.runtime.backends.OPENERS`
    precision  what the backend is asked for
    """

    name: str
    path: Path
    backend: str
    precision: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came out. All figures are None, and `ms` empty, where `error` says why.

    max_abs, mean_abs  difference to the float32 output, of values in 0..1, not rounded
    psnr_to_fp32       dB, on the same outputs; 200 where they are equal
    drop, ssim_drop    PSNR-Y in dB and SSIM-Y lost on the set that loses most; None where there is
                       no truth. Below 0: better than float32
    sets               the same for each set: name -> (drop, ssim_drop)
    ms                 threads -> median ms a frame
    runs               what really ran, from the session
    """

    candidate: Candidate
    max_abs: float | None = None
    mean_abs: float | None = None
    psnr_to_fp32: float | None = None
    drop: float | None = None
    ssim_drop: float | None = None
    sets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ms: Mapping[int, float] = field(default_factory=dict)
    size_bytes: int | None = None
    runs: str | None = None
    error: str | None = None

    @property
    def likely_drop(self) -> float | None:
        """The drop where it was measured, else `quality.likely_drop`; None after an error."""
        if self.error is not None or self.drop is not None or self.psnr_to_fp32 is None:
            return self.drop
        return quality.likely_drop(self.psnr_to_fp32)

    def within(self, max_drop: float) -> bool:
        return self.likely_drop is not None and self.likely_drop <= max_drop


def facts_of(path: Path) -> ModelSpec:
    """The facts of an artefact: in an .onnx, or as JSON beside it. Raises ModelError."""
    return load_file(path).spec


def open_candidate(
    candidate: Candidate, *, threads: int, size: Size | None
) -> tuple[Session, ModelSpec]:
    spec = facts_of(candidate.path)
    size = spec.fixed_size or size
    session = open_session(
        candidate.path,
        spec=spec,
        backend=candidate.backend,
        precision=candidate.precision,
        device="cuda" if candidate.backend == "tensorrt" else "cpu",
        threads=threads,
        size=size,
        io=io_of(spec),
    )
    return session, spec


def io_of(spec: ModelSpec) -> Io:
    return "uint8" if spec.io.dtype == "uint8" else "float32"


def failed(candidate: Candidate, error: Exception) -> Measured:
    """One line; the folder is nobody's business."""
    text = " ".join(str(error).split()).replace(str(candidate.path), candidate.path.name)
    line = text if isinstance(error, EdgesrError) else f"{type(error).__name__}: {text}"
    return Measured(candidate=candidate, error=line or type(error).__name__)
