"""edgesr.stream from file to file, with a model whose answer is known: every pixel repeated.

Written as FFV1, which loses nothing, so what comes out can be compared exactly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import edgesr
from edgesr.colour import upscale_chroma
from edgesr.errors import BackendError, EdgesrError, Interrupted, MediaError, ModelError, UsageError
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
