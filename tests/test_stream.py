"""edgesr.stream from file to file, with a model whose answer is known: every pixel repeated.

Written as FFV1, which loses nothing, so what comes out can be compared exactly.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import media
import numpy as np
import pytest

import edgesr
from edgesr.colour import upscale_chroma
from edgesr.errors import BackendError, EdgesrError, Interrupted, MediaError, ModelError, UsageError
from edgesr.runtime import pipeline
from edgesr.runtime.frame import Frame
from edgesr.runtime.progress import Progress
from edgesr.runtime.video import VideoReader, VideoWriter

pytest.importorskip("onnx")
import onnx_models

SIZE = (36, 64)
COUNT = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(onnx_models.nearest(tmp_path_factory.mktemp("model") / "nearest-x2.onnx"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "in.mkv")


def make_clip(
    path: Path, *, count: int = COUNT, format: str = "yuv420p", still: bool = False
) -> Path:
    """Noise at 30000/1001 frames a second, lossless."""
    random = np.random.default_rng(0)
    deep = "10" in format
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=Fraction(30000, 1001))
        stream.width, stream.height, stream.pix_fmt = SIZE[1], SIZE[0], format
        for index in range(count):
            frame = av.VideoFrame(SIZE[1], SIZE[0], format)
            frame.pts, frame.time_base = index, Fraction(1001, 30000)
            for plane in frame.planes:
                samples = plane.buffer_size // (2 if deep else 1)
                if still:
                    noise = np.full(samples, 100)
                else:
                    noise = random.integers(0, 1024 if deep else 256, samples)
                plane.update(noise.astype(np.uint16 if deep else np.uint8).tobytes())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def frames(path: Path) -> list[Frame]:
    with VideoReader(path) as reader:
        return [
            item.replace(planes=tuple(plane.copy() for plane in item.planes))
            for item in reader
            if isinstance(item, Frame)
        ]


def assert_nothing_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    assert [t.name for t in threading.enumerate() if t.name.startswith("edgesr-")] == []


@pytest.mark.parametrize("format", ["yuv420p", "yuv444p", "yuv422p10le", "gray"])
def test_every_sample_of_every_frame(tmp_path: Path, model: str, format: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", format=format)
    precision = "auto" if "10" in format else "fp32"  # auto takes fp32 for deep frames
    stats = edgesr.stream(
        clip, tmp_path / "out.mkv", model=model, codec="ffv1", precision=precision
    )
    before, after = frames(clip), frames(tmp_path / "out.mkv")
    assert stats.frames_in == stats.frames_out == len(after) == len(before) == COUNT
    for small, big in zip(before, after, strict=True):
        assert abs(big.time - small.time) <= Fraction(1, 2000)  # Matroska stores milliseconds
        np.testing.assert_array_equal(big.planes[0], small.planes[0].repeat(2, 0).repeat(2, 1))
        assert len(big.planes) == len(small.planes)
        for index in range(1, len(small.planes)):
            chroma = upscale_chroma(small.planes[index], scale=2, luma=SIZE)
            peak = (1 << small.depth) - 1
            np.testing.assert_array_equal(big.planes[index], np.minimum(chroma, peak))


def test_statistics(tmp_path: Path, clip: Path, model: str) -> None:
    file = tmp_path / "stats.json"
    stats = edgesr.stream(clip, tmp_path / "out.mp4", model=model, threads=1, stats=file)
    values = json.loads(file.read_text())
    assert values == json.loads(json.dumps(stats.to_dict()))
    assert values["frames"] == {"in": COUNT, "out": COUNT, "duplicates": 0, "decode_errors": 0}
    assert (values["output"]["width"], values["output"]["height"]) == (2 * SIZE[1], 2 * SIZE[0])
    assert values["output"]["codec"] == "h264"
    assert values["model"]["name"] == "nearest-x2"
    assert values["backend"]["threads"] == 1
    assert values["stages"].keys() == {"decode", "infer", "encode"}
    assert all(stage["frames"] == COUNT for stage in values["stages"].values())
    assert values["slowest"] in values["stages"]
    assert values["seconds"]["total"] > values["seconds"]["sustained"] > 0
    assert values["fps"] == pytest.approx((COUNT - 1) / values["seconds"]["sustained"])
    assert values["peak_rss_mb"] > 10


def test_times_of_two_frames_at_once(
    tmp_path: Path, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is the time of one frame, and the stage is never busier than always."""
    kind = type(_session(model))
    original = kind.__call__

    def slow(*arguments: Any) -> Any:
        time.sleep(0.03)
        return original(*arguments)

    monkeypatch.setattr(kind, "__call__", slow)
    stats = edgesr.stream(clip, tmp_path / "out.mkv", model=model, codec="ffv1", threads=2)
    infer = stats.stages["infer"]
    assert infer.frames == COUNT
    assert infer.p50_ms is not None
    assert infer.mean_ms is not None
    assert min(infer.p50_ms, infer.mean_ms) >= 30 / 1.01
    assert infer.busy_s == pytest.approx(COUNT * infer.mean_ms / 1e3 / 2)
    assert 0.3 < infer.share <= 1
    assert stats.slowest == "infer"


