"""JPEG by tensors against the JPEG of OpenCV and Pillow."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

torch = pytest.importorskip("torch")

from edgesr.distill.jpeg import (
    CHROMA_TABLE,
    LUMA_TABLE,
    dct_basis,
    jpeg,
    quantisers,
    real_jpeg,
    soft_round,
)
from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]


def photo(seed: int, height: int, width: int) -> Array:
    """Drawn discs, softened as a lens does: chroma edges no sharper than those of photos."""
    return cv2.GaussianBlur(draw_photo(seed, height=height, width=width), (0, 0), 1.2)


def to_batch(*pictures: Array) -> torch.Tensor:
    stack = np.stack(pictures)
    stack = stack[..., None] if stack.ndim == 3 else stack
    return torch.from_numpy(stack.transpose(0, 3, 1, 2) / np.float32(255))


def through_opencv(picture: Array, quality: int) -> Array:
    bgr = picture if picture.ndim == 2 else picture[:, :, ::-1]
    stream = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(stream[1], cv2.IMREAD_UNCHANGED)
    return decoded if picture.ndim == 2 else decoded[:, :, ::-1]


def through_pillow(picture: Array, quality: int) -> Array:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(picture).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(image.open(io.BytesIO(stream.getvalue())))


@pytest.mark.parametrize("quality", [1, 10, 30, 49, 50, 75, 95, 100])
def test_tables_are_those_that_pillow_writes(quality: int) -> None:
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(draw_photo(0)).save(stream, "JPEG", quality=quality)
    written = image.open(io.BytesIO(stream.getvalue())).quantization
    for table, number in ((LUMA_TABLE, 0), (CHROMA_TABLE, 1)):
        ours = quantisers(table, torch.tensor([float(quality)]))[0].flatten()
        assert ours.tolist() == list(written[number])


def test_dct_is_that_of_opencv() -> None:
    block = np.random.default_rng(0).random((8, 8))
    basis = dct_basis().numpy()
    assert np.abs(basis @ block @ basis.T - cv2.dct(block)).max() < 1e-12


def test_gray_jpeg_block_by_block_with_the_dct_of_opencv() -> None:
    picture = cv2.cvtColor(photo(5, 40, 64), cv2.COLOR_RGB2GRAY)
    image = pytest.importorskip("PIL.Image")
    stream = io.BytesIO()
    image.fromarray(picture).save(stream, "JPEG", quality=50)
    steps = np.reshape(image.open(io.BytesIO(stream.getvalue())).quantization[0], (8, 8))
    truth = np.empty(picture.shape)
    for y in range(0, 40, 8):
        for x in range(0, 64, 8):
            block = cv2.dct(picture[y : y + 8, x : x + 8] - 128.0)
            truth[y : y + 8, x : x + 8] = cv2.idct(np.rint(block / steps) * steps) + 128
    got = jpeg(to_batch(picture).double(), torch.tensor([50.0]))[0, 0].numpy() * 255
    assert (np.abs(got - truth.clip(0, 255)) > 0.01).mean() < 0.04  # ties may fall elsewhere


@pytest.mark.parametrize("size", [(96, 128), (61, 45), (7, 3)])
def test_gray_jpeg_is_the_real_one(size: tuple[int, int]) -> None:
    """Same tables; libjpeg's DCT rounds to 1/8, so now and then a coefficient falls elsewhere."""
    pictures = [cv2.cvtColor(photo(s, *size), cv2.COLOR_RGB2GRAY) for s in range(3)]
    qualities = [30, 60, 95]
    batch = to_batch(*pictures)
    got = jpeg(batch, torch.tensor(qualities, dtype=torch.float64))[:, 0].numpy() * 255
    for index, picture in enumerate(pictures):
        for truth in (through_opencv, through_pillow):
            difference = np.abs(got[index] - truth(picture, qualities[index]))
            assert (difference > 1.5).mean() < 0.08
            assert difference.mean() < 0.45  # ours is not rounded to 8 bit: 0.25 from that


