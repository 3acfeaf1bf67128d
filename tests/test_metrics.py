"""Metrics against scikit-image and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgesr.metrics import crop_border, psnr, rgb_to_y, ssim


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
