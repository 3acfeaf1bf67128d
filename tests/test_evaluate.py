"""The published protocol, against published figures and by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from photos import draw_photo, write_photos

from edgesr.bicubic import downscale, imresize
from edgesr.distill.evaluate import (
    bicubic_scores,
    evaluate,
    evaluate_model,
    load_pairs,
    mean_score,
)
from edgesr.errors import MediaError, UsageError
from edgesr.metrics import rgb_to_y
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


# The least that each model must score to be shipped: PSNR-Y on Set5 and Set14, and for the larger
# scales the gain over bicubic on Set5.
@pytest.mark.parametrize(
    ("name", "set5", "set14"),
    [
        ("ecbsr-m10c16-x2", 37.2, 32.8),
        ("ecbsr-m4c16-x2", 36.9, 32.6),
        ("espcn-x2", 36.2, 31.9),
        ("ecbsr-m10c16-x3", 30.39 + 2.2, 0.0),
        ("ecbsr-m4c16-x3", 30.39 + 2.2, 0.0),
        ("ecbsr-m10c16-x4", 28.42 + 2.0, 0.0),
        ("ecbsr-m4c16-x4", 28.42 + 2.0, 0.0),
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
