"""Real-ESRGAN's chain: its order by OpenCV step by step, its draws against the settings."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

from edgesr.distill.degrade import PairPool, paired_crop
from edgesr.distill.kernels import make_kernels
from edgesr.distill.realesrgan import (
    ChainDraw,
    RealEsrganSettings,
    StageSettings,
    degrade,
    draw_chain,
    training_pair,
)
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]
SETTINGS = RealEsrganSettings()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(count: int, side: int = 96) -> torch.Tensor:
    pictures = [
        cv2.GaussianBlur(draw_photo(s, height=side, width=side), (0, 0), 1) for s in range(count)
    ]
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2) / np.float32(255)).contiguous()


def test_the_published_numbers_are_the_defaults() -> None:
    first, second = SETTINGS.first, SETTINGS.second
    assert SETTINGS.kernel_sizes == (7, 9, 11, 13, 15, 17, 19, 21)
    for stage in (first, second):
        assert stage.kernel_shares == (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
        assert (stage.beta_general, stage.beta_plateau) == ((0.5, 4), (1, 2))
        assert (stage.sinc_prob, stage.gaussian_prob, stage.gray_prob) == (0.1, 0.5, 0.4)
        assert stage.jpeg_quality == (30, 95)
    assert (first.blur_prob, first.sigma, first.resize_shares) == (1, (0.2, 3), (0.2, 0.7, 0.1))
    assert (first.resize_range, first.gaussian_sigma) == ((0.15, 1.5), (1, 30))
    assert first.poisson_scale == (0.05, 3)
    assert (second.blur_prob, second.sigma) == (0.8, (0.2, 1.5))
    assert second.resize_shares == (0.3, 0.4, 0.3)
    assert (second.resize_range, second.gaussian_sigma) == ((0.3, 1.2), (1, 25))
    assert second.poisson_scale == (0.05, 2.5)
    assert (SETTINGS.final_sinc_prob, SETTINGS.pool) == (0.8, 180)
    assert (SETTINGS.frame, SETTINGS.patch) == (400, 256)


def quiet(draw: ChainDraw, **changes: Any) -> ChainDraw:
    """The same draw without noise, and without OpenCV's other idea of "area"."""
    zero = {"strength": torch.zeros(len(draw.first.strength)), "gaussian": True}
    stages = {
        name: dataclasses.replace(
            stage,
            mode="bilinear" if stage.mode == "area" else stage.mode,
            quality=stage.quality.round(),
            **zero,
        )
        for name, stage in (("first", draw.first), ("second", draw.second))
    }
    mode = "bicubic" if draw.final_mode == "area" else draw.final_mode
    return dataclasses.replace(draw, **stages, final_mode=mode, **changes)


