"""StyleGAN2 and GLEAN against explicit per-picture weights, scipy's filters and counts of logs."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from scipy import signal
from tolerances import assert_close

from edgesr.errors import UsageError
from edgesr.networks.facts import count_parameters
from edgesr.networks.glean import Glean, GleanConfig
from edgesr.networks.stylegan2 import (
    Blur,
    EqualLinear,
    EqualWeight,
    ModulatedConv,
    PixelNorm,
    StyleGan2Config,
    StyleGan2Generator,
    ToRgb,
    Upsample,
)
from edgesr.networks.stylegan2_discriminator import (
    ResidualBlock,
    StyleGan2Discriminator,
    StyleGan2DiscriminatorConfig,
    append_deviation,
)

BINOMIAL = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64

# Layer tables that NVIDIA's programs print at the start of a training, 8 mapping layers.
GENERATOR = {512: 30_276_583, 1024: 30_370_060}
DISCRIMINATOR = {1024: 29_012_513}


def small(*, scale: int = 4, in_size: int = 16, seed: int = 0) -> Glean:
    """Every layer kind; widths 12 up to 16x16, 8 at 32, 4 at 64. Parameters moved from zero."""
    torch.manual_seed(seed)
    config = GleanConfig(
        scale=scale,
        in_size=in_size,
        rrdb_blocks=1,
        width=6,
        growth=4,
        style_channels=10,
        mapping_layers=2,
        channel_base=256,
        channel_max=12,
    )
    return randomised(Glean(config)).eval()


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("size", "count"), GENERATOR.items())
def test_generator_has_the_parameters_of_the_published_layer_table(size: int, count: int) -> None:
    with torch.device("meta"):
        assert count_parameters(StyleGan2Generator(StyleGan2Config(out_size=size))) == count


@pytest.mark.parametrize(("size", "count"), DISCRIMINATOR.items())
def test_discriminator_has_the_parameters_of_the_published_layer_table(
    size: int, count: int
) -> None:
    with torch.device("meta"):
        model = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(in_size=size))
    assert count_parameters(model) == count


def test_widths_are_those_of_configurations_f_and_e() -> None:
    with torch.device("meta"):
        wide = StyleGan2Generator(StyleGan2Config(out_size=1024)).widths
        narrow = StyleGan2Generator(StyleGan2Config(out_size=1024, channel_base=16384)).widths
    assert list(wide) == [4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert list(wide.values()) == [512, 512, 512, 512, 512, 256, 128, 64, 32]
    assert list(narrow.values()) == [512, 512, 512, 512, 256, 128, 64, 32, 16]


@pytest.mark.parametrize("demodulate", [False, True])
@pytest.mark.parametrize(("kernel", "upsample"), [(1, False), (3, False), (3, True)])
def test_modulated_convolution_has_weights_of_its_own_for_every_picture(
    kernel: int, demodulate: bool, upsample: bool
) -> None:
    """Weights written out for each picture as in the paper, numpy and scipy for the sums."""
    torch.manual_seed(0)
    layer = ModulatedConv(
        5, 4, kernel=kernel, style=6, demodulate=demodulate, upsample=upsample
    ).double()
    randomised(layer)
    x, style = torch.randn(3, 5, 6, 7).double(), torch.randn(3, 6).double()
    with torch.no_grad():
        got = layer(x, style).numpy()
    to_scale = layer.style_modulation
    matrix = to_scale.linear.weight_orig.detach().numpy() / np.sqrt(6)
    weight = layer.weight_orig.detach().numpy()[0] / np.sqrt(5 * kernel**2)
    for picture in range(3):
        scale = matrix @ style[picture].numpy() + to_scale.bias.detach().numpy()
        own = weight * scale[None, :, None, None]
        if demodulate:
            own = own / np.sqrt((own**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
        for channel in range(4):
            expected = sum(
                convolved(x[picture, i].numpy(), own[channel, i], upsample) for i in range(5)
            )
            assert_close(got[picture, channel], expected, dtype="float64")


def convolved(plane: np.ndarray, kernel: np.ndarray, upsample: bool) -> np.ndarray:
    """Correlation of the same size, or spread by 2, convolved and blurred with gain 4."""
    if not upsample:
        return signal.correlate2d(plane, kernel, mode="same")
    spread = np.zeros((2 * plane.shape[0] - 1, 2 * plane.shape[1] - 1))
    spread[::2, ::2] = plane
    wide = signal.convolve2d(spread, kernel, mode="full")  # 2H+1
    return signal.convolve2d(np.pad(wide, 1), 4 * BINOMIAL, mode="valid")  # 2H


def test_demodulation_brings_every_output_channel_to_unit_variance() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv(32, 8, kernel=3, style=6)
    with torch.no_grad():
        layer.weight_orig.mul_(7)
        y = layer(torch.randn(2, 32, 96, 96), 3 * torch.randn(2, 6))
    assert torch.allclose(y[..., 1:-1, 1:-1].std(dim=(2, 3)), torch.ones(2, 8), atol=0.05)


@pytest.mark.parametrize(("padding", "gain"), [(1, 1.0), (1, 4.0), (2, 1.0)])
def test_blur_is_scipys(padding: int, gain: float) -> None:
    x = torch.rand(2, 3, 7, 10).double()
    got = Blur(padding=padding, gain=gain).double()(x).numpy()
    for picture in range(2):
        for channel in range(3):
            framed = np.pad(x[picture, channel].numpy(), padding)
            expected = signal.convolve2d(framed, gain * BINOMIAL, mode="valid")
            assert_close(got[picture, channel], expected, dtype="float64")


def test_upsampling_of_the_picture_is_scipys() -> None:
    """upfirdn as in the paper's code: zeros after every pixel, 2 before and 1 behind, filter."""
    x = torch.rand(1, 3, 5, 6).double()
    got = Upsample().double()(x)[0].numpy()
    for channel in range(3):
        expected = signal.upfirdn([1, 3, 3, 1], x[0, channel].numpy(), up=2, axis=0)
        expected = signal.upfirdn([1, 3, 3, 1], expected, up=2, axis=1) / 16
        assert_close(got[channel], expected[1:-1, 1:-1], dtype="float64")
    flat = Upsample()(torch.ones(1, 3, 5, 6))[..., 1:-1, 1:-1]
    assert torch.allclose(flat, torch.ones_like(flat))


