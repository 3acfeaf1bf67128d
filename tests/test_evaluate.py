"""The published protocol, against published figures, torchmetrics and by hand."""

from __future__ import annotations

import csv
import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from photos import draw_photo, write_photos

from edgesr.bicubic import downscale, imresize
from edgesr.distill.evaluate import (
    More,
    bicubic_scores,
    evaluate,
    evaluate_model,
    evaluate_rgb,
    evaluate_sets,
    load_pairs,
    mean_score,
)
from edgesr.distill.scores import summary_lines, to_dict, write_csv
from edgesr.errors import MediaError, ModelError, UsageError
from edgesr.metrics import ms_ssim, rgb_to_y, ssim
from edgesr.models import shipped


@pytest.mark.parametrize(("scale", "published"), [(2, 33.66), (3, 30.39), (4, 28.42)])
def test_bicubic_scores_what_is_published(data: Path, scale: int, published: float) -> None:
    pairs = load_pairs(data / "bench" / "Set5", scale=scale)
    assert mean_score(bicubic_scores(pairs, scale=scale)).psnr_y == pytest.approx(
        published, abs=0.02
    )


def test_shipped_models_score_what_they_say(data: Path) -> None:
    """`edgesr eval` on the shipped file gives the figure in the index, to 0.01 dB."""
    for entry in shipped():
        table = evaluate_model(entry.name, data / "bench" / "Set5", backend="ort")
        stated = entry.spec.metrics["Set5"]["psnr_y"]
        assert table.to_dict()["mean"]["psnr_y"] == pytest.approx(stated, abs=0.01), entry.name


OPENCV_X3, OPENCV_X4 = 30.591, 28.408  # Set5: OpenCV's best graphs, benchmarks/results/quality.json


# The least that each model must score to be shipped: PSNR-Y on Set5 and Set14.
@pytest.mark.parametrize(
    ("name", "set5", "set14"),
    [
        ("ecbsr-m10c16-x2", 37.4, 32.95),
        ("ecbsr-m4c16-x2", 37.1, 32.7),
        ("espcn-x2", 36.7, 32.3),
        ("ecbsr-m10c16-x3", OPENCV_X3 + 2.0, 0.0),
        ("ecbsr-m4c16-x3", OPENCV_X3 + 2.0, 0.0),
        ("espcn-x3", OPENCV_X3 + 2.0, 0.0),
        ("ecbsr-m10c16-x4", OPENCV_X4 + 2.0, 0.0),
        ("ecbsr-m4c16-x4", OPENCV_X4 + 2.0, 0.0),
        ("espcn-x4", OPENCV_X4 + 2.0, 0.0),
    ],
)
def test_shipped_models_are_good_enough(name: str, set5: float, set14: float) -> None:
    metrics = {entry.name: entry.spec.metrics for entry in shipped()}[name]
    assert metrics["Set5"]["psnr_y"] >= set5
    assert metrics["Set14"]["psnr_y"] >= set14


def test_protocol_by_hand(tmp_path: Path) -> None:
    """Output clamped and rounded, truth not, `scale` pixels cropped on each side."""
    picture = draw_photo(3, height=40, width=48)
    cv2.imwrite(str(tmp_path / "a.png"), picture[:, :, ::-1])
    pairs = load_pairs(tmp_path, scale=2)
    (score,) = evaluate(lambda y: imresize(y.astype(np.float64), 2), pairs, scale=2)
    small = rgb_to_y(downscale(picture, 2)) / 255
    ours = np.round(np.clip(imresize(small.astype(np.float32).astype(np.float64), 2) * 255, 0, 255))
    error = (ours - rgb_to_y(picture))[2:-2, 2:-2]
    assert score.psnr_y == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)), abs=1e-6)


def test_gray_pictures_count_as_rgb(tmp_path: Path) -> None:
    gray = cv2.cvtColor(draw_photo(1), cv2.COLOR_RGB2GRAY)
    cv2.imwrite(str(tmp_path / "gray.png"), gray)
    (pair,) = load_pairs(tmp_path, scale=2)
    assert pair.hr.ndim == 2
    (score,) = bicubic_scores([pair], scale=2)
    assert 10 < score.psnr_y < 60


