"""BSRN, BSRN-S, RLFN, SPAN and SAFMN against published counts and formulas written another way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.nn.functional as F
from tolerances import assert_close
from torch import Tensor, nn

from edgesr.networks import bsrn, bsrn_s, rlfn, safmn, span
from edgesr.networks.bsrn import Bsrn, BsrnConfig
from edgesr.networks.bsrn_s import BsrnS, BsrnSConfig
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.networks.rlfn import Rlfn, RlfnConfig
from edgesr.networks.safmn import Safmn, SafmnConfig
from edgesr.networks.span import PlainSpan, Span, SpanConfig

BUILD: dict[str, Callable[[int], nn.Module]] = {
    "bsrn": lambda s: Bsrn(BsrnConfig(scale=s)),
    "bsrn-s": lambda s: BsrnS(BsrnSConfig(scale=s)),
    "rlfn": lambda s: Rlfn(RlfnConfig(scale=s)),
    "rlfn-s": lambda s: Rlfn(RlfnConfig(scale=s, features=48)),
    "rlfn-ntire": lambda s: Rlfn(RlfnConfig(scale=s, features=46, inner=48, blocks=4)),
    "span": lambda s: PlainSpan(SpanConfig(scale=s)),
    "span-s": lambda s: PlainSpan(SpanConfig(scale=s, features=48)),
    "span-28": lambda s: PlainSpan(SpanConfig(scale=s, features=28)),
    "span-26": lambda s: PlainSpan(SpanConfig(scale=s, features=26)),
    "safmn": lambda s: Safmn(SafmnConfig(scale=s)),
}

SMALL: dict[str, Callable[[int], nn.Module]] = {
    "bsrn": lambda s: Bsrn(BsrnConfig(scale=s, features=16, blocks=2, reduction=4)),
    "bsrn-s": lambda s: BsrnS(BsrnSConfig(scale=s, features=16, blocks=2)),
    "rlfn": lambda s: Rlfn(RlfnConfig(scale=s, features=12, inner=14, blocks=2, attention=4)),
    "span": lambda s: Span(SpanConfig(scale=s, features=8, blocks=3)),
    "span-plain": lambda s: PlainSpan(SpanConfig(scale=s, features=8, blocks=3)),
    "safmn": lambda s: Safmn(SafmnConfig(scale=s, features=8, blocks=2)),
}

PARAMETERS = {
    ("bsrn", 2): 331_628,
    ("bsrn", 3): 340_283,
    ("bsrn", 4): 352_400,
    ("bsrn-s", 4): 156_288,
    ("rlfn", 2): 526_856,
    ("rlfn", 4): 543_740,
    ("rlfn-s", 2): 454_620,
    ("rlfn-s", 4): 470_208,
    ("rlfn-ntire", 4): 317_218,
    ("span", 2): 481_324,
    ("span", 4): 498_208,
    ("span-s", 2): 410_700,
    ("span-s", 4): 426_288,
    ("span-28", 4): 150_688,
    ("span-26", 4): 130_828,
}

# (height, width) of the LR picture -> 10^9 multiply-adds.
GIGA_MACS = {
    ("bsrn", 2, (360, 640)): 71.9,
    ("bsrn", 3, (240, 427)): 32.8,
    ("bsrn", 4, (180, 320)): 19.18,
    ("bsrn-s", 4, (180, 320)): 8.29,
    ("bsrn-s", 4, (256, 256)): 9.43,
    ("rlfn", 2, (360, 640)): 115.4,
    ("rlfn", 4, (180, 320)): 29.8,
    ("rlfn-ntire", 4, (256, 256)): 19.66,
}


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def on_meta(name: str, scale: int) -> nn.Module:
    with torch.device("meta"):
        return BUILD[name](scale)


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Every parameter moved, so that no branch is silent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def seen_by(module: nn.Module, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of one layer while the model runs."""
    found: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda m, inputs, out: found.append((inputs[0], out)))
    with torch.no_grad():
        model(x)
    handle.remove()
    return found[0]


