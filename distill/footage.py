"""Training pictures out of a clip: different frames, drawn evenly from its scenes (`scenes`).

A clip is a video file, or a folder of numbered pictures taken at `FOLDER_RATE`. It is decoded
twice: once to survey it (no pictures are kept), once for the chosen frames alone, so that an hour
costs no more memory than a minute. Frames come as they are stored: a rotation in the container is
not applied, because the network sees stored frames too.

A part can be held out by time: the last second of every four, with a margin of frames around it
that neither part gets. In front of a camera that stands still the background is of course the same
in both parts; that is what a network for one camera is to learn.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgesr.distill.data import SUFFIXES, read_rgb
from edgesr.distill.scenes import Glimpse, Sampling, Survey, choose, glimpse, survey_glimpses
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y
from edgesr.runtime.frame import Frame
from edgesr.runtime.rgb import FULL_RANGE, to_rgb
from edgesr.runtime.video import VideoReader

Array = np.ndarray[Any, Any]
Tell = Callable[[int, int | None], None]

VERSION = 1
FOLDER_RATE = 25.0  # pictures a second that a folder of frames is taken for


@dataclass(frozen=True, kw_only=True)
class Still:
    """A drawn frame: (H, W, 3) RGB uint8, or (H, W) float32 luma of 16..235 (studio, unrounded).

    index   of the frame in the clip, counted from 0 as decoded
    time    seconds after the first frame
    scene   counted from 0
    """

    picture: Array
    index: int
    time: float
    scene: int


def sample_frames(
    clip: Path,
    sampling: Sampling,
    *,
    colour: Literal["rgb", "y"] = "rgb",
    found: Survey | None = None,
    progress: Tell | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Iterator[Still]:
    """The chosen frames of a video file or folder of frames, in order, one in memory at a time.

    colour      "y": the luma plane as decoded, full range brought to studio; no way over RGB
    found       an earlier `survey` of the clip
    progress    called with frames decoded by both passes, and about how many in all (None: unknown)
    on_warning  what the decoder has to say of the file

    Raises MediaError where the clip cannot be read or holds no usable frame, UsageError where it is
    too short to be split.
    """
    done = 0
    if found is None:
        found = survey(clip, progress=progress, on_warning=on_warning)
        done = len(found.times)
    chosen = choose(found, sampling, clip=clip)
    scenes = dict(zip(found.index.tolist(), found.scene.tolist(), strict=True))
    wanted, last = set(chosen), chosen[-1]
    with closing(_frames(clip)) as frames:
        for index, frame in enumerate(frames):
            if progress is not None:
                progress(done + index + 1, done + last + 1)
            if index in wanted:
                yield Still(
                    picture=_rgb(frame) if colour == "rgb" else _luma(frame),
                    index=index,
                    time=float(found.times[index]),
                    scene=scenes[index],
                )
            if index == last:
                break
    gc.collect()


def digest_footage(clip: Path, sampling: Sampling) -> str:
    """Name of exactly these frames: SHA-256 over the content of the clip and the settings."""
    total = hashlib.sha256(json.dumps([VERSION, asdict(sampling)]).encode())
    for file in frames_of(clip) if clip.is_dir() else [clip]:
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    total.update(block)
        except OSError as error:
            raise MediaError(f"{file} cannot be read: {error.strerror}") from None
        total.update(f"{file.stat().st_size}\n".encode())
    return total.hexdigest()


def survey(
    clip: Path,
    *,
    progress: Tell | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Survey:
    """Decode a clip once: times, cuts, and what each frame shows in little. Raises MediaError."""
    found = survey_glimpses(_glimpses(clip, progress=progress, on_warning=on_warning))
    gc.collect()  # a closed decoder stays in a reference cycle: 50 MB a clip
    if not len(found.times):
        raise MediaError(f"{clip}: none of its pictures can be read")
    return found


def frames_of(folder: Path) -> list[Path]:
    """The numbered pictures of a folder, by name. Raises UsageError."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]
    if not files:
        raise UsageError(f"{folder}: no pictures in it ({', '.join(SUFFIXES)})")
    return sorted(files, key=in_numeric_order)


def in_numeric_order(file: Path) -> tuple[list[int | str], str]:
    """Sort key by which frame_9 comes before frame_10."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if odd % 2 else part for odd, part in enumerate(parts)], file.name


def _frames(clip: Path) -> Generator[Frame | Array, None, None]:
    """Frames of a video file, or (H, W, 3) RGB pictures of a folder."""
    if clip.is_dir():
        yield from _pictures(frames_of(clip))
        return
    with VideoReader(clip) as reader:
        yield from (item for item in reader if isinstance(item, Frame))


def _pictures(
    files: Sequence[Path], *, on_warning: Callable[[str], None] = lambda line: None
) -> Iterator[Array]:
    """Those that can be read, (H, W, 3) RGB: the same ones in both passes."""
    for file in files:
        try:
            picture = read_rgb(file)
        except MediaError as error:
            on_warning(f"{error}: left out")
        else:
            yield picture


def _glimpses(
    clip: Path, *, progress: Tell | None, on_warning: Callable[[str], None] | None
) -> Iterator[Glimpse]:
    warn = on_warning or (lambda line: None)
    if clip.is_dir():
        files = frames_of(clip)
        for index, picture in enumerate(_pictures(files, on_warning=warn)):
            yield glimpse(rgb_to_y(picture).astype(np.float32), time=index / FOLDER_RATE)
            if progress is not None:
                progress(index + 1, 2 * len(files))
        return
    with VideoReader(clip) as reader:
        frames = (item for item in reader if isinstance(item, Frame))
        for index, frame in enumerate(frames):
            gain, black = _to_studio(frame)
            yield glimpse(frame.planes[0], time=float(frame.time), gain=gain, black=black)
            if progress is not None:
                progress(index + 1, reader.frame_count and 2 * reader.frame_count)
    for warning in reader.warnings:
        warn(warning)


def _to_studio(frame: Frame) -> tuple[float, float]:
    """Gain and black that make its luma one of 16..235, whatever the depth and range."""
    if frame.colour.range == FULL_RANGE:
        return 219 / ((1 << frame.depth) - 1), 16.0
    return 1 / (1 << (frame.depth - 8)), 0.0


def _luma(frame: Frame | Array) -> Array:
    """(H, W) float32 luma of 16..235, unrounded."""
    if not isinstance(frame, Frame):
        return rgb_to_y(frame).astype(np.float32)
    gain, black = _to_studio(frame)
    return frame.planes[0].astype(np.float32) * np.float32(gain) + np.float32(black)


def _rgb(frame: Frame | Array) -> Array:
    """(H, W, 3) RGB uint8 by the stream's own matrix, range and siting."""
    if not isinstance(frame, Frame):
        return frame
    rgb = np.clip(to_rgb(frame) * np.float32(255), 0, 255)
    return np.ascontiguousarray(np.moveaxis(np.rint(rgb).astype(np.uint8), 0, 2))
