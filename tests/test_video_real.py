"""Real clips of the data folder, whole and damaged, read and written."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import av
import pytest
from video_copies import assert_same_packets, assert_same_times, copy, facts, tolerance_of

from edgesr.errors import MediaError
from edgesr.runtime.frame import Frame
from edgesr.runtime.video import VideoReader

# (clip, ending, frames to copy or None for all, expected words in warnings)
CLIPS = [
    ("bbb_360p24_60s.mp4", ".mp4", 240, []),
    ("bbb_360p24_60s.mp4", ".mkv", 48, []),
    ("live_360p30_17s.mp4", ".mp4", None, []),
    ("sintel_480p_26s_ass_sub.mkv", ".mkv", 150, []),
    ("bbb_720p_vp8_30s.webm", ".webm", 24, []),
    ("no_duration.webm", ".webm", 24, []),
    ("webcam_480p30.mkv", ".mkv", None, []),
    ("foreman_cif.264", ".mp4", None, ["no timestamps"]),
    ("vfr_screen_3026x1386.mp4", ".mp4", 20, []),
    ("hdr10_hevc_1080p.mp4", ".mp4", 12, ["HDR10+"]),
    ("h264_10bit_200.mp4", ".mp4", None, []),
    ("hevc_10bit_200.mp4", ".mkv", None, []),
    ("cockatoo_yuv444_720p_audio.mp4", ".mp4", 20, []),
    ("live_720p30_rot270.mp4", ".mp4", 40, []),
    ("rot90.mov", ".mov", None, []),
    ("sar_64x45_bbb.mp4", ".mp4", 60, []),
    ("derived_interlaced_tff_576i.ts", ".ts", None, ["interlaced"]),
    ("bt709_full_range_720p.mp4", ".mp4", None, []),
    ("nasa_2video_2audio_2sub.mp4", ".mp4", None, ["video stream 3"]),
    ("car_768x432_30s.mp4", ".mov", 100, []),
]


@pytest.mark.parametrize(("name", "ending", "limit", "words"), CLIPS)
def test_real_clip(
    data: Path, tmp_path: Path, name: str, ending: str, limit: int | None, words: list[str]
) -> None:
    clip, target = data / "video" / name, tmp_path / f"out{ending}"
    scale = 2 if limit is None and "rot" not in name else 1
    reader, writer, frames = copy(clip, target, scale=scale, limit=limit)
    said = [*reader.warnings, *writer.warnings]
    for word in words:
        assert any(word in line for line in said), said
    assert len(said) == len(words)
    tolerance = tolerance_of(target)
    after = facts(target)
    assert_same_times(after.times, [frame.time for frame in frames], tolerance)
    before = facts(clip)
    if before.times[0] >= 0:
        assert [frame.time for frame in frames] == before.times[: len(frames)]
    if limit is None:
        assert len(frames) == len(before.times)
        # An MPEG audio track in MP4 or TS counts in other units than the source's.
        assert_same_packets(after, before, tolerance)
    assert after.names == before.names
    assert after.streams == before.streams or ending == ".webm"
    with VideoReader(target) as again:
        assert again.colour.range in (reader.colour.range, reader.colour.range or 1, 0)
        assert (again.colour.range == 2) == (reader.colour.range == 2)
        assert again.colour.matrix == reader.colour.matrix
        assert again.colour.primaries == reader.colour.primaries
        assert again.colour.transfer == reader.colour.transfer
        assert (again.sar or 1) == (reader.sar or 1)
        assert (again.format, again.depth) == (reader.format, reader.depth)
        assert again.rotation == reader.rotation
        assert (again.width, again.height) == (reader.width * scale, reader.height * scale)
        assert again.mastering == reader.mastering


def test_corrupted_clip(data: Path, capfd: Any) -> None:
    clip = data / "video" / "corrupted.mp4"
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        good = 0
        for packet in container.demux(stream):
            try:
                good += len(packet.decode())
            except av.FFmpegError:
                continue
    with VideoReader(clip) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert reader.decode_errors >= 1
    assert len(frames) == good
    assert capfd.readouterr() == ("", "")
    with pytest.raises(MediaError), VideoReader(clip, strict=True) as reader:
        list(reader)


@pytest.mark.parametrize("name", ["broken.mp4", "empty.flv", "multi_audio_only.mp4"])
def test_unusable_clips(data: Path, name: str) -> None:
    with pytest.raises(MediaError) as caught:
        VideoReader(data / "video" / name)
    assert "\n" not in str(caught.value)


def test_reading_can_stop_early(data: Path) -> None:
    with VideoReader(data / "video" / "bbb_360p24_60s.mp4") as reader:
        items = list(islice(reader, 10))
    assert len(items) == 10