@pytest.mark.parametrize(
    ("ending", "size", "rotation", "written"),
    [
        (".webm", (21, 15), None, (63, 45)),
        (".mp4", (21, 15), None, (64, 46)),
        (".ts", (22, 16), 90, (48, 66)),
        (".mp4", (22, 16), 90, (66, 48)),
    ],
)
def test_statistics_say_the_size_that_was_written(
    tmp_path: Path,
    ending: str,
    size: tuple[int, int],
    rotation: int | None,
    written: tuple[int, int],
) -> None:
    model = str(onnx_models.nearest(tmp_path / "nearest-x3.onnx", scale=3))
    source = tmp_path / "in.mkv"
    media.write_video(source, size=size, rotation=rotation, frames=3, codec="ffv1")
    target = tmp_path / f"out{ending}"
    stats = edgesr.stream(source, target, model=model, scale=3)
    assert (stats.output["width"], stats.output["height"]) == written
    with VideoReader(target) as reader:
        assert (reader.width, reader.height) == written


def test_still_pictures_are_computed_once(tmp_path: Path, model: str) -> None:
    clip = make_clip(tmp_path / "in.mkv", still=True)
    stats = edgesr.stream(clip, tmp_path / "out.mkv", model=model, codec="ffv1")
    assert stats.duplicates == COUNT - 1
    assert len(frames(tmp_path / "out.mkv")) == COUNT


def test_progress_and_warnings_come_to_the_caller(tmp_path: Path, clip: Path, model: str) -> None:
    seen: list[Progress] = []
    threads: set[int] = set()
    warned: list[str] = []

    def progress(now: Progress) -> None:
        seen.append(now)
        threads.add(threading.get_ident())

    stats = edgesr.stream(
        clip, tmp_path / "out.mp4", model=model, progress=progress, on_warning=warned.append
    )
    assert threads == {threading.get_ident()}
    assert (seen[-1].done, seen[-1].frames) == (True, COUNT)
    assert [p.frames for p in seen] == sorted(p.frames for p in seen)
    assert list(stats.warnings) == warned


