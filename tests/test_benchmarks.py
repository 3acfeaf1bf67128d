"""The benchmarks run, refuse broken outputs, and their committed results keep their schema."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesr.bicubic import downscale
from edgesr.runtime.clip import lumas, make_clip

pytest.importorskip("onnxruntime")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))


@pytest.fixture
def script(monkeypatch):
    """Import a file of benchmarks/ as its scripts do, and forget it afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(BENCHMARKS) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(
        tmp_path_factory.mktemp("bench") / "clip.mp4", width=96, height=64, frames=9, rate=24
    )


def test_stream_compares_checked_runs(clip, tmp_path):
    out = tmp_path / "out.json"
    command = [sys.executable, str(BENCHMARKS / "stream.py"), "--clip", str(clip), "--rounds", "2"]
    rows = ["ecbsr-m4c16", "lanczos", "onnxruntime-loop", "dnn-espcn"]
    command += ["--frames", "5", "--out", str(out), "--rows", *rows]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    found = {row["name"]: row for row in result["rows"]}
    assert set(found) == set(rows)
    for name, frames in (("ecbsr-m4c16", 9), ("lanczos", 9), ("onnxruntime-loop", 5)):
        assert found[name]["frames"] == frames  # slow rows get the first --frames ones
        assert found[name]["check"]["size"] == "192x128"
        assert len(found[name]["wall_s"]) == 2
        assert (
            found[name]["fps"]["min"] <= found[name]["fps"]["median"] <= found[name]["fps"]["max"]
        )
    assert "absent" in found["dnn-espcn"]  # no graphs were given
    assert set(result["ratios"]["ecbsr-m4c16"]) == {"lanczos", "onnxruntime-loop"}
    assert result["claims"]["ecbsr-m4c16 >= 5 x dnn_superres ESPCN"] is None
    assert str(tmp_path) not in out.read_text()
    assert done.stderr.index("round 1 of 2: lanczos") < done.stderr.index("round 2 of 2: ecbsr")


def test_a_broken_output_is_not_timed(clip, tmp_path, script):
    common = script("common")
    good = common.open_clip(clip, scale=2)
    for name, frames, size in (("short", 8, (192, 128)), ("small", 9, (96, 64))):
        bad = make_clip(
            tmp_path / f"{name}.mp4", width=size[0], height=size[1], frames=frames, rate=24
        )
        with pytest.raises(ValueError, match="8 frames came out" if frames == 8 else "is 96x64"):
            good.check(bad)
    other = make_clip(tmp_path / "other.mp4", width=192, height=128, frames=9, rate=24)
    with pytest.raises(ValueError, match="a broken picture"):
        good.check(other)


def test_a_cut_holds_the_first_frames(clip, tmp_path, script):
    common = script("common")
    cut = common.cut(clip, tmp_path / "cut.mp4", frames=4)
    whole = list(common.lumas(clip))
    kept = list(common.lumas(cut))
    assert len(kept) == 4
    assert all(any(np.array_equal(a, b) for b in whole) for a in kept)


def test_quality_of_two_pictures(tmp_path, script):
    quality = script("quality")
    for name in quality.SETS:
        folder = tmp_path / name / "x2"
        folder.mkdir(parents=True)
        for index, luma in enumerate(lumas(width=64, height=48, frames=2)):
            cv2.imwrite(str(folder / f"img_{index}_HR.png"), luma)
            cv2.imwrite(str(folder / f"img_{index}_LR.png"), downscale(luma, 2))
    rows = quality.measure(tmp_path, None, (2,))
    by_name = {row["name"]: row for row in rows}
    assert by_name["dnn-espcn"]["absent"]
    ours = [r for r in rows if r["name"] == "ecbsr-m4c16-x2" and "absent" not in r]
    assert {"ort fp32", "ort fp32, uint8 in and out"} <= {row["runs"] for row in ours}
    plain, small = by_name["bicubic"]["Set5"], ours[0]["Set5"]
    assert small["psnr_y"] > plain["psnr_y"] + 0.5
    assert "x2" in quality.show(rows)
    assert "memory" in quality.show(rows)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_keep_their_schema(path, script):
    text = path.read_text(encoding="utf-8")
    result = json.loads(text)
    assert result["schema"] == 1
    assert result["benchmark"] == path.stem
    assert result["machine"]["cores"] >= 1
    assert {"edgesr", "python", "av", "ffmpeg"} <= set(result["versions"])
    assert not any(home in text for home in ("/home/", "/work/", "/tmp/", "/root/"))
    for row in result.get("rows") or result["networks"]:
        assert row["name"]
        if "absent" in row or "broken" in row:
            continue
        if path.stem == "stream":
            assert len(row["wall_s"]) == result["rounds"]
            assert row["check"]["psnr_y_beside_bicubic"]["min"] >= script("common").LEAST_PSNR
            assert row["encoder"]
            assert row["command"]
        elif path.stem == "quality":
            assert all(row[name]["psnr_y"] > 20 for name in result["sets"])
        elif path.stem == "rewrites":
            assert max(row["difference"].values()) <= script("rewrites").NEAR
        elif path.stem in ("export_grid", "tensorrt_rtx", "tensorrt_api"):
            assert row["passed"]
        elif path.stem == "distillation":
            gains = [gain for found in row["sets"].values() for gain in found["gain"]["each"]]
            assert len(gains) == len(result["seeds"]) * len(row["sets"])
            expected = "" if row["teacher"] == "none" else script(path.stem).verdict(gains)
            assert row["verdict"] == expected
        elif path.stem == "export":
            ran = [way for way in row["candidates"] if way["error"] is None]
            assert {"fp32", "fp16", "int8"} <= {way["precision"] for way in ran}
            assert all(way["ms"] and way["size_bytes"] for way in ran)
        else:
            raise AssertionError(f"no rule for {path.name}")


def test_results_are_committed():
    assert {"stream", "quality"} <= {path.stem for path in RESULTS}
