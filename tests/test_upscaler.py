from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx_models
import pytest

from edgesr import colour, load
from edgesr.errors import BackendError, ModelError, UsageError
from edgesr.runtime import upscaler as module
from edgesr.runtime.tiles import windows
from edgesr.runtime.upscaler import Upscaler


def opened(path: Path, **options: Any) -> Upscaler:
    return load(str(path), **{"backend": "ort", "precision": "fp32", **options})


def smooth(height: int, width: int, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """A picture without clipping: blurred noise."""
    noise = np.random.default_rng(height).random((height, width, channels))
    picture = cv2.GaussianBlur(noise, (0, 0), 2).reshape(height, width, channels)
    picture = (picture - picture.min()) / np.ptp(picture)
    picture = ((0.15 + 0.7 * picture) * np.iinfo(dtype).max).astype(dtype)
    return picture if channels == 3 else picture[..., 0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("backend", ["ort", "openvino"])
def test_a_plane_goes_through_as_it_is(tmp_path: Path, dtype: Any, backend: str) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx", scale=3)
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(16, -1)
    with opened(path, backend=backend) as upscale:
        big = upscale(values)
    assert big.dtype == dtype
    np.testing.assert_array_equal(big, values.repeat(3, 0).repeat(3, 1))


def test_rgb_is_luma_by_the_model_and_bicubic_colour(tmp_path: Path) -> None:
    """Held against the long way: Y'CbCr, each plane on its own, and back."""
    path = onnx_models.convolutions(tmp_path / "m.onnx")
    rgb = smooth(33, 46)
    upscale = opened(path)
    ycbcr = colour.rgb_to_ycbcr(rgb)
    session = module.open_session(path, spec=upscale.spec, backend="ort", precision="fp32")
    luma = session(np.ascontiguousarray(ycbcr[None, None, ..., 0]) / np.float32(255))[0, 0] * 255
    chroma = [
        colour.upscale_chroma(np.ascontiguousarray(ycbcr[..., i]), scale=2, luma=(33, 46))
        for i in (1, 2)
    ]
    expected = colour.ycbcr_to_rgb(np.dstack([luma, *chroma]))
    difference = np.abs(upscale(rgb).astype(int) - expected)
    assert difference.max() <= 1  # where a value lies between two 8-bit steps
    assert (difference > 0).mean() < 0.01


def test_gray_as_rgb_stays_gray(tmp_path: Path) -> None:
    upscale = opened(onnx_models.convolutions(tmp_path / "m.onnx"))
    gray = smooth(20, 20, 1)
    big = upscale(np.dstack([gray] * 3)).astype(int)
    assert np.ptp(big, axis=2).max() <= 1


def test_uint16_is_uint8_with_finer_steps(tmp_path: Path) -> None:
    upscale = opened(onnx_models.convolutions(tmp_path / "m.onnx"))
    rgb = smooth(24, 30)
    fine = upscale(rgb.astype(np.uint16) * 257) / 257
    np.testing.assert_allclose(upscale(rgb), fine, atol=0.51)


def test_overshoot_is_clipped(tmp_path: Path) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx", gain=3.0, bias=-1.0)
    picture = np.array([[0, 255]], np.uint8)
    np.testing.assert_array_equal(opened(path)(picture)[0], [0, 0, 255, 255])


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (7, 9), (16, 16)])
def test_models_that_want_certain_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx", multiple=4, min_size=8)
    picture = smooth(*size, 1) if min(size) > 1 else np.full(size, 77, np.uint8)
    np.testing.assert_array_equal(opened(path)(picture), picture.repeat(2, 0).repeat(2, 1))