def test_pairs_scale_folders_and_odd_sizes(tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "set" / "x3", 2, height=50, width=61)
    (pair, _) = load_pairs(folder.parent, scale=3)
    assert (pair.hr.shape, pair.lr.shape) == ((48, 60, 3), (16, 20, 3))
    small = downscale(cv2.imread(str(folder / "000.png"))[:48, :60], 3)
    (folder / "000.png").rename(folder / "000_HR.png")
    cv2.imwrite(str(folder / "000_LR.png"), 255 - small)
    pairs = {pair.name: pair for pair in load_pairs(folder, scale=3)}
    assert np.array_equal(pairs["000"].lr, 255 - small[:, :, ::-1])
    with pytest.raises(MediaError, match="is it another scale"):
        load_pairs(folder, scale=2)


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_pairs(tmp_path / "no", scale=2)
    with pytest.raises(UsageError, match="no pictures"):
        load_pairs(tmp_path, scale=2)


def test_table_reads_and_counts(tmp_path: Path) -> None:
    write_photos(tmp_path, 2)
    table = evaluate_model("ecbsr-m4c16", tmp_path, scale=2, backend="ort")
    values = table.to_dict()
    assert set(values["pictures"]) == {"000", "001"}
    assert values["mean"]["psnr_y"] == pytest.approx(
        np.mean([p["psnr_y"] for p in values["pictures"].values()]), abs=1e-3
    )
    assert values["runs"].startswith("ort ")
    assert table.lines()[-1].startswith("mean")


def test_rgb_models_are_scored_by_the_luma_of_their_output(tmp_path: Path) -> None:
    """Nearest neighbour as an RGB model, at a size that it must be padded for."""
    import onnx_models

    from edgesr.distill.evaluate import evaluate_model

    picture = draw_photo(3)[:66, :90]
    folder = tmp_path / "set"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture[..., ::-1])
    model = onnx_models.nearest(tmp_path / "n.onnx", scale=2, colour="rgb", multiple=4, min_size=40)
    table = evaluate_model(str(model), folder, backend="ort")
    small = downscale(picture, 2)
    big = rgb_to_y(small.repeat(2, axis=0).repeat(2, axis=1))
    error = (big - rgb_to_y(picture))[2:-2, 2:-2]
    assert table.scores[0].psnr_y == pytest.approx(10 * np.log10(255**2 / (error**2).mean()))


def test_rgb_models_have_psnr_rgb_and_luma_models_have_not(tmp_path: Path) -> None:
    pairs = load_pairs(write_photos(tmp_path, 1), scale=2)
    (ours,) = evaluate_rgb(lambda rgb: rgb.repeat(2, axis=1).repeat(2, axis=2), pairs, scale=2)
    big = pairs[0].lr.repeat(2, axis=0).repeat(2, axis=1).astype(float)
    error = (big - pairs[0].hr)[2:-2, 2:-2]
    assert ours.psnr_rgb == pytest.approx(10 * np.log10(255**2 / (error**2).mean()))
    assert evaluate(lambda y: imresize(y, 2), pairs, scale=2)[0].psnr_rgb is None
    assert bicubic_scores(pairs, scale=2)[0].psnr_rgb is None
    bicubic = imresize(pairs[0].lr, 2).astype(float)
    error = (bicubic - pairs[0].hr)[2:-2, 2:-2]
    (theirs,) = bicubic_scores(pairs, scale=2, rgb=True)
    assert theirs.psnr_rgb == pytest.approx(10 * np.log10(255**2 / (error**2).mean()))