class Endless:
    """Makes the reader deliver its file again and again, so that a stream can be interrupted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def again(reader: VideoReader) -> Iterator[Any]:
            items = list(iter(lambda: next(reader, None), None))
            step = items[-1].pts + items[-1].duration
            for turn in range(1_000_000):
                for item in items:
                    yield item.replace(pts=item.pts + turn * step)

        monkeypatch.setattr(VideoReader, "__iter__", again)


@pytest.mark.parametrize("how", ["cancel", "ctrl-c"])
@pytest.mark.parametrize("keep", [False, True])
def test_interrupted(
    tmp_path: Path, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, keep: bool, how: str
) -> None:
    Endless(monkeypatch)
    cancel = threading.Event()

    def progress(now: Progress) -> None:
        if now.frames < 5:
            return
        if how == "cancel":
            cancel.set()
        else:
            os.kill(os.getpid(), signal.SIGINT)

    output = tmp_path / "out" / "out.mp4"
    output.parent.mkdir()
    with pytest.raises(Interrupted, match=r"interrupted after \d+ frames; .*out\.mp4"):
        edgesr.stream(
            clip, output, model=model, keep_partial=keep, progress=progress, cancel=cancel
        )
    monkeypatch.undo()
    if keep:
        assert len(frames(output)) >= 5
        output.unlink()
    assert_nothing_left(output.parent)


def test_interrupted_output_does_not_replace_an_old_one(
    tmp_path: Path, clip: Path, model: str
) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"old")
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        edgesr.stream(clip, output, model=model, overwrite=True, cancel=cancel)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    assert output.read_bytes() == b"old"


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("when", ["before the file has its name", "after"])
def test_interrupted_while_it_finishes(
    tmp_path: Path,
    clip: Path,
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    keep: bool,
) -> None:
    """No file and Interrupted, or a complete file and no error: never the one and the other."""
    cancel = threading.Event()
    original = VideoWriter.finish

    def wait_until_seen(check: Callable[[], None]) -> None:
        cancel.set()
        for _ in range(1000):
            check()
            time.sleep(0.01)

    def finish(writer: VideoWriter, check: Callable[[], None] | None = None) -> None:
        def late() -> None:
            if check is not None:
                wait_until_seen(check)

        original(writer, late if when != "after" else check)
        cancel.set()
        time.sleep(0.3)  # the main thread looks every 0.1 s

    monkeypatch.setattr(VideoWriter, "finish", finish)
    output = tmp_path / "out.mp4"
    output.write_bytes(b"old")

    def call() -> None:
        edgesr.stream(clip, output, model=model, overwrite=True, keep_partial=keep, cancel=cancel)

    if when == "after" or keep:
        call()
        assert len(frames(output)) == COUNT
    else:
        with pytest.raises(Interrupted, match=r"out\.mp4 was not written"):
            call()
        assert output.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


def test_second_ctrl_c_closes_nothing_that_is_in_use(
    tmp_path: Path, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder hangs: the stream ends, and its container is left to its thread."""
    release = threading.Event()
    closed: list[str] = []
    calls = [0]

    def hangs(writer: VideoWriter, item: Any) -> None:
        calls[0] += 1
        if calls[0] == 1:
            os.kill(os.getpid(), signal.SIGINT)
            while not seen.wait(1) and not release.is_set():
                pass
            os.kill(os.getpid(), signal.SIGINT)
        release.wait(60)

    seen = threading.Event()
    fail = pipeline._Run.fail

    def noticed(run: Any, error: BaseException) -> None:
        fail(run, error)
        seen.set()

    Endless(monkeypatch)
    monkeypatch.setattr(pipeline._Run, "fail", noticed)
    monkeypatch.setattr(VideoWriter, "write", hangs)
    monkeypatch.setattr(VideoWriter, "abort", lambda *_, **__: closed.append("writer"))
    monkeypatch.setattr(VideoReader, "close", lambda _: closed.append("reader"))
    output = tmp_path / "out" / "out.mp4"
    output.parent.mkdir()
    with pytest.raises(Interrupted, match=r"interrupted without waiting for .*encode"):
        edgesr.stream(clip, output, model=model)
    assert closed == []
    release.set()
    # Not `join`: one that a Ctrl-C cut short takes the thread for ended, and returns at once.
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up and any(
        thread.name.startswith("edgesr-") for thread in threading.enumerate()
    ):
        time.sleep(0.01)
    assert_nothing_left(output.parent)


