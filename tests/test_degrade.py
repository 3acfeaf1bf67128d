"""Single degradations: each against MATLAB, OpenCV or numpy; crops and the pool of pairs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

from edgesr.bicubic import imresize
from edgesr.distill.degrade import (
    PairPool,
    bicubic,
    blur_subsample,
    count_levels,
    downscale,
    gaussian_noise,
    paired_crop,
    poisson_noise,
    resize,
    to_8bit,
    to_gray,
)
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def to_batch(*pictures: Array) -> torch.Tensor:
    """(H, W, 3) uint8 -> (N, 3, H, W) in 0..1."""
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / np.float32(255))


def to_picture(sample: torch.Tensor) -> Array:
    """(C, H, W) -> (H, W, C) in 0..255."""
    return sample.permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_that_of_matlab(scale: int) -> None:
    photos = [draw_photo(seed, height=61, width=74) for seed in range(2)]
    batch = to_batch(*photos)
    for index, photo in enumerate(photos):
        truth = imresize(photo / 255.0, Fraction(1, scale))
        got = downscale(batch, scale)[index].permute(1, 2, 0).numpy()
        assert got.shape == truth.shape
        assert np.abs(got - truth).max() < 1e-6
        exact = downscale(batch, scale, rounded=True)[index]
        assert np.array_equal(np.rint(to_picture(exact)), imresize(photo, Fraction(1, scale)))


@pytest.mark.parametrize("scale", [Fraction(3), Fraction(7, 5), Fraction(2, 7)])
def test_bicubic_by_any_factor(scale: Fraction) -> None:
    photo = draw_photo(3, height=24, width=31)
    truth = imresize(photo / 255.0, scale)
    got = bicubic(to_batch(photo).double(), scale)[0].permute(1, 2, 0).numpy()
    assert got.shape == truth.shape
    assert np.abs(got - truth).max() < 1e-6  # the batch was float32


def test_bicubic_has_a_gradient() -> None:
    batch = torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=generator(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: downscale(x, 2), batch)


def test_published_lr_pictures(data: Path) -> None:
    for scale in (2, 3, 4):
        files = sorted((data / "bench" / "Set5").rglob(f"x{scale}/*_HR.png"))
        assert len(files) == 5
        for hr_file in files:
            hr, lr = (
                cv2.imread(str(f))[:, :, ::-1]
                for f in (hr_file, hr_file.with_name(hr_file.name.replace("_HR", "_LR")))
            )
            got = to_picture(downscale(to_batch(hr), scale, rounded=True)[0])
            assert np.array_equal(np.rint(got), lr), hr_file


def test_blur_and_subsample() -> None:
    photo = draw_photo(1, height=52, width=64)
    blurred = cv2.GaussianBlur(
        photo.astype(np.float32), (13, 13), 1.6, borderType=cv2.BORDER_REFLECT_101
    )
    for first in (0, 1, 3):
        got = to_picture(blur_subsample(to_batch(photo), 4, first=first)[0])
        assert np.abs(got - blurred[first::4, first::4]).max() < 0.001
    with pytest.raises(UsageError, match="first is 0 to 3"):
        blur_subsample(to_batch(photo), 4, first=4)


@pytest.mark.parametrize("size", [(20, 31), (90, 70), (48, 64)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_is_that_of_opencv(mode: str, size: tuple[int, int]) -> None:
    photo = draw_photo(2, height=48, width=64).astype(np.float32)
    how = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}[mode]
    truth = cv2.resize(photo, size[::-1], interpolation=how)
    got = to_picture(resize(to_batch(photo), size, mode=mode)[0])
    assert np.abs(got - truth).max() < 0.05


def test_area_is_the_mean_of_the_pixels_below() -> None:
    photo = draw_photo(2, height=48, width=64)
    got = to_picture(resize(to_batch(photo), (16, 16), mode="area")[0])
    truth = cv2.resize(photo.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA)
    assert np.abs(got - truth).max() < 0.001
    uneven = to_picture(resize(to_batch(photo), (20, 30), mode="area")[0])
    rows, columns = slice(7 * 48 // 20, -(-8 * 48 // 20)), slice(9 * 64 // 30, -(-10 * 64 // 30))
    assert np.abs(uneven[7, 9] - photo[rows, columns].mean(axis=(0, 1))).max() < 0.001
    with pytest.raises(UsageError, match="it is one of area, bilinear, bicubic"):
        resize(to_batch(photo), (8, 8), mode="lanczos")


def test_gaussian_noise_has_its_sigma_and_gray_is_gray() -> None:
    batch = torch.full((4, 3, 100, 100), 0.5)
    sigma = torch.tensor([1.0, 5.0, 10.0, 20.0])
    gray = torch.tensor([False, True, False, True])
    noise = (gaussian_noise(batch, sigma, gray, generator=generator()) - batch) * 255
    for index in range(4):
        count = 10_000 if gray[index] else 30_000
        spread = float(noise[index].std())
        assert spread == pytest.approx(float(sigma[index]), rel=4 / np.sqrt(2 * count))
        assert abs(float(noise[index].mean())) < 4 * sigma[index] / np.sqrt(count)
        same = bool(torch.allclose(noise[index, 0], noise[index, 1], atol=1e-4))
        assert same == bool(gray[index])
    apart = np.corrcoef(noise[0, 0].flatten().numpy(), noise[0, 1].flatten().numpy())[0, 1]
    assert abs(apart) < 0.05
    loud = gaussian_noise(batch, sigma * 20, gray, generator=generator())
    assert loud.min() == 0
    assert loud.max() == 1


def test_levels_are_counted() -> None:
    photos = [draw_photo(0), draw_photo(5), np.full((96, 128, 3), 7, np.uint8)]
    levels = (to_batch(*photos) * 255).round()
    truth = [len(np.unique(photo)) for photo in photos]
    assert count_levels(levels).tolist() == truth


def test_poisson_noise_has_the_variance_of_counting() -> None:
    """Variance of k photons in `photons` is level / photons; numpy's own draws say the same."""
    ramp = np.repeat(np.arange(60, 190, dtype=np.uint8), 400).reshape(130, 400)  # 130 levels
    photo = np.stack([ramp] * 3, axis=2)
    batch = to_batch(photo, photo)
    gray = torch.tensor([False, True])
    strength = torch.tensor([1.0, 0.5])
    noise = poisson_noise(batch, strength, gray, generator=generator()) - batch
    photons = 2 ** np.ceil(np.log2(130))
    assert photons == 256
    rng = np.random.default_rng(0)
    drawn = rng.poisson(photo / 255 * photons) / photons - photo / 255
    for index in (0, 1):
        ours = noise[index].permute(1, 2, 0).numpy() / float(strength[index])
        for rows in (slice(0, 40), slice(40, 90), slice(90, 130)):
            expected = (photo[rows] / 255 / photons).mean()
            assert ours[rows].var() == pytest.approx(expected, rel=0.05)
            assert drawn[rows].var() == pytest.approx(ours[rows].var(), rel=0.06)
        assert abs(ours.mean()) < 5e-4
    assert not torch.allclose(noise[0, 0], noise[0, 1])
    assert torch.allclose(noise[1, 0], noise[1, 1], atol=1e-6)


