"""Copies: the streams that go from input to output packet by packet."""

from __future__ import annotations

from typing import Any

import av

from edgesr.runtime import streams
from edgesr.runtime.reader import Carried, VideoReader
from edgesr.runtime.streams import Other


class Copies:
    """Open an output stream for every stream of the input that the container can hold.

    `warnings` has a line for each that it cannot, and after the last packet for those whose times
    had to be corrected. Chapters are set too.
    """

    def __init__(self, container: Any, *, like: VideoReader, kind: streams.Container) -> None:
        self.warnings: list[str] = []
        self._container = container
        self._like = like
        self._kind = kind
        self._outputs: dict[int, Any] = {}
        self._last_dts: dict[int, int] = {}
        self._moved: dict[int, int] = {}
        supported = container.supported_codecs
        for other in like.left_out:
            if not _is_chapter_track(other, like):
                self._refuse(other, _why_left_out(other))
        for other in like.carried:
            if streams.fits(other, kind, supported):
                self._add(other)
            else:
                self._refuse(other, f"{kind.muxer} cannot hold it")
        self._add_chapters()

    def write(self, item: Carried) -> None:
        """Write the packet, which from then on belongs to the output."""
        output = self._outputs.get(item.stream)
        if output is None:
            return
        packet = item.packet
        self._correct(packet, item.stream)
        packet.stream = output
        self._container.mux(packet)

    def corrections(self) -> list[str]:
        """A line for each stream with packets that had to be moved."""
        return [
            f"stream {index}: {count} packets without a usable time were moved"
            for index, count in self._moved.items()
        ]

    def _add(self, other: Other) -> None:
        try:
            output = self._container.add_stream_from_template(other.handle)
        except (av.FFmpegError, ValueError, TypeError) as error:
            self._refuse(other, str(error))
            return
        output.metadata.update(streams.tags(dict(other.handle.metadata)))
        output.disposition = int(other.handle.disposition)
        if other.kind != "attachment":  # whose bytes are in the header
            self._outputs[other.index] = output

    def _refuse(self, other: Other, why: str) -> None:
        self.warnings.append(f"{other} is not carried: {why}")

    def _add_chapters(self) -> None:
        if not self._like.chapters:
            return
        if self._kind.muxer == "mpegts":
            self.warnings.append("chapters are not carried: mpegts cannot hold them")
        else:
            self._container.set_chapters(self._like.chapters)

    def _correct(self, packet: av.Packet[Any], index: int) -> None:
        """Times must grow: muxers refuse the whole file otherwise."""
        if packet.dts is None:
            packet.dts = packet.pts
        last = self._last_dts.get(index)
        if last is not None and (packet.dts is None or packet.dts < last + self._kind.strict):
            packet.dts = last + 1
            packet.pts = max(packet.dts, packet.dts if packet.pts is None else packet.pts)
            self._moved[index] = self._moved.get(index, 0) + 1
        if packet.dts is not None:
            self._last_dts[index] = packet.dts


def _why_left_out(other: Other) -> str:
    if other.kind == "video":
        return "one video stream is enlarged"
    if other.kind in ("audio", "subtitle"):
        return "this FFmpeg does not know its codec"
    return "only audio, subtitles and attachments are"


def _is_chapter_track(other: Other, like: VideoReader) -> bool:
    """MP4 keeps chapters as a track of texts too; libavformat writes that again by itself."""
    return (other.kind, other.codec) == ("data", "bin_data") and like.chapters != []
