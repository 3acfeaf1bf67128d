"""MATLAB's bicubic: against the MATLAB-made pictures where the data folder is, and by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgesr.bicubic import downscale, imresize


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_every_pixel_of_the_matlab_made_pictures(data: Path, name: str, scale: int) -> None:
    files = sorted((data / "bench" / name / f"x{scale}").glob("*_HR.png"))
    assert files
    for file in files:
        hr = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        lr = cv2.imread(str(file).replace("_HR", "_LR"), cv2.IMREAD_UNCHANGED)
        hr = hr[: hr.shape[0] // scale * scale, : hr.shape[1] // scale * scale]
        assert np.array_equal(downscale(hr, scale), lr), file.name


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_flat_pictures_stay_flat(scale: int) -> None:
    flat = np.full((12, 24, 3), 77, np.uint8)
    assert np.all(imresize(flat, scale) == 77)
    assert np.all(downscale(flat, scale) == 77)


def test_upscaling_a_ramp_gives_the_ramp() -> None:
    """Cubic interpolation reproduces straight lines: HR pixel i lies at (i + 0.5) / 2 - 0.5."""
    ramp = np.tile(np.arange(20.0), (5, 1))
    expected = (np.arange(40) + 0.5) / 2 - 0.5
    assert np.allclose(imresize(ramp, 2)[3, 8:-8], expected[8:-8])


def test_rounding_and_clamping_between_the_passes() -> None:
    """One float pass over both axes is not what MATLAB does with uint8."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    two_passes = downscale(noise, 2)
    one_pass = np.clip(np.floor(downscale(noise.astype(np.float64), 2) + 0.5), 0, 255)
    difference = np.abs(two_passes.astype(int) - one_pass.astype(int))
    assert 0 < difference.max() <= 1
