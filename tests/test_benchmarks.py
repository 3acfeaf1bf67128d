"""The benchmarks run, refuse broken outputs, and their committed results keep their schema."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from scripts import scripts_of

from edgesr.bicubic import downscale
from edgesr.distill.evaluate import evaluate_model
from edgesr.metrics import psnr
from edgesr.models import resolve
from edgesr.runtime.clip import lumas, make_clip

pytest.importorskip("onnxruntime")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
FOOTAGE = [path for path in RESULTS if path.stem.startswith("video")]


@pytest.fixture
def script(monkeypatch):
    """Import a file of benchmarks/ as its scripts do, and forget it afterwards."""
    with scripts_of(BENCHMARKS, monkeypatch) as load:
        yield load


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


@pytest.fixture(scope="module")
def texture(tmp_path_factory):
    """A clip of moving detail: the made-up one is too smooth to tell methods apart."""
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.uniform(0, 255, (120, 160)).astype(np.float32), (0, 0), 1.2)
    wide = cv2.normalize(wide, None, 30, 220, cv2.NORM_MINMAX).astype(np.uint8)
    path = tmp_path_factory.mktemp("video") / "texture.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for shift in range(4):
            luma = np.full((144, 128), 128, np.uint8)
            luma[:96] = wide[shift : shift + 96, 3 * shift : 3 * shift + 128]
            frame = av.VideoFrame.from_ndarray(luma, format="yuv420p")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_video_scores_all_methods_on_the_same_pictures(texture, tmp_path, script):
    video, report = script("video"), script("video_report")
    plain = resolve("ecbsr-m4c16-x2")
    twin = shutil.copy(plain.path, tmp_path / "ecbsr-m4c16-x2-video.onnx")
    models = video.find_models(["ecbsr-m4c16", str(twin)], scale=2)
    pictures = tmp_path / "pictures"
    result = video.measure([texture], models, scale=2, frames=3, crfs=(18, 33), pictures=pictures)
    assert result["clips"][0]["used"] == {"frames": 3, "width": 128, "height": 96}
    names = ["bicubic", "lanczos", "ecbsr-m4c16-x2", "ecbsr-m4c16-x2-video"]
    assert [row["name"] for row in result["rows"]] == names * 2
    found = report.means(result["rows"])
    for crf in ("18", "33"):
        assert found["ecbsr-m4c16-x2"][crf] == found["ecbsr-m4c16-x2-video"][crf]
    assert found["lanczos"]["18"]["psnr_y"] > found["lanczos"]["33"]["psnr_y"] + 1
    assert found["ecbsr-m4c16-x2"]["18"]["psnr_y"] > found["lanczos"]["18"]["psnr_y"] + 0.5
    assert found["lanczos"]["all"]["flicker"] > 0
    shown = cv2.imread(str(pictures / "texture-crf33.png"))
    assert shown.shape == (96 * 2 + report.LABEL, 4 * (128 * 2 + report.GAP), 3)
    told = report.claims(found, worst=33)
    assert list(told.values())[-1] is True  # its twin is not below it
    text = report.show(result | {"means": found, "claims": told})
    assert "ecbsr-m4c16-x2-video >= lanczos + 0.1 dB at CRF 33: " in text


def test_video_scores_are_those_of_eval(texture, script):
    """The same clip without a codec, by `edgesr eval`'s own path."""
    video = script("video")
    footage = video.load(texture, scale=2, frames=3)
    lumas = video.bicubic([video.luma_only(small) for small in footage.smalls], scale=2)
    expected = evaluate_model("ecbsr-m4c16-x2", texture, backend="ort", frames=3).bicubic[0]
    figures = video.score(lumas, footage.truths, border=2)
    for key, decimals in (("psnr_y", 3), ("ssim_y", 4), ("flicker", 3)):
        assert figures[key] == round(getattr(expected, key), decimals)


