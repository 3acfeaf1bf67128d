"""A model over a folder of pictures, a clip, or a folder of such sets: a table for each set.

Pictures by the published protocol (`edgesr.distill.pictures`), clips by their luma planes
(`edgesr.distill.clips`). No torch here: a model is any function of planes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgesr.distill.clips import (
    check_crf,
    depth_of,
    evaluate_clip,
    find_clips,
    frames_of,
    is_clip,
)
from edgesr.distill.data import SUFFIXES
from edgesr.distill.pictures import (
    NOTHING_MORE,
    More,
    Pair,
    bicubic_scores,
    by_session,
    evaluate,
    evaluate_rgb,
    load_pairs,
    luma_by_session,
    score,
)
from edgesr.distill.scores import Score, Table, clip_score, mean_score
from edgesr.errors import ModelError, UsageError
from edgesr.models import Model, resolve
from edgesr.runtime.backends import Io, Session, open_session
from edgesr.runtime.upscale import Upscale as UpscaleStage

__all__ = [
    "More",
    "Pair",
    "Score",
    "Table",
    "bicubic_scores",
    "by_session",
    "evaluate",
    "evaluate_model",
    "evaluate_rgb",
    "evaluate_sets",
    "load_pairs",
    "luma_by_session",
    "mean_score",
    "score",
]

OnProgress = Callable[[str, int | None, int], None]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What runs the model."""

    found: Model
    backend: str
    precision: str
    threads: int | None
    device: str = "auto"

    def open(self, io: Io) -> Session:
        return open_session(
            self.found.path,
            spec=self.found.spec,
            backend=self.backend,
            precision=self.precision,
            threads=self.threads,
            device=self.device,
            io=io,
        )


def evaluate_model(model: str, data: Path, **options: Any) -> Table:
    """`evaluate_sets` where `data` is one set."""
    tables = evaluate_sets(model, data, **options)
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UsageError(f"{data} holds several sets ({names}): give one of them")
    return tables[0]


def evaluate_sets(
    model: str,
    data: Path,
    *,
    scale: int | None = None,
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    more: More = NOTHING_MORE,
    crf: int | None = None,
    frames: int | None = None,
    on_progress: OnProgress = lambda name, total, done: None,
) -> list[Table]:
    """Score a model by name or path.

    data         a folder of pictures or clips, a folder of such folders, or a clip
    precision    None: that of the file, with nothing rounded further
    more         what else is measured of pictures
    crf          small clips that are made here go through x264 at this quality; None: they do not
    frames       of each clip the first so many; None: all
    on_progress  called with what is worked on, how many pictures or frames it has (None: not
                 known), and how many are done

    Raises ModelError, BackendError, UsageError, MediaError.
    """
    check_crf(crf)
    if frames is not None and frames < 1:
        raise UsageError(f"--frames {frames}: 1 or more")
    found = resolve(model, scale=scale)
    engine = Engine(
        found=found,
        backend=backend,
        precision=precision or found.spec.precision,
        threads=threads,
        device=device,
    )
    sets = find_sets(data, scale=found.spec.scale)
    kinds = [kinds_in(place, scale=found.spec.scale) for place in sets]
    if (crf is not None or frames is not None) and not any("clips" in k for k in kinds):
        raise UsageError(f"{data} holds no clips, and --crf and --frames are for clips alone")
    tables = []
    for place, there in zip(sets, kinds, strict=True):
        name = place.stem if place.is_file() else place.resolve().name
        if "pictures" in there or not there:
            tables.append(picture_table(engine, place, name=name, more=more, tell=on_progress))
        if "clips" in there:
            unique = f"{name} clips" if "pictures" in there else name
            tables.append(
                clip_table(engine, place, name=unique, crf=crf, most=frames, tell=on_progress)
            )
    return tables


def find_sets(data: Path, *, scale: int) -> list[Path]:
    """`data` itself when it is a clip or holds pictures or clips, else its subfolders that do."""
    if not data.exists():
        raise UsageError(f"{data}: no such folder of pictures, and no such clip")
    if data.is_file() and not is_clip(data):
        raise UsageError(f"{data}: give a folder of pictures, or a clip")
    if data.is_file() or kinds_in(data, scale=scale):
        return [data]
    inside = sorted(f for f in data.iterdir() if f.is_dir() and kinds_in(f, scale=scale))
    return inside or [data]


def kinds_in(place: Path, *, scale: int) -> set[str]:
    """Of "pictures" and "clips" what lies in a folder, or in its subfolder `x<scale>`."""
    if place.is_file():
        return {"clips"}
    inside = place / f"x{scale}"
    kinds = set()
    for file in (inside if inside.is_dir() else place).iterdir():
        if is_clip(file):
            kinds.add("clips")
        elif file.suffix.lower() in SUFFIXES:
            kinds.add("pictures")
    return kinds


def picture_table(
    engine: Engine, folder: Path, *, name: str, more: More, tell: OnProgress
) -> Table:
    spec = engine.found.spec
    if spec.state:
        raise ModelError(f"{spec.name} keeps state between frames: it is scored on clips")
    pairs = load_pairs(folder, scale=spec.scale)
    io: Io = "uint8" if spec.io.dtype == "uint8" else "float32"
    rgb = spec.colour == "rgb"
    ours: list[Score] = []
    bicubic: list[Score] = []
    with closing(engine.open(io)) as session:
        upscale = by_session(session, io, spec) if rgb else luma_by_session(session, io, spec)
        for done, pair in enumerate(pairs):
            tell(name, len(pairs), done)
            measure = evaluate_rgb if rgb else evaluate
            ours += measure(upscale, [pair], scale=spec.scale, more=more)
            bicubic += bicubic_scores([pair], scale=spec.scale, rgb=rgb, more=more)
    return Table(
        model=spec.name,
        scale=spec.scale,
        runs=what_ran(session, io),
        scores=ours,
        bicubic=bicubic,
        name=name,
    )


def clip_table(
    engine: Engine, place: Path, *, name: str, crf: int | None, most: int | None, tell: OnProgress
) -> Table:
    """8-bit clips through a luma model in uint8, as `edgesr stream` does; others in float32."""
    spec = engine.found.spec
    ours: list[Score] = []
    bicubic: list[Score] = []
    rows: list[tuple[Score, Score]] = []
    for clip in find_clips(place, scale=spec.scale):
        io: Io = "uint8" if spec.colour == "y" and depth_of(clip.lr or clip.hr) == 8 else "float32"
        frames = frames_of(clip, scale=spec.scale, colour=spec.colour, crf=crf, most=most)
        with (
            closing(engine.open(io)) as session,
            closing(UpscaleStage(session, spec=spec)) as stage,
            closing(frames),
        ):
            tell_frame = partial(tell, clip.name, most)
            scores, theirs = evaluate_clip(stage, frames, scale=spec.scale, tell=tell_frame)
        ours.append(clip_score(scores, name=clip.name))
        bicubic.append(clip_score(theirs, name=clip.name))
        rows += [
            (a.replace(name=f"{clip.name} {a.name}"), b)
            for a, b in zip(scores, theirs, strict=True)
        ]
    runs = what_ran(session, io) + ("" if crf is None else f"; small clips through x264 crf {crf}")
    return Table(
        model=spec.name,
        scale=spec.scale,
        runs=runs,
        scores=ours,
        bicubic=bicubic,
        name=name,
        kind="clips",
        frames=rows,
    )


def what_ran(session: Session, io: Io) -> str:
    facts = session.facts
    return f"{facts.backend} {facts.version} {facts.precision} on {facts.device}, {io} in and out"
