"""edgesr.stream: a video through a model, from file to file."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from edgesr.errors import Interrupted, MediaError, UsageError
from edgesr.models import Model, resolve_for_stream
from edgesr.runtime.partfile import PartFile
from edgesr.runtime.pipeline import Abandoned, run
from edgesr.runtime.progress import Progress, Watch
from edgesr.runtime.stats import Stats, machine_facts, peak_rss_mb, versions

if TYPE_CHECKING:
    from edgesr.runtime.backends import Session
    from edgesr.runtime.frame import Frame
    from edgesr.runtime.upscale import Upscale
    from edgesr.runtime.video import VideoReader, VideoWriter

INFER = "infer"

# Two frames on half of the threads each, instead of one on all: no thread waits at the end of
# every layer for one that the encoder has pushed aside. On two cores: 12 % more frames a second.
FRAMES_AT_ONCE = 2


def stream(
    input: str | Path,
    output: str | Path,
    *,
    model: str | None = None,
    scale: int | None = None,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    codec: str | None = None,
    crf: int | None = None,
    preset: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    strict: bool = False,
    keep_partial: bool = False,
    stats: str | Path | None = None,
    progress: Callable[[Progress], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    cancel: Event | None = None,
) -> Stats:
    """Upscale a video file: every frame at its time, sound and subtitles copied.

    input, output  paths; the container follows from the suffix of `output`
    model          a name of `edgesr models`, or the path of an .onnx file; None: the default,
                   trained on compressed video where that is shipped at the scale
                   (`edgesr.models.resolve_for_stream`)
    scale          None: what the model does, 2 for the default
    backend        "auto", "ort", "openvino", "tensorrt", "ort-tensorrt"
    precision      "auto", "fp32", "bf16", "fp16", "int8"; auto is never less than the file's own
                   for a video of more than 8 bits
    device         "cpu", "cuda", "cuda:1", or "auto": a GPU where one really opens
    codec          of the output video, None: what fits the container; crf, preset: of that codec
    threads        for inference and for the encoder, each; None: as many as there are usable cores
    overwrite      replace an existing output, and any existing file with the statistics
    strict         a packet that cannot be decoded is an error, not a warning
    keep_partial   when interrupted, keep what is written so far as a valid file
    stats          write the statistics to this .json file too; an older .json file is replaced
    progress       called about ten times a second, in the calling thread, and once at the end
    on_warning     called with each warning (one line) in the calling thread; the Stats keep them
    on_note        called with what was found out of a model that carries no facts, or with which
                   model stands in for the default
    cancel         set it, from any thread, to stop early

    Returns what was done and how fast. Raises UsageError, ModelError, MediaError, BackendError or
    MissingDependency when it cannot be done, Interrupted after Ctrl-C or `cancel`. The output
    appears under its name when it is complete, and not at all after an error. A stop that comes
    when the output is just being given its name comes too late: that is no error.
    """
    from edgesr.runtime.upscale import Upscale
    from edgesr.runtime.video import VideoReader, VideoWriter

    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: it must be 1 or more")
    watch = Watch([INFER], progress=progress or _ignore, on_warning=on_warning or _ignore)
    source, target = Path(input), Path(output)
    try:
        report = None
        if stats is not None:
            report = _stats_file(Path(stats), videos=(source, target), overwrite=overwrite)
        with ExitStack() as opened:
            reader = opened.enter_context(VideoReader(source, strict=strict))
            watch.follow(reader.warnings)
            watch.total = reader.frame_count
            found = resolve_for_stream(model, scale=scale)
            if found.note is not None and on_note is not None:
                on_note(found.note)
            writer = VideoWriter(
                target,
                like=reader,
                width=reader.width * found.spec.scale,
                height=reader.height * found.spec.scale,
                codec=codec,
                crf=crf,
                preset=preset,
                threads=threads,
                overwrite=overwrite,
                keep_partial=keep_partial,
            )
            try:
                watch.follow(writer.warnings)
                session = _open_session(
                    found,
                    reader,
                    backend=backend,
                    precision=precision,
                    device=device,
                    threads=threads,
                )
                opened.enter_context(closing(session))
                upscale = Upscale(session, spec=found.spec, observe=_timer(watch, session))
                opened.enter_context(closing(upscale))
                seconds = _transcode(reader, upscale, writer, watch, cancel, keep=keep_partial)
            except Abandoned:
                opened.pop_all()  # threads are still inside: nothing of it may be closed
                upscale.close(wait=False)
                writer.abandon()
                raise
            except Interrupted:
                writer.abort(keep=keep_partial)
                raise Interrupted(_what_is_left(writer, keep_partial)) from None
            except BaseException:
                writer.abort()
                raise
            result = _stats(reader, upscale, writer, found, session, watch, seconds)
        if report is not None:
            _write_json(report, result.to_dict())
    except KeyboardInterrupt:  # outside of the pipeline, which raises Interrupted by itself
        raise Interrupted("interrupted") from None
    return result


def _transcode(
    reader: VideoReader,
    upscale: Upscale,
    writer: VideoWriter,
    watch: Watch,
    cancel: Event | None,
    *,
    keep: bool,
) -> float:
    """Run the pipeline to the end; its wall time in seconds."""

    def observe(name: str, item: Any, seconds: float) -> None:
        if name != INFER:  # where several frames are worked on at once: see `_timer`
            watch.recorder.observe(name, item, seconds)

    def finish(check: Callable[[], None]) -> None:
        writer.finish(None if keep else check)  # what is complete is kept too

    started = time.perf_counter()
    run(
        reader,
        [(INFER, upscale)],
        writer.write,
        finish=finish,
        observe=observe,
        tick=watch.tick,
        cancel=cancel,
    )
    seconds = time.perf_counter() - started
    watch.tick(done=True)
    return seconds


def _timer(watch: Watch, session: Session) -> Callable[[Frame, float], None]:
    def observe(frame: Frame, seconds: float) -> None:
        watch.recorder.observe(INFER, frame, seconds, at_once=session.facts.parallel)

    return observe


def _what_is_left(writer: VideoWriter, keep: bool) -> str:
    frames = writer.frames_written
    fate = "holds them" if keep and frames else "was not written"
    return f"interrupted after {frames} frames; {writer.path} {fate}"


def _open_session(
    found: Model,
    reader: VideoReader,
    *,
    backend: str,
    precision: str,
    device: str,
    threads: int | None,
) -> Session:
    from edgesr.runtime.backends import open_session
    from edgesr.runtime.backends.machine import usable_cores
    from edgesr.runtime.upscale import padded

    if precision == "auto" and reader.depth > 8:
        # bf16 keeps 8 bits of a number: a 10-bit picture would come back in steps of up to 4.
        precision = found.spec.precision
    return open_session(
        found.path,
        spec=found.spec,
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
        parallel=FRAMES_AT_ONCE if (threads or usable_cores()) >= FRAMES_AT_ONCE else 1,
        size=padded((reader.height, reader.width), found.spec),
        io="uint8" if reader.depth == 8 and found.spec.colour == "y" else "float32",
    )


def _stats(
    reader: VideoReader,
    upscale: Upscale,
    writer: VideoWriter,
    found: Model,
    session: Session,
    watch: Watch,
    seconds: float,
) -> Stats:
    recorder, spec, facts = watch.recorder, found.spec, session.facts
    own = facts.file in ("", str(found.path))  # else another form of it ran, fp16 or int8
    width, height = writer.size
    return Stats(
        input={
            "path": str(reader.path),
            "width": reader.width,
            "height": reader.height,
            "rate": str(reader.rate) if reader.rate else None,
            "codec": reader.codec,
            "format": reader.format,
            "duration": None if reader.duration is None else float(reader.duration),
        },
        output={
            "path": str(writer.path),
            "width": width,
            "height": height,
            "codec": writer.codec,
            "format": writer.pixel_format,
            "options": dict(writer.encoder_options),
        },
        frames_in=recorder.frames_in,
        frames_out=recorder.frames_out,
        duplicates=upscale.duplicates,
        decode_errors=reader.decode_errors,
        seconds_total=time.perf_counter() - recorder.started,
        seconds_first_frame=(
            None if writer.first_frame_at is None else writer.first_frame_at - recorder.started
        ),
        seconds_sustained=recorder.seconds_sustained,
        fps=recorder.fps,
        stages=recorder.stages(elapsed=seconds),
        slowest=recorder.slowest,
        peak_rss_mb=peak_rss_mb(),
        model={
            "name": spec.name,
            "scale": spec.scale,
            "network": spec.network,
            "colour": spec.colour,
            "precision": spec.precision if own else facts.precision,
            "recipe": spec.recipe,
            "file": str(found.path) if own else facts.file,
        },
        backend=dataclasses.asdict(facts),
        versions=versions(),
        machine=machine_facts(),
        warnings=tuple(watch.warnings),
    )


def _stats_file(path: Path, *, videos: Sequence[Path], overwrite: bool) -> PartFile:
    """Where the statistics go; UsageError or MediaError when they cannot go there."""
    real = Path(os.path.realpath(path))  # of a link the file, not the link, is replaced
    if any(_same(real, video) for video in videos):
        raise UsageError(f"the statistics cannot go into a video, {path}: give a .json file")
    if (real.exists() and not real.is_file()) or not real.parent.is_dir():
        raise MediaError(f"the statistics cannot be written to {path}: it is no file in a folder")
    older = overwrite or real.suffix.lower() == ".json"
    return PartFile(real, source=videos[0], overwrite=older)


def _same(real: Path, video: Path) -> bool:
    if real == Path(os.path.realpath(video)):
        return True
    return real.exists() and video.exists() and real.samefile(video)


def _write_json(file: PartFile, values: Mapping[str, Any]) -> None:
    try:
        file.path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        file.commit()
    except BaseException as error:
        file.discard()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise MediaError(f"{file.target} cannot be written: {reason}") from error
        raise


def _ignore(_: object) -> None:
    pass
