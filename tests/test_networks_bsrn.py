"""BSRN and BSRN-S layer by layer, against formulas written another way."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.nn.functional as F
from attention_networks import SMALL, picture, randomised, seen_by
from tolerances import assert_close

from edgesr.networks import bsrn, bsrn_s


def test_bsconvu_is_a_dense_convolution_with_a_blueprint_kernel() -> None:
    """Pointwise first and without bias: dense kernel[o, i] = dw[o] * pw[o, i], borders included."""
    layer = randomised(bsrn.BSConvU(5, 7))
    x = picture(2, 5, 6, 9)
    with torch.no_grad():
        dense = layer.dw.weight * layer.pw.weight  # (7, 1, 3, 3) * (7, 5, 1, 1)
        assert_close(layer(x), F.conv2d(x, dense, layer.dw.bias, padding=1), dtype="float32")


@pytest.mark.parametrize("name", ["bsrn", "bsrn-s"])
def test_the_picture_is_repeated_as_a_whole(name: str) -> None:
    """Input channel 3k + c of the first layer is colour c; RRRR GGGG BBBB would be 4c + k."""
    model = randomised(SMALL[name](2))
    x = picture(1, 3, 17, 19)
    _, got = seen_by(model.fea_conv.pw, model, x)
    with torch.no_grad():
        kernel = model.fea_conv.pw.weight.reshape(-1, 12)
        bias = model.fea_conv.pw.bias
        right = F.conv2d(x, kernel.view(-1, 4, 3).sum(1)[:, :, None, None], bias)
        wrong = F.conv2d(x, kernel.view(-1, 3, 4).sum(2)[:, :, None, None], bias)
    assert_close(got, right, dtype="float32")
    assert not torch.allclose(got, wrong, atol=1e-2)


def test_channel_attention_takes_the_population_deviation() -> None:
    """Against numpy; 3x2 pixels, where dividing by n - 1 makes 10 % of a difference."""
    layer = randomised(bsrn.CCALayer(8, 4)).double()
    with torch.no_grad():
        layer.conv_du[0].weight.abs_()  # so that the ReLU hides nothing
    x = 1 + picture(2, 8, 3, 2).double()
    first, second = layer.conv_du[0], layer.conv_du[2]

    def expected(ddof: int) -> np.ndarray:
        a = x.numpy()
        v = a.std(axis=(2, 3), ddof=ddof) + a.mean(axis=(2, 3))  # (2, 8)
        v = np.maximum(v @ first.weight[:, :, 0, 0].T.numpy() + first.bias.numpy(), 0)
        v = v @ second.weight[:, :, 0, 0].T.numpy() + second.bias.numpy()
        return a / (1 + np.exp(-v))[:, :, None, None]

    with torch.no_grad():
        got = layer(x)
        assert_close(got, expected(0), dtype="float64")
        assert np.abs(got.numpy() - expected(1)).max() > 1e-4


def test_channel_attention_learns_from_an_even_picture() -> None:
    """The gradient of the deviation at 0 must not be infinite."""
    layer = bsrn.CCALayer(8, 4)
    x = torch.full((1, 8, 5, 5), 0.5, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_bsrn_block_is_the_published_one() -> None:
    """ESDB layer by layer, as drawn in the paper, with the attentions checked on their own."""
    block = randomised(bsrn.ESDB(8, 4))
    x = picture(1, 8, 16, 21)
    with torch.no_grad():
        y, kept = x, []
        for i in (1, 2, 3):
            distil, refine = getattr(block, f"c{i}_d"), getattr(block, f"c{i}_r")
            kept.append(F.gelu(distil(y)))
            y = F.gelu(refine(y) + y)
        kept.append(F.gelu(block.c4(y)))
        expected = block.cca(block.esa(block.c5(torch.cat(kept, 1)))) + x
        assert torch.equal(block(x), expected)


def test_bsrn_joins_all_blocks_and_the_first_features() -> None:
    model = randomised(SMALL["bsrn"](2))
    x = picture(1, 3, 16, 21)
    with torch.no_grad():
        first = model.fea_conv(x.repeat(1, 4, 1, 1))
        one = model.B1(first)
        two = model.B2(one)
        y = F.gelu(F.conv2d(torch.cat([one, two], 1), model.c1.weight, model.c1.bias))
        last = model.upsampler.upsampleOneStep[0]
        y = F.conv2d(model.c2(y) + first, last.weight, last.bias, padding=1)
        assert torch.equal(model(x), F.pixel_shuffle(y, 2))


def test_pointwise_is_a_linear_layer_over_channels() -> None:
    layer = randomised(bsrn_s.Pointwise(5, 7))
    x = picture(2, 5, 4, 6)
    with torch.no_grad():
        expected = F.linear(x.permute(0, 2, 3, 1), layer.weight, layer.bias).permute(0, 3, 1, 2)
        assert_close(layer(x), expected, dtype="float32")


def test_bsrn_s_block_scales_channels_before_the_last_layer() -> None:
    block = randomised(bsrn_s.Block(8))
    x = picture(1, 8, 16, 21)
    attended = seen_by(block.esa, block, x)[1]
    with torch.no_grad():
        rows = attended.permute(0, 2, 3, 1) * block.cw  # (1, 16, 21, 8)
        rows = F.linear(rows, block.conv_out.weight, block.conv_out.bias)
        assert_close(block(x), rows.permute(0, 3, 1, 2) + x, dtype="float32")