# --- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "count"), PARAMETERS.items(), ids=str)
def test_parameters_are_the_published_ones(key: tuple[str, int], count: int) -> None:
    assert count_parameters(on_meta(*key)) == count


@pytest.mark.parametrize(("scale", "thousands"), [(2, 228), (3, 233), (4, 240)])
def test_safmn_parameters_are_the_published_ones(scale: int, thousands: int) -> None:
    assert round(count_parameters(on_meta("safmn", scale)) / 1000) == thousands


@pytest.mark.parametrize(("key", "giga"), GIGA_MACS.items(), ids=str)
def test_multiply_adds_are_the_published_ones(
    key: tuple[str, int, tuple[int, int]], giga: float
) -> None:
    name, scale, (height, width) = key
    macs = count_macs(on_meta(name, scale), height=height, width=width, channels=3)
    assert macs / 1e9 == pytest.approx(giga, rel=5e-3)


@pytest.mark.parametrize(("scale", "giga"), [(2, 52), (3, 23), (4, 14)])
def test_safmn_multiply_adds_are_the_published_ones(scale: int, giga: int) -> None:
    """Published as whole numbers."""
    sizes = {"height": 720 // scale, "width": 1280 // scale}
    macs = count_macs(on_meta("safmn", scale), **sizes, channels=3)
    assert macs / 1e9 == pytest.approx(giga, abs=0.6)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", SMALL)
def test_output_is_scale_times_as_large(name: str, scale: int) -> None:
    model = SMALL[name](scale)
    least = getattr(model, "min_size", 1)
    with torch.no_grad():
        for height, width in ((least, least), (least + 2, least + 8)):
            shape = model(picture(2, 3, height, width)).shape
            assert shape == (2, 3, height * scale, width * scale)


@pytest.mark.parametrize("name", ["bsrn", "bsrn-s", "rlfn", "safmn"])
def test_least_size_is_the_least(name: str) -> None:
    model = SMALL[name](2)
    one_less = model.min_size - 1
    for height, width in ((one_less, 40), (40, one_less)):
        with pytest.raises(RuntimeError):
            model(picture(1, 3, height, width))


@pytest.mark.parametrize("name", SMALL)
def test_there_is_no_image_skip(name: str) -> None:
    model = SMALL[name](2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert not model(picture(1, 3, 16, 17)).any()


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        (
            "bsrn",
            {
                "fea_conv.pw.weight": (64, 12, 1, 1),
                "fea_conv.dw.bias": (64,),
                "B8.c3_r.dw.weight": (64, 1, 3, 3),
                "B1.c1_d.weight": (32, 64, 1, 1),
                "B1.c4.pw.weight": (32, 64, 1, 1),
                "B1.esa.conv2.dw.weight": (16, 1, 3, 3),
                "B1.esa.conv3_.pw.weight": (16, 16, 1, 1),
                "B1.esa.conv_max.dw.bias": (16,),
                "B1.cca.conv_du.2.weight": (64, 4, 1, 1),
                "c1.weight": (64, 512, 1, 1),
                "c2.dw.weight": (64, 1, 3, 3),
                "upsampler.upsampleOneStep.0.weight": (48, 64, 3, 3),
            },
        ),
        (
            "bsrn-s",
            {
                "fea_conv.pw.weight": (48, 12),
                "fea_conv.pw.bias": (48,),
                "B5.c1_d.weight": (24, 48),
                "B1.cw": (1, 48),
                "B1.conv_out.weight": (48, 48),
                "B1.esa.conv2.weight": (12, 12, 3, 3),
                "B1.esa.conv4.weight": (48, 12),
                "c1.weight": (48, 240),
                "upsampler.upsampleOneStep.0.bias": (48,),
            },
        ),
        (
            "rlfn-ntire",
            {
                "conv_1.weight": (46, 3, 3, 3),
                "block_4.c1_r.weight": (48, 46, 3, 3),
                "block_1.c3_r.weight": (46, 48, 3, 3),
                "block_1.c5.weight": (46, 46, 1, 1),
                "block_1.esa.conv2.weight": (16, 16, 3, 3),
                "block_1.esa.conv_f.bias": (16,),
                "conv_2.bias": (46,),
                "upsampler.0.weight": (48, 46, 3, 3),
            },
        ),
        (
            "span-s",
            {"block_6.c2_r.weight": (48, 48, 3, 3), "conv_cat.weight": (48, 192, 1, 1)},
        ),
        (
            "safmn",
            {
                "to_feat.weight": (36, 3, 3, 3),
                "feats.7.norm2.weight": (36,),
                "feats.0.safm.mfr.3.weight": (9, 1, 3, 3),
                "feats.0.safm.aggr.bias": (36,),
                "feats.0.ccm.ccm.0.weight": (72, 36, 3, 3),
                "feats.0.ccm.ccm.2.weight": (36, 72, 1, 1),
                "to_img.0.weight": (48, 36, 3, 3),
            },
        ),
    ],
)
def test_keys_are_the_official_ones(name: str, shapes: dict[str, tuple[int, ...]]) -> None:
    state = on_meta(name, 4).state_dict()
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_separable_convolutions_have_the_published_biases() -> None:
    assert "fea_conv.pw.bias" not in on_meta("bsrn", 4).state_dict()
    assert not any(".pw.bias" in key for key in on_meta("bsrn", 4).state_dict())
    bsrn_s_keys = on_meta("bsrn-s", 4).state_dict().keys()
    assert {k for k in bsrn_s_keys if k.endswith("pw.weight")} == {
        k.replace("pw.bias", "pw.weight") for k in bsrn_s_keys if k.endswith("pw.bias")
    }
    assert "B1.esa.conv2.pw.weight" not in bsrn_s_keys


