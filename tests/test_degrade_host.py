"""Real-ESRGAN's chain by OpenCV against the same chain by tensors, step by step and whole."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from edgesr.distill import host, realesrgan
from edgesr.distill.jpeg import jpeg, jpeg_picture
from edgesr.distill.kernels import filter2d, make_kernels, usm_sharpen
from edgesr.distill.realesrgan import RealEsrganSettings, degrade, draw_chain, for_frames, sharpen

Array = np.ndarray[Any, Any]
SETTINGS = RealEsrganSettings()


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int, height: int = 72, width: int = 88) -> torch.Tensor:
    pictures = [
        cv2.GaussianBlur(draw_photo(s, height=height, width=width), (0, 0), 1) for s in range(count)
    ]
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / np.float32(255)).contiguous()


def tensor_of(picture: Array) -> torch.Tensor:
    return host.batch_of([picture])


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_and_back(channels: int) -> None:
    batch = photos(2)[:, :channels]
    pictures = host.pictures_of(batch)
    assert pictures[0].shape == (72, 88, channels)
    assert torch.equal(host.batch_of(pictures), batch)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_kernel(channels: int) -> None:
    batch = photos(2)[:, :channels].contiguous()
    kinds = set()
    for seed in range(12):
        draw = draw_chain(2, SETTINGS, generator=generator(seed)).first.kernels
        kernels = make_kernels(draw, width=21)
        kinds |= set(draw.kind.tolist())
        expected = filter2d(batch, kernels)
        for n, picture in enumerate(host.pictures_of(batch)):
            got = tensor_of(host.blur(picture, draw, n, kernels[n].numpy()))
            assert float((got - expected[n]).abs().max()) < 2e-5, int(draw.kind[n])
    assert len(kinds) >= 5


@pytest.mark.parametrize("size", [(72, 88), (31, 88), (100, 40), (1, 3), (71, 87), (144, 176)])
@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
def test_every_resize(size: tuple[int, int], mode: str) -> None:
    for channels in (1, 3):
        batch = photos(1)[:, :channels].contiguous()
        if mode == "area":
            expected = F.adaptive_avg_pool2d(batch, size)
        else:
            expected = F.interpolate(batch, size=size, mode=mode, align_corners=False)
        got = tensor_of(host.resize(host.pictures_of(batch)[0], size, mode=mode))
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) < 2e-4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [30.0, 49.5, 71.3, 95.0])
def test_jpeg(channels: int, quality: float) -> None:
    for height, width in ((72, 88), (33, 41), (5, 7)):
        batch = photos(1, height, width)[:, :channels].contiguous()
        expected = jpeg(batch, torch.tensor([quality], dtype=torch.float64))
        got = tensor_of(jpeg_picture(host.pictures_of(batch)[0], quality))
        # A coefficient on the edge between two steps may fall to either, and moves its block: which
        # ones do differs from processor to processor. Beside the block that moved most:
        off = (got - expected).abs() * 255
        blocks = F.avg_pool2d(F.pad(off, (0, -width % 8, 0, -height % 8)), 8, divisor_override=1)
        assert float(off.median()) < 1e-3
        assert float(off.mean()) < 0.5
        assert float(blocks.sum() - blocks.max()) / off.numel() < 0.1
    assert float((got - batch).abs().max()) * 255 > 0.5


def test_sharpening() -> None:
    batch = photos(2)
    expected = usm_sharpen(batch)
    assert float((sharpen(batch, SETTINGS) - expected).abs().max()) < 1e-4
    assert float((expected - batch).abs().max()) > 0.02


@pytest.mark.parametrize("jpeg", ["exact", "real"])
def test_the_chain(jpeg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = photos(2)
    settings = dataclasses.replace(SETTINGS, jpeg=jpeg)
    apart = []
    for seed in range(10):
        draw = draw_chain(2, settings, generator=generator(seed))
        quiet = {"strength": torch.zeros(2), "gaussian": True}
        draw = dataclasses.replace(
            draw,
            first=dataclasses.replace(draw.first, **quiet),
            second=dataclasses.replace(draw.second, **quiet),
        )
        ours = degrade(batch, draw, scale=2, settings=settings)
        with monkeypatch.context() as by_tensors:
            by_tensors.setattr(realesrgan, "on_host", lambda batch: False)
            theirs = degrade(batch, draw, scale=2, settings=settings)
        assert ours.shape == theirs.shape
        apart.append(float((ours - theirs).abs().mean()) * 255)
    assert max(apart) < 0.3, apart


@pytest.mark.parametrize("photons", [1, 2, 16, 256])
def test_poisson_tables_hold_the_distribution(photons: int) -> None:
    chance, other = (table.reshape(256, -1) for table in host.poisson_tables(photons))
    outcomes = chance.shape[1]
    own = chance / 2**23
    for level in (0, 1, 100, 255):
        found = own[level] / outcomes
        np.add.at(found, other[level], (1 - own[level]) / outcomes)
        mean = level * photons / 255
        expected = [
            math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) if mean else float(k == 0)
            for k in range(outcomes)
        ]
        assert np.abs(found - expected).max() < 1e-7


def test_shot_noise_has_the_variance_of_its_photons() -> None:
    rng = np.random.Generator(np.random.SFC64(3))
    picture = np.repeat(np.linspace(0, 1, 200, dtype=np.float32), 4000).reshape(200, 4000, 1)
    noise = host.shot_noise(picture, rng)[:, :, 0]
    level = np.rint(picture[:, 0, 0] * 255) / 255  # 200 levels: 256 photons
    assert np.abs(noise.mean(axis=1)).max() < 5 * math.sqrt(1 / 256 / 4000)
    assert np.abs(noise.var(axis=1) * 256 - level).max() < 0.12
    assert abs(np.mean(noise.var(axis=1) * 256 - level)) < 0.01


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("gaussian", [True, False])
def test_noise_of_a_stage(gaussian: bool, gray: bool) -> None:
    stage = draw_chain(2, SETTINGS, generator=generator(1)).first
    strength = torch.tensor([20.0, 5.0] if gaussian else [1.0, 0.25])
    stage = dataclasses.replace(
        stage, gaussian=gaussian, strength=strength, gray=torch.tensor([gray, gray])
    )
    ramp = np.linspace(0.35, 0.65, 128, dtype=np.float32)  # 77 levels: 128 photons
    flat = np.repeat(ramp[None, :, None], 128, axis=0).repeat(3, axis=2)
    noises = [host.Noise(stage).add(flat, 0) - flat, host.Noise(stage).add(flat, 1) - flat]
    again = host.Noise(stage).add(flat, 0) - flat
    np.testing.assert_array_equal(again, noises[0])
    assert noises[0].std() / noises[1].std() == pytest.approx(4, rel=0.05)
    expected = 20 / 255 if gaussian else np.sqrt(ramp.mean() / 128)
    assert noises[0].std() == pytest.approx(expected, rel=0.03)
    same = np.abs(noises[0][..., 0] - noises[0][..., 1]).max() < 1e-6
    assert same == gray


def test_frames_of_a_clip_share_all_but_the_noise() -> None:
    frame = photos(1)[:, :1].contiguous()
    draw = for_frames(draw_chain(1, SETTINGS, generator=generator(4)), 3)
    assert len(draw.first.kernels) == len(draw.second.strength) == 3
    assert len(set(draw.first.quality.tolist())) == 1
    noisy = degrade(frame.repeat(3, 1, 1, 1), draw, scale=2, settings=SETTINGS)
    assert not torch.equal(noisy[0], noisy[1])
    zero = {"strength": torch.zeros(3), "gaussian": True}
    still = dataclasses.replace(
        draw,
        first=dataclasses.replace(draw.first, **zero),
        second=dataclasses.replace(draw.second, **zero),
    )
    quiet = degrade(frame.repeat(3, 1, 1, 1), still, scale=2, settings=SETTINGS)
    assert torch.equal(quiet[0], quiet[1])
    assert torch.equal(quiet[0], quiet[2])
