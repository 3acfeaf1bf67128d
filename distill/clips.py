"""Clips: a model over every frame, as `edgesr stream` runs it, against the footage itself.

What is compared is the luma plane as it is stored (on the 8-bit scale), `scale` pixels cropped on
each side: PSNR-Y and SSIM-Y of each frame, and between frames flicker and the warped error. The
small clip is given, or made of the footage by MATLAB's bicubic, frame by frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np

from edgesr.bicubic import downscale, imresize
from edgesr.colour import chroma_of_luma_size, chroma_to_luma_size, subsampling
from edgesr.distill.codec import options_of
from edgesr.distill.pictures import check_sizes
from edgesr.distill.scores import MOST_DB, Score
from edgesr.distill.sources import VIDEO_SUFFIXES
from edgesr.errors import MediaError, MissingDependency, UsageError
from edgesr.metrics import crop_border, flicker, motion, psnr, ssim, warped_error
from edgesr.runtime.frame import Frame
from edgesr.runtime.pixels import picture_of, planes_of
from edgesr.runtime.stages import Stage
from edgesr.runtime.video import VideoReader
from edgesr.spec import Colour

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The footage, and the small clip where there is one."""

    name: str
    hr: Path
    lr: Path | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One frame: cropped luma on the 8-bit scale, float, and the scores of ours and bicubic's."""

    truth: Array
    ours: Array
    bicubic: Array
    score: Score
    bicubic_score: Score


