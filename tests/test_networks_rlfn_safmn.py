"""RLFN and SAFMN layer by layer, against formulas written another way."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from attention_networks import SMALL, picture, randomised, seen_by
from tolerances import assert_close
from torch import Tensor

from edgesr.networks import rlfn, safmn
from edgesr.networks.rlfn import Rlfn, RlfnConfig
from edgesr.networks.safmn import SafmnConfig

# --- RLFN ----------------------------------------------------------------------------------------


def test_rlfn_block_activates_all_three_convolutions() -> None:
    block = randomised(rlfn.RLFB(6, 5, 4))
    x = picture(1, 6, 16, 19) - 0.5
    got = seen_by(block.c5, block, x)[0]
    with torch.no_grad():
        y = x
        for conv in (block.c1_r, block.c2_r, block.c3_r):
            y = F.conv2d(y, conv.weight, conv.bias, padding=1)
            y = torch.where(y < 0, 0.05 * y, y)
        assert_close(got, x + y, dtype="float32")
        assert torch.equal(block(x), block.esa(block.c5(got)))  # nothing is added behind it


def test_rlfn_range_is_converted_on_both_ends() -> None:
    """Released weights of 0..255 behind a 0..1 face; the published network has no range in it."""
    plain = randomised(SMALL["rlfn"](2))
    config = RlfnConfig(scale=2, features=12, inner=14, blocks=2, attention=4, pixel_range=255.0)
    wide = Rlfn(config).eval()
    wide.load_state_dict(plain.state_dict())
    x = picture(1, 3, 16, 18)
    with torch.no_grad():
        assert_close(wide(x), plain(x * 255) / 255, dtype="float32")
        assert not torch.allclose(wide(x), plain(x), atol=1e-2)


# --- SAFMN ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_shrinking_is_the_adaptive_maximum(factor: int) -> None:
    """Every remainder, down to a single window of almost twice the factor."""
    for size in [*range(factor, 5 * factor + 1), 135, 270, 359]:
        x = picture(1, 2, size, 11, seed=size)
        expected = F.adaptive_max_pool2d(x, (size // factor, 11))
        assert torch.equal(safmn.shrink(x, 2, factor), expected), size
        assert torch.equal(safmn.shrink(x.mT, 3, factor), expected.mT), size


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (15, 9), (33, 46)], ids=str)
def test_safmn_modulates_as_published(size: tuple[int, int]) -> None:
    layer = randomised(safmn.SAFM(8, 4))
    height, width = size
    x = picture(2, 8, height, width) - 0.5
    with torch.no_grad():
        seen = []
        for i, part in enumerate(x.chunk(4, dim=1)):
            small = F.adaptive_max_pool2d(part, (height // 2**i, width // 2**i))
            small = F.conv2d(small, layer.mfr[i].weight, layer.mfr[i].bias, padding=1, groups=2)
            rows = torch.arange(height) * small.shape[2] // height
            columns = torch.arange(width) * small.shape[3] // width
            seen.append(small[:, :, rows][:, :, :, columns])
        expected = F.gelu(layer.aggr(torch.cat(seen, 1))) * x
        assert_close(layer(x), expected, dtype="float32")


def test_safmn_block_normalises_before_each_half() -> None:
    block = randomised(safmn.Block(SafmnConfig(scale=2, features=8)))
    x = picture(1, 8, 9, 10)

    def normed(y: Tensor, norm: safmn.ChannelNorm) -> Tensor:
        rows = F.layer_norm(y.permute(0, 2, 3, 1), (8,), norm.weight, norm.bias, eps=1e-6)
        return rows.permute(0, 3, 1, 2)

    with torch.no_grad():
        y = block.safm(normed(x, block.norm1)) + x
        y = block.ccm(normed(y, block.norm2)) + y
        assert_close(block(x), y, dtype="float32")
