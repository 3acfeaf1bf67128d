from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest

from edgesr.errors import BackendError, UsageError
from edgesr.runtime import bench as module
from edgesr.runtime.backends import open_session
from edgesr.runtime.backends.choose import candidates, recall_record
from edgesr.runtime.bench import bench
from edgesr.runtime.clip import lumas, make_clip
from edgesr.runtime.frame import Frame
from edgesr.runtime.video import VideoReader


@pytest.fixture
def net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "MADE_UP_FRAMES", (8, 8))
    return onnx_models.convolutions(tmp_path / "net.onnx", layers=1)


def quick(net: Path, **options: Any) -> Any:
    return bench(str(net), **{"size": "64x48", "seconds": 0.01, **options})


def test_every_way_is_measured_and_remembered(net: Path) -> None:
    notes: list[str] = []
    report = quick(net, on_note=notes.append)
    ways = {(c.backend, c.precision) for c in candidates()}
    assert {(run.backend, run.precision) for run in report.runs} == ways
    for run in report.runs:
        assert 0 < run.p50_ms <= run.p95_ms <= run.p99_ms
        assert run.frames >= module.FEWEST
    record = recall_record(net)
    assert record.ms == {run.name: run.p50_ms for run in report.runs}
    assert record.about["size"] == "64x48"
    fastest = min(report.runs, key=lambda run: run.p50_ms)
    ran = report.pipeline.backend
    assert (ran["backend"], ran["precision"]) == (fastest.backend, fastest.precision)
    assert ran["why"] == "measured on this machine"
    assert report.pipeline.frames_out == 8
    assert len(notes) == 2
    session = open_session(net, spec=onnx_models.spec())
    assert session.facts.why == "measured on this machine"


def test_report(net: Path) -> None:
    report = quick(net, fps=1e-6)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["keeps_up"] == {"with": 1e-6, "yes": True}
    assert values["pipeline"]["stages"].keys() == {"decode", "infer", "encode"}
    assert values["versions"]["onnxruntime"]
    assert "keeps up with 1e-06 fps: yes" in report.text()
    assert "keeps up with 1e+09 fps: no" in quick(net, fps=1e9).text()


def test_restricted_runs_are_not_remembered(net: Path) -> None:
    report = quick(net, backend="ort")
    assert [run.name for run in report.runs] == ["ort fp32"]
    assert report.remembered is None
    assert quick(net, threads=1).remembered is None
    assert recall_record(net).ms == {}


def test_a_given_clip(net: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=32, height=16, frames=6, rate=12)
    report = quick(net, input=clip, backend="ort")
    assert report.size == (16, 32)
    assert (report.wanted_fps, report.pipeline.frames_out) == (12, 6)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["clip.mp4", "net.onnx"]


def test_a_backend_that_is_wrong_is_not_timed(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.open_session

    def broken(*args: Any, backend: str, **options: Any) -> Any:
        session = original(*args, backend=backend, **options)
        if backend != "ort":
            return session

        class Wrong:
            facts = session.facts

            def __call__(self, batch: Any) -> Any:
                return session(batch) // 2

            def close(self) -> None:
                session.close()

        return Wrong()

    monkeypatch.setattr(module, "open_session", broken)
    with pytest.raises(BackendError, match="different pictures"):
        quick(net)


@pytest.mark.parametrize(
    "options", [{"size": "big"}, {"size": "9x9"}, {"size": "65x48"}, {"fps": 0}, {"seconds": 0}]
)
def test_options_at_the_door(net: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        quick(net, **options)


def test_the_made_up_clip_moves_and_is_always_the_same(tmp_path: Path) -> None:
    pictures = list(lumas(width=64, height=48, frames=5))
    again = list(lumas(width=64, height=48, frames=5))
    for one, two in zip(pictures, again, strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in itertools.pairwise(pictures):
        assert np.abs(one.astype(int) - two).mean() > 1
    clip = make_clip(tmp_path / "clip.mp4", width=64, height=48, frames=5, rate=25)
    with VideoReader(clip) as reader:
        frames = [item for item in reader if isinstance(item, Frame)]
    assert len(frames) == 5
    assert np.abs(frames[2].planes[0].astype(int) - pictures[2]).mean() < 4