@pytest.mark.parametrize("size", [(96, 128), (61, 45)])
def test_colour_jpeg_is_close_to_the_real_one(size: tuple[int, int]) -> None:
    """libjpeg rounds Y'CbCr and chroma to 8 bit: a level. Chroma not filtered: 5."""
    pictures = [photo(s, *size) for s in range(3)]
    qualities = [30, 60, 95]
    batch = to_batch(*pictures)
    got = jpeg(batch, torch.tensor(qualities, dtype=torch.float64))
    got = got.permute(0, 2, 3, 1).numpy() * 255
    for index, picture in enumerate(pictures):
        for truth in (through_opencv, through_pillow):
            difference = got[index] - truth(picture, qualities[index])
            assert np.abs(difference).mean() < 1.6
            assert 10 * np.log10(255**2 / (difference**2).mean()) > 40


def test_each_sample_has_its_own_quality() -> None:
    batch = to_batch(photo(0, 64, 64), photo(1, 64, 64))
    both = jpeg(batch, torch.tensor([31.5, 90.0]))
    for index, quality in enumerate((31.5, 90.0)):
        alone = jpeg(batch[index : index + 1], torch.tensor([quality]))
        assert torch.allclose(both[index], alone[0], atol=1e-6)
    errors = ((both - batch) ** 2).mean(dim=(1, 2, 3))
    assert errors[0] > 2 * errors[1]


def test_real_jpeg_is_opencv_bit_for_bit() -> None:
    pictures = [photo(s, 50, 70) for s in range(2)]
    got = real_jpeg(to_batch(*pictures), torch.tensor([40.2, 80.0])) * 255
    for index, quality in enumerate((40, 80)):
        truth = through_opencv(pictures[index], quality)
        assert np.array_equal(got[index].round().permute(1, 2, 0).numpy(), truth)
    assert torch.allclose(got, got.round(), atol=1e-4)
    gray = cv2.cvtColor(pictures[0], cv2.COLOR_RGB2GRAY)
    one = real_jpeg(to_batch(gray), torch.tensor([55.0])) * 255
    assert np.array_equal(one[0, 0].round().numpy(), through_opencv(gray, 55))


def test_soft_rounding_has_a_gradient_and_stays_near() -> None:
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    assert (soft_round(x) - x.round()).abs().max() <= 0.125
    batch = to_batch(photo(2, 32, 32)).requires_grad_()
    quality = torch.tensor([60.0])
    jpeg(batch, quality, soft=True).sum().backward()
    assert batch.grad is not None
    assert batch.grad.abs().sum() > 0
    with torch.no_grad():
        apart = jpeg(batch, quality, soft=True) - jpeg(batch, quality)
    assert apart.abs().mean() * 255 < 2


def test_soft_gradient_is_that_of_differences() -> None:
    batch = to_batch(photo(3, 16, 16)).double() * 0.6 + 0.2  # away from the clamps
    batch.requires_grad_()
    quality = torch.tensor([80.0])
    direction = torch.randn(batch.shape, dtype=torch.float64, generator=torch.Generator())
    jpeg(batch, quality, soft=True).square().sum().backward()
    slope = float((batch.grad * direction).sum())
    with torch.no_grad():
        plus, minus = (
            jpeg(batch + step * direction, quality, soft=True).square().sum()
            for step in (1e-7, -1e-7)
        )
    assert slope == pytest.approx(float(plus - minus) / 2e-7, rel=1e-3)


def test_batches_that_cannot_be_jpeg() -> None:
    with pytest.raises(UsageError, match=r"give \(N, 3 or 1, H, W\)"):
        jpeg(torch.zeros(1, 2, 8, 8), torch.tensor([50.0]))
    for quality in ([50.0, 50.0], [0.0], [101.0]):
        for code in (jpeg, real_jpeg):
            with pytest.raises(UsageError, match="give one each, 1 to 100"):
                code(torch.zeros(1, 3, 8, 8), torch.tensor(quality))
