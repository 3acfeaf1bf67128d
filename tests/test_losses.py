"""Losses against numpy, SciPy, OpenCV, Pillow and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from PIL import Image
from scipy.special import log_expit
from tolerances import assert_close

from edgesr import bicubic
from edgesr.distill.adversarial import ADVERSARIAL
from edgesr.distill.gradients import branch_loss, framed_gradient_map, gradient_loss
from edgesr.distill.losses import (
    LOSSES,
    fft,
    imresize,
    level_truths,
    multi_level,
    recursive,
    shrink,
    tv,
)
from edgesr.errors import UsageError
from edgesr.networks.drcn import Drcn, DrcnConfig
from edgesr.networks.lapsrn import Lapsrn, LapsrnConfig

Array = np.ndarray[Any, Any]


def pictures(seed: int, *shape: int) -> tuple[Array, torch.Tensor]:
    """The same random numbers in 0..1 for numpy (float64) and for torch (float32)."""
    numbers = np.random.default_rng(seed).random(shape).astype(np.float32)
    return numbers.astype(np.float64), torch.from_numpy(numbers)


# One output, one truth


def test_each_loss_by_hand() -> None:
    a, output = pictures(1, 2, 3, 8, 10)
    b, truth = pictures(2, 2, 3, 8, 10)
    d = a - b
    spectrum = np.fft.rfft2(d, norm="ortho")
    expected = {
        "l1": np.abs(d).mean(),
        "mse": (d**2).mean(),
        "charbonnier": np.sqrt(d**2 + 1e-3**2).mean(),
        "tv": np.abs(np.diff(a, axis=2)).mean() + np.abs(np.diff(a, axis=3)).mean(),
        "fft": (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2,
        "gradient": ((framed_by_hand(a) - framed_by_hand(b)) ** 2).mean(),
    }
    assert LOSSES.keys() == expected.keys()
    for name, loss in LOSSES.items():
        assert float(loss(output, truth)) == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("same", [True, False])
def test_gradients_are_finite(name: str, same: bool) -> None:
    output = torch.rand(2, 1, 8, 8).requires_grad_()
    truth = output.detach().clone() if same else torch.rand(2, 1, 8, 8)
    LOSSES[name](output, truth).backward()
    assert output.grad is not None
    assert torch.isfinite(output.grad).all()
    assert same or output.grad.abs().max() > 0


def test_total_variation_of_a_ramp_is_its_slope() -> None:
    ramp = (torch.arange(8.0) * 0.1).expand(1, 1, 5, 8)
    assert float(tv(ramp, torch.rand(1, 1, 5, 8))) == pytest.approx(0.1)


def test_a_wave_costs_in_one_frequency() -> None:
    """A cosine of amplitude 1 over n x n is n/2 in one bin of the orthonormal half spectrum."""
    n = 16
    wave = torch.cos(2 * math.pi * 3 * torch.arange(n) / n).expand(1, 1, n, n)
    bins = 2 * n * (n // 2 + 1)  # real and imaginary
    assert float(fft(wave, torch.zeros_like(wave))) == pytest.approx(n / 2 / bins, rel=1e-4)


# Resizing


@pytest.mark.parametrize("size", [(12, 20), (6, 10), (8, 15), (36, 60), (24, 40)])
def test_imresize_is_the_one_of_numpy(size: tuple[int, int]) -> None:
    a, picture = pictures(3, 2, 3, 24, 40)
    got = imresize(picture, size)
    for n in range(2):
        for c in range(3):
            rows = bicubic.resize_rows(a[n, c], size=size[0], scale=size[0] / 24)
            both = bicubic.resize_rows(rows.T, size=size[1], scale=size[1] / 40).T
            assert_close(got[n, c], both, dtype="float32")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shrinking_is_pillows_away_from_the_border(scale: int) -> None:
    """Pillow's bicubic has the same antialiased kernel, but no replicated border."""
    a, picture = pictures(4, 1, 1, 48, 72)
    theirs = Image.fromarray(a[0, 0].astype(np.float32)).resize(
        (72 // scale, 48 // scale), Image.Resampling.BICUBIC
    )
    got = shrink(picture, scale=scale)[0, 0]
    assert_close(got[2:-2, 2:-2], np.asarray(theirs)[2:-2, 2:-2], dtype="float32")


def test_shrinking_is_differentiable_and_refuses_a_remainder() -> None:
    picture = torch.rand(1, 1, 12, 12, requires_grad=True)
    shrink(picture, scale=3).sum().backward()
    # The weights of each of the 16 small pixels sum to 1.
    assert float(picture.grad.sum()) == pytest.approx(16, rel=1e-4)
    with pytest.raises(UsageError, match="13x12 cannot be shrunk by 3"):
        shrink(torch.rand(1, 1, 12, 13), scale=3)


# Supervision on the way


def test_multi_level_is_the_published_sum_over_pixels() -> None:
    a2, small = pictures(5, 2, 1, 8, 8)
    a4, large = pictures(6, 2, 1, 16, 16)
    b4, truth = pictures(7, 2, 1, 16, 16)
    b2 = np.stack([bicubic.downscale(picture[0], 2)[None] for picture in b4])
    cost = [np.sqrt((a - b) ** 2 + 1e-6).sum() for a, b in ((a2, b2), (a4, b4))]
    truths = level_truths(truth, [small, large])
    assert torch.allclose(truths[1], truth, atol=1e-6)
    got = multi_level([small, large], truths)
    assert float(got) == pytest.approx(sum(cost) / b4.size, rel=1e-4)
    with pytest.raises(UsageError, match="2 outputs but 1 truths"):
        multi_level([small, large], truths[1:])


def test_multi_level_reaches_every_level_of_lapsrn() -> None:
    model = Lapsrn(LapsrnConfig(scale=4, width=4, depth=1))
    outputs = model.levels(torch.rand(1, 1, 6, 6))
    multi_level(outputs, level_truths(torch.rand(1, 1, 24, 24), outputs)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_recursive_supervision_by_hand() -> None:
    a, predictions = pictures(8, 4, 2, 1, 6, 6)
    b, output = pictures(9, 2, 1, 6, 6)
    t, truth = pictures(10, 2, 1, 6, 6)
    local = np.mean([((p - t) ** 2).mean() for p in a])
    final = ((b - t) ** 2).mean()
    for alpha in (0.0, 0.25, 1.0):
        got = recursive(list(predictions), output, truth, alpha=alpha)
        assert float(got) == pytest.approx(alpha * local + (1 - alpha) * final, rel=1e-5)
    with pytest.raises(UsageError, match="between 0 and 1"):
        recursive(list(predictions), output, truth, alpha=2)


def test_recursive_supervision_takes_the_predictions_of_drcn() -> None:
    model = Drcn(DrcnConfig(scale=2, width=4, recursions=3))
    small, truth = torch.rand(1, 1, 5, 5), torch.rand(1, 1, 10, 10)
    recursive(model.predictions(small), model(small), truth, alpha=0.5).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# Gradient maps of SPSR


def framed_by_hand(a: Array) -> Array:
    """Central differences of a picture with two black pixels around it."""
    n, c, height, width = a.shape
    black = np.pad(a, ((0, 0), (0, 0), (2, 2), (2, 2)))
    out = np.empty((n, c, height + 2, width + 2))
    for y in range(height + 2):
        for x in range(width + 2):
            down = black[..., y + 2, x + 1] - black[..., y, x + 1]
            across = black[..., y + 1, x + 2] - black[..., y + 1, x]
            out[..., y, x] = np.sqrt(down**2 + across**2 + 1e-6)
    return out


def test_gradient_map_of_one_bright_pixel() -> None:
    """A cross of ones around it; black in the middle, where both differences cancel."""
    picture = torch.zeros(1, 1, 3, 3)
    picture[..., 1, 1] = 1
    expected = np.full((5, 5), 1e-3)
    for y, x in ((1, 2), (3, 2), (2, 1), (2, 3)):
        expected[y, x] = math.sqrt(1 + 1e-6)
    assert_close(framed_gradient_map(picture)[0, 0], expected, dtype="float32")


def test_gradient_map_of_a_white_picture_is_its_frame() -> None:
    """The ring outside sees the edge too; the picture's corners see it from two sides."""
    e, root = 1e-3, math.sqrt(2)
    expected = np.array(
        [
            [e, 1, 1, 1, 1, e],
            [1, root, 1, 1, root, 1],
            [1, 1, e, e, 1, 1],
            [1, 1, e, e, 1, 1],
            [1, root, 1, 1, root, 1],
            [e, 1, 1, 1, 1, e],
        ]
    )
    assert_close(framed_gradient_map(torch.ones(1, 1, 4, 4))[0, 0], expected, dtype="float32")


def test_gradient_losses() -> None:
    a, output = pictures(11, 1, 3, 5, 6)
    b, truth = pictures(12, 1, 3, 5, 6)
    expected = ((framed_by_hand(a) - framed_by_hand(b)) ** 2).mean()
    assert float(gradient_loss(output, truth)) == pytest.approx(expected, rel=1e-5)
    inner = framed_by_hand(b)[..., 1:-1, 1:-1]  # the branch has the size of the picture
    assert float(branch_loss(output, truth)) == pytest.approx(np.abs(a - inner).mean(), rel=1e-5)


# Adversarial


def test_adversarial_losses_by_hand() -> None:
    rng = np.random.default_rng(13)
    r, f = rng.normal(1, 2, (6, 1)), rng.normal(-1, 2, (6, 1))
    real, fake = torch.tensor(r).float(), torch.tensor(f).float()
    as_real, as_fake = (lambda x: -log_expit(x).mean()), (lambda x: -log_expit(-x).mean())
    expected = {
        "vanilla": (as_real(f), as_real(r) + as_fake(f)),
        "relativistic": (
            (as_fake(r - f.mean()) + as_real(f - r.mean())) / 2,
            (as_real(r - f.mean()) + as_fake(f - r.mean())) / 2,
        ),
    }
    assert ADVERSARIAL.keys() == expected.keys()
    for name, kind in ADVERSARIAL.items():
        got = (float(kind.generator(real, fake)), float(kind.discriminator(real, fake)))
        assert got == pytest.approx(expected[name], rel=1e-5), name


def test_an_undecided_discriminator_costs_ln_2() -> None:
    zeros = torch.zeros(3, 1, 4, 4)  # one logit a pixel, as the U-Net gives
    for kind, share in ((ADVERSARIAL["vanilla"], 2), (ADVERSARIAL["relativistic"], 1)):
        assert float(kind.generator(zeros, zeros)) == pytest.approx(math.log(2))
        assert float(kind.discriminator(zeros, zeros)) == pytest.approx(share * math.log(2))


def test_relativistic_loss_is_symmetrical() -> None:
    """With the classes exchanged, one player's loss is the other's; only differences count."""
    real, fake = torch.randn(8, 1), torch.randn(8, 1)
    kind = ADVERSARIAL["relativistic"]
    swapped = float(kind.discriminator(fake, real))
    assert float(kind.generator(real, fake)) == pytest.approx(swapped, rel=1e-5)
    moved = float(kind.generator(real + 5, fake + 5))
    assert moved == pytest.approx(swapped, rel=1e-4)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_who_gets_which_gradient(name: str) -> None:
    kind = ADVERSARIAL[name]
    for size in (1.0, 200.0):  # far beyond where a sigmoid is 0 or 1
        real, fake = (size * torch.randn(6, 1)).requires_grad_(), torch.randn(6, 1) * size
        fake.requires_grad_()
        kind.generator(real, fake).backward()
        assert real.grad is None, "the generator does not make the real pictures"
        assert torch.isfinite(fake.grad).all()
        # The step raises the fake logits on average.
        assert float(fake.grad.sum()) <= 0
        fake.grad = None
        kind.discriminator(real, fake).backward()
        assert torch.isfinite(real.grad).all()
        assert torch.isfinite(fake.grad).all()
        assert float(real.grad.sum()) <= 0 <= float(fake.grad.sum())
    assert kind.needs_real == (name == "relativistic")