def test_equalised_learning_rate_scales_at_run_time() -> None:
    torch.manual_seed(0)
    weight = EqualWeight(64, 32, 3, 3, rate=0.01)
    assert weight.weight_orig.detach().std().item() == pytest.approx(100, rel=0.02)
    assert weight().detach().std().item() == pytest.approx((32 * 9) ** -0.5, rel=0.02)
    layer = EqualLinear(400, 3, bias=1.0, rate=0.01)
    x = torch.randn(2, 400)
    expected = x @ layer.linear.weight_orig.T * 0.01 / 20 + 0.01  # the bias is slowed as well
    assert_close(layer(x).detach(), expected.detach(), dtype="float32")


def test_pixel_norm_has_unit_mean_square() -> None:
    y = PixelNorm()(5 * torch.randn(4, 512))
    assert_close(y.square().mean(dim=1), torch.ones(4), dtype="float32")


def test_rgb_is_not_demodulated() -> None:
    layer = ToRgb(4, style=3, upsample=False)
    x, style = torch.rand(1, 4, 2, 2), torch.rand(1, 3)
    before = layer(x, style)
    with torch.no_grad():
        layer.conv.weight_orig.mul_(2)
    assert_close(layer(x, style).detach(), 2 * before.detach(), dtype="float32")


def test_generator_noise_is_constant_in_evaluation_and_fresh_in_training() -> None:
    torch.manual_seed(0)
    config = StyleGan2Config(out_size=16, style_channels=8, channel_base=128, mapping_layers=2)
    model = randomised(StyleGan2Generator(config)).eval()
    z = torch.randn(2, 8)
    with torch.no_grad():
        assert torch.equal(model(z), model(z))
        assert_close(model(z)[:1], model(z[:1]), dtype="float32")
        assert model(z).shape == (2, 3, 16, 16)
        model.train()
        assert not torch.allclose(model(z), model(z))
    names = [name for name, _ in model.named_buffers() if "noise" in name]
    assert [model.get_buffer(n).shape[-1] for n in names] == [4, 8, 8, 16, 16]


def test_minibatch_deviation_is_numpys() -> None:
    x = torch.randn(8, 3, 4, 4)
    y = append_deviation(x, group=4)
    assert y.shape == (8, 4, 4, 4)
    for picture in range(8):
        others = x[picture % 2 :: 2].numpy()  # two groups of four, interleaved
        assert_close(y[picture, 3], np.full((4, 4), np.std(others, axis=0).mean()), dtype="float32")
    assert append_deviation(x[:3], group=4)[:, 3].var() < 1e-9
    assert append_deviation(x[:1], group=4)[0, 3].max() < 1e-3


def test_discriminator_block_without_convolutions_is_its_blurred_skip() -> None:
    block = ResidualBlock(2, 2)
    with torch.no_grad():
        for parameter in block.conv2.parameters():
            parameter.zero_()
        block.skip[1].conv.weight_orig.copy_(np.sqrt(2) * torch.eye(2)[:, :, None, None])
    x = torch.rand(1, 2, 8, 6)
    got = block(x).detach()
    for channel in range(2):
        blurred = signal.convolve2d(np.pad(x[0, channel].numpy(), 1), BINOMIAL, mode="valid")
        assert_close(got[0, channel], blurred[::2, ::2] / np.sqrt(2), dtype="float32")