def is_clip(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_SUFFIXES


def find_clips(place: Path, *, scale: int) -> list[Clip]:
    """A clip, or those in a folder: `<name>_HR.*` with `<name>_LR.*`, or footage alone."""
    if (place / f"x{scale}").is_dir():
        place = place / f"x{scale}"
    files = [place] if place.is_file() else sorted(f for f in place.iterdir() if is_clip(f))
    clips = []
    for file in files:
        if file.stem.endswith("_LR"):
            continue
        name = file.stem.removesuffix("_HR")
        small = sorted(f for f in file.parent.glob(f"{name}_LR.*") if is_clip(f))
        paired = file.stem.endswith("_HR") and small
        clips.append(Clip(name=name, hr=file, lr=small[0] if paired else None))
    if not clips:
        raise UsageError(f"{place}: no footage in it, only files named _LR")
    return clips


def depth_of(path: Path) -> int:
    """Bits of a sample. Raises MediaError."""
    with VideoReader(path) as reader:
        return reader.depth


def evaluate_clip(
    stage: Stage,
    frames: Iterable[tuple[Frame, Array]],
    *,
    scale: int,
    tell: Callable[[int], None] = lambda done: None,
) -> tuple[list[Score], list[Score]]:
    """Scores of every frame, ours and bicubic's.

    stage   takes small Frames and gives large ones, in order
    frames  small Frame and the truth's luma, (sH, sW) on the 8-bit scale
    tell    called with how many frames are done
    """
    waiting: deque[tuple[Frame, Array]] = deque()
    judged: list[tuple[Score, Score]] = []
    last: Judged | None = None

    def take(finished: Iterable[Frame]) -> None:
        nonlocal last
        for big in finished:
            small, truth = waiting.popleft()
            last = judge(big, small, truth, scale=scale, before=last, index=len(judged))
            judged.append((last.score, last.bicubic_score))
            tell(len(judged))

    for small, truth in frames:
        waiting.append((small, truth))
        take(stage.push(small))
    take(stage.flush())
    return [ours for ours, _ in judged], [bicubic for _, bicubic in judged]


def judge(
    big: Frame, small: Frame, truth: Array, *, scale: int, before: Judged | None, index: int
) -> Judged:
    kept, ours, bicubic = (
        crop_border(luma, border=scale) for luma in (truth, luma_of(big), enlarged(small, scale))
    )
    own, theirs = (
        Score(name=f"{index:05}", psnr_y=min(psnr(luma, kept), MOST_DB), ssim_y=ssim(luma, kept))
        for luma in (ours, bicubic)
    )
    if before is not None:
        moves = motion(before.truth, kept)
        own, theirs = (
            score.replace(
                flicker=flicker(earlier, luma, truth_before=before.truth, truth_after=kept),
                warped=warped_error(earlier, luma, motion=moves),
                warped_truth=warped_error(before.truth, kept, motion=moves),
            )
            for score, earlier, luma in (
                (own, before.ours, ours),
                (theirs, before.bicubic, bicubic),
            )
        )
    return Judged(truth=kept, ours=ours, bicubic=bicubic, score=own, bicubic_score=theirs)


def luma_of(frame: Frame) -> Array:
    """(H, W) float64 on the 8-bit scale."""
    return frame.planes[0].astype(np.float64) / (1 << (frame.depth - 8))


def enlarged(frame: Frame, scale: int) -> Array:
    """MATLAB's bicubic of the luma, rounded to the depth of the frame; on the 8-bit scale."""
    return rounded(imresize(frame.planes[0], scale), frame.depth) / (1 << (frame.depth - 8))


def rounded(plane: Array, depth: int) -> Array:
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.clip(np.rint(plane), 0, (1 << depth) - 1).astype(dtype)


def frames_of(
    clip: Clip, *, scale: int, colour: Colour, crf: int | None = None, most: int | None = None
) -> Generator[tuple[Frame, Array], None, None]:
    """Small frames, and the luma of the truth on the 8-bit scale.

    colour  "y" leaves the chroma out: nothing of it is measured
    crf     the small clip, where it is made here, goes through x264 at this quality
    most    stop after so many
    """
    if clip.lr is not None:
        yield from given_pairs(clip.hr, clip.lr, scale=scale, colour=colour, most=most)
        return
    truths: deque[Array] = deque()

    def made() -> Iterator[Frame]:
        for frame in islice(read_frames(clip.hr), most):
            truth, small = shrunk(frame, scale=scale, colour=colour)
            check_sizes(
                truth.planes[0].shape,
                small.planes[0].shape,
                names=(clip.hr.name, "its small one"),
                scale=scale,
            )
            truths.append(luma_of(truth))
            yield small

    for small in made() if crf is None else through_x264(made(), crf=crf):
        yield small, truths.popleft()


def given_pairs(
    hr: Path, lr: Path, *, scale: int, colour: Colour, most: int | None
) -> Iterator[tuple[Frame, Array]]:
    with closing(read_frames(hr)) as large, closing(read_frames(lr)) as small:
        count = 0
        while most is None or count < most:
            truth, frame = next(large, None), next(small, None)
            if truth is None or frame is None:
                if truth is not frame:
                    shorter = hr if truth is None else lr
                    raise MediaError(
                        f"{shorter.name} ends after {count} frames, and its partner goes on: "
                        "a pair has the same frames"
                    )
                return
            height, width = (side // scale * scale for side in truth.planes[0].shape)
            check_sizes(
                (height, width), frame.planes[0].shape, names=(hr.name, lr.name), scale=scale
            )
            yield luma_only(frame) if colour == "y" else frame, luma_of(truth)[:height, :width]
            count += 1


def read_frames(path: Path) -> Generator[Frame, None, None]:
    """Every frame of a file; one that cannot be decoded is a MediaError."""
    with VideoReader(path, strict=True) as reader:
        for item in reader:
            if isinstance(item, Frame):
                yield item


def luma_only(frame: Frame) -> Frame:
    name = "gray" if frame.depth == 8 else f"gray{frame.depth}le"
    return frame.replace(planes=frame.planes[:1], format=name)


def shrunk(frame: Frame, *, scale: int, colour: Colour) -> tuple[Frame, Frame]:
    """The frame cut to a multiple of 2 * scale, and 1 / scale of it.

    Each plane by MATLAB's bicubic, rounded; chroma goes by way of luma's grid, so that it keeps its
    siting.
    """
    height, width = (side // (2 * scale) * 2 * scale for side in frame.planes[0].shape)
    luma = frame.planes[0][:height, :width]
    planes = [rounded(downscale(luma, scale), frame.depth)]
    kept = luma_only(frame).replace(planes=(luma,))
    if colour == "y" or len(frame.planes) == 1:
        return kept, kept.replace(planes=tuple(planes))
    factors = subsampling(frame.planes[0].shape, frame.planes[1].shape)
    for plane in frame.planes[1:]:
        cut = np.ascontiguousarray(plane[: height // factors[0], : width // factors[1]])
        siting = frame.colour.siting
        fine = chroma_to_luma_size(cut.astype(np.float32), luma=(height, width), siting=siting)
        small = downscale(fine, scale).astype(np.float32)
        coarse = chroma_of_luma_size(small, factors=factors, siting=siting)
        planes.append(rounded(coarse, frame.depth))
    return kept, frame.replace(planes=tuple(planes))


def check_crf(crf: int | None) -> None:
    if crf is not None and not 0 <= crf <= 51:
        raise UsageError(f"--crf {crf}: 0 (all but lossless) to 51 (worst)")


def through_x264(frames: Iterable[Frame], *, crf: int) -> Iterator[Frame]:
    """8-bit frames to H.264 and back in memory, in order: what a camera or a site sends.

    One thread and x264's medium preset: the same clip again gives the same pixels.
    """
    waiting: deque[Frame] = deque()
    encoder: Any = None
    decoder: Any = av.CodecContext.create("h264", "r")

    def decoded(packets: Iterable[Any]) -> Iterator[Frame]:
        for packet in packets:
            for picture in decoder.decode(packet):
                frame = waiting.popleft()
                yield frame.replace(planes=planes_of(picture)[: len(frame.planes)])

    for index, frame in enumerate(frames):
        if frame.depth != 8:
            raise MediaError(f"--crf: x264 takes 8 bits here, the clip has {frame.depth}")
        if encoder is None:
            encoder = x264(frame, crf=crf)
        waiting.append(frame)
        picture = picture_of(frame.planes, frame.format)
        picture.pts = index
        yield from decoded(encoder.encode(picture))
    if encoder is not None:
        yield from decoded([*encoder.encode(None), None])


def x264(like: Frame, *, crf: int) -> Any:
    try:
        encoder: Any = av.CodecContext.create("libx264", "w")
    except (av.FFmpegError, ValueError) as error:
        raise MissingDependency(
            "--crf needs an FFmpeg with x264: pip install av brings one"
        ) from error
    encoder.width, encoder.height, encoder.pix_fmt = like.width, like.height, like.format
    encoder.time_base = Fraction(1, 25)
    encoder.options = options_of("libx264", crf=crf, preset="medium") | {"threads": "1"}
    return encoder