def test_ms_ssim_only_where_the_picture_is_large_enough(tmp_path: Path) -> None:
    write_photos(tmp_path, 1, height=184, width=190)
    more = More(ms_ssim=True)
    pairs = load_pairs(tmp_path, scale=2)
    (large,) = bicubic_scores(pairs, scale=2, more=more)
    ours, truth = (rgb_to_y(p)[2:-2, 2:-2] for p in (imresize(pairs[0].lr, 2), pairs[0].hr))
    assert large.ms_ssim_y == pytest.approx(ms_ssim(ours, truth))
    cv2.imwrite(str(tmp_path / "small.png"), draw_photo(1, height=178, width=190))
    scores = bicubic_scores(load_pairs(tmp_path, scale=2), scale=2, more=more)
    assert [score.ms_ssim_y is None for score in scores] == [False, True]
    assert mean_score(scores).ms_ssim_y is None
    assert mean_score(scores).psnr_y == pytest.approx((scores[0].psnr_y + scores[1].psnr_y) / 2)


def test_equal_pictures_have_a_mean(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "flat.png"), np.full((40, 40, 3), 77, np.uint8))
    (score,) = bicubic_scores(load_pairs(tmp_path, scale=2), scale=2)
    assert score.psnr_y == 100


def test_a_folder_of_sets_is_scored_set_by_set(tmp_path: Path, net: Path) -> None:
    write_photos(tmp_path / "bench" / "One" / "x2", 2)
    write_photos(tmp_path / "bench" / "Two", 1)
    (tmp_path / "bench" / "notes").mkdir()
    tables = evaluate_sets(str(net), tmp_path / "bench", backend="ort", more=More(ms_ssim=True))
    assert [(t.name, len(t.scores)) for t in tables] == [("One", 2), ("Two", 1)]
    alone = evaluate_model(str(net), tmp_path / "bench" / "One", backend="ort")
    values = to_dict(tables)
    assert values["sets"]["One"]["mean"]["psnr_y"] == alone.to_dict()["mean"]["psnr_y"]
    assert to_dict([alone]) == alone.to_dict()
    lines = summary_lines(tables)
    assert [line.split()[0] for line in lines] == ["set", "One", "Two"]
    write_csv(tmp_path / "rows.csv", tables)
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [(r["set"], r["name"]) for r in rows] == [("One", "000"), ("One", "001"), ("Two", "000")]
    assert float(rows[1]["psnr_y"]) == pytest.approx(alone.scores[1].psnr_y, abs=1e-4)
    assert float(rows[1]["bicubic_ssim_y"]) == pytest.approx(alone.bicubic[1].ssim_y, abs=1e-5)
    with pytest.raises(UsageError, match=r"several sets \(One, Two\)"):
        evaluate_model(str(net), tmp_path / "bench", backend="ort")


def classifier_file(path: Path, net: str) -> dict[str, Any]:
    """torchvision's tensors of that name and shape, random."""
    torch = pytest.importorskip("torch")
    convs = {
        "alex": {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3)}
        | {10: (256, 256, 3)},
        "vgg": {0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3)}
        | {10: (256, 128, 3), 12: (256, 256, 3), 14: (256, 256, 3), 17: (512, 256, 3)}
        | dict.fromkeys((19, 21, 24, 26, 28), (512, 512, 3)),
    }[net]
    random = torch.Generator().manual_seed(0)
    tensors = {"classifier.6.bias": torch.zeros(3)}
    for number, (out, inp, size) in convs.items():
        spread = (2 / (inp * size * size)) ** 0.5
        weight = torch.randn(out, inp, size, size, generator=random) * spread
        tensors[f"features.{number}.weight"] = weight
        tensors[f"features.{number}.bias"] = torch.randn(out, generator=random) * 0.1
    torch.save(tensors, path)
    return tensors


