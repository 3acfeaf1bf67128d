"""VideoWriter: Frames and carried packets into a new file, complete or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from edgesr.errors import EdgesrError, MediaError, UsageError
from edgesr.runtime import encoders, pixels, streams, upright
from edgesr.runtime.copies import Copies
from edgesr.runtime.frame import Frame
from edgesr.runtime.partfile import PartFile
from edgesr.runtime.reader import Carried, VideoReader


class VideoWriter:
    """Write what a VideoReader delivered, at another size, with all that came along.

    with VideoWriter("out.mp4", like=reader, width=1280, height=720) as writer:
        for item in reader: writer.write(larger(item))

    like           the reader: times, colours, rotation, other streams and metadata come from it
    width, height  size of the Frames that will be written, in pixels
    codec          h264, hevc, av1, vp9, mpeg4, prores, ffv1; None: the container's own
    crf, preset    quality (lower is better) and speed, in the codec's own terms
    threads        of the encoder; None: its own choice
    keep_partial   an exception inside `with` leaves a playable shorter file

    The file grows under a hidden name beside the target and gets its own name in `finish`.
    Raises UsageError for options that do not fit, MediaError when the file cannot be written; both
    before any frame is asked for.
    """

    codec: str
    pixel_format: str
    size: tuple[int, int]  # (width, height) as written: turned or made even where it has to be
    encoder_options: dict[str, str]
    warnings: list[str]  # complete after `finish`
    frames_written: int
    first_frame_at: float | None  # time.perf_counter() when the first video packet was written

    def __init__(
        self,
        path: str | Path,
        *,
        like: VideoReader,
        width: int,
        height: int,
        codec: str | None = None,
        crf: int | None = None,
        preset: str | None = None,
        threads: int | None = None,
        overwrite: bool = False,
        keep_partial: bool = False,
    ) -> None:
        self.path = Path(path)
        self.width, self.height = width, height
        self.keep_partial = keep_partial
        self.warnings = []
        self.frames_written = 0
        self.first_frame_at = None
        self._like = like
        self._kind = streams.container_for(self.path)
        self.codec, self._row = encoders.choose(codec, self._kind, self.path)
        options = encoders.options_for(self.codec, self._row, crf=crf, preset=preset)
        self._part = PartFile(self.path, source=like.path, overwrite=overwrite)
        self.encoder_options = self._with_hdr(options)
        self._choose_pixels()
        self._choose_turn()
        self._warn_of_container()
        self._reformatter = VideoReformatter()
        self._end = like.start  # when the last frame ends, seconds
        self._first_dts: Fraction | None = None  # seconds
        self._container: Any = None
        try:
            self._open(threads)
        except BaseException as error:
            self.abort()
            if isinstance(error, (av.FFmpegError, OSError, ValueError)):
                raise self._cannot_write(error) from error
            raise

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
            return
        with suppress(MediaError):  # what went wrong first is what matters
            self.abort(keep=self.keep_partial)

    def write(self, item: Frame | Carried) -> None:
        """Encode a Frame, or copy a packet, which from then on belongs to this file."""
        try:
            if isinstance(item, Carried):
                self._copies.write(item)
            else:
                self._encode(item)
        except (av.FFmpegError, OSError) as error:
            raise self._cannot_write(error) from error

    def finish(self, check: Callable[[], None] | None = None) -> None:
        """Write the rest, make sure that it is on the disk, and give the file its name.

        check   called when all is written and the name is not yet given: when it raises, there is
                no file, as after any other error
        """
        try:
            if not self.frames_written:
                raise MediaError("there was no frame")
            packets = self._stream.encode(None)
            self._stretch_last(packets)
            self._mux(packets)
            self._container.close()
            if check is not None:
                check()
            self._part.commit()
        except BaseException as error:
            self.abort()
            if isinstance(error, (av.FFmpegError, OSError)):
                raise self._cannot_write(error) from error
            raise
        self._container = None
        self.warnings += self._copies.corrections()

    def abort(self, keep: bool = False) -> None:
        """Remove the unfinished file; with `keep`, close it properly so that it plays instead.

        Does nothing after `finish` or a second time.
        """
        if self._container is None:
            return
        if keep and self.frames_written:
            self.finish()
            return
        container, self._container = self._container, None
        with suppress(av.FFmpegError, OSError):
            container.close()
        self._part.discard()

    def abandon(self) -> None:
        """Remove the unfinished file while a thread may still be inside the encoder."""
        self._part.discard()

    def _with_hdr(self, options: dict[str, str]) -> dict[str, str]:
        mastering = self._like.mastering
        if not mastering:
            return options
        more = mastering.encoder_options(self._row.encoder)
        if not more:
            self._warn(f"HDR mastering metadata is not carried: {self.codec} cannot hold it here")
        return encoders.merge(options, more)

    def _choose_pixels(self) -> None:
        like = self._like
        allowed = [f.name for f in av.Codec(self._row.encoder, "w").video_formats or ()]
        self.pixel_format = pixels.nearest(like.format, allowed or [like.format])
        loss = pixels.lost(like.format, self.pixel_format)
        if loss is not None:
            self._warn(f"{self.codec} cannot hold {like.format}: {loss}")
        self._colour = like.colour
        if like.colour.range == 2 and not self._row.full_range:
            self._colour = encoders.studio(like.colour)
            self._warn(f"{self.codec} has no full range: levels are converted to studio range")

    def _choose_turn(self) -> None:
        """Carry the display matrix, or turn the frames where the container cannot."""
        matrix = self._like.display_matrix
        self._matrix = matrix if self._kind.rotates else None
        self._turn = None if self._kind.rotates else upright.orientation_of(matrix)
        layout, _ = pixels.describe(self._like.format)
        if self._turn is not None and self._turn.swaps and layout in ("yuv422p", "yuv440p"):
            raise UsageError(
                f"{self.path}: {self._kind.muxer} cannot hold the rotation, and {layout} frames "
                "cannot be turned by 90 degrees; .mp4 and .mkv carry the rotation"
            )
        if self._turn is not None:
            self._warn(f"{self._kind.muxer} cannot hold the rotation: frames are turned upright")
        elif matrix and not self._kind.rotates and not upright.is_plain(matrix):
            self._warn(f"the rotation by {self._like.rotation} degrees is not carried")

    def _warn_of_container(self) -> None:
        like, kind = self._like, self._kind
        sar = like.sar or Fraction(1)
        if sar != 1 and not kind.holds_sar and not self._row.holds_sar:
            self._warn(
                f"the pixel shape {sar.numerator}:{sar.denominator} is not carried: "
                f"{kind.muxer} with {self.codec} cannot hold it here"
            )
        if kind.muxer == "mpegts" and like.start < Fraction(1, 5):
            self._warn("mpegts has no times below zero: all may start up to 0.2 s later")

    def _open(self, threads: int | None) -> None:
        like = self._like
        bases = [like.time_base, *(s.handle.time_base for s in like.carried if s.handle.time_base)]
        self._container = container = av.open(
            str(self._part.path),
            "w",
            format=self._kind.muxer,
            metadata_errors="surrogateescape",
            container_options=streams.container_options(self._kind, bases),
        )
        container.metadata.update(streams.tags(like.metadata))
        self._stream = self._add_video(threads)
        self._copies = Copies(container, like=like, kind=self._kind)
        self.warnings += self._copies.warnings
        # The header now, so that what cannot work fails before the first frame.
        container.start_encoding()

    def _add_video(self, threads: int | None) -> Any:
        like = self._like
        swaps = self._turn is not None and self._turn.swaps
        size = (self.height, self.width) if swaps else (self.width, self.height)
        self.size = encoders.size_for(self._row, self.pixel_format, *size)
        if self.size != size:
            old, new = ("{}x{}".format(*pair) for pair in (size, self.size))
            self._warn(
                f"{self.codec} has even sizes only: {old} is written as {new}, edge repeated"
            )
        # Where the codec cannot count in fine units it counts frames, and this knows their times.
        self._times: dict[int, tuple[int, int]] | None = {} if self._row.counts_frames else None
        fine = like.time_base if self._times is None else 1 / like.rate.limit_denominator(1000)
        stream = encoders.add_stream(
            self._container,
            self._row,
            options=self.encoder_options,
            size=self.size,
            pixel_format=self.pixel_format,
            rate=like.rate,
            time_base=fine,
            threads=threads,
        )
        encoders.set_colour(stream.codec_context, self._colour)
        if like.sar:
            stream.codec_context.sample_aspect_ratio = 1 / like.sar if swaps else like.sar
        if self.codec == "hevc" and self._kind.muxer in ("mp4", "mov"):
            stream.codec_context.codec_tag = "hvc1"  # what Apple's players ask for
        if self._matrix is not None:
            grown = (self.width / like.width, self.height / like.height)
            stream.set_display_matrix(upright.scaled(self._matrix, *grown))
        stream.time_base = like.time_base
        stream.metadata.update(streams.tags(like.stream_metadata))
        stream.disposition = like.disposition
        return stream

    def _encode(self, frame: Frame) -> None:
        if (frame.width, frame.height) != (self.width, self.height):
            raise ValueError(
                f"the writer was opened for {self.width}x{self.height} frames, "
                f"got {frame.width}x{frame.height}"
            )
        picture = self._picture(frame)
        if self._times is None:
            picture.pts, picture.time_base = frame.pts, frame.time_base
            picture.duration = frame.duration
        else:
            self._times[self.frames_written] = (frame.pts, frame.duration)
            picture.pts = self.frames_written
            picture.time_base = self._stream.codec_context.time_base
        self._end = max(self._end, (frame.pts + frame.duration) * frame.time_base)
        self.frames_written += 1
        self._mux(self._stream.encode(picture))

    def _picture(self, frame: Frame) -> av.VideoFrame:
        """The frame upright, at even size, in the encoder's format and range."""
        planes: Sequence[pixels.Plane] = frame.planes
        if self._turn is not None:
            planes = [self._turn.apply(plane) for plane in planes]
        picture = pixels.picture_of(planes, frame.format, size=self.size)
        if frame.format != self.pixel_format or self._colour != self._like.colour:
            picture = self._reformatter.reformat(
                picture,
                format=self.pixel_format,
                src_colorspace=self._colour.matrix,
                dst_colorspace=self._colour.matrix,
                src_color_range=self._like.colour.range or 1,
                dst_color_range=self._colour.range or 1,
            )
        encoders.set_colour(picture, self._colour)
        return picture

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            if self._times is not None:
                packet.pts, packet.duration = self._times.pop(packet.pts)
                packet.dts, packet.time_base = packet.pts, self._like.time_base
            if self._first_dts is None:
                self._first_dts = packet.dts * packet.time_base
            self._container.mux(packet)
            if self.first_frame_at is None:
                self.first_frame_at = time.perf_counter()

    def _stretch_last(self, packets: Sequence[Any]) -> None:
        """Let a track of MP4 end with its last frame.

        Its length is the sum of durations in decoding order; with reordered frames of uneven
        durations the last one would be cut short.
        """
        if not packets or self._times is not None or self._kind.muxer not in ("mp4", "mov"):
            return
        last = packets[-1]
        begin = self._first_dts
        if begin is None:
            begin = packets[0].dts * packets[0].time_base
        missing = (self._end - self._like.start) - (last.dts * last.time_base - begin)
        last.duration = max(last.duration or 0, round(missing / last.time_base))

    def _cannot_write(self, error: Exception) -> Exception:
        if isinstance(error, EdgesrError) and not isinstance(error, MediaError):
            return error
        reason = getattr(error, "strerror", None) or str(error)
        return MediaError(f"{self.path} cannot be written: {reason}")

    def _warn(self, what: str) -> None:
        self.warnings.append(what)
