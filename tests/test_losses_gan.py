"""Best buddies, back-projection and region masks against OpenCV and hand-made cases."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tolerances import assert_close

from edgesr.bicubic import downscale
from edgesr.distill.bebygan import (
    back_projection,
    best_buddy,
    buddies,
    candidates,
    flat_regions,
    for_discriminator,
    patches,
)
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]


# Best buddies


def flat_patches(values: list[float]) -> torch.Tensor:
    """(1, 1, 12, 12) of 16 flat 3x3 patches."""
    return torch.tensor(values).reshape(1, 1, 4, 4).repeat_interleave(3, 2).repeat_interleave(3, 3)


def test_a_buddy_is_near_to_output_and_truth() -> None:
    """Truth: patches of 0, 0.06, 0.12, ... The first patch of the output looks like number 4."""
    values = [0.06 * i for i in range(16)]
    truth = flat_patches(values)
    output = flat_patches([values[4], *values[1:]])
    pool = candidates(truth)
    assert pool.shape == (1, 16 + 4 + 1, 9)
    both = buddies(output, truth, pool)[0].tolist()
    assert both == [2, *range(1, 16)], "half way between its own truth and number 4"
    assert buddies(output, truth, pool, beta=0.0)[0, 0] == 4
    assert buddies(output, truth, pool, alpha=0.0)[0, 0] == 0
    # One patch of 16 differs from its buddy, by two steps.
    assert float(best_buddy(output, truth)) == pytest.approx(2 * 0.06 / 16, abs=1e-6)


def test_a_smaller_copy_can_be_the_buddy() -> None:
    """The output shows what the truth shows at half the size: its top left quarter, shrunk."""
    rng = np.random.default_rng(1)
    truth = torch.from_numpy(cv2.GaussianBlur(rng.random((24, 24)), (0, 0), 2)).float()[None, None]
    half = torch.from_numpy(
        cv2.resize(truth[0, 0].numpy(), (12, 12), interpolation=cv2.INTER_CUBIC)
    )
    output = truth.clone()
    output[0, 0, :12, :12] = half
    chosen = buddies(output, truth, candidates(truth), beta=0.0)[0].reshape(8, 8)
    expected = 64 + np.arange(16).reshape(4, 4)  # after the 64 patches of full size
    assert np.array_equal(chosen[:4, :4], expected)
    assert float(best_buddy(output, truth, beta=0.0)) == pytest.approx(0, abs=1e-5)


def test_buddies_and_loss_are_those_of_a_search_by_hand() -> None:
    rng = np.random.default_rng(2)
    output, truth = (rng.random((2, 24, 36, 3)).astype(np.float32) for _ in range(2))
    torch_output, torch_truth = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (output, truth))
    pool = candidates(torch_truth)
    got = buddies(torch_output, torch_truth, pool)
    costs = []
    for n in range(2):
        sizes = [truth[n]] + [
            cv2.resize(truth[n], (36 // by, 24 // by), interpolation=cv2.INTER_CUBIC)
            for by in (2, 4)
        ]
        theirs = np.concatenate([cut(picture) for picture in sizes]).astype(np.float64)
        assert_close(pool[n], theirs, dtype="float32")
        mine, true = (cut(a[n]).astype(np.float64) for a in (output, truth))
        score = ((mine[:, None] - theirs) ** 2).sum(2) + ((true[:, None] - theirs) ** 2).sum(2)
        index = score.argmin(axis=1)
        assert np.array_equal(got[n], index)
        costs.append(np.abs(mine - theirs[index]).mean())
    assert got.unique().numel() > 10, "not every patch its own buddy"
    loss = best_buddy(torch_output, torch_truth)
    assert loss.item() == pytest.approx(np.mean(costs), rel=1e-4)


def cut(picture: Array) -> Array:
    """(H, W, C) -> (P, 9C), channel by channel as torch's unfold has them."""
    height, width = picture.shape[0] // 3, picture.shape[1] // 3
    return np.stack(
        [
            picture[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].transpose(2, 0, 1).ravel()
            for y in range(height)
            for x in range(width)
        ]
    )