@pytest.mark.parametrize("part", ["decode", "infer", "encode", "finish", "progress"])
def test_any_part_fails(
    tmp_path: Path, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    calls = [0]

    def failing(*_: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5 or part == "finish":
            raise BackendError(f"{part} failed")
        return original(*_)

    places: dict[str, tuple[Any, str]] = {
        "decode": (VideoReader, "__next__"),
        "infer": (type(_session(model)), "__call__"),
        "encode": (VideoWriter, "write"),
        "finish": (VideoWriter, "finish"),
    }
    progress = None
    if part == "progress":

        def progress(now: Progress) -> None:
            raise BackendError("progress failed")
    else:
        owner, name = places[part]
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, failing)
    output = tmp_path / "out" / "out.mp4"
    output.parent.mkdir()
    if part == "progress":
        Endless(monkeypatch)
    with pytest.raises(BackendError, match=f"{part} failed"):
        edgesr.stream(clip, output, model=model, progress=progress)
    assert_nothing_left(output.parent)


def _session(model: str) -> Any:
    from edgesr.models import load_file
    from edgesr.runtime.backends import open_session

    found = load_file(Path(model))
    session = open_session(found.path, spec=found.spec)
    session.close()
    return session


def test_bad_arguments_leave_nothing(tmp_path: Path, clip: Path, model: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    taken = tmp_path / "taken.mp4"
    taken.write_bytes(b"")
    cases: list[tuple[type[EdgesrError], str, dict[str, Any]]] = [
        (MediaError, "no such file", {"input": tmp_path / "missing.mp4"}),
        (ModelError, "does not exist", {"model": "nosuch.onnx"}),
        (UsageError, "upscales 2 times, but scale 3", {"scale": 3}),
        (MediaError, "cannot be written", {"output": out / "no" / "out.mp4"}),
        (EdgesrError, "exists", {"output": taken}),
        (UsageError, "input itself", {"output": clip}),
        (UsageError, "quantum", {"codec": "quantum"}),
        (UsageError, "statistics cannot go into a video", {"stats": out / "out.mp4"}),
        (MediaError, "statistics cannot be written", {"stats": out / "no" / "stats.json"}),
        (EdgesrError, "nosuch", {"backend": "nosuch"}),
    ]
    for error, message, changes in cases:
        arguments = {"input": clip, "output": out / "out.mp4", "model": model, **changes}
        with pytest.raises(error, match=message):
            edgesr.stream(arguments.pop("input"), arguments.pop("output"), **arguments)
        assert_nothing_left(out)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused_before_anything_is_opened(
    tmp_path: Path, threads: int
) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}"):
        edgesr.stream(tmp_path / "missing.mp4", tmp_path / "out.mp4", threads=threads)


@pytest.mark.parametrize("video", ["input", "output"])
@pytest.mark.parametrize("name", ["dots", "symlink", "hard link"])
def test_statistics_never_replace_a_video(
    tmp_path: Path, clip: Path, model: str, video: str, name: str
) -> None:
    source, target = tmp_path / "in.mkv", tmp_path / "out.mkv"
    source.write_bytes(clip.read_bytes())
    target.write_bytes(b"old")
    path = source if video == "input" else target
    (tmp_path / "sub").mkdir()
    stats = tmp_path / "stats.json"
    if name == "dots":
        stats = tmp_path / "sub" / ".." / path.name
    elif name == "symlink":
        stats.symlink_to(path)
    else:
        os.link(path, stats)
    with pytest.raises(UsageError, match="statistics cannot go into a video"):
        edgesr.stream(source, target, model=model, stats=stats, overwrite=True)
    assert source.read_bytes() == clip.read_bytes()
    assert target.read_bytes() == b"old"


def test_statistics_replace_only_older_ones(tmp_path: Path, clip: Path, model: str) -> None:
    notes, stats, link = tmp_path / "notes.txt", tmp_path / "stats.json", tmp_path / "link.json"
    for path in (notes, stats):
        path.write_text("mine")
    link.symlink_to(notes)
    for path in (notes, link):
        with pytest.raises(UsageError, match=r"notes\.txt exists; pass --overwrite"):
            edgesr.stream(clip, tmp_path / "out.mkv", model=model, stats=path)
    pipe = tmp_path / "pipe.json"  # as /dev/null: to be replaced by no means
    os.mkfifo(pipe)
    with pytest.raises(MediaError, match=r"statistics cannot be written to .*pipe\.json"):
        edgesr.stream(clip, tmp_path / "out.mkv", model=model, stats=pipe, overwrite=True)
    assert notes.read_text() == "mine"
    edgesr.stream(clip, tmp_path / "out.mkv", model=model, stats=stats)
    assert json.loads(stats.read_text())["schema"] == 1
    edgesr.stream(clip, tmp_path / "out.mkv", model=model, stats=link, overwrite=True)
    assert json.loads(notes.read_text())["schema"] == 1
    assert link.is_symlink()
    assert not list(tmp_path.glob(".*.part"))


def test_statistics_that_cannot_be_written_leave_the_old_ones(
    tmp_path: Path, clip: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = tmp_path / "stats.json"
    stats.write_text("old")

    def full(path: Path, *_: Any, **__: Any) -> int:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MediaError, match=r"stats\.json cannot be written: No space left"):
        edgesr.stream(clip, tmp_path / "out.mkv", model=model, stats=stats)
    assert stats.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mkv", "stats.json"]


def test_torch_is_not_imported(tmp_path: Path, clip: Path, model: str) -> None:
    code = (
        "import sys, edgesr; edgesr.stream(*sys.argv[1:3], model=sys.argv[3]);"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(clip), str(tmp_path / "out.mp4"), model]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_importing_is_cheap() -> None:
    """`edgesr --help` must not load codecs, OpenCV or a runtime."""
    code = (
        "import sys, edgesr.runtime.stream;"
        "print([m for m in ('av', 'cv2', 'openvino', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