def test_discriminator_gives_a_number_a_picture_and_sees_minus_one_to_one() -> None:
    config = StyleGan2DiscriminatorConfig(in_size=32, channel_base=256, channel_max=12)
    model = StyleGan2Discriminator(config).eval()
    seen = []
    model.convs.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert model(torch.linspace(0, 1, 8 * 3 * 1024).reshape(8, 3, 32, 32)).shape == (8, 1)
    assert (seen[0].min().item(), seen[0].max().item()) == (-1.0, 1.0)


@pytest.mark.parametrize(("in_size", "scale"), [(4, 2), (16, 4), (8, 8)])
def test_glean_gives_out_size(in_size: int, scale: int) -> None:
    model = small(in_size=in_size, scale=scale)
    assert model.fixed_size == (in_size, in_size)
    size = in_size * scale
    with torch.no_grad():
        final, own = model.predictions(torch.rand(2, 3, in_size, in_size))
    assert final.shape == own.shape == (2, 3, size, size)


def test_glean_pyramid_ends_at_four_and_gives_every_style() -> None:
    model = small(in_size=16, scale=4)
    with torch.no_grad():
        pyramid, latents = model.encode(torch.rand(2, 3, 16, 16))
    assert [tuple(p.shape[1:]) for p in pyramid] == [(12, 4, 4), (12, 8, 8), (12, 16, 16)]
    assert latents.shape == (2, 2 * 6 - 2, 10)  # out_size 64 = 2**6


def test_glean_fuses_at_the_size_of_the_input_and_below_only() -> None:
    model = small(in_size=16, scale=4)
    fused, steps = [], []
    for conv in (*model.fusion_out, *model.fusion_skip):
        conv.register_forward_hook(lambda _m, _i, y: fused.append(tuple(y.shape[1:])))
    for conv in model.generator.convs:
        conv.register_forward_hook(lambda _m, _i, y: steps.append(y.shape[-1]))
    with torch.no_grad():
        model(torch.rand(1, 3, 16, 16))
    assert fused == [(12, 4, 4), (3, 4, 4), (12, 8, 8), (3, 8, 8), (12, 16, 16), (3, 16, 16)]
    assert steps == [8, 8, 16, 16, 32, 32, 64, 64]
    assert [conv.upsample_conv.in_channels for conv in model.decoder[:-1]] == [12, 16]


def test_glean_trains_all_but_the_bank() -> None:
    model = small().train()
    assert not any(p.requires_grad for p in model.generator.parameters())
    model(torch.rand(2, 3, 16, 16)).mean().backward()
    silent = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert silent == {"generator", "fusion_skip"}  # the bank's own picture leads nowhere


def test_glean_bank_is_used_and_its_noise_is_constant() -> None:
    model = small()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        first = model(x)
        assert torch.equal(first, model(x))
        assert torch.equal(first, model.train()(x))
        assert_close(first[1:], model(x[1:]), dtype="float32")
        model.generator.injected_noise_8.add_(1.0)
        assert not torch.allclose(first, model(x), atol=1e-4)


def test_glean_is_minus_one_to_one_inside() -> None:
    model = small()
    seen = []
    model.encoder[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.linspace(0, 1, 3 * 256).reshape(1, 3, 16, 16)
    with torch.no_grad():
        last = model.decoder[-1][2]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([-1.0, 0.0, 1.0]))
        y = model(x)
    assert_close(seen[0], 2 * x - 1, dtype="float32")
    assert torch.equal(y.amin(dim=(0, 2, 3)), torch.tensor([0.0, 0.5, 1.0]))
    assert torch.equal(y.amax(dim=(0, 2, 3)), torch.tensor([0.0, 0.5, 1.0]))


def test_glean_decoder_without_the_bank_is_pixel_shuffles_of_the_rrdb_features() -> None:
    """The bank's features put to zero in the decoder: written out by hand from the pyramid."""
    model = small(in_size=16, scale=4)
    with torch.no_grad():
        model.decoder[1].upsample_conv.weight[:, 8:] = 0  # 8 channels at 32x32, then the bank's
        model.decoder[2][0].weight[:, 4:] = 0
        x = torch.rand(1, 3, 16, 16)
        y = model.encode(2 * x - 1)[0][-1]
        for width, conv in ((12, model.decoder[0]), (8, model.decoder[1])):
            inner = conv.upsample_conv
            y = F.pixel_shuffle(F.conv2d(y, inner.weight[:, :width], inner.bias, padding=1), 2)
        first, _, last = model.decoder[2]
        y = F.leaky_relu(F.conv2d(y, first.weight[:, :4], first.bias, padding=1), 0.2)
        expected = (F.conv2d(y, last.weight, last.bias, padding=1) + 1) / 2
        assert_close(model(x), expected, dtype="float32")


