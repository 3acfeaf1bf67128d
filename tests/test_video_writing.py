"""VideoWriter: codecs and their options, what it refuses, and that no half file is left."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import media
import pytest
from video_copies import assert_same_times, facts, tolerance_of

from edgesr.errors import EdgesrError, MediaError, UsageError
from edgesr.runtime.frame import Frame
from edgesr.runtime.partfile import PartFile
from edgesr.runtime.video import VideoReader, VideoWriter


def encode_one(source: Path, target: Path, **options: Any) -> VideoWriter:
    with VideoReader(source) as reader:
        size = {"width": reader.width, "height": reader.height}
        with VideoWriter(target, like=reader, **size, **options) as writer:
            for item in reader:
                writer.write(item)
    return writer


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return media.write_video(tmp_path / "in.mp4", audio="aac")


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        (".mp4", "hevc"),
        (".mkv", "av1"),
        (".mp4", "vp9"),
        (".mp4", "mpeg4"),
        (".mov", "prores"),
        (".mkv", "ffv1"),
        (".ts", "h264"),
        (".m4v", "h264"),
    ],
)
def test_codecs(tmp_path: Path, clip: Path, ending: str, codec: str, capfd: Any) -> None:
    target = tmp_path / f"out{ending}"
    writer = encode_one(clip, target, codec=codec)
    assert writer.codec == codec
    with VideoReader(target) as again:
        assert again.codec == codec
        times = [item.time for item in again if isinstance(item, Frame)]
    shift = times[0] if ending == ".ts" else 0
    assert_same_times([t - shift for t in times], facts(clip).times, tolerance_of(target))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "mpeg4"])
def test_crf_reaches_the_encoder(tmp_path: Path, clip: Path, codec: str) -> None:
    sizes = []
    for crf in (4, 28):
        target = tmp_path / f"{codec}-{crf}.mp4"
        encode_one(clip, target, codec=codec, crf=crf)
        sizes.append(target.stat().st_size)
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("out.avi", {}, r"\.mp4"),
        ("out", {}, "without an extension"),
        ("out.webm", {"codec": "h264"}, "only vp9, av1"),
        ("out.mp4", {"codec": "h265"}, "unknown codec 'h265'.*hevc"),
        ("out.mp4", {"crf": 99}, "0 .* to 51"),
        ("out.mkv", {"codec": "ffv1", "crf": 1}, "does not apply"),
        ("out.mp4", {"preset": "quick"}, "ultrafast"),
        ("in.mp4", {"overwrite": True}, "the input itself"),
        ("taken.mp4", {}, "--overwrite"),
        ("folder.mp4", {}, "folder"),
    ],
)
def test_options_that_do_not_fit(
    tmp_path: Path, clip: Path, name: str, options: dict[str, Any], message: str
) -> None:
    (tmp_path / "taken.mp4").write_bytes(b"keep me")
    (tmp_path / "folder.mp4").mkdir()
    before = sorted(tmp_path.iterdir())
    with VideoReader(clip) as reader, pytest.raises(UsageError, match=message) as caught:
        VideoWriter(tmp_path / name, like=reader, width=64, height=48, **options)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "taken.mp4").read_bytes() == b"keep me"


@pytest.mark.parametrize("link", ["symlink", "hardlink"])
def test_the_input_is_known_by_other_names(tmp_path: Path, clip: Path, link: str) -> None:
    other = tmp_path / "other.mp4"
    other.symlink_to(clip) if link == "symlink" else os.link(clip, other)
    with VideoReader(clip) as reader, pytest.raises(UsageError, match="the input itself"):
        VideoWriter(other, like=reader, width=64, height=48, overwrite=True)


def test_no_such_folder(tmp_path: Path, clip: Path) -> None:
    with VideoReader(clip) as reader, pytest.raises(MediaError, match="there is no folder"):
        VideoWriter(tmp_path / "no" / "out.mp4", like=reader, width=64, height=48)


def test_the_encoder_refuses_before_any_frame(tmp_path: Path, clip: Path) -> None:
    with VideoReader(clip) as reader, pytest.raises(EdgesrError, match="cannot be written"):
        VideoWriter(tmp_path / "out.mp4", like=reader, width=40000, height=40000)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_overwrite_replaces_only_at_the_end(tmp_path: Path, clip: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"old")
    with VideoReader(clip) as reader:
        writer = VideoWriter(target, like=reader, width=64, height=48, overwrite=True)
        for item in reader:
            writer.write(item)
        assert target.read_bytes() == b"old"
        writer.finish()
    assert len(facts(target).times) == 12


@pytest.mark.parametrize("keep", [False, True])
def test_an_exception_leaves_no_half_file(tmp_path: Path, keep: bool) -> None:
    clip = media.write_video(tmp_path / "in.mp4", audio="aac", frames=60)
    target = tmp_path / "out.mp4"

    def stop_at_20() -> None:
        with VideoReader(clip) as reader:
            size = {"width": 64, "height": 48}
            with VideoWriter(target, like=reader, **size, keep_partial=keep) as writer:
                for item in reader:
                    writer.write(item)
                    if writer.frames_written == 20:
                        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_at_20()
    if keep:
        assert len(facts(target).times) == 20
        target.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_finish_leaves_no_half_file(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def commit(part: PartFile) -> None:
        assert part.path.exists()
        raise error

    monkeypatch.setattr(PartFile, "commit", commit)
    with pytest.raises(error):
        encode_one(clip, tmp_path / "out.mp4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_abort_after_finish_keeps_the_file(tmp_path: Path, clip: Path) -> None:
    writer = encode_one(clip, tmp_path / "out.mp4")
    writer.abort()
    assert len(facts(tmp_path / "out.mp4").times) == 12


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_FSIZE")
def test_a_full_disk_is_one_line(tmp_path: Path, clip: Path) -> None:
    import resource
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(MediaError, match=r"out\.mp4 cannot be written"):
            encode_one(clip, tmp_path / "out.mp4", crf=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4"]


def test_wrong_frame_size(tmp_path: Path, clip: Path) -> None:
    with VideoReader(clip) as reader:
        frame = next(item for item in reader if isinstance(item, Frame))
        writer = VideoWriter(tmp_path / "out.mp4", like=reader, width=128, height=96)
        with pytest.raises(ValueError, match="opened for 128x96"):
            writer.write(frame)
        writer.abort()