def test_patches_lie_side_by_side() -> None:
    picture = np.random.default_rng(3).random((10, 7, 3))
    assert_close(
        patches(torch.from_numpy(picture).permute(2, 0, 1)[None])[0], cut(picture), dtype="float32"
    )


def test_choosing_has_no_gradient_and_the_loss_has() -> None:
    output = torch.rand(1, 3, 12, 12, requires_grad=True)
    truth = torch.rand(1, 3, 12, 12, requires_grad=True)
    best_buddy(output, truth).backward()
    assert truth.grad is None
    assert_close(output.grad.abs(), np.full((1, 3, 12, 12), 1 / 432), dtype="float64")
    with pytest.raises(UsageError, match="12 pixels are the least"):
        best_buddy(torch.rand(1, 3, 11, 16), torch.rand(1, 3, 11, 16))


def test_back_projection_of_the_truth_costs_nothing() -> None:
    truth = np.random.default_rng(4).random((16, 24))
    small = torch.from_numpy(downscale(truth, 4)).float()[None, None]
    large = torch.from_numpy(truth).float()[None, None]
    assert float(back_projection(large, small, scale=4)) == pytest.approx(0, abs=1e-6)
    assert float(back_projection(large + 0.1, small, scale=4)) == pytest.approx(0.1, rel=1e-4)


# Flat regions


def test_half_flat_half_textured() -> None:
    """Flat is every pixel whose 11x11 window lies within the flat half."""
    picture = np.full((20, 32), 0.5, np.float32)
    picture[:, 16:] = np.indices((20, 16)).sum(axis=0) % 2
    flat = flat_regions(torch.from_numpy(picture)[None, None], scale=1)
    expected = np.zeros((20, 32))
    expected[:, : 16 - 5] = 1
    assert np.array_equal(flat[0, 0], expected)


def test_deviation_is_the_unbiased_one() -> None:
    """One pixel of d among 121 has deviation d / 11 unbiased, and 0.4 % less biased."""
    for d, flat in ((0.2752, 0), (0.2748, 1)):
        picture = torch.zeros(1, 1, 25, 25)
        picture[..., 12, 12] = d
        mask = flat_regions(picture, scale=1)
        assert mask[0, 0, 12, 12] == flat
        assert mask.sum() == 25 * 25 - (0 if flat else 121)


def test_mask_of_a_small_picture_is_that_of_opencv() -> None:
    rng = np.random.default_rng(5)
    ramp = np.linspace(0.45, 0.6, 14)[:, None, None] * np.ones((14, 18, 3))
    small = (ramp + rng.normal(0, 0.08, ramp.shape) * (np.arange(18) > 9)[:, None]).astype(
        np.float32
    )
    large = cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    gray = np.pad(large @ np.float32([0.2989, 0.587, 0.114]), 5, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(gray.astype(np.float64), (11, 11))
    deviation = windows.std(axis=(2, 3), ddof=1)
    got = flat_regions(torch.from_numpy(small).permute(2, 0, 1)[None])[0, 0].numpy()
    clear = np.abs(deviation - 0.025) > 1e-5
    assert 0.1 < got.mean() < 0.9, "both kinds occur"
    assert np.array_equal(got[clear], (deviation < 0.025)[clear])


def test_mask_is_for_the_discriminator_only() -> None:
    """Flat pixels get no gradient through it, and do get it from every other loss."""
    small = torch.full((1, 3, 6, 8), 0.5)
    small[..., 4:] = torch.rand(1, 3, 6, 4)
    flat = flat_regions(small)
    assert 0 < flat.mean() < 1
    output = torch.rand(1, 3, 24, 32, requires_grad=True)
    for_discriminator(output, flat).sum().backward()
    assert torch.equal(output.grad, (1 - flat).expand(1, 3, 24, 32))
    output.grad = None
    truth = torch.rand(1, 3, 24, 32)
    (best_buddy(output, truth) + back_projection(output, small, scale=4)).backward()
    assert (output.grad[(flat == 1).expand(1, 3, 24, 32)] != 0).float().mean() > 0.9


def test_region_mask_needs_room_for_its_window() -> None:
    with pytest.raises(UsageError, match="window of 11"):
        flat_regions(torch.rand(1, 3, 1, 8))
