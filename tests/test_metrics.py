"""Metrics against scikit-image, torchmetrics and values worked out by hand."""

from __future__ import annotations

import itertools
from typing import Any

import cv2
import numpy as np
import pytest

from edgesr.metrics import (
    MS_SSIM_WEIGHTS,
    crop_border,
    flicker,
    motion,
    ms_ssim,
    psnr,
    rgb_to_y,
    ssim,
    warped_error,
)


def test_luma_of_black_white_and_green() -> None:
    picture = np.array([[[0, 0, 0], [255, 255, 255], [0, 255, 0]]], np.uint8)
    assert rgb_to_y(picture)[0] == pytest.approx([16.0, 235.0, 16 + 128.553])


def test_gray_counts_as_three_equal_channels() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.allclose(rgb_to_y(gray), rgb_to_y(np.dstack([gray] * 3)))


def test_luma_agrees_with_scikit_image() -> None:
    color = pytest.importorskip("skimage.color")
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.allclose(rgb_to_y(picture), color.rgb2ycbcr(picture)[..., 0], atol=1e-9)


def test_psnr_by_hand() -> None:
    a = np.zeros((10, 10))
    assert psnr(a, a + 5) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(a, a) == float("inf")


def test_ssim_agrees_with_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    a = rng.random((40, 50)) * 255
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255)
    _, full = metrics.structural_similarity(
        a,
        b,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert ssim(a, b) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-6)
    assert ssim(a, a) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(a[:5], b[:5])


def test_crop_border() -> None:
    a = np.arange(36).reshape(6, 6)
    assert crop_border(a, border=2).tolist() == [[14, 15], [20, 21]]
    assert crop_border(a, border=0) is a


def test_psnr_of_rgb_is_one_error_over_three_channels() -> None:
    a = np.zeros((10, 10, 3), np.uint8)
    b = a.copy()
    b[..., 0], b[..., 1] = 3, 6  # mean square (9 + 36 + 0) / 3 = 15
    assert psnr(a, b) == pytest.approx(10 * np.log10(255**2 / 15))


def noisy(height: int, width: int, *, noise: float, seed: int = 0) -> tuple[Any, Any]:
    """Two (H, W) pictures on a 0..255 scale with detail of all sizes."""
    rng = np.random.default_rng(seed)
    a = sum(
        cv2.resize(rng.random((height // k + 2, width // k + 2)), (width, height)) * k
        for k in (1, 4, 16, 64)
    )
    a = 255 * (a - a.min()) / (a.max() - a.min())
    return a, np.clip(a + rng.normal(0, noise, a.shape), 0, 255)


@pytest.mark.parametrize(("height", "width", "noise"), [(176, 181, 5), (200, 240, 40)])
def test_ms_ssim_agrees_with_torchmetrics(height: int, width: int, noise: float) -> None:
    """By its two factors at each scale; its own product repeats the border at the last one."""
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("torchmetrics.functional.image")
    a, b = noisy(height, width, noise=noise)
    x, y = torch.from_numpy(a)[None, None], torch.from_numpy(b)[None, None]
    whole = image.multiscale_structural_similarity_index_measure(x, y, data_range=255.0)
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        settings = {"data_range": 255.0, "reduction": "none"}
        _, full = image.structural_similarity_index_measure(
            x, y, return_full_image=True, **settings
        )
        _, structure = image.structural_similarity_index_measure(
            x, y, return_contrast_sensitivity=True, **settings
        )
        last = scale == len(MS_SSIM_WEIGHTS) - 1
        product *= float(full[..., 5:-5, 5:-5].mean() if last else structure) ** weight
        x, y = (torch.nn.functional.avg_pool2d(t, 2) for t in (x, y))
    assert ms_ssim(a, b) == pytest.approx(product, abs=1e-6)
    assert ms_ssim(a, b) == pytest.approx(float(whole), abs=5e-3)
    assert ms_ssim(a, a) == pytest.approx(1.0)


def test_ms_ssim_needs_a_window_at_the_coarsest_scale() -> None:
    with pytest.raises(ValueError, match="at least 176"):
        ms_ssim(np.zeros((175, 300)), np.zeros((175, 300)))


def flickers(outputs: list[Any], truths: list[Any]) -> list[float]:
    return [
        flicker(outputs[t - 1], outputs[t], truth_before=truths[t - 1], truth_after=truths[t])
        for t in range(1, len(truths))
    ]


def test_flicker_by_hand() -> None:
    """A constant offset does not flicker; +3, -3, +3 in a quarter of the pixels does, by 6 / 4."""
    rng = np.random.default_rng(1)
    truths = [rng.integers(20, 200, (12, 16)).astype(np.uint8) for _ in range(4)]
    assert flickers([t + np.uint8(7) for t in truths], truths) == [0.0, 0.0, 0.0]
    mask = np.zeros((12, 16))
    mask[:6, :8] = 3
    outputs = [t + mask * (-1) ** k for k, t in enumerate(truths)]
    assert flickers(outputs, truths) == pytest.approx([1.5, 1.5, 1.5])
    frozen = [truths[0]] * 4
    expected = [np.abs(b.astype(float) - a).mean() for a, b in itertools.pairwise(truths)]
    assert flickers(frozen, truths) == pytest.approx(expected)


def test_warped_error_follows_the_motion_of_the_truth() -> None:
    """A scene that moves by (3, 2): an output that moves along has no error, one that stays has."""
    scene, _ = noisy(120, 150, noise=0)
    scene = cv2.GaussianBlur(scene, None, 1.5)
    before, after = scene[10:100, 10:130], scene[8:98, 7:127]
    moves = motion(before, after)
    inner = moves.source[20:-20, 20:-20] - np.dstack(np.meshgrid(range(20, 100), range(20, 70)))
    assert np.median(inner, axis=(0, 1)) == pytest.approx([-3, -2], abs=0.1)
    along = warped_error(before + 5, after + 5, motion=moves)
    assert along is not None
    assert along == pytest.approx(warped_error(before, after, motion=moves), abs=1e-4)
    assert along < 1
    still = warped_error(before, before, motion=moves)
    assert still is not None
    assert still > 3 * along
    offset = warped_error(before, after + 9, motion=moves)
    assert offset == pytest.approx(9, abs=1)


def test_there_is_no_warped_error_over_a_cut() -> None:
    before, after = noisy(90, 120, noise=0)[0], noisy(90, 120, noise=0, seed=9)[0]
    assert warped_error(before, after, motion=motion(before, after)) is None
