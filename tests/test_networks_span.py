"""SPAN: collapsed against its branches, merged against its training form, by its formula."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from attention_networks import SMALL, picture, randomised, seen_by
from tolerances import assert_close
from torch import Tensor, nn

from edgesr.networks import span
from edgesr.networks.span import PlainSpan, Span, SpanConfig

SIZES = [(1, 1), (5, 7), (16, 16), (13, 24)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_conv3xc_collapsed_equals_its_branches(size: tuple[int, int]) -> None:
    """Borders included: the frame of zeros stands before the first 1x1, not behind it."""
    layer = randomised(span.Conv3XC(3, 5, 2))
    x = picture(2, 3, *size)
    with torch.no_grad():
        assert_close(layer(x), layer.forward_branches(x), dtype="float32")


def test_conv3xc_border_needs_the_early_frame() -> None:
    """The test above can fail: padding the 3x3 itself loses the first bias at the border."""
    layer = randomised(span.Conv3XC(3, 5, 2))
    x = picture(1, 3, 8, 8)
    with torch.no_grad():
        first, middle, last = layer.conv
        wrong = last(F.conv2d(first(x), middle.weight, middle.bias, padding=1)) + layer.sk(x)
        right = layer(x)
    assert torch.allclose(wrong[..., 1:-1, 1:-1], right[..., 1:-1, 1:-1], atol=1e-5)
    assert not torch.allclose(wrong, right, atol=1e-3)


def test_conv3xc_collapsed_has_the_gradients_of_its_branches() -> None:
    layer = randomised(span.Conv3XC(3, 5, 2)).double()
    x, truth = picture(2, 3, 6, 7).double(), picture(2, 5, 6, 7, seed=1).double()
    gradients = []
    for run in (layer.forward, layer.forward_branches):
        layer.zero_grad()
        F.mse_loss(run(x), truth).backward()
        gradients.append([p.grad.clone() for p in layer.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, dtype="float64")


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_span_merged_equals_the_training_form(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = randomised(Span(SpanConfig(scale=3, features=8, blocks=3, pixel_range=4.0)))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    plain = span.merge(model)
    x = picture(2, 3, *size)
    monkeypatch.setattr(span.Conv3XC, "forward", span.Conv3XC.forward_branches)
    with torch.no_grad():
        assert_close(plain(x), model(x), dtype="float32")
    assert not isinstance(plain, Span)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_span_joins_an_activated_feature() -> None:
    """The published code activates in place, so what it keeps "before" is activated as well."""
    model = randomised(PlainSpan(SpanConfig(scale=2, features=6, blocks=3, pixel_range=4.0)))
    x = picture(1, 3, 9, 11)

    def published(*, inplace: bool) -> Tensor:
        act = nn.SiLU(inplace=inplace)
        first = model.conv_1((x - torch.tensor([0.4488, 0.4371, 0.4040]).view(3, 1, 1)) * 4.0)
        y, blocks, inner = first, [], first
        for name in ("block_1", "block_2", "block_3"):
            block = getattr(model, name)
            inner = block.c1_r(y)
            third = block.c3_r(act(block.c2_r(act(inner))))
            y = (third + y) * (torch.sigmoid(third) - 0.5)
            blocks.append(y)
        y = model.conv_cat(torch.cat([first, model.conv_2(y), blocks[0], inner], 1))
        return model.upsampler(y)

    with torch.no_grad():
        got = model(x)
        assert_close(got, published(inplace=True), dtype="float32")
        assert not torch.allclose(got, published(inplace=False), atol=1e-3)


def test_span_sees_the_mean_as_zero_and_white_as_over_a_hundred() -> None:
    model = SMALL["span-plain"](2)
    grey = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1).expand(1, 3, 5, 5)
    assert not seen_by(model.conv_1, model, grey)[0].any()
    white = seen_by(model.conv_1, model, torch.ones(1, 3, 5, 5))[0][0, :, 2, 2]
    assert_close(white, [140.556, 143.5395, 151.98], dtype="float32")


def test_span_skips_the_stored_merged_kernels() -> None:
    """As official files hold them, and outdated."""
    model = randomised(SMALL["span"](2))
    official = model.state_dict()
    for key in [key for key in official if key.endswith("sk.weight")]:
        c_out, c_in = official[key].shape[:2]
        official[key.replace("sk.weight", "eval_conv.weight")] = torch.ones(c_out, c_in, 3, 3)
        official[key.replace("sk.weight", "eval_conv.bias")] = torch.ones(c_out)
    held = len(official)
    again = SMALL["span"](2).eval()
    again.load_state_dict(official)
    x = picture(1, 3, 6, 5)
    assert torch.equal(again(x), model(x))
    assert len(official) == held
    assert not any("eval_conv" in key for key in again.state_dict())
    again.load_state_dict(model.state_dict())
    official["conv_1.other"] = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"conv_1\.other"):
        again.load_state_dict(official)


def test_span_keys_are_the_official_ones() -> None:
    with torch.device("meta"):
        state = Span(SpanConfig(scale=4)).state_dict()
    shapes = {
        "conv_1.sk.weight": (52, 3, 1, 1),
        "conv_1.conv.0.weight": (6, 3, 1, 1),
        "conv_1.conv.1.weight": (104, 6, 3, 3),
        "conv_1.conv.2.bias": (52,),
        "block_6.c3_r.conv.1.weight": (104, 104, 3, 3),
        "conv_cat.weight": (52, 208, 1, 1),
        "conv_2.conv.2.weight": (52, 104, 1, 1),
        "upsampler.0.weight": (48, 52, 3, 3),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert "mean" not in state