def torchvision_features(net: str, tensors: dict[str, Any]) -> Any:
    """`features` of torchvision's alexnet and vgg16, layer by layer."""
    from torch import nn

    layers: list[Any] = []
    if net == "alex":
        for out, inp, size, stride, padding in (
            (64, 3, 11, 4, 2),
            (192, 64, 5, 1, 2),
            (384, 192, 3, 1, 1),
            (256, 384, 3, 1, 1),
            (256, 256, 3, 1, 1),
        ):
            layers += [nn.Conv2d(inp, out, size, stride, padding), nn.ReLU()]
            if out in (64, 192):
                layers.append(nn.MaxPool2d(3, 2))
    else:
        inp = 3
        for out in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
            layers += [nn.Conv2d(inp, out, 3, 1, 1), nn.ReLU()] if out else [nn.MaxPool2d(2, 2)]
            inp = out or inp
    features = nn.Sequential(*layers, nn.MaxPool2d(3 if net == "alex" else 2, 2))
    kept = {k.removeprefix("features."): t for k, t in tensors.items() if k.startswith("features")}
    features.load_state_dict(kept)
    return features


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_agrees_with_torchmetrics(
    net: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With random classifiers, as the trained ones are not to be had here; the heads are real."""
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    from edgesr.distill.lpips import load_lpips

    tensors = classifier_file(tmp_path / "net.pth", net)
    features = torchvision_features(net, tensors)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *a, **k: features)
    reference = theirs._LPIPS(net=net, pnet_rand=True)
    a, b = draw_photo(1, height=64, width=70), draw_photo(2, height=64, width=70)
    x, y = (torch.from_numpy(p).permute(2, 0, 1)[None] / 127.5 - 1 for p in (a, b))
    expected = float(reference(x, y))
    assert load_lpips(str(tmp_path / "net.pth"))(a, b) == pytest.approx(expected, rel=1e-4)
    variable = {"alex": "EDGESR_ALEXNET", "vgg": "EDGESR_VGG16"}[net]
    monkeypatch.setenv(variable, str(tmp_path / "net.pth"))
    assert load_lpips(net)(a, b) == pytest.approx(expected, rel=1e-4)
    assert load_lpips(net)(a, a) == 0


def test_lpips_is_a_column_of_luma_and_rgb_models(tmp_path: Path) -> None:
    """What is compared is RGB, `scale` pixels cropped; a luma model gets bicubic colour."""
    seen = []

    def fake(ours: Any, truth: Any) -> float:
        seen.append((ours, truth))
        return 0.25

    pairs = load_pairs(write_photos(tmp_path, 1), scale=2)
    more = More(lpips=fake)
    (score,) = evaluate(lambda y: imresize(y, 2), pairs, scale=2, more=more)
    assert score.lpips == 0.25
    bicubic_scores(pairs, scale=2, more=more)
    (ours, truth), (bicubic, _) = seen
    assert np.array_equal(truth, pairs[0].hr[2:-2, 2:-2])
    # Bicubic luma with bicubic colour is bicubic RGB, rounding aside.
    assert np.abs(ours.astype(int) - bicubic).mean() < 0.7


def test_lpips_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from edgesr.distill.lpips import load_lpips

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EDGESR_ALEXNET", raising=False)
    with pytest.raises(UsageError, match=r"alexnet-owt-7be5be79.pth at .*alexnet.pth"):
        load_lpips("alex")
    with pytest.raises(UsageError, match="neither alex, vgg nor a file"):
        load_lpips("squeeze")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not torchvision's AlexNet or VGG16"):
        load_lpips(str(tmp_path / "other.pth"))


def write_lossless(path: Path, lumas: list[Any], *, format: str = "gray") -> Path:
    """FFV1 of (H, W) uint8 luma, gray or 4:2:0 with flat chroma."""
    height, width = lumas[0].shape
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, format
        for luma in lumas:
            flat = np.full((height // 2 if format == "yuv420p" else 0, width), 128, np.uint8)
            array = np.concatenate([luma, flat])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(array, format=format)))
        out.mux(stream.encode())
    return path


def moving(frames: int, *, height: int = 64, width: int = 96) -> list[Any]:
    """(H, W) uint8 luma that moves."""
    scene = np.rint(rgb_to_y(draw_photo(5, height=height + 16, width=width + 16))).astype(np.uint8)
    return [
        np.ascontiguousarray(scene[k : k + height, 2 * k : 2 * k + width]) for k in range(frames)
    ]


def by_hand(outputs: list[Any], truths: list[Any], *, border: int) -> dict[str, float]:
    cut = slice(border, -border)
    errors = [(np.float64(a) - b)[cut, cut] for a, b in zip(outputs, truths, strict=True)]
    return {
        "psnr_y": np.mean([10 * np.log10(255**2 / (e**2).mean()) for e in errors]),
        "ssim_y": np.mean(
            [ssim(a[cut, cut], b[cut, cut]) for a, b in zip(outputs, truths, strict=True)]
        ),
        "flicker": np.mean([np.abs(b - a).mean() for a, b in itertools.pairwise(errors)]),
    }


def test_pairs_of_clips_by_hand(tmp_path: Path) -> None:
    """Nearest neighbour over the luma planes of a pair of clips."""
    import onnx_models

    truths = moving(5)
    rng = np.random.default_rng(0)
    smalls = [
        np.clip(t[::2, ::2] + rng.normal(0, 4, (32, 48)), 0, 255).astype("u1") for t in truths
    ]
    write_lossless(tmp_path / "street_HR.mkv", truths)
    write_lossless(tmp_path / "street_LR.mkv", smalls)
    model = onnx_models.nearest(tmp_path / "n.onnx", scale=2)
    table = evaluate_model(str(model), tmp_path, backend="ort")
    (ours,) = table.scores
    (bicubic,) = table.bicubic
    assert (table.kind, ours.name) == ("clips", "street")
    outputs = [s.repeat(2, axis=0).repeat(2, axis=1) for s in smalls]
    for key, value in by_hand(outputs, truths, border=2).items():
        assert getattr(ours, key) == pytest.approx(value), key
    for key, value in by_hand([imresize(s, 2) for s in smalls], truths, border=2).items():
        assert getattr(bicubic, key) == pytest.approx(value), key
    assert ours.warped is not None
    assert ours.warped_truth == bicubic.warped_truth
    assert ours.warped > bicubic.warped > bicubic.warped_truth  # type: ignore[operator]
    values = table.to_dict()
    assert values["clips"]["street"]["flicker"] == round(ours.flicker, 4)  # type: ignore[arg-type]
    write_csv(tmp_path / "frames.csv", [table])
    rows = list(csv.DictReader((tmp_path / "frames.csv").read_text().splitlines()))
    assert [r["name"] for r in rows] == [f"street {k:05}" for k in range(5)]
    assert rows[0]["flicker"] == ""
    assert np.mean([float(r["psnr_y"]) for r in rows]) == pytest.approx(ours.psnr_y, abs=1e-3)


def test_footage_alone_is_made_small_by_matlabs_bicubic(tmp_path: Path, net: Path) -> None:
    """The same figures as from a pair whose small clip was made so; odd edges are cut off."""
    truths = moving(3, height=66, width=99)
    footage = write_lossless(tmp_path / "walk.mkv", truths)
    cut = [t[:64, :96] for t in truths]
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    write_lossless(pairs / "walk_HR.mkv", cut)
    write_lossless(pairs / "walk_LR.mkv", [downscale(np.ascontiguousarray(t), 2) for t in cut])
    alone = evaluate_model(str(net), footage, backend="ort")
    paired = evaluate_model(str(net), pairs, backend="ort")
    assert alone.scores == paired.scores
    assert alone.bicubic == paired.bicubic
    few = evaluate_model(str(net), footage, backend="ort", frames=2)
    assert len(few.frames) == 2
    assert [a for a, _ in few.frames] == [a for a, _ in alone.frames[:2]]


def test_crf_is_x264_and_back(tmp_path: Path, net: Path) -> None:
    """The same figures as from a pair whose small clip is an .mp4 that PyAV wrote."""
    truths = moving(8)
    footage = write_lossless(tmp_path / "clip.mkv", truths)
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    write_lossless(pairs / "clip_HR.mkv", truths)
    with av.open(str(pairs / "clip_LR.mp4"), "w") as out:
        options = {"crf": "33", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        stream = out.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "gray"
        for k, truth in enumerate(truths):
            frame = av.VideoFrame.from_ndarray(downscale(truth, 2), format="gray")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    degraded = evaluate_model(str(net), footage, backend="ort", crf=33)
    assert degraded.scores == evaluate_model(str(net), pairs, backend="ort").scores
    assert degraded.bicubic[0].psnr_y < evaluate_model(str(net), footage).bicubic[0].psnr_y - 1
    assert "x264 crf 33" in degraded.runs


def test_rgb_models_on_clips(tmp_path: Path) -> None:
    """Nearest neighbour in RGB, of gray footage: the luma is that of nearest neighbour."""
    import onnx_models

    truths = moving(2)
    footage = write_lossless(tmp_path / "clip.mkv", truths, format="yuv420p")
    model = onnx_models.nearest(tmp_path / "n.onnx", scale=2, colour="rgb")
    (ours,) = evaluate_model(str(model), footage, backend="ort").scores
    outputs = [downscale(t, 2).repeat(2, axis=0).repeat(2, axis=1) for t in truths]
    assert ours.psnr_y == pytest.approx(by_hand(outputs, truths, border=2)["psnr_y"], abs=0.02)


@pytest.mark.parametrize("scale", [2, 3])
def test_small_chroma_keeps_its_siting(scale: int) -> None:
    """A ramp: left-sited sample c lies at luma 2c, the small luma x at s x + (s - 1) / 2."""
    from edgesr.distill.clips import shrunk
    from edgesr.runtime.frame import Frame

    steps = 200  # to a pixel of the luma grid, so that rounding does not matter
    ramp = np.tile(steps * 2 * np.arange(72), (36, 1)).astype(np.uint16)
    planes = (np.full((72, 144), 99, np.uint16), ramp, ramp)
    frame = Frame(planes=planes, format="yuv420p16le", depth=16, pts=0, time_base=Fraction(1, 25))
    truth, small = shrunk(frame, scale=scale, colour="rgb")
    assert truth.planes[0].shape == (72, 144)
    assert [p.shape for p in small.planes] == [(72 // scale, 144 // scale)] + [
        (36 // scale, 72 // scale)
    ] * 2
    expected = scale * 2 * np.arange(72 // scale) + (scale - 1) / 2
    assert np.abs(small.planes[1][5] / steps - expected)[4:-4].max() <= 0.1


def test_clips_that_do_not_belong_together(tmp_path: Path, net: Path) -> None:
    truths = moving(4)
    write_lossless(tmp_path / "a_HR.mkv", truths)
    write_lossless(tmp_path / "a_LR.mkv", [t[::2, ::2].copy() for t in truths[:3]])
    with pytest.raises(MediaError, match=r"a_LR.mkv ends after 3 frames, and its partner goes on"):
        evaluate_model(str(net), tmp_path, backend="ort")
    assert evaluate_model(str(net), tmp_path, backend="ort", frames=3).scores
    write_lossless(tmp_path / "a_LR.mkv", [t[::4, ::4].copy() for t in truths])
    with pytest.raises(MediaError, match="is it another scale"):
        evaluate_model(str(net), tmp_path, backend="ort")


def test_what_cannot_be_scored(tmp_path: Path, net: Path) -> None:
    photos = write_photos(tmp_path / "photos", 1)
    with pytest.raises(UsageError, match="give a folder of pictures, or a clip"):
        evaluate_model(str(net), photos / "000.png")
    with pytest.raises(UsageError, match="holds no clips"):
        evaluate_model(str(net), photos, crf=30)
    with pytest.raises(UsageError, match="--frames 0"):
        evaluate_model(str(net), photos, frames=0)
    with pytest.raises(UsageError, match="--crf 70: 0"):
        evaluate_model(str(net), photos, crf=70)
