"""VideoReader: a file as Frames, and as packets of the streams that are only carried along."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from edgesr.errors import MediaError
from edgesr.runtime import hdr, opening, pixels, streams
from edgesr.runtime.clock import Clock
from edgesr.runtime.frame import ColourTags, Frame

# PyAV does not show the tag of the chroma siting. These two codecs have theirs by definition (JFIF
# and MPEG-1 put a chroma sample in the middle of its luma samples); all others are taken as left,
# the default of MPEG-2, H.264 and HEVC.
_CENTRE = 2  # ColourTags.siting
_CENTRE_SITED = ("mjpeg", "mpeg1video")


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A packet of a stream that is copied as it is; `stream` is its index in the input."""

    packet: av.Packet[Any]
    stream: int


class VideoReader:
    """Iterate once over a video file: `Frame | Carried`, in the order of the file.

    with VideoReader("in.mp4") as reader:
        for item in reader: ...

    strict  the first undecodable packet is a MediaError; otherwise it is counted and skipped

    The first picture is decoded at once, so that the attributes say what really comes. Frames are
    as they are stored: a rotation is in `display_matrix` and is the writer's to carry or apply.

    Raises MediaError when the file cannot be read, holds no video, or no picture can be decoded.
    """

    path: Path
    width: int
    height: int
    rate: Fraction  # average, frames a second
    time_base: Fraction  # seconds
    frame_count: int | None  # by the header or by duration x rate: an estimate
    duration: Fraction | None  # seconds
    start: Fraction  # when the first frame is shown, seconds
    codec: str
    format: str  # what the Frames hold: planar YUV or gray
    depth: int
    colour: ColourTags
    sar: Fraction | None
    rotation: int  # degrees counter-clockwise to show the picture upright: 0, 90, 180, 270, ...
    display_matrix: tuple[int, ...] | None  # 9 numbers, FFmpeg's layout
    mastering: hdr.Mastering
    carried: list[streams.Other]  # whose packets are delivered, and attachments
    left_out: list[streams.Other]
    warnings: list[str]  # complete after the last item
    decode_errors: int

    def __init__(self, path: str | Path, *, strict: bool = False) -> None:
        self.path = Path(path)
        self.strict = strict
        self.warnings = []
        self.decode_errors = 0
        self._closed = False
        self.container = opening.open_input(self.path)
        try:
            self._describe()
            self._items = self._read()
            self._ahead: deque[Frame | Carried] = deque()
            for item in self._items:
                self._ahead.append(item)
                if isinstance(item, Frame):
                    break
            else:
                raise MediaError(
                    f"{self.path}: no picture of the {self.codec} video can be decoded"
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame | Carried]:
        return self

    def __next__(self) -> Frame | Carried:
        if self._closed:
            raise ValueError("the reader is closed")
        return self._ahead.popleft() if self._ahead else next(self._items)

    def close(self) -> None:
        """Free the file. From any thread, once nobody iterates any more."""
        self._closed = True
        self.container.close()

    def _describe(self) -> None:
        """Fill what the container says; `_settle` adds what the first picture says."""
        self._stream = stream = opening.video_stream(self.container, self.path)
        self.carried, self.left_out = [], []
        for other in map(streams.other, self.container.streams):
            if other.index != stream.index:
                (self.carried if other.copyable else self.left_out).append(other)
        # On many cores threads decide; on two they cost nothing (1440 frames of 640x360: 0.6 s).
        stream.thread_type = "AUTO"
        self.codec = streams.codec_name(stream)
        self.rate = stream.average_rate or stream.guessed_rate or stream.base_rate or Fraction(25)
        self.time_base = stream.time_base or Fraction(1, 90000)
        self.sar = stream.sample_aspect_ratio or None
        self.duration = self._duration()
        self.frame_count = stream.frames or None
        if self.frame_count is None and self.duration is not None:
            self.frame_count = round(self.duration * self.rate)
        self.metadata: dict[str, str] = dict(self.container.metadata)
        self.stream_metadata: dict[str, str] = dict(stream.metadata)
        self.disposition = int(stream.disposition)
        self.chapters: list[Any] = list(self.container.chapters())
        self._settled = False
        self._told: set[str] = set()
        self._reformatter = VideoReformatter()
        self._delivered = 0

    def _duration(self) -> Fraction | None:
        if self._stream.duration:
            return self._stream.duration * self.time_base
        if self.container.duration:
            return Fraction(self.container.duration, av.time_base)
        return None

    def _read(self) -> Iterator[Frame | Carried]:
        for packet in self._packets():
            if packet.stream_index != self._stream.index:
                yield Carried(packet=packet, stream=packet.stream_index)
                continue
            for picture in self._decode(packet):
                yield self._frame(picture)
        for picture in self._drain():
            yield self._frame(picture)
        self._conclude()

    def _packets(self) -> Iterator[av.Packet[Any]]:
        with_packets = [s.handle for s in self.carried if s.kind != "attachment"]
        try:
            for packet in self.container.demux(self._stream, *with_packets):
                if packet.size:  # the empty ones at the end only ask for a flush
                    yield packet
        except av.FFmpegError as error:
            self._failed(error, "the file cannot be read any further")

    def _decode(self, packet: av.Packet[Any]) -> Sequence[av.VideoFrame]:
        try:
            return self._stream.decode(packet)
        except av.error.EOFError:
            return ()
        except av.FFmpegError as error:
            self._failed(error, "a packet cannot be decoded")
            return ()

    def _drain(self) -> Iterator[av.VideoFrame]:
        # An error ends one call, not the pictures behind it; the end is EOFError.
        for _ in range(1000):
            try:
                yield from self._stream.decode(None)
            except av.error.EOFError:
                return
            except av.FFmpegError as error:
                self._failed(error, "a packet cannot be decoded")

    def _failed(self, error: av.FFmpegError, what: str) -> None:
        self.decode_errors += 1
        if self.strict:
            place = f"after {self._delivered} frames"
            reason = error.strerror or str(error)
            raise MediaError(f"{self.path}: {what} {place} ({reason})") from error

    def _frame(self, picture: av.VideoFrame) -> Frame:
        if not self._settled:
            self._settle(picture)
        elif len(picture.side_data):
            self._tell_side_data(hdr.side_data(picture))
        pts, duration = self._clock.place(picture)
        picture = self._convert(picture)
        self._delivered += 1
        return Frame(
            planes=pixels.planes_of(picture),
            format=self.format,
            depth=self.depth,
            pts=pts,
            time_base=self.time_base,
            duration=duration,
            colour=self.colour,
            sar=self.sar,
        )

    def _settle(self, picture: av.VideoFrame) -> None:
        """Take from the first picture what the container does not say, or says wrongly."""
        self._settled = True
        self.width, self.height = picture.width, picture.height
        self._source_format = picture.format.name
        self.format = pixels.native(self._source_format)
        self.depth = pixels.describe(self.format)[1]
        self.colour = self._colour_of(picture)
        data = hdr.side_data(picture)
        self.mastering = hdr.mastering_of(data)
        matrix = data.get("DISPLAYMATRIX", b"")
        self.display_matrix = struct.unpack("=9i", matrix) if len(matrix) == 36 else None
        self.rotation = picture.rotation % 360 if self.display_matrix else 0
        self._clock = Clock(picture, rate=self.rate, time_base=self.time_base)
        self.time_base, self.start = self._clock.time_base, self._clock.start
        if self._clock.untimed:
            self._warn(f"has no timestamps: frames are {self.rate} a second")
        if picture.interlaced_frame:
            self._warn("is interlaced: its frames are enlarged as they are, not deinterlaced")
        if not pixels.same_samples(self._source_format):
            self._warn(f"is {self._source_format}: converted to {self.format}")
        self._tell_side_data(data)

    def _colour_of(self, picture: av.VideoFrame) -> ColourTags:
        """Tags of the picture, else of the stream; the chroma siting goes by the codec."""
        stream = self._stream.codec_context
        matrix = _said(picture.colorspace) or _said(stream.colorspace) or 2
        span = picture.color_range or stream.color_range
        if self._source_format.startswith("yuvj"):
            span = 2
        if pixels.is_rgb(self._source_format):  # what `_convert` makes of it
            matrix, span = (1 if picture.height >= 720 else 6), 1
        return ColourTags(
            range=int(span),
            matrix=int(matrix),
            primaries=int(_said(picture.color_primaries) or stream.color_primaries),
            transfer=int(_said(picture.color_trc) or stream.color_trc),
            siting=_CENTRE if self.codec in _CENTRE_SITED else 0,
        )

    def _convert(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The picture as `format`, at the size of the first one."""
        name = picture.format.name
        same_size = (picture.width, picture.height) == (self.width, self.height)
        if same_size and pixels.same_samples(name) and pixels.native(name) == self.format:
            return picture
        if not same_size:
            self._warn_once("changes size on the way: all frames get the size of the first")
        rgb = pixels.is_rgb(name)
        span = 2 if rgb else (self.colour.range or 1)
        return self._reformatter.reformat(
            picture,
            width=self.width,
            height=self.height,
            format=self.format,
            src_colorspace=None if rgb else self.colour.matrix,
            dst_colorspace=self.colour.matrix,
            src_color_range=span,
            dst_color_range=self.colour.range or 1,
        )

    def _conclude(self) -> None:
        if self.decode_errors:
            plural = "s" if self.decode_errors > 1 else ""
            self._warn(
                f"is damaged: {self.decode_errors} decoding error{plural}, "
                f"{self._delivered} frames could be decoded"
            )
        moved = self._clock.moved
        if moved:
            self._warn(f"has {moved} frames without a usable time: put after the previous")
        if self._stream.duration and not self._clock.untimed and self.duration is not None:
            missing = self.duration - (self._clock.end - self.start)
            if missing > Fraction(1, 2):
                self._warn(f"ends {float(missing):.1f} s before the time its header says")

    def _tell_side_data(self, data: dict[str, bytes]) -> None:
        for kind in data.keys() & hdr.NOT_CARRIED.keys():
            self._warn_once(f"has {hdr.NOT_CARRIED[kind]}: not carried")

    def _warn(self, what: str) -> None:
        self.warnings.append(f"{self.path.name} {what}")

    def _warn_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._warn(what)


def _said(value: int) -> int | None:
    """None for FFmpeg's "unspecified" (2) and "reserved" (0) of H.273."""
    return None if int(value) in (0, 2) else int(value)
