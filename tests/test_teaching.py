"""What a student learns from a teacher, against numpy, scikit-image, torch's own densities and
hand-made cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from edgesr.distill import bebygan, losses, teaching
from edgesr.distill.perceptual import PERCEPTUAL, Vgg, perceptual
from edgesr.distill.teaching import (
    FeatureAdapters,
    affinity,
    affinity_loss,
    contrastive,
    feature_loss,
    gaussian_variance,
    imitation,
    response,
    same_size,
    temporal,
    variational,
    warped_temporal,
)
from edgesr.errors import UsageError
from edgesr.networks.pisr import PisrConfig, PisrStudent, PisrTeacher

Array = np.ndarray[Any, Any]


def test_response_teaches_only_the_student() -> None:
    student, teacher = (torch.rand(2, 1, 4, 4, requires_grad=True) for _ in range(2))
    d = (student - teacher).detach().double().numpy()
    assert response(student, teacher).item() == pytest.approx(np.abs(d).mean(), rel=1e-5)
    loss = response(student, teacher, distance="mse")
    assert loss.item() == pytest.approx((d**2).mean(), rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert teacher.grad is None


# Features


def test_adapted_features_by_hand() -> None:
    adapters = FeatureAdapters([(2, 3), (4, 5)])
    student = [torch.rand(2, 2, 6, 6, requires_grad=True), torch.rand(2, 4, 6, 6)]
    teacher = [torch.rand(2, 3, 6, 6), torch.rand(2, 5, 6, 6)]
    costs = []
    for conv, s, t in zip(adapters.convs, student, teacher, strict=True):
        weight, bias = conv.weight[:, :, 0, 0], conv.bias[:, None, None]
        adapted = np.einsum("ts,nsyx->ntyx", *(a.detach().numpy() for a in (weight, s)))
        costs.append(np.abs(adapted + bias.detach().numpy() - t.numpy()).mean())
    loss = feature_loss(student, teacher, adapters=adapters)
    assert loss.item() == pytest.approx(np.mean(costs), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None for p in adapters.parameters())
    with pytest.raises(UsageError, match="2 features of the student, but 1 features of the teach"):
        feature_loss(student, teacher[:1], adapters=adapters)
    with pytest.raises(UsageError, match="1 features of the student, but 2 adapters"):
        adapters(student[:1])


def test_the_larger_feature_is_averaged_down() -> None:
    from skimage.measure import block_reduce

    large, small = torch.rand(1, 2, 8, 12), torch.rand(1, 2, 4, 6)
    expected = block_reduce(large.numpy(), (1, 1, 2, 2), np.mean)
    for a, b in (same_size(large, small), same_size(small, large)[::-1]):
        assert np.allclose(a, expected, atol=1e-6)
        assert torch.equal(b, small)


# Affinity


def feature_of(places: list[list[float]]) -> torch.Tensor:
    """(1, C, 1, places) from one channel vector a place."""
    return torch.tensor(places, dtype=torch.float32).T[None, :, None, :]


def test_affinity_of_tiny_features() -> None:
    """Two places that differ, taught by two that are alike: half of the matrix is off by 1."""
    unlike, alike = feature_of([[3, 0], [0, 2]]), feature_of([[1, 1, 0], [5, 5, 0]])
    assert torch.allclose(affinity(unlike)[0], torch.eye(2))
    assert torch.allclose(affinity(alike)[0], torch.ones(2, 2))
    assert float(affinity_loss([unlike], [alike])) == pytest.approx(0.5)
    assert float(affinity_loss([unlike, unlike], [alike, alike])) == pytest.approx(1.0), "a sum"
    opposite = feature_of([[1, 2], [-2, -4]])
    assert float(affinity_loss([opposite], [alike])) == pytest.approx((2 + 2) / 4)


def test_affinity_by_hand_and_of_black() -> None:
    rng = np.random.default_rng(1)
    feature = rng.normal(size=(2, 5, 3, 4)).astype(np.float32)
    vectors = feature.reshape(2, 5, 12).transpose(0, 2, 1)
    unit = vectors / np.linalg.norm(vectors, axis=2, keepdims=True)
    expected = np.einsum("nic,njc->nij", unit, unit)
    assert np.allclose(affinity(torch.from_numpy(feature)), expected, atol=1e-5)
    black = torch.zeros(1, 3, 2, 2, requires_grad=True)
    affinity_loss([black], [torch.rand(1, 3, 2, 2)]).backward()
    assert torch.isfinite(black.grad).all()


def test_large_features_enter_by_every_second_place() -> None:
    a, b = torch.rand(1, 3, 8, 8), torch.rand(1, 4, 8, 8)
    whole = affinity_loss([a[..., ::2, ::2]], [b[..., ::2, ::2]])
    assert torch.equal(affinity_loss([a], [b], most=16), whole)
    assert not torch.equal(affinity_loss([a], [b], most=64), whole)


# PISR


def test_constant_of_56_channels_is_51_46() -> None:
    feature = torch.rand(2, 56, 3, 3)
    half, one = torch.full_like(feature, 0.5), torch.ones_like(feature)
    assert float(variational(feature, half, feature)) == pytest.approx(51.46, abs=0.001)
    scale = (one - 1e-8) / 0.01 + 1e-8  # where the variance is 1
    found = variational(feature, scale, feature, density="gaussian")
    assert found.item() == pytest.approx(51.46, abs=0.001)


@pytest.mark.parametrize("shared", [None, "C", "HW", "CHW"])
def test_densities_are_those_of_torch(shared: Any) -> None:
    """Up to the constant: Laplace exactly, the Gaussian but for its ln(2 pi) / 2."""
    torch.manual_seed(1)
    config = PisrConfig(scale=2, features=6, shrunk=4, mappings=1, shared_spread=shared)
    student, teacher = PisrStudent(config), PisrTeacher(config)
    small, large = torch.rand(2, 1, 5, 5), torch.rand(2, 1, 10, 10)
    _, location, scale = student.with_estimates(small)
    feature = teacher.feature(large)
    constant = 6 * math.log(2 * math.pi) / 2

    laplace = -torch.distributions.Laplace(location, scale).log_prob(feature).mean()
    found = variational(location, scale, feature)
    assert found.item() == pytest.approx(constant + laplace.item(), rel=1e-5)

    softplus = F.softplus(
        student.expanding_var(student.backbone.mid_part(student.backbone.first_part(small)))
    )
    variance = 0.001 * softplus + 1e-8
    assert torch.allclose(gaussian_variance(scale), variance, rtol=1e-5)
    normal = torch.distributions.Normal(location, variance.sqrt()).log_prob(feature)
    cost = -(normal + math.log(2 * math.pi) / 2).mean()
    found = variational(location, scale, feature, density="gaussian")
    assert found.item() == pytest.approx(constant + cost.item(), rel=1e-4)

    found.backward()
    heads = [*student.expanding_mean.parameters(), *student.expanding_var.parameters()]
    assert all(torch.isfinite(p.grad).all() for p in heads)
    assert all(p.grad is None for p in teacher.parameters())


def test_the_best_scale_is_the_size_of_the_error() -> None:
    """ln(2b) + e / b is least where b = e, ln(v) / 2 + e^2 / (2v) where v = e^2."""
    feature = torch.rand(1, 4, 3, 3)
    error = 0.1 + torch.rand(1, 4, 3, 3)
    for density, best in (("laplace", error), ("gaussian", (error**2 - 1e-8) / 0.01 + 1e-8)):
        for factor, sign in ((0.5, -1), (1.0, 0), (2.0, 1)):
            scale = (factor * best).requires_grad_()
            variational(feature + error, scale, feature, density=density).backward()
            slopes = scale.grad * best * scale.numel()
            assert (slopes.sign() == sign).all() if sign else slopes.abs().max() < 1e-3


def test_imitation_is_l1_to_the_small_picture() -> None:
    teacher = PisrTeacher(PisrConfig(scale=2, features=4, shrunk=2, mappings=1))
    _, compact = teacher(torch.rand(1, 1, 8, 8))
    small = torch.rand(1, 1, 4, 4)
    expected = np.abs(compact.detach().numpy() - small.numpy()).mean()
    assert imitation(compact, small).item() == pytest.approx(expected, rel=1e-5)


# Contrast


def test_contrast_by_hand() -> None:
    student, teacher, enlarged = (torch.rand(3, 1, 4, 4) for _ in range(3))
    s, t, e = (a.double().numpy() for a in (student, teacher, enlarged))
    expected = 0.0
    for weight, power in ((0.25, 1), (1.0, 2)):
        near = np.abs(t**power - s**power).mean()
        pairs = [(n, m) for n in range(3) for m in range(3) if n != m]
        far = sum(np.abs(e[m] ** power - s[n] ** power).mean() for n, m in pairs) / 3
        expected += weight * near / far
    found = contrastive(
        student, teacher, enlarged, features=lambda x: [x, x**2], weights=(0.25, 1.0)
    )
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert float(
        contrastive(student, student, enlarged, features=lambda x: [x], weights=(1.0,))
    ) == pytest.approx(0)
    with pytest.raises(UsageError, match="batch >= 2"):
        contrastive(student[:1], teacher[:1], enlarged[:1], features=lambda x: [x], weights=(1,))


# Time


def moving(shift: int) -> torch.Tensor:
    """(1, 3, 1, 8, 16): a smooth wave that moves to the right by `shift` pixels a frame."""
    x = torch.arange(16.0)
    frames = [0.5 + 0.1 * torch.sin((x - shift * t) / 2).expand(1, 8, 16) for t in range(3)]
    return torch.stack(frames)[None]


def test_flicker_costs_and_a_constant_error_does_not() -> None:
    truth = torch.rand(2, 3, 1, 4, 4)
    assert float(temporal(truth + 0.2, truth)) == pytest.approx(0, abs=1e-6)
    flicker = truth.clone()
    flicker[:, 1] += 0.1  # up and down again
    assert float(temporal(flicker, truth)) == pytest.approx(0.1, rel=1e-4)
    output = torch.rand(2, 3, 1, 4, 4)
    expected = np.abs(np.diff(output.numpy(), axis=1) - np.diff(truth.numpy(), axis=1)).mean()
    assert float(temporal(output, truth)) == pytest.approx(expected, rel=1e-5)


def test_along_the_motion_nothing_changes() -> None:
    truth = moving(2)
    flow = torch.zeros(1, 2, 2, 8, 16)
    flow[:, :, 0] = -2  # where a pixel was one frame before
    inner = warped_temporal(truth, truth, flow=flow)
    assert float(inner) < 0.006, "only the two columns that came in"
    still = warped_temporal(moving(2), truth, flow=torch.zeros_like(flow))
    assert float(still) > 5 * float(inner)
    flicker = truth.clone()
    flicker[:, 1] += 0.1
    assert float(warped_temporal(flicker, truth, flow=flow)) > 0.08


def test_what_was_hidden_has_no_weight() -> None:
    """A cut in the truth: exp(-50 * 1)."""
    truth = torch.zeros(1, 2, 1, 4, 4)
    truth[:, 1] = 1
    output = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    loss = warped_temporal(output, truth, flow=torch.zeros(1, 1, 2, 4, 4))
    assert loss.item() < 1e-20
    loss.backward()
    assert torch.isfinite(output.grad).all()


@pytest.mark.parametrize("shape", [(2, 1, 1, 4, 4), (2, 1, 4, 4)])
def test_one_frame_has_no_time(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="2 frames or more"):
        temporal(torch.rand(shape), torch.rand(shape))


# Devices


def test_nothing_is_made_on_another_device() -> None:
    """On the meta device every mix with the CPU is an error, as it would be on CUDA."""
    with torch.device("meta"):
        vgg = Vgg(depth=19)
        a, b, small = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.rand(2, 3, 8, 8)
        clip, flow = torch.rand(1, 3, 3, 8, 8), torch.rand(1, 2, 2, 8, 8)
    found = [loss(a, b) for loss in losses.LOSSES.values()]
    found += [
        losses.multi_level([small, a], losses.level_truths(b, [small, a])),
        bebygan.best_buddy(a, b),
        bebygan.back_projection(a, small, scale=4),
        bebygan.for_discriminator(a, bebygan.flat_regions(small)).sum(),
        perceptual(a, b, vgg=vgg, setting=PERCEPTUAL["realesrgan"]),
        affinity_loss([a], [b]),
        variational(a, b, b, density="gaussian"),
        contrastive(a, b, b, features=lambda x: [*vgg(x, teaching.CSD_LAYERS).values()]),
        warped_temporal(clip, clip, flow=flow),
    ]
    assert all(value.device.type == "meta" and value.shape == () for value in found)
