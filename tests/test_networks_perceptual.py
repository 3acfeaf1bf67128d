"""RRDBNet, SPSR, SRVGGNetCompact and the discriminators against counts and hand-made references."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close

from edgesr.errors import ModelError, UsageError
from edgesr.networks.discriminators import (
    DISCRIMINATORS,
    UnetDiscriminator,
    UnetDiscriminatorConfig,
    VggDiscriminator,
    VggDiscriminatorConfig,
)
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.networks.rrdb import Rrdb, RrdbConfig, interpolate
from edgesr.networks.spsr import Spsr, SpsrConfig, gradient_map
from edgesr.networks.srvgg import Srvgg, SrvggConfig

PUBLISHED = {
    "rrdb x4": (lambda: Rrdb(RrdbConfig(scale=4)), 16_697_987),
    "rrdb x2": (lambda: Rrdb(RrdbConfig(scale=2)), 16_703_171),
    "rrdb-6b x4": (lambda: Rrdb(RrdbConfig(scale=4, blocks=6)), 4_467_779),
    # The official 24,796,248 hold the two fixed 3x3 masks of the gradient map.
    "spsr x4": (lambda: Spsr(SpsrConfig()), 24_796_248 - 2 * 9),
    "srvgg-16 x4": (lambda: Srvgg(SrvggConfig()), 621_424),
    "srvgg-32 x4": (lambda: Srvgg(SrvggConfig(convs=32)), 1_213_296),
    "srgan-96": (DISCRIMINATORS["srgan-96"], 23_563_649),
    "vgg-128": (DISCRIMINATORS["vgg-128"], 14_499_401),
    "unet-sn": (DISCRIMINATORS["unet-sn"], 4_376_897),
}

# Official names and shapes; conv_first of x1 and x2 take 48 and 12 channels.
OFFICIAL = {
    "rrdb x4": {
        "conv_first.weight": (64, 3, 3, 3),
        "body.22.rdb3.conv5.weight": (64, 192, 3, 3),
        "body.0.rdb1.conv2.bias": (32,),
        "conv_body.weight": (64, 64, 3, 3),
        "conv_up1.weight": (64, 64, 3, 3),
        "conv_up2.weight": (64, 64, 3, 3),
        "conv_hr.weight": (64, 64, 3, 3),
        "conv_last.weight": (3, 64, 3, 3),
    },
    "rrdb x2": {"conv_first.weight": (64, 12, 3, 3)},
    "srvgg-16 x4": {
        "body.0.weight": (64, 3, 3, 3),
        "body.1.weight": (64,),
        "body.33.weight": (64,),
        "body.34.weight": (48, 64, 3, 3),
    },
    "srvgg-32 x4": {"body.66.bias": (48,)},
    "srgan-96": {
        "features.0.bias": (64,),
        "features.2.weight": (64, 64, 3, 3),
        "features.21.running_mean": (512,),
        "classifier.0.weight": (1024, 512 * 6 * 6),
        "classifier.2.weight": (1, 1024),
    },
    "vgg-128": {
        "conv0_0.bias": (64,),
        "bn0_1.weight": (64,),
        "conv4_1.weight": (512, 512, 4, 4),
        "bn4_0.running_var": (512,),
        "linear1.weight": (100, 512 * 4 * 4),
    },
    "unet-sn": {
        "conv0.weight": (64, 3, 3, 3),
        "conv1.weight_orig": (128, 64, 4, 4),
        "conv1.weight_u": (128,),
        "conv1.weight_v": (64 * 16,),
        "conv8.weight_orig": (64, 64, 3, 3),
        "conv9.bias": (1,),
    },
}


def moved(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter away from its start: no bias is zero, no branch is silent."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


def small_rrdb(scale: int) -> torch.nn.Module:
    return Rrdb(RrdbConfig(scale=scale, width=6, growth=4, blocks=2))


def small_spsr() -> torch.nn.Module:
    return Spsr(SpsrConfig(width=6, growth=4, blocks=4, taps=(1, 3)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    builder, count = PUBLISHED[name]
    with torch.device("meta"):
        assert count_parameters(builder()) == count


@pytest.mark.parametrize(("convs", "giga"), [(16, 35.67), (32, 69.64)])
def test_multiply_adds_are_the_published_ones(convs: int, giga: float) -> None:
    with torch.device("meta"):
        model = Srvgg(SrvggConfig(convs=convs))
    macs = count_macs(model, height=180, width=320, channels=3)
    assert macs / 1e9 == pytest.approx(giga, abs=5e-3)


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_have_the_official_names(name: str) -> None:
    with torch.device("meta"):
        state = PUBLISHED[name][0]().state_dict()
    for key, shape in OFFICIAL[name].items():
        assert state[key].shape == shape, key


# --- by hand: plain functions over a state_dict, written from the papers


def conv(state: dict, name: str, x: torch.Tensor, **options: int) -> torch.Tensor:
    weight = state[f"{name}.weight"]
    return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2, **options)


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.2 * x)


def twice(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def dense_blocks(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    y = x
    for j in "123":
        c = [y]
        for k in "1234":
            c.append(lrelu(conv(state, f"{name}.rdb{j}.conv{k}", torch.cat(c, 1))))
        y = y + 0.2 * conv(state, f"{name}.rdb{j}.conv5", torch.cat(c, 1))
    return x + 0.2 * y


def upscaled(state: dict, prefix: str, x: torch.Tensor) -> torch.Tensor:
    y = lrelu(conv(state, f"{prefix}up1", twice(x)))
    y = lrelu(conv(state, f"{prefix}up2", twice(y)))
    return lrelu(conv(state, f"{prefix}hr", y))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_rrdb_is_the_network_of_the_paper(scale: int) -> None:
    """Residuals times 0.2 twice, none after conv5; x1 and x2 fold colour-major, then rows."""
    model = moved(small_rrdb(scale))
    state, m = model.state_dict(), 4 // scale
    assert model.multiple == m
    x = torch.rand(2, 3, 5 * m, 7 * m).double()
    folded = [x[:, c, i::m, j::m] for c in range(3) for i in range(m) for j in range(m)]
    first = y = conv(state, "conv_first", torch.stack(folded, 1))
    for i in range(2):
        y = dense_blocks(state, f"body.{i}", y)
    y = upscaled(state, "conv_", first + conv(state, "conv_body", y))
    with torch.no_grad():
        assert model(x).shape == (2, 3, 5 * m * scale, 7 * m * scale)
        assert_close(model(x), conv(state, "conv_last", y), dtype="float64")


def test_rrdb_and_spsr_without_weights_are_black() -> None:
    """No skip from the picture."""
    for model in (small_rrdb(4), small_spsr()):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            assert not model(torch.rand(1, 3, 5, 6)).any()


@pytest.mark.parametrize("scale", [3, 8])
def test_rrdb_refuses_other_scales(scale: int) -> None:
    with pytest.raises(UsageError, match=f"no scale {scale}: 1, 2 and 4"):
        Rrdb(RrdbConfig(scale=scale))


def test_spsr_refuses_other_scales() -> None:
    with pytest.raises(UsageError, match="no scale 2: 4 is"):
        Spsr(SpsrConfig(scale=2))


def test_interpolation_is_linear_in_the_weights() -> None:
    a, b = (moved(small_rrdb(4), seed).state_dict() for seed in (1, 2))
    for alpha in (0.0, 0.3, 1.0):
        mixed = interpolate(a, b, alpha)
        assert mixed.keys() == a.keys()
        for name, tensor in mixed.items():
            expected = a[name].numpy() + alpha * (b[name].numpy() - a[name].numpy())
            assert_close(tensor, expected, dtype="float64")
    small_rrdb(4).load_state_dict(interpolate(a, b, 0.5))


def test_interpolation_needs_the_same_network_twice() -> None:
    a = small_rrdb(4).state_dict()
    with pytest.raises(ModelError, match=r"'conv_first.weight' is \(6, 3, .* and \(6, 12, "):
        interpolate(a, small_rrdb(2).state_dict(), 0.5)
    deeper = Rrdb(RrdbConfig(scale=4, width=6, growth=4, blocks=3)).state_dict()
    with pytest.raises(ModelError, match=r"30 tensors are in one file only, such as 'body\.2\."):
        interpolate(a, deeper, 0.5)


def test_gradient_map_is_the_length_of_the_central_difference() -> None:
    x = torch.rand(2, 3, 5, 7).double()
    black = np.pad(x.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)])
    expected = np.zeros(x.shape)
    for row in range(5):
        for column in range(7):
            down = black[..., row + 2, column + 1] - black[..., row, column + 1]
            across = black[..., row + 1, column + 2] - black[..., row + 1, column]
            expected[..., row, column] = np.sqrt(down**2 + across**2 + 1e-6)
    assert_close(gradient_map(x), expected, dtype="float64")


def test_gradient_map_of_a_flat_picture_has_a_gradient() -> None:
    x = torch.full((1, 3, 5, 5), 0.5, requires_grad=True)
    gradient_map(x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_spsr_is_the_network_of_the_paper() -> None:
    """Features after blocks 1 and 3 here (5, 10, 15, 20 by default), gradient features first."""
    assert SpsrConfig().taps == (5, 10, 15, 20)
    model = moved(small_spsr())
    state = model.state_dict()
    x = torch.rand(2, 3, 5, 7).double()

    first = y = conv(state, "conv_first", x)
    features = [y]  # features[n]: after block n
    for i in range(4):
        y = dense_blocks(state, f"body.{i}", y)
        features.append(y)
    y = upscaled(state, "conv_", first + conv(state, "conv_body", y))
    sr = conv(state, "conv_features", y)

    sobel_like = torch.tensor([[-1.0, 0.0, 1.0]]).double()
    down = F.conv2d(x.view(6, 1, 5, 7), sobel_like.T.view(1, 1, 3, 1), padding=(1, 0))
    across = F.conv2d(x.view(6, 1, 5, 7), sobel_like.view(1, 1, 1, 3), padding=(0, 1))
    length = (down**2 + across**2 + 1e-6).sqrt().view(2, 3, 5, 7)
    first = y = conv(state, "b_first", length)
    for i, tap in enumerate((1, 3)):
        y = dense_blocks(state, f"b_blocks.{i}", torch.cat([y, features[tap]], 1))
        y = conv(state, f"b_merges.{i}", y)
    y = upscaled(state, "b_", first + conv(state, "b_body", y))
    gradient = conv(state, "b_features", y)

    y = dense_blocks(state, "f_block", torch.cat([gradient, sr], 1))
    y = lrelu(conv(state, "f_hr", conv(state, "f_merge", y)))
    with torch.no_grad():
        picture, gradient_picture = model.with_gradient(x)
        assert picture.shape == gradient_picture.shape == (2, 3, 20, 28)
        assert_close(picture, conv(state, "f_last", y), dtype="float64")
        assert_close(gradient_picture, conv(state, "b_last", gradient), dtype="float64")
        assert torch.equal(model(x), picture)


def test_spsr_names_tell_the_fusion_and_the_sr_branch() -> None:
    """Training starts with the names that hold `f_`, from the tensors of an RRDBNet."""
    with torch.device("meta"):
        spsr, rrdb = Spsr(SpsrConfig()).state_dict(), Rrdb(RrdbConfig(scale=4)).state_dict()
    fusion = {name.split(".")[0] for name in spsr if "f_" in name}
    assert fusion == {"f_block", "f_merge", "f_hr", "f_last"}
    assert rrdb.keys() - spsr.keys() == {"conv_last.weight", "conv_last.bias"}
    assert all(spsr[name].shape == rrdb[name].shape for name in spsr.keys() & rrdb.keys())


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_srvgg_without_weights_is_nearest_neighbour(scale: int) -> None:
    model = Srvgg(SrvggConfig(scale=scale, width=8, convs=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        picture = torch.rand(2, 3, 5, 7)
        expected = picture.numpy().repeat(scale, axis=2).repeat(scale, axis=3)
        assert np.array_equal(model(picture).numpy(), expected)


def test_srvgg_is_a_stack_of_convolutions_with_a_slope_for_each_channel() -> None:
    model = moved(Srvgg(SrvggConfig(scale=3, width=8, convs=2)))
    state, x = model.state_dict(), torch.rand(2, 3, 5, 7).double()
    y = x
    for i in (0, 2, 4):
        y = conv(state, f"body.{i}", y)
        y = torch.where(y > 0, y, state[f"body.{i + 1}.weight"].view(-1, 1, 1) * y)
    y = conv(state, "body.6", y).view(2, 3, 3, 3, 5, 7)  # (N, colour, i, j, H, W)
    y = y.permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 15, 21)
    nearest = x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    with torch.no_grad():
        assert_close(model(x), y + nearest, dtype="float64")


# --- discriminators


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminators_give_logits(name: str) -> None:
    size = int(name.split("-")[1]) if name != "unet-sn" else 40
    expected = (2, 1, size, size) if name == "unet-sn" else (2, 1)
    with torch.device("meta"), torch.no_grad():
        assert DISCRIMINATORS[name]()(torch.rand(2, 3, size, size)).shape == expected


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("srgan-96", 128, r"built for 96x96 pictures, not \(128, 128\)"),
        ("vgg-128", 192, r"built for 128x128 pictures, not \(192, 192\)"),
        ("unet-sn", 42, r"divisible by 8, not \(42, 42\)"),
    ],
)
def test_discriminators_refuse_other_sizes(name: str, size: int, message: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match=message):
        DISCRIMINATORS[name]()(torch.rand(2, 3, size, size))


def test_vgg_discriminator_of_bebygan_has_32_filters_and_six_stages() -> None:
    with torch.device("meta"):
        state = DISCRIMINATORS["vgg-192-c32"]().state_dict()
    assert state["conv0_0.weight"].shape == (32, 3, 3, 3)
    assert state["conv5_1.weight"].shape == (256, 256, 4, 4)
    assert state["linear1.weight"].shape == (100, 256 * 3 * 3)
    assert "bn0_0.weight" not in state
    assert "conv0_1.bias" not in state


def test_vgg_discriminator_is_the_network_of_the_paper() -> None:
    model = moved(VggDiscriminator(VggDiscriminatorConfig(size=16, width=4)))
    state, x = model.state_dict(), torch.rand(2, 3, 16, 16).double()
    y = lrelu(conv(state, "conv0_0", x))
    for name, stride in [("0_1", 2), ("1_0", 1), ("1_1", 2)]:
        y = F.conv2d(y, state[f"conv{name}.weight"], stride=stride, padding=1)
        # fresh running statistics: mean 0, variance 1
        scale = (state[f"bn{name}.weight"] / np.sqrt(1 + 1e-5)).view(-1, 1, 1)
        y = lrelu(scale * y + state[f"bn{name}.bias"].view(-1, 1, 1))
    y = lrelu(y.flatten(1) @ state["linear1.weight"].T + state["linear1.bias"])
    y = y @ state["linear2.weight"].T + state["linear2.bias"]
    with torch.no_grad():
        assert_close(model(x), y, dtype="float64")


def test_unet_discriminator_is_the_network_of_the_paper() -> None:
    """Weights of spectral norm 1 (by an SVD), encoder features added, not concatenated."""
    torch.manual_seed(0)
    model = UnetDiscriminator(UnetDiscriminatorConfig(width=4)).double()
    x = torch.rand(2, 3, 16, 24).double()
    with torch.no_grad():
        for _ in range(500):  # power iterations, one a training step
            model(x[:, :, :8, :8])
    model.eval()
    state = model.state_dict()

    def normed(name: str, y: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = state[f"{name}.weight_orig"]
        weight = weight / torch.linalg.svdvals(weight.flatten(1))[0]
        return lrelu(F.conv2d(y, weight, stride=stride, padding=1))

    def bilinear(y: torch.Tensor) -> torch.Tensor:
        return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)

    x0 = lrelu(conv(state, "conv0", x))
    x1 = normed("conv1", x0, 2)
    x2 = normed("conv2", x1, 2)
    x3 = normed("conv3", x2, 2)
    y = normed("conv4", bilinear(x3)) + x2
    y = normed("conv5", bilinear(y)) + x1
    y = normed("conv6", bilinear(y)) + x0
    y = conv(state, "conv9", normed("conv8", normed("conv7", y)))
    with torch.no_grad():
        assert_close(model(x), y, dtype="float64")


def test_unet_discriminator_learns_from_two_passes_of_one_step() -> None:
    model = UnetDiscriminator(UnetDiscriminatorConfig(width=4)).train()
    real, fake = torch.rand(2, 1, 3, 8, 8)
    (model(real).mean() - model(fake).mean()).backward()
    assert model.conv1.weight_orig.grad.abs().sum() > 0
    again = UnetDiscriminator(UnetDiscriminatorConfig(width=4))
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(again.conv4.weight_orig, model.conv4.weight_orig)