def test_gray_poisson_noise_follows_the_gray_picture() -> None:
    """Pure blue: its gray is dark (0.114), so the noise is small, in all channels."""
    blue = np.zeros((200, 200, 3), np.uint8)
    blue[:, :, 2] = 128
    batch = to_batch(blue)
    assert float(to_gray(batch).mean()) == pytest.approx(0.114 * 128 / 255, rel=1e-5)
    yes, strength = torch.tensor([True]), torch.tensor([0.01])
    noise = poisson_noise(batch, strength, yes, generator=generator()) - batch
    # One gray level (15), so 2^0 = 1 photon: the variance is level * (0.01)^2.
    assert float(noise[:, 2].var()) == pytest.approx(15 / 255 * 1e-4, rel=0.05)


def test_one_channel_goes_through() -> None:
    batch = torch.rand(2, 1, 40, 40, generator=generator())
    gray, level = torch.tensor([True, False]), torch.tensor([3.0, 3.0])
    for add in (gaussian_noise, poisson_noise):
        assert add(batch, level, gray, generator=generator()).shape == batch.shape
    assert to_gray(batch) is batch


def test_noise_is_that_of_the_generator() -> None:
    batch = torch.rand(2, 3, 30, 30, generator=generator())
    gray, level = torch.tensor([True, False]), torch.tensor([2.0, 2.0])
    for add in (gaussian_noise, poisson_noise):
        first, again, other = (
            add(batch, level, gray, generator=generator(seed)) for seed in (1, 1, 2)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


def test_8bit() -> None:
    got = to_8bit(torch.tensor([-0.2, 0.0, 0.5019, 0.999, 1.7])) * 255
    assert got.tolist() == pytest.approx([0, 0, 128, 255, 255])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_paired_crops_are_of_one_place(scale: int) -> None:
    small = torch.arange(6 * 20 * 30, dtype=torch.float32).view(6, 1, 20, 30)
    large = small.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    one, two, three = paired_crop(small, large, -large, patch=9, scale=scale, generator=generator())
    assert one.shape == (6, 1, 9, 9)
    assert torch.equal(two, one.repeat_interleave(scale, 2).repeat_interleave(scale, 3))
    assert torch.equal(three, -two)
    offsets = one[:, 0, 0, 0] - torch.arange(6) * 600
    assert len(set(offsets.tolist())) > 1  # another place in each sample


def test_paired_crops_reach_every_place() -> None:
    small = torch.arange(12.0).view(1, 1, 3, 4).expand(400, 1, 3, 4)
    corners = paired_crop(small, patch=2, scale=2, generator=generator())[0][:, 0, 0, 0]
    values, counts = corners.unique(return_counts=True)
    assert values.tolist() == [0, 1, 2, 4, 5, 6]
    assert counts.min() > 400 / 6 - 4 * np.sqrt(400 * 5 / 36)


def test_crops_that_cannot_be() -> None:
    small, large = torch.zeros(1, 3, 10, 10), torch.zeros(1, 3, 20, 21)
    with pytest.raises(UsageError, match=r"needs \(1, C, 20, 20\)"):
        paired_crop(small, large, patch=4, scale=2, generator=generator())
    with pytest.raises(UsageError, match="no patch of 11 pixels in an LR picture of 10x10"):
        paired_crop(small, patch=11, scale=2, generator=generator())


def test_pool_returns_everything_once_and_mixes() -> None:
    pool = PairPool(18, generator=generator())
    out, silent = [], 0
    for step in range(20):
        ids = torch.arange(step * 4, step * 4 + 4)
        given = pool.push(ids[:, None].float(), ids[:, None, None] * 2)
        if given is None:
            silent += 1
            continue
        assert [t.shape for t in given] == [(4, 1), (4, 1, 1)]
        assert torch.equal(given[0].flatten() * 2, given[1].flatten())  # pairs stay pairs
        assert given[0].max() < step * 4  # from those that were there
        out.append(given[0].flatten())
    assert silent == 4  # 18 holds four batches of 4
    steps_mixed = [len({int(i) // 4 for i in batch}) for batch in out]
    assert np.mean(steps_mixed) > 2
    rest = [small.flatten() for small, _ in pool.flush(5)]
    assert [len(r) for r in rest] == [5, 5, 5, 1]
    everything = torch.cat(out + rest)
    assert everything.sort().values.tolist() == list(range(80))
    assert list(pool.flush(5)) == []


def test_pool_goes_on_where_it_was() -> None:
    batches = [torch.rand(4, 2, generator=generator(k)) for k in range(12)]
    whole = PairPool(8, generator=generator())
    outputs = [whole.push(batch) for batch in batches]
    first = PairPool(8, generator=generator())
    for batch in batches[:6]:
        first.push(batch)
    saved, position = first.state(), first.generator.get_state()
    resumed = PairPool(8, generator=generator(99))
    resumed.restore(*saved)
    resumed.generator.set_state(position)
    for batch, expected in zip(batches[6:], outputs[6:], strict=True):
        assert torch.equal(resumed.push(batch)[0], expected[0])


def test_pools_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="give 1 or more"):
        PairPool(0, generator=generator())
    pool = PairPool(6, generator=generator())
    with pytest.raises(UsageError, match="a batch of 7 does not fit"):
        pool.push(torch.zeros(7, 1))
    pool.push(torch.zeros(2, 1))
    with pytest.raises(UsageError, match="it holds"):
        pool.push(torch.zeros(2, 3))
