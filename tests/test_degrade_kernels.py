"""Kernels against formulas by hand, OpenCV and SciPy; filters and USM against OpenCV."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

from edgesr.distill.kernels import (
    DELTA,
    KINDS,
    SINC,
    KernelDraw,
    draw_final_sinc,
    draw_kernels,
    filter2d,
    gaussian_blur,
    make_kernels,
    pad_reflect,
    usm_sharpen,
)
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]

SETTINGS = {
    "sizes": tuple(range(7, 22, 2)),
    "shares": (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    "sigma": (0.2, 3.0),
    "beta_general": (0.5, 4.0),
    "beta_plateau": (1.0, 2.0),
    "sinc": 0.1,
}


def draw(count: int, seed: int = 0, **changes: Any) -> KernelDraw:
    generator = torch.Generator().manual_seed(seed)
    return draw_kernels(count, **(SETTINGS | changes), generator=generator)


def kernel_by_hand(draws: KernelDraw, index: int) -> Array:
    """From the covariance matrix, in a square of the kernel's own size, padded to 21."""
    size, kind = int(draws.size[index]), int(draws.kind[index])
    beta, cut = float(draws.beta[index]), float(draws.cutoff[index])
    s1, s2 = draws.sigma[index].tolist()
    angle = float(draws.angle[index])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    inverse = np.linalg.inv(turn @ np.diag([s1**2, s2**2]) @ turn.T)
    out = np.zeros((size, size))
    half = size // 2
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            q = np.array([x, y]) @ inverse @ np.array([x, y])
            if kind == SINC:
                special = pytest.importorskip("scipy.special")
                r = math.hypot(x, y)
                value = cut * special.j1(cut * r) / (2 * np.pi * r) if r else cut**2 / (4 * np.pi)
            elif KINDS[kind].startswith("plateau"):
                value = 1 / (q**beta + 1)
            else:
                value = math.exp(-0.5 * q**beta)
            out[y + half, x + half] = value
    return np.pad(out / out.sum(), (21 - size) // 2)


def test_every_kind_of_kernel_is_its_formula() -> None:
    draws = draw(120, shares=(1, 1, 1, 1, 1, 1), sinc=0.2)
    assert set(draws.kind.tolist()) == {0, 1, 2, 3, 4, 5, SINC}
    kernels = make_kernels(draws, width=21).numpy()
    for index in range(120):
        assert np.abs(kernels[index] - kernel_by_hand(draws, index)).max() < 1e-6
    assert np.abs(kernels.sum(axis=(1, 2)) - 1).max() < 1e-5


def test_isotropic_gaussians_are_those_of_opencv() -> None:
    draws = draw(30, shares=(1, 0, 0, 0, 0, 0), sinc=0)
    for index, kernel in enumerate(make_kernels(draws, width=21).numpy()):
        size = int(draws.size[index])
        line = cv2.getGaussianKernel(size, float(draws.sigma[index, 0]), cv2.CV_64F)
        truth = np.pad(line @ line.T, (21 - size) // 2)
        assert np.abs(kernel - truth).max() < 1e-6


def test_the_angle_turns_from_x_to_y() -> None:
    draws = KernelDraw(
        size=torch.tensor([21]),
        kind=torch.tensor([1]),
        sigma=torch.tensor([[4.0, 0.5]], dtype=torch.float64),
        angle=torch.tensor([math.pi / 4], dtype=torch.float64),
        beta=torch.ones(1, dtype=torch.float64),
        cutoff=torch.ones(1, dtype=torch.float64),
    )
    kernel = make_kernels(draws, width=21)[0]
    assert kernel[14, 14] > 100 * kernel[14, 6]  # down right, not down left


def chi_square(counts: Array, shares: Array) -> float:
    expected = counts.sum() * shares / shares.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def is_uniform(values: Array, low: float, high: float) -> bool:
    """Ten bins: chi-square of 9 degrees passes 28 once in a thousand."""
    assert low <= values.min()
    assert values.max() <= high
    counts = np.histogram(values, bins=10, range=(low, high))[0]
    return chi_square(counts, np.ones(10)) < 28


def test_drawn_kernels_are_spread_as_the_settings_say() -> None:
    draws = draw(8000, seed=3)
    kind, size = draws.kind.numpy(), draws.size.numpy()
    shares = np.array([*(0.9 * s for s in SETTINGS["shares"]), 0.1])
    assert chi_square(np.bincount(kind, minlength=7), shares) < 22.5  # 6 degrees, 1 in 1000
    assert chi_square(np.bincount((size - 7) // 2, minlength=8), np.ones(8)) < 24.3
    assert is_uniform(draws.sigma[:, 0].numpy(), 0.2, 3.0)
    tilted = np.isin(kind, (1, 3, 5))
    assert is_uniform(draws.sigma[:, 1].numpy()[tilted], 0.2, 3.0)
    assert is_uniform(draws.angle.numpy()[tilted], -math.pi, math.pi)
    straight = np.isin(kind, (0, 2, 4))
    assert torch.equal(draws.sigma[straight, 0], draws.sigma[straight, 1])
    assert not draws.angle[straight].any()


def test_drawn_exponents() -> None:
    draws = draw(8000, seed=4, shares=(1, 1, 1, 1, 1, 1), sinc=0)
    kind, beta = draws.kind.numpy(), draws.beta.numpy()
    assert (beta[kind < 2] == 1).all()
    general = beta[(kind == 2) | (kind == 3)]
    below = general < 1
    assert abs(below.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(below))
    assert is_uniform(general[below], 0.5, 1)
    assert is_uniform(general[~below], 1, 4)
    plateau = beta[kind >= 4]
    assert abs((plateau == 1).mean() - 0.5) < 4 * 0.5 / np.sqrt(len(plateau))
    assert is_uniform(plateau[plateau > 1], 1, 2)


def test_drawn_cutoffs_depend_on_the_size() -> None:
    draws = draw(8000, seed=5)
    size, cutoff = draws.size.numpy(), draws.cutoff.numpy()
    assert is_uniform(cutoff[size < 13], math.pi / 3, math.pi)
    assert is_uniform(cutoff[size >= 13], math.pi / 5, math.pi)


def test_the_sinc_at_the_end() -> None:
    generator = torch.Generator().manual_seed(1)
    draws = draw_final_sinc(4000, sizes=SETTINGS["sizes"], chance=0.8, generator=generator)
    share = float((draws.kind == SINC).double().mean())
    assert abs(share - 0.8) < 4 * math.sqrt(0.16 / 4000)
    assert is_uniform(draws.cutoff.numpy(), math.pi / 3, math.pi)
    kernels = make_kernels(draws, width=21)
    delta = np.zeros((21, 21), np.float32)
    delta[10, 10] = 1
    for index in np.flatnonzero(draws.kind.numpy() == DELTA)[:5]:
        assert np.array_equal(kernels[index].numpy(), delta)


def test_draws_are_those_of_the_generator() -> None:
    one, two, other = (make_kernels(draw(6, seed=s), width=21) for s in (7, 7, 8))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_filter2d_is_that_of_opencv() -> None:
    photos = [draw_photo(s, height=40, width=33).astype(np.float32) / 255 for s in range(3)]
    batch = torch.from_numpy(np.stack(photos).transpose(0, 3, 1, 2)).contiguous()
    rng = np.random.default_rng(0)
    kernels = torch.from_numpy(rng.random((3, 21, 21), np.float32) / 220)  # not symmetric
    for given in (kernels, kernels[:1]):
        got = filter2d(batch, given).permute(0, 2, 3, 1).numpy()
        for index, photo in enumerate(photos):
            own = given[index if len(given) == 3 else 0].numpy()
            truth = cv2.filter2D(photo, -1, own, borderType=cv2.BORDER_REFLECT_101)
            assert np.abs(got[index] - truth).max() < 1e-5


def test_pictures_smaller_than_the_kernel_are_mirrored_over_and_over() -> None:
    small = np.random.default_rng(1).random((5, 3), np.float32)
    padded = pad_reflect(torch.from_numpy(small)[None, None], 10)[0, 0].numpy()
    truth = cv2.copyMakeBorder(small, 10, 10, 10, 10, cv2.BORDER_REFLECT_101)
    assert np.array_equal(padded, truth)
    one = pad_reflect(torch.ones(1, 1, 1, 1), 4)
    assert one.shape == (1, 1, 9, 9)


@pytest.mark.parametrize(("size", "sigma"), [(13, 1.6), (7, 1.6), (51, 0.0)])
def test_gaussian_blur_is_that_of_opencv(size: int, sigma: float) -> None:
    photo = draw_photo(4).astype(np.float32)
    truth = cv2.GaussianBlur(photo, (size, size), sigma, borderType=cv2.BORDER_REFLECT_101)
    batch = torch.from_numpy(photo.transpose(2, 0, 1))[None]
    got = gaussian_blur(batch, size=size, sigma=sigma)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - truth).max() < 0.001


def test_usm_is_the_opencv_recipe() -> None:
    photo = draw_photo(6).astype(np.float32) / 255
    blurred = cv2.GaussianBlur(photo, (51, 51), 0)
    residual = photo - blurred
    mask = (np.abs(residual) * 255 > 10).astype(np.float32)
    soft = cv2.GaussianBlur(mask, (51, 51), 0)
    truth = soft * np.clip(photo + 0.5 * residual, 0, 1) + (1 - soft) * photo
    batch = torch.from_numpy(photo.transpose(2, 0, 1))[None]
    got = usm_sharpen(batch)[0].permute(1, 2, 0).numpy()
    assert np.abs(got - truth).max() < 1e-4
    assert np.abs(got - photo).max() > 0.02
    flat = torch.full((1, 1, 60, 60), 0.4)
    assert torch.allclose(usm_sharpen(flat), flat)


def test_kernels_that_cannot_be() -> None:
    batch = torch.zeros(2, 3, 8, 8)
    with pytest.raises(UsageError, match=r"give \(2, k, k\) or \(1, k, k\)"):
        filter2d(batch, torch.zeros(3, 5, 5))
    with pytest.raises(UsageError, match="k odd"):
        filter2d(batch, torch.zeros(2, 4, 4))
    with pytest.raises(UsageError, match="in a square of 5"):
        make_kernels(draw(2), width=5)
    with pytest.raises(UsageError, match="the size is odd"):
        gaussian_blur(batch, size=4, sigma=1)