def test_lanczos_of_video_is_where_opencv_has_it(texture, script):
    video = script("video")
    small = video.luma_only(video.load(texture, scale=2, frames=1).smalls[0])
    (ours,) = video.lanczos([small], scale=2)
    theirs = cv2.resize(small.planes[0], None, fx=2, fy=2, interpolation=cv2.INTER_LANCZOS4)
    assert psnr(ours[8:-8, 8:-8], theirs[8:-8, 8:-8]) > 35
    assert psnr(ours[8:-8, 9:-7], theirs[8:-8, 8:-8]) < 30  # half a small pixel beside it


def test_a_wide_clip_is_halved(texture, script, monkeypatch):
    video = script("video")
    monkeypatch.setattr(video, "WIDEST", 100)
    footage = video.load(texture, scale=2, frames=1)
    assert footage.facts["used"] == {"frames": 1, "width": 64, "height": 48}
    whole = next(iter(video.read_frames(texture))).planes[0]
    assert np.array_equal(footage.truths[0], downscale(whole, 2))


def test_claims_of_video(script):
    claims = script("video_report").claims

    def row(psnr_y, flicker):
        return {"psnr_y": psnr_y, "ssim_y": 0.9, "flicker": flicker}

    found = {
        "lanczos": {"all": row(30.0, 2.0), "33": row(28.0, 2.0)},
        "a-x2": {"all": row(30.5, 2.1), "33": row(28.0, 2.2)},
        "a-x2-video": {"all": row(30.3, 2.0), "33": row(28.09, 2.0)},
    }
    assert list(claims(found, worst=33).values()) == [True, False, True, False]
    found["a-x2-video"] = {"all": row(30.299, 2.001)}
    assert list(claims(found, worst=33).values()) == [False, None, False, False]
    del found["a-x2-video"]
    assert list(claims(found, worst=33).values()) == [None] * 4


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
        elif path.stem in ("distillation", "distillation-x4", "pisr"):
            gains = [gain for found in row["sets"].values() for gain in found["gain"]["each"]]
            assert len(gains) == len(result["seeds"]) * len(row["sets"])
            expected = "" if row["teacher"] == "none" else script("distillation").verdict(gains)
            assert row["verdict"] == expected
            assert row["scale"] in result["scales"]
        elif path.stem == "optimizers":
            assert all(len(of["each"]) == len(result["seeds"]) for of in row["sets"].values())
            assert row["steps"] == row["beside"] or row["equal"] == "time"
            assert row["seconds"] == pytest.approx(row["steps"] * row["ms_per_step"] / 1e3, rel=0.1)
        elif path.stem == "export":
            ran = [way for way in row["candidates"] if way["error"] is None]
            assert {"fp32", "fp16", "int8"} <= {way["precision"] for way in ran}
            assert all(way["ms"] and way["size_bytes"] for way in ran)
        elif path.stem.startswith("video"):
            assert row["name"] in result["methods"]
            assert (row["psnr_y"] > 15, 0 < row["ssim_y"] < 1, row["flicker"] > 0) == (True,) * 3
        else:
            raise AssertionError(f"no rule for {path.name}")


@pytest.mark.parametrize("path", FOOTAGE, ids=lambda path: path.stem)
def test_means_and_claims_of_video_follow_from_its_rows(path, script):
    video, report = script("video"), script("video_report")
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [row for row in result["rows"] if "absent" not in row]
    assert len(rows) == len(result["methods"]) * len(result["clips"]) * len(video.CRFS)
    assert len(result["clips"]) >= 5
    assert report.means(rows) == result["means"]
    assert report.claims(result["means"], worst=max(video.CRFS)) == result["claims"]


def test_results_are_committed():
    assert {"stream", "quality", "video"} <= {path.stem for path in RESULTS}


def test_readme_says_what_the_results_say(script, tmp_path, monkeypatch):
    readme = script("readme")
    written = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    (tmp_path / "README.md").write_text(written, encoding="utf-8")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    readme.main()
    again = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert again == written, "run `python benchmarks/readme.py`"
