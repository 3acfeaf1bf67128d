"""`edgesr bench`: how fast a model runs here, and whether a stream keeps up.

First the network alone, for each backend and precision that this machine has, the fp16 and int8
files beside the model among them, in turns so that a busy moment hits all of them; then a whole
stream (decode, infer, encode) on the fastest.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.errors import BackendError, MediaError, UsageError
from edgesr.metrics import psnr
from edgesr.models import Model, resolve_for_stream
from edgesr.runtime.backends import Session, open_session
from edgesr.runtime.backends.choose import Choice, refusals, remember, ways
from edgesr.runtime.backends.machine import PACKAGES, version
from edgesr.runtime.bench_report import BenchReport, Run
from edgesr.runtime.clip import lumas, make_clip
from edgesr.runtime.frame import Frame
from edgesr.runtime.stats import machine_facts, versions
from edgesr.runtime.stream import stream
from edgesr.runtime.upscale import padded
from edgesr.runtime.video import VideoReader

Array = np.ndarray[Any, Any]

WARM_UP = 3  # calls before the first that counts
FEWEST = 5  # calls that count, however slow they are
MADE_UP_RATE = 30
MADE_UP_FRAMES = (60, 300)  # fewest and most; in between what takes MADE_UP_SECONDS
MADE_UP_SECONDS = 5.0


def bench(
    model: str | None = None,
    *,
    scale: int | None = None,
    size: str = "640x360",
    input: Path | None = None,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    fps: float | None = None,
    seconds: float = 2.0,
    on_note: Callable[[str], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> BenchReport:
    """Measure a model on this machine.

    model     None: what `stream` takes by default
    size      "640x360": of the clip that is made up; not used when `input` is given
    input     a video, taken whole, instead of the made-up clip
    backend, precision   "auto": measure all that there are; device: as in `open_session`
    fps       the rate to keep up with; None: the clip's own
    seconds   how long each way of running the network is measured
    on_note   called with a line before each step; on_warning: as in `stream`

    The times are remembered for `auto`, unless `backend`, `precision`, `device` or `threads`
    restrict them.
    Raises what `stream` raises.
    """
    say = on_note or _ignore
    if seconds <= 0 or (fps is not None and fps <= 0):
        raise UsageError("seconds and fps must be above 0")
    found = resolve_for_stream(model, scale=scale)
    if found.note is not None:
        say(found.note)
    words = {"backend": backend, "precision": precision}
    asked = ways(found.path, spec=found.spec, device=device, **words)
    width, height = _parse(size)
    if input is None:
        luma = next(lumas(width=width, height=height, frames=1))
    else:
        luma = _first_luma(input)

    say(f"the network alone, {luma.shape[1]}x{luma.shape[0]}")
    runs = _measure(asked, luma, threads=threads, seconds=seconds)
    best = min(runs, key=lambda run: run.p50_ms)
    kept = None
    if (backend, precision, device, threads) == ("auto", "auto", "auto", None):
        kept = _remember(found, luma, runs, on_warning or _ignore)

    with tempfile.TemporaryDirectory(prefix="edgesr-bench-") as folder:
        clip = input
        if clip is None:
            fewest, most = MADE_UP_FRAMES
            frames = round(min(max(MADE_UP_SECONDS * best.fps, fewest), most))
            clip = Path(folder, "made-up.mp4")
            make_clip(clip, width=width, height=height, frames=frames, rate=MADE_UP_RATE)
        say(f"a whole stream on {best.name}")
        whole = stream(
            clip,
            Path(folder, "out.mkv"),
            model=model,
            scale=scale,
            backend="auto" if kept else best.backend,  # "auto" takes what was just remembered
            precision="auto" if kept else best.precision,
            device="auto" if kept else best.device,
            threads=threads,
            on_warning=on_warning,
        )
    rate = whole.input["rate"]
    return BenchReport(
        model=found.spec.name,
        size=(luma.shape[0], luma.shape[1]),
        runs=runs,
        left_out=refusals(found.path, spec=found.spec, device=device) if backend == "auto" else [],
        remembered=kept,
        clip=str(input) if input else f"{width}x{height} made up",
        pipeline=whole,
        wanted_fps=fps or (float(Fraction(rate)) if rate else MADE_UP_RATE),
        machine=machine_facts(),
        versions={
            **versions(),
            **{PACKAGES[name][0]: v for name in PACKAGES if (v := version(name)) is not None},
        },
    )


def _measure(asked: list[Choice], luma: Array, *, threads: int | None, seconds: float) -> list[Run]:
    """luma: (H, W) uint8. Raises BackendError when two fp32 runs disagree."""
    spec = asked[0].model.spec
    height, width = padded((luma.shape[0], luma.shape[1]), spec)
    tall, wide = height - luma.shape[0], width - luma.shape[1]
    plane = np.pad(luma, ((0, tall), (0, wide)), mode="edge")
    batch = np.ascontiguousarray(np.stack([plane] * spec.channels)[None])
    sessions = [
        open_session(
            way.model.path,
            spec=way.model.spec,
            backend=way.backend,
            precision=way.precision,
            device=str(way.device),
            threads=threads,
            size=(height, width),
            io="uint8",
        )
        for way in asked
    ]
    try:
        distances = _compare(sessions, batch)
        times: list[list[float]] = [[] for _ in sessions]
        for session in sessions:
            for _ in range(WARM_UP):
                session(batch)
        while any(len(taken) < FEWEST or sum(taken) < seconds for taken in times):
            for session, taken in zip(sessions, times, strict=True):
                start = time.perf_counter()
                session(batch)
                taken.append(time.perf_counter() - start)
        return [
            Run(
                backend=session.facts.backend,
                precision=session.facts.precision,
                device=str(way.device),
                file=way.model.path.name,
                threads=session.facts.threads,
                frames=len(taken),
                **{f"p{p}_ms": 1e3 * float(np.percentile(taken, p)) for p in (50, 95, 99)},
                psnr_to_fp32=distance,
            )
            for way, session, taken, distance in zip(asked, sessions, times, distances, strict=True)
        ]
    finally:
        for session in sessions:
            session.close()


def _compare(sessions: list[Session], batch: Array) -> list[float | None]:
    """PSNR of each session's output to the first fp32 one; nothing wrong is ever timed."""
    outputs = [session(batch) for session in sessions]
    exact = [i for i, session in enumerate(sessions) if session.facts.precision == "fp32"]
    if not exact:
        return [None] * len(sessions)
    reference = outputs[exact[0]]
    for i in exact:
        # A pixel between two 8-bit steps may fall either way; more is an error.
        if np.abs(outputs[i].astype(np.int16) - reference).max() > 1:
            one, other = sessions[exact[0]].facts, sessions[i].facts
            raise BackendError(
                f"{one.backend} and {other.backend} give different pictures in fp32: "
                "report this with the model"
            )
    distances = [psnr(output, reference) for output in outputs]
    return [None if distance == float("inf") else distance for distance in distances]


def _remember(
    found: Model, luma: Array, runs: list[Run], warn: Callable[[str], None]
) -> Path | None:
    about = {
        "model": found.spec.name,
        "size": f"{luma.shape[1]}x{luma.shape[0]}",
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        return remember(found.path, {run.name: run.p50_ms for run in runs}, about=about)
    except OSError as error:
        warn(f"cannot remember the times: {error}")
        return None


def _first_luma(clip: Path) -> Array:
    """(H, W) uint8 of the first picture."""
    with VideoReader(clip) as reader:
        for item in reader:
            if isinstance(item, Frame):
                return (item.planes[0] >> (item.depth - 8)).astype(np.uint8)
    raise MediaError(f"{clip} has no picture")


def _parse(size: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", size)
    if match is None or not all(16 <= int(side) <= 8192 for side in match.groups()):
        raise UsageError(f"size is {size!r}: say WIDTHxHEIGHT, such as 640x360, 16 to 8192 each")
    width, height = int(match[1]), int(match[2])
    if width % 2 or height % 2:
        raise UsageError(f"size is {size!r}: a made-up 4:2:0 clip has an even width and height")
    return width, height


def _ignore(_: str) -> None:
    pass