def test_glean_refuses_other_sizes() -> None:
    with pytest.raises(UsageError, match="takes 16x16 pictures, not 20x16"):
        small()(torch.rand(1, 3, 16, 20))
    with pytest.raises(UsageError, match="powers of two"):
        GleanConfig(scale=3)


@pytest.mark.parametrize(
    ("scale", "in_size"), [(8, 32), (8, 128), (16, 64), (16, 16), (32, 32), (64, 16)]
)
def test_glean_full_size_has_the_published_keys(scale: int, in_size: int) -> None:
    """No count is published: it is printed (`pytest -s`)."""
    with torch.device("meta"):
        model = Glean(GleanConfig(scale=scale, in_size=in_size))
    everything = sum(p.numel() for p in model.parameters())
    print(f"glean {in_size} -> {scale * in_size}: {everything:,}, of them trained "
          f"{count_parameters(model):,}")  # fmt: skip
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    steps = (scale * in_size).bit_length() - 1
    bank = "generator"
    last = 2 * (steps - 2) - 1  # of the bank's convolutions
    top = {256: 128, 1024: 32}[scale * in_size]  # channels at out_size
    expected = {
        "encoder.0.0.conv_first.weight": (64, 3, 3, 3),
        "encoder.0.0.body.22.rdb3.conv5.weight": (64, 192, 3, 3),
        "encoder.0.0.conv_body.bias": (64,),
        "encoder.0.1.weight": (512 if in_size < 128 else 256, 64, 3, 3),
        f"encoder.{in_size.bit_length() - 2}.3.weight": ((2 * steps - 2) * 512, 16 * 512),
        "fusion_out.0.weight": (512, 1024, 3, 3),
        "fusion_skip.0.weight": (3, 515, 3, 3),
        "decoder.0.upsample_conv.weight": decoder_shape(in_size),
        f"decoder.{scale.bit_length() - 1}.0.weight": (64, 2 * top, 3, 3),
        f"decoder.{scale.bit_length() - 1}.2.bias": (3,),
        f"{bank}.style_mapping.1.linear.weight_orig": (512, 512),
        f"{bank}.style_mapping.8.bias": (512,),
        f"{bank}.constant_input.input": (1, 512, 4, 4),
        f"{bank}.conv1.conv.weight_orig": (1, 512, 512, 3, 3),
        f"{bank}.conv1.conv.style_modulation.linear.weight_orig": (512, 512),
        f"{bank}.conv1.noise_injector.weight": (1,),
        f"{bank}.conv1.activate.bias": (512,),
        f"{bank}.to_rgb1.bias": (1, 3, 1, 1),
        f"{bank}.convs.0.conv.blur.kernel": (4, 4),
        f"{bank}.convs.{last}.conv.weight_orig": (1, top, top, 3, 3),
        f"{bank}.to_rgbs.0.upsample.kernel": (4, 4),
        f"{bank}.injected_noise_{last + 1}": (1, 1, scale * in_size, scale * in_size),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    assert len([n for n in shapes if n.startswith("fusion_out")]) == 2 * (in_size.bit_length() - 2)


def decoder_shape(in_size: int) -> tuple[int, ...]:
    """512 channels up to 64x64, halved with each doubling from there."""
    width = {16: 512, 32: 512, 64: 512, 128: 256}
    after = {16: 512, 32: 512, 64: 256, 128: 128}
    return 4 * after[in_size], width[in_size], 3, 3


def test_discriminator_has_the_published_keys() -> None:
    with torch.device("meta"):
        model = StyleGan2Discriminator(StyleGan2DiscriminatorConfig(in_size=256))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected = {
        "convs.0.0.conv.weight_orig": (128, 3, 1, 1),
        "convs.0.1.bias": (128,),
        "convs.1.conv1.0.conv.weight_orig": (128, 128, 3, 3),
        "convs.1.conv2.0.kernel": (4, 4),
        "convs.1.conv2.1.conv.weight_orig": (256, 128, 3, 3),
        "convs.1.conv2.2.bias": (256,),
        "convs.1.skip.0.kernel": (4, 4),
        "convs.1.skip.1.conv.weight_orig": (256, 128, 1, 1),
        "final_conv.0.conv.weight_orig": (512, 513, 3, 3),
        "final_conv.1.bias": (512,),
        "final_linear.0.linear.weight_orig": (512, 8192),
        "final_linear.1.bias": (1,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