def test_rgb_model(tmp_path: Path) -> None:
    upscale = opened(onnx_models.nearest(tmp_path / "m.onnx", colour="rgb"))
    rgb = smooth(9, 11)
    np.testing.assert_array_equal(upscale(rgb), rgb.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(upscale(rgb[..., 0]), rgb[..., 0].repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiles_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, multiple: int, channels: int
) -> None:
    path = onnx_models.convolutions(tmp_path / "m.onnx", layers=3, multiple=multiple)
    picture = smooth(101, 150, channels)
    with opened(path) as upscale:
        whole = upscale(picture)
        monkeypatch.setattr(module, "LARGEST_TILE", 48)
        tiled = upscale(picture)
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_a_halo_too_small_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = onnx_models.convolutions(tmp_path / "m.onnx", layers=5, halo=0)
    picture = np.random.default_rng(0).integers(0, 256, (90, 90), np.uint8)
    upscale = opened(path)
    whole = upscale(picture)
    monkeypatch.setattr(module, "LARGEST_TILE", 40)
    assert np.abs(whole.astype(int) - upscale(picture)).max() > 1


def test_models_that_see_everything_are_not_tiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_TILE", 16)
    upscale = opened(onnx_models.nearest(tmp_path / "m.onnx", halo=None))
    upscale(np.zeros((70, 90), np.uint8))
    assert list(upscale._sessions) == [(70, 90)]


@pytest.mark.parametrize("multiple", [1, 2, 8])
@pytest.mark.parametrize("halo", [0, 1, 11])
@pytest.mark.parametrize("length", [8, 64, 72, 200, 1000, 4096])
def test_windows_cover_once(length: int, halo: int, multiple: int) -> None:
    tiles = windows(length, largest=64, halo=halo, multiple=multiple)
    assert (tiles[0].first, tiles[-1].last) == (0, length)
    for tile, after in itertools.pairwise(tiles):
        assert tile.last == after.first
    for tile in tiles:
        assert (
            tile.stop - tile.start
            == tiles[0].stop
            <= max(64 + 2 * multiple, length * (len(tiles) == 1))
        )
        assert tile.start % multiple == (tile.stop - tile.start) % multiple == 0
        assert tile.first - tile.start >= halo or tile.start == tile.first == 0
        assert tile.stop - tile.last >= halo or tile.stop == tile.last == length
        assert tile.first < tile.last


def test_sessions_are_bounded_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = module.open_session

    def counted(*args: Any, size: Any = None, **options: Any) -> Any:
        sizes.append(size)
        return original(*args, size=size, **options)

    monkeypatch.setattr(module, "open_session", counted)
    upscale = opened(onnx_models.nearest(tmp_path / "m.onnx"))
    for width in (4, 5, 4, 6, 7, 4, 8, 5):
        upscale(np.zeros((3, width), np.uint8))
        assert len(upscale._sessions) <= module.KEPT_SESSIONS
    assert sizes == [None, (3, 4), (3, 5), (3, 6), (3, 7), (3, 8), (3, 5)]
    upscale.close()
    assert not upscale._sessions


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4), np.float32), "got .4, 4. float32"),
        (np.zeros((4, 4, 4), np.uint8), "take alpha off"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"got \(1, 4, 4, 3\)"),
        (np.zeros((0, 4), np.uint8), r"got \(0, 4\)"),
        (np.zeros(4, np.uint8), r"got \(4,\)"),
        ([[1, 2]], "numpy array.*got list"),
    ],
)
def test_wrong_pictures(tmp_path: Path, picture: Any, message: str) -> None:
    upscale = opened(onnx_models.nearest(tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match=message) as caught:
        upscale(picture)
    assert isinstance(caught.value, ValueError)


def test_load_refuses_at_once(tmp_path: Path) -> None:
    path = onnx_models.nearest(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="does not exist"):
        load(str(tmp_path / "none.onnx"))
    with pytest.raises(UsageError, match="scale 4"):
        load(str(path), scale=4)
    with pytest.raises(BackendError, match="fp32 only"):
        load(str(path), backend="ort", precision="bf16")


def test_facts(tmp_path: Path) -> None:
    upscale = opened(onnx_models.nearest(tmp_path / "m.onnx", scale=3), threads=1)
    assert upscale.spec.scale == 3
    assert (upscale.facts.backend, upscale.facts.threads) == ("ort", 1)