# --- BSRN and BSRN-S -----------------------------------------------------------------------------


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


# --- spatial attention ---------------------------------------------------------------------------


@pytest.mark.parametrize("make", [bsrn.ESA, bsrn_s.ESA, rlfn.ESA])
@pytest.mark.parametrize("size", [(15, 15), (16, 40), (33, 47)], ids=str)
def test_attention_sees_a_sixth_of_the_size(
    make: Callable[..., nn.Module], size: tuple[int, int]
) -> None:
    """Stride 2 without padding, then a 7x7 maximum every third pixel, all within the picture."""
    layer = make(8, 4)
    x = picture(1, 8, *size)
    halves = tuple((side - 3) // 2 + 1 for side in size)
    sixths = tuple((side - 7) // 3 + 1 for side in halves)
    assert tuple(seen_by(layer.conv2, layer, x)[1].shape[2:]) == halves
    assert tuple(seen_by(layer.conv3, layer, x)[0].shape[2:]) == sixths
    assert layer(x).shape == x.shape


def test_rlfn_attention_is_the_published_one() -> None:
    """Maximum and bilinear resize are written out here."""
    layer = randomised(rlfn.ESA(6, 4)).double()
    x = picture(1, 6, 22, 17).double()
    with torch.no_grad():
        narrow = layer.conv1(x)
        half = F.conv2d(narrow, layer.conv2.weight, layer.conv2.bias, stride=2)  # (10, 8)
        maxima = half.unfold(2, 7, 3).unfold(3, 7, 3).amax(dim=(4, 5))  # (2, 1)
        coarse = layer.conv3(maxima)
        wide = resize_matrix(2, 22) @ coarse @ resize_matrix(1, 17).T
        mask = torch.sigmoid(layer.conv4(wide + layer.conv_f(narrow)))
        assert_close(layer(x), x * mask, dtype="float64")


def resize_matrix(size: int, wanted: int) -> Tensor:
    """Bilinear interpolation of `size` samples at `wanted` pixel centres (half-pixel rule)."""
    matrix = np.zeros((wanted, size))
    for row in range(wanted):
        at = min(max((row + 0.5) * size / wanted - 0.5, 0), size - 1)
        low = min(int(at), size - 1)
        high = min(low + 1, size - 1)
        matrix[row, low] += 1 - (at - low)
        matrix[row, high] += at - low
    return torch.from_numpy(matrix)


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


# --- SPAN ----------------------------------------------------------------------------------------

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