def by_opencv(photo: Array, draw: ChainDraw, index: int, scale: int) -> Array:
    """One float RGB picture (H, W, 3) in 0..1 through the described steps."""
    how = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}

    def blur(x: Array, kernels: Any) -> Array:
        own = make_kernels(kernels, width=21)[index].numpy()
        return cv2.filter2D(x, -1, own, borderType=cv2.BORDER_REFLECT_101)

    def jpeg(x: Array, quality: float) -> Array:
        eight = np.rint(x.clip(0, 1) * 255).astype(np.uint8)[:, :, ::-1]
        stream = cv2.imencode(".jpg", eight, [cv2.IMWRITE_JPEG_QUALITY, round(quality)])[1]
        return cv2.imdecode(stream, cv2.IMREAD_COLOR)[:, :, ::-1].astype(np.float32) / 255

    height, width = photo.shape[:2]
    x = blur(photo, draw.first.kernels)
    size = (int(width * draw.first.factor), int(height * draw.first.factor))
    x = cv2.resize(x, size, interpolation=how[draw.first.mode]).clip(0, 1)
    x = jpeg(x, float(draw.first.quality[index]))
    if draw.second.blurs:
        x = blur(x, draw.second.kernels)
    size = (int(width / scale * draw.second.factor), int(height / scale * draw.second.factor))
    x = cv2.resize(x, size, interpolation=how[draw.second.mode]).clip(0, 1)
    final = (width // scale, height // scale)
    quality = float(draw.second.quality[index])
    if draw.jpeg_last:
        x = cv2.resize(x, final, interpolation=how[draw.final_mode])
        x = jpeg(blur(x, draw.final_sinc), quality)
    else:
        x = cv2.resize(jpeg(x, quality), final, interpolation=how[draw.final_mode])
        x = blur(x, draw.final_sinc)
    return np.rint(x.clip(0, 1) * 255)


@pytest.mark.parametrize("jpeg_last", [True, False])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_chain_is_its_steps_by_opencv(scale: int, jpeg_last: bool) -> None:
    batch = photos(2)
    real = dataclasses.replace(SETTINGS, jpeg="real")
    by_tensors = []
    for seed in range(6):
        draw = quiet(draw_chain(2, SETTINGS, generator=generator(seed)), jpeg_last=jpeg_last)
        got = degrade(batch, draw, scale=scale, settings=real) * 255
        near = degrade(batch, draw, scale=scale, settings=SETTINGS) * 255
        assert got.shape == (2, 3, 96 // scale, 96 // scale)
        for index in (0, 1):
            truth = by_opencv(batch[index].permute(1, 2, 0).numpy(), draw, index, scale)
            apart = got[index].permute(1, 2, 0).numpy() - truth
            # A pixel rounded otherwise before a JPEG moves its whole block by a little.
            assert np.abs(apart).mean() < 0.5, (seed, index)
            by_tensors.append(np.abs(near[index].permute(1, 2, 0).numpy() - truth).mean())
    assert np.mean(by_tensors) < 4  # two JPEGs of hard edges, each 1.5 from OpenCV's
    other = degrade(
        batch, dataclasses.replace(draw, jpeg_last=not jpeg_last), scale=scale, settings=real
    )
    assert (other * 255 - got).abs().mean() > 0.5  # the order matters: the test can fail


def share(values: list[bool], expected: float) -> None:
    assert abs(np.mean(values) - expected) < 4 * math.sqrt(expected * (1 - expected) / len(values))


def spread(values: Any, low: float, high: float) -> None:
    """Ten bins: chi-square of 9 degrees passes 28 once in a thousand."""
    values = np.asarray(values)
    assert low <= values.min()
    assert values.max() <= high
    counts = np.histogram(values, bins=10, range=(low, high))[0]
    expected = len(values) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 28


def test_drawn_parameters_are_spread_as_the_settings_say() -> None:
    rng = generator(11)
    draws = [draw_chain(4, SETTINGS, generator=rng) for _ in range(1500)]
    for name in ("first", "second"):
        settings, stages = getattr(SETTINGS, name), [getattr(d, name) for d in draws]
        ups = [s.factor for s in stages if s.factor > 1]
        downs = [s.factor for s in stages if s.factor < 1]
        up, down, keep = settings.resize_shares
        share([s.factor > 1 for s in stages], up)
        share([s.factor < 1 for s in stages], down)
        share([s.factor == 1 for s in stages], keep)
        spread(ups, 1, settings.resize_range[1])
        spread(downs, settings.resize_range[0], 1)
        for mode in ("area", "bilinear", "bicubic"):
            share([s.mode == mode for s in stages], 1 / 3)
        if settings.blur_prob == 1:
            assert all(s.blurs for s in stages)
        else:
            share([s.blurs for s in stages], settings.blur_prob)
        share([s.gaussian for s in stages], settings.gaussian_prob)
        for gaussian in (True, False):
            strengths = torch.cat([s.strength for s in stages if s.gaussian == gaussian])
            bounds = settings.gaussian_sigma if gaussian else settings.poisson_scale
            spread(strengths.numpy(), *bounds)
        share(torch.cat([s.gray for s in stages]).tolist(), settings.gray_prob)
        spread(torch.cat([s.quality for s in stages]).numpy(), *settings.jpeg_quality)
        assert len({s.seed for s in stages}) == len(stages)
    share([d.jpeg_last for d in draws], 0.5)
    for mode in ("area", "bilinear", "bicubic"):
        share([d.final_mode == mode for d in draws], 1 / 3)
    sincs = torch.cat([d.final_sinc.kind for d in draws]) == 6
    share(sincs.tolist(), 0.8)


def test_other_settings_are_followed() -> None:
    stage = StageSettings(
        blur_prob=0, resize_shares=(0, 0, 1), gaussian_prob=1, gaussian_sigma=(2, 2), gray_prob=1
    )
    settings = RealEsrganSettings(first=stage, second=stage, kernel_sizes=(5,), jpeg_last_prob=0)
    for seed in range(20):
        draw = draw_chain(3, settings, generator=generator(seed))
        assert (draw.first.blurs, draw.first.factor, draw.first.gaussian) == (False, 1.0, True)
        assert draw.second.strength.tolist() == [2, 2, 2]
        assert draw.first.gray.all()
        assert draw.final_sinc.size.tolist() == [5, 5, 5]
        assert not draw.jpeg_last


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pairs_for_training(scale: int, channels: int) -> None:
    hr = photos(3)[:, :channels].contiguous()
    for seed in range(6):
        lr, target, draw = training_pair(hr, scale=scale, generator=generator(seed))
        assert lr.shape == (3, channels, 96 // scale, 96 // scale)
        assert target.shape == hr.shape
        assert lr.dtype == target.dtype == torch.float32
        assert bool(torch.isfinite(lr).all())
        assert float((lr * 255 - (lr * 255).round()).abs().max()) < 1e-4
        assert lr.min() >= 0
        assert lr.max() <= 1
        assert not torch.equal(target, hr)
        again, _, _ = training_pair(hr, scale=scale, generator=generator(seed))
        assert torch.equal(lr, again)
        assert torch.equal(lr, degrade(target, draw, scale=scale, settings=SETTINGS))
    assert not torch.equal(lr, training_pair(hr, scale=scale, generator=generator(77))[0])


def test_each_sample_has_its_own_draw() -> None:
    hr = photos(1).expand(4, 3, 96, 96).contiguous()
    lr, _, _ = training_pair(hr, scale=2, generator=generator(3))
    assert all(not torch.equal(lr[0], lr[k]) for k in (1, 2, 3))


def test_tiny_pictures_go_through() -> None:
    """0.15 of 24 pixels is 3, a seventh of the kernel."""
    hr = photos(2, side=24)
    for seed in range(12):
        assert training_pair(hr, scale=4, generator=generator(seed))[0].shape == (2, 3, 6, 6)


def test_soft_jpeg_keeps_the_gradient() -> None:
    settings = dataclasses.replace(SETTINGS, jpeg="soft")
    hr = photos(1, side=48).requires_grad_()
    draw = quiet(draw_chain(1, settings, generator=generator(2)))
    degrade(hr, draw, scale=2, settings=settings).sum().backward()
    assert float(hr.grad.abs().mean()) > 0.01


def test_chain_crop_and_pool_together() -> None:
    rng = generator(5)
    pool = PairPool(8, generator=rng)
    hr, given = photos(4), []
    for _ in range(4):
        lr, target, _ = training_pair(hr, scale=2, generator=rng)
        given.append(pool.push(*paired_crop(lr, target, hr, patch=20, scale=2, generator=rng)))
    assert given[:2] == [None, None]
    assert [t.shape for t in given[3]] == [(4, 3, 20, 20), (4, 3, 40, 40), (4, 3, 40, 40)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_carries_out_the_same_draw() -> None:
    hr = photos(2)
    draw = quiet(draw_chain(2, SETTINGS, generator=generator(1)))
    host = degrade(hr, draw, scale=2, settings=SETTINGS)
    there = degrade(hr.cuda(), draw, scale=2, settings=SETTINGS)
    assert there.is_cuda
    assert float((there.cpu() - host).abs().mean()) * 255 < 0.5
    lr = training_pair(hr.cuda(), scale=4, generator=generator(4))[0]
    assert torch.equal(lr, training_pair(hr.cuda(), scale=4, generator=generator(4))[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gray_prob": 1.2}, "gray_prob = 1.2: give a chance from 0 to 1"),
        ({"sigma": (3.0, 0.2)}, "sigma = "),
        ({"poisson_scale": (0.0, 2.0)}, "poisson_scale = .* above 0"),
        ({"kernel_shares": (1.0, 2.0)}, "kernel_shares = .* 6 shares"),
        ({"resize_shares": (0.0, 0.0, 0.0)}, "3 shares, not all 0"),
        ({"resize_range": (1.2, 1.5)}, "resize_range"),
        ({"jpeg_quality": (30.0, 101.0)}, "ends at 100"),
    ],
)
def test_stages_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StageSettings(**changes)


def test_chains_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="give odd sizes"):
        RealEsrganSettings(kernel_sizes=(7, 8))
    with pytest.raises(UsageError, match="final_sinc_prob"):
        RealEsrganSettings(final_sinc_prob=-0.1)
    with pytest.raises(UsageError, match="it is exact, soft or real"):
        RealEsrganSettings(jpeg="fast")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="multiples of 4"):
        training_pair(torch.zeros(1, 3, 50, 48), scale=4, generator=generator())
    draw = draw_chain(2, SETTINGS, generator=generator())
    with pytest.raises(UsageError, match="one draw each"):
        degrade(photos(3), draw, scale=4, settings=SETTINGS)
