"""A student as its validation sees it, and what is said of a teacher that was trained here."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgesr.distill.lesson import planes_function
from edgesr.networks import build
from edgesr.networks.rrdb import Rrdb, RrdbConfig


def test_odd_sizes_of_a_network_that_takes_even_ones() -> None:
    """RRDB x2 unshuffles pixels: Set5 has small pictures of 125 pixels."""
    torch.manual_seed(0)
    network = Rrdb(RrdbConfig(scale=2, width=8, growth=4, blocks=1)).eval()
    assert network.multiple == 2
    planes = np.random.default_rng(0).random((3, 17, 23), dtype=np.float32)
    upscale = planes_function(network)
    large = upscale(planes)
    assert large.shape == (3, 34, 46)
    even = upscale(np.pad(planes, ((0, 0), (0, 1), (0, 1)), mode="reflect"))
    np.testing.assert_allclose(large, even[:, :34, :46], atol=1e-6)


def test_even_sizes_are_left_alone() -> None:
    network = build("espcn", 2).eval()
    luma = np.random.default_rng(0).random((1, 9, 12), dtype=np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(luma)[None])[0].numpy()
    np.testing.assert_allclose(planes_function(network)(luma), expected, atol=1e-6)
