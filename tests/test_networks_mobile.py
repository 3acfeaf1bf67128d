"""Mobile networks and PISR against published counts, their expanded forms and formulas by hand."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close

from edgesr.networks import pisr, sesr
from edgesr.networks.abpn import Abpn, AbpnConfig
from edgesr.networks.bicubicpp import BicubicPlusPlus, BicubicPlusPlusConfig
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig
from edgesr.networks.pisr import PisrConfig, PisrStudent, PisrTeacher
from edgesr.networks.quicksrnet import QuickSrNet, QuickSrNetConfig
from edgesr.networks.sesr import Sesr, SesrConfig
from edgesr.networks.xlsr import Xlsr, XlsrConfig

SIZES = [(1, 1), (2, 3), (5, 8), (9, 7)]

SESR = {
    "m3": SesrConfig(scale=2, blocks=3),
    "m5": SesrConfig(scale=2),
    "m5-x4": SesrConfig(scale=4),
    "m7": SesrConfig(scale=2, blocks=7),
    "m11": SesrConfig(scale=2, blocks=11, expanded=64),
    "xl": SesrConfig(scale=2, blocks=11, width=32, expanded=64),
    "m3-rgb": SesrConfig(scale=2, blocks=3, rgb=True),
    "m5-rgb": SesrConfig(scale=2, rgb=True),
    "m7-rgb": SesrConfig(scale=2, blocks=7, rgb=True),
    "m11-rgb": SesrConfig(scale=2, blocks=11, rgb=True),
    "xl-rgb": SesrConfig(scale=2, blocks=11, width=32, rgb=True),
}

# Weights and biases of the convolutions; the paper does not count PReLU's slopes.
SESR_COLLAPSED = {
    "m3": 8_912,
    "m5": 13_520,
    "m5-x4": 18_320,
    "m7": 18_128,
    "m11": 27_344,
    "xl": 105_376,
    "m3-rgb": 12_988,
    "m5-rgb": 17_628,
    "m7-rgb": 22_268,
    "m11-rgb": 31_548,
    "xl-rgb": 113_772,
}

SMALL = {"width": 4, "blocks": 2}
MEDIUM = {"blocks": 5}
LARGE = {"width": 64, "blocks": 11, "ito": True}

PARAMETERS = [
    (QuickSrNet, QuickSrNetConfig(scale=2), 22_860),
    (QuickSrNet, QuickSrNetConfig(scale=3), 27_195),
    (QuickSrNet, QuickSrNetConfig(scale=4), 33_264),
    (QuickSrNet, QuickSrNetConfig(scale=2, **MEDIUM), 50_604),
    (QuickSrNet, QuickSrNetConfig(scale=3, **MEDIUM), 54_939),
    (QuickSrNet, QuickSrNetConfig(scale=4, **MEDIUM), 61_008),
    (QuickSrNet, QuickSrNetConfig(scale=2, **LARGE), 414_972),
    (QuickSrNet, QuickSrNetConfig(scale=3, **LARGE), 423_687),
    (QuickSrNet, QuickSrNetConfig(scale=4, **LARGE), 435_888),
    (Xlsr, XlsrConfig(scale=2), 17_612),
    (Xlsr, XlsrConfig(scale=3), 21_947),
    (Xlsr, XlsrConfig(scale=4), 28_016),
    (Abpn, AbpnConfig(scale=3), 43_035),
    (Abpn, AbpnConfig(scale=3, narrow_last=True), 42_539),
    (BicubicPlusPlus, BicubicPlusPlusConfig(scale=3), 50_400),
]

KEYS = [
    (QuickSrNet(QuickSrNetConfig(scale=2)), "cnn.4.weight", (32, 32, 3, 3)),
    (QuickSrNet(QuickSrNetConfig(scale=2)), "conv_last.bias", (12,)),
    (QuickSrNet(QuickSrNetConfig(scale=2, ito=True)), "anchor.net.weight", (12, 3, 1, 1)),
    (Xlsr(XlsrConfig(scale=3)), "cnn.0.weight", (32, 3, 3, 3)),
    (Xlsr(XlsrConfig(scale=3)), "cnn.5.net.0.weight", (32, 8, 3, 3)),
    (Xlsr(XlsrConfig(scale=3)), "cnn.5.net.2.weight", (32, 32, 1, 1)),
    (Xlsr(XlsrConfig(scale=3)), "residual.weight", (16, 3, 3, 3)),
    (Xlsr(XlsrConfig(scale=3)), "tail.0.weight", (32, 48, 1, 1)),
    (Xlsr(XlsrConfig(scale=3)), "tail.2.weight", (27, 32, 3, 3)),
    (Abpn(AbpnConfig(scale=3)), "cnn.12.weight", (27, 28, 3, 3)),
    (BicubicPlusPlus(BicubicPlusPlusConfig(scale=3)), "conv_out.weight", (108, 32, 3, 3)),
    (Sesr(SesrConfig(scale=2)), "conv_first.conv_expand.weight", (256, 1, 5, 5)),
    (Sesr(SesrConfig(scale=2)), "residual_block.4.activation.weight", (16,)),
    (Sesr(SesrConfig(scale=2, rgb=True)), "conv_last.conv_squeeze.bias", (12,)),
    (PisrTeacher(PisrConfig(scale=2)), "encoder.0.2.weight", (56, 56, 5, 5)),
    (PisrTeacher(PisrConfig(scale=2)), "encoder.0.6.weight", (1, 12, 3, 3)),
    (PisrStudent(PisrConfig(scale=2)), "expanding_mean.1.weight", (1,)),
    (PisrStudent(PisrConfig(scale=2)), "expanding_var.2.weight", (56, 56, 1, 1)),
]


def on_meta(network: type, config: object) -> torch.nn.Module:
    with torch.device("meta"):
        return network(config)


def randomised(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """Every parameter moved, so that no bias, slope or branch is silent."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def zeroed(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.eval()


def enlarged(picture: torch.Tensor, scale: int) -> torch.Tensor:
    return F.interpolate(picture, scale_factor=scale, mode="nearest")


def depth_to_space(y: torch.Tensor, block: int) -> torch.Tensor:
    """TensorFlow's, pixel by pixel in a loop: channel (row*block + column)*C + c."""
    n, channels, h, w = y.shape
    c = channels // block**2
    out = torch.empty(n, c, h * block, w * block)
    for row in range(block):
        for column in range(block):
            first = (row * block + column) * c
            out[:, :, row::block, column::block] = y[:, first : first + c]
    return out


# Counts


@pytest.mark.parametrize(("network", "config", "count"), PARAMETERS, ids=str)
def test_parameters_are_the_published_ones(network: type, config: object, count: int) -> None:
    assert count_parameters(on_meta(network, config)) == count


@pytest.mark.parametrize("name", SESR)
def test_sesr_collapsed_has_the_published_parameters(name: str) -> None:
    config = SESR[name]
    slopes = 0 if config.rgb else config.blocks * config.width
    plain = on_meta(sesr.PlainSesr, config)
    assert count_parameters(plain) - slopes == SESR_COLLAPSED[name]


@pytest.mark.parametrize(
    ("network", "config", "giga"),
    [
        (sesr.PlainSesr, SESR["m3"], 2.05),
        (sesr.PlainSesr, SESR["m5"], 3.11),
        (QuickSrNet, QuickSrNetConfig(scale=2), 5.24),
    ],
    ids=str,
)
def test_multiply_adds_are_the_published_ones(network: type, config: object, giga: float) -> None:
    model = on_meta(network, config)
    channels = 1 if model.colour == "y" else 3
    macs = count_macs(model, height=360, width=640, channels=channels)
    assert macs / 1e9 == pytest.approx(giga, abs=0.006)


def test_bicubicpp_multiply_adds_are_those_of_720p_to_2160p() -> None:
    model = on_meta(BicubicPlusPlus, BicubicPlusPlusConfig(scale=3))
    macs = count_macs(model, height=720, width=1280, channels=3)
    assert macs / 1e9 == pytest.approx(11.61, abs=0.006)


def test_sesr_expanded_costs_what_the_authors_say() -> None:
    """ARM's README: 41.77 G for 32 crops of 64x64 if M5 is trained without collapsing."""
    model = on_meta(Sesr, SESR["m5"])
    taps = sum(p.numel() for p in model.parameters() if p.dim() == 4)
    assert 32 * 64 * 64 * taps / 1e9 == pytest.approx(41.77, abs=0.006)


# Names and sizes


@pytest.mark.parametrize(("model", "key", "shape"), KEYS, ids=lambda value: str(value)[:40])
def test_parameter_names(model: torch.nn.Module, key: str, shape: tuple[int, ...]) -> None:
    assert model.state_dict()[key].shape == shape


def test_bicubicpp_has_four_tensors_and_no_bias() -> None:
    model = BicubicPlusPlus(BicubicPlusPlusConfig(scale=3))
    assert set(model.state_dict()) == {
        f"{conv}.weight" for conv in ("conv0", "conv1", "conv2", "conv_out")
    }


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_is_scale_times_as_large(scale: int, size: tuple[int, int]) -> None:
    h, w = size
    for model in (
        Sesr(SesrConfig(scale=scale, **SMALL)),
        Sesr(SesrConfig(scale=scale, rgb=True, **SMALL)),
        QuickSrNet(QuickSrNetConfig(scale=scale, ito=True, **SMALL)),
        Xlsr(XlsrConfig(scale=scale, width=8, side=4)),
        Abpn(AbpnConfig(scale=scale, **SMALL)),
        BicubicPlusPlus(BicubicPlusPlusConfig(scale=scale, width=4)),
    ):
        channels = 1 if model.colour == "y" else 3
        multiple = getattr(model, "multiple", 1)
        picture = torch.rand(2, channels, h * multiple, w * multiple)
        with torch.no_grad():
            expected = (2, channels, h * multiple * scale, w * multiple * scale)
            assert model(picture).shape == expected


# What is left when the weights are gone, or only the deterministic part of them stays


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("rgb", [False, True])
def test_sesr_without_weights_is_nearest_neighbour(scale: int, rgb: bool) -> None:
    """The picture that is added is not shifted by 0.5; colours stay apart."""
    model = zeroed(Sesr(SesrConfig(scale=scale, rgb=rgb, **SMALL)))
    picture = torch.rand(2, 3 if rgb else 1, 5, 7)
    assert torch.equal(model(picture), enlarged(picture, scale))
    assert torch.equal(sesr.merge(model)(picture), enlarged(picture, scale))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("pixel_range", [1.0, 255.0])
def test_abpn_without_weights_is_nearest_neighbour(scale: int, pixel_range: float) -> None:
    model = zeroed(Abpn(AbpnConfig(scale=scale, pixel_range=pixel_range)))
    picture = torch.rand(2, 3, 5, 7)
    with torch.no_grad():
        assert_close(model(picture), enlarged(picture, scale), dtype="float32")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_xlsr_and_bicubicpp_have_no_skip(scale: int) -> None:
    for model in (
        Xlsr(XlsrConfig(scale=scale)),
        BicubicPlusPlus(BicubicPlusPlusConfig(scale=scale)),
    ):
        with torch.no_grad():
            assert not zeroed(model)(torch.rand(1, 3, 4, 6)).any()


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("ito", [False, True])
def test_quicksrnet_starts_as_nearest_neighbour(
    monkeypatch: pytest.MonkeyPatch, scale: int, ito: bool
) -> None:
    """Torch's random start taken away, what remains copies every colour to its own pixels."""
    monkeypatch.setattr(torch.nn.Conv2d, "reset_parameters", lambda conv: zeroed(conv))
    model = QuickSrNet(QuickSrNetConfig(scale=scale, ito=ito))
    picture = torch.rand(2, 3, 5, 7)
    with torch.no_grad():
        assert torch.equal(model(picture), enlarged(picture, scale))


def test_quicksrnet_keeps_the_random_start_beside_the_taps() -> None:
    torch.manual_seed(0)
    model = QuickSrNet(QuickSrNetConfig(scale=2))
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(3, 32, 3)
    difference = model.cnn[0].weight - plain.weight
    expected = torch.zeros(32, 3, 3, 3)
    for i in range(3):
        expected[i, i, 1, 1] = 1.0
    assert_close(difference.detach(), expected, dtype="float32")


def test_xlsr_starts_alive_behind_its_clip() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        y = Xlsr(XlsrConfig(scale=3))(torch.rand(1, 3, 16, 16))
    assert (y > 0).float().mean() > 0.3


@pytest.mark.parametrize(
    "model",
    [
        QuickSrNet(QuickSrNetConfig(scale=2, ito=True)),
        Xlsr(XlsrConfig(scale=2)),
        Abpn(AbpnConfig(scale=2)),
        Abpn(AbpnConfig(scale=2, pixel_range=255.0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_clip_is_part_of_the_network(model: torch.nn.Module) -> None:
    """A large last bias of either sign comes out as exactly 0 and 1."""
    last = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels == 12]
    bias = torch.tensor([-1000.0, 1000.0]).repeat(6)
    with torch.no_grad():
        last[-1].bias.copy_(bias)
        y = model(torch.rand(1, 3, 6, 6))
    assert torch.equal(y[..., :, 0::2], torch.zeros(1, 3, 12, 6))
    assert torch.equal(y[..., :, 1::2], torch.ones(1, 3, 12, 6))


# By hand


def test_abpn_range_is_the_authors() -> None:
    """0..255 inside; in TensorFlow's channel order nine copies of the picture are the anchor."""
    model = randomised(Abpn(AbpnConfig(scale=3, narrow_last=True, pixel_range=255.0)))
    picture = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        y = 255 * picture
        for layer in (0, 2, 4, 6, 8, 10):
            y = F.conv2d(y, model.cnn[layer].weight, model.cnn[layer].bias, padding=1).relu()
        y = F.conv2d(y, model.cnn[12].weight, model.cnn[12].bias, padding=1)
        y = y.unflatten(1, (3, 9)).transpose(1, 2).flatten(1, 2) + torch.cat([255 * picture] * 9, 1)
        expected = depth_to_space(y, 3).clamp(0, 255) / 255
        assert_close(model(picture), expected, dtype="float32")


def test_xlsr_first_layer_is_four_convolutions_and_groups_are_four() -> None:
    model = randomised(Xlsr(XlsrConfig(scale=3)))
    picture = torch.rand(1, 3, 6, 5)
    w = model.state_dict()
    with torch.no_grad():
        parts = [
            F.conv2d(picture, weight, bias, padding=1).relu()
            for weight, bias in zip(
                w["cnn.0.weight"].split(8), w["cnn.0.bias"].split(8), strict=True
            )
        ]
        y = F.conv2d(torch.cat(parts, dim=1), w["cnn.2.weight"], w["cnn.2.bias"])
        for i in (3, 4, 5):
            weights, biases = w[f"cnn.{i}.net.0.weight"], w[f"cnn.{i}.net.0.bias"]
            groups = zip(y.split(8, dim=1), weights.split(8), biases.split(8), strict=True)
            y = torch.cat([F.conv2d(a, k, b, padding=1) for a, k, b in groups], dim=1).relu()
            y = F.conv2d(y, w[f"cnn.{i}.net.2.weight"], w[f"cnn.{i}.net.2.bias"])
        side = F.conv2d(picture, w["residual.weight"], w["residual.bias"], padding=1)
        y = torch.cat([y, side], dim=1)
        y = F.conv2d(y, w["tail.0.weight"], w["tail.0.bias"]).relu()
        y = F.conv2d(y, w["tail.2.weight"], w["tail.2.bias"], padding=1)
        assert_close(model(picture), F.pixel_shuffle(y, 3).clamp(0, 1), dtype="float32")


def test_bicubicpp_skip_is_after_the_activation() -> None:
    model = randomised(BicubicPlusPlus(BicubicPlusPlusConfig(scale=3, width=8)))
    picture = torch.rand(1, 3, 6, 10)

    def leaky(x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x, 0.1 * x)

    with torch.no_grad():
        half = F.conv2d(picture, model.conv0.weight, padding=1)[..., ::2, ::2]
        first = leaky(half)
        y = leaky(F.conv2d(first, model.conv1.weight, padding=1))
        y = leaky(F.conv2d(y, model.conv2.weight, padding=1)) + first
        expected = F.pixel_shuffle(F.conv2d(y, model.conv_out.weight, padding=1), 6)
        assert_close(model(picture), expected, dtype="float32")


# SESR's collapse


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("rgb", [False, True])
def test_sesr_collapsed_and_merged_equal_the_expanded(
    size: tuple[int, int], scale: int, rgb: bool
) -> None:
    model = randomised(Sesr(SesrConfig(scale=scale, rgb=rgb, expanded=24, width=6, blocks=2)))
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    picture = torch.rand(2, 3 if rgb else 1, *size)
    with torch.no_grad():
        expanded = model.forward_expanded(picture)
        assert_close(model(picture), expanded, dtype="float32")
        assert_close(sesr.merge(model)(picture), expanded, dtype="float32")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_sesr_collapsed_has_the_gradients_of_the_expanded() -> None:
    model = randomised(Sesr(SesrConfig(scale=2, expanded=24, width=6, blocks=2))).double()
    picture, truth = torch.rand(2, 1, 7, 7).double(), torch.rand(2, 1, 14, 14).double()
    gradients = []
    for run in (model.forward, model.forward_expanded):
        model.zero_grad()
        F.mse_loss(run(picture), truth).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, dtype="float64")


@pytest.mark.parametrize("scale", [2, 4])
def test_sesr_by_hand_and_in_tensorflows_order(scale: int) -> None:
    """Nothing of the network's own methods: the paper's formula on its tensors."""
    model = randomised(Sesr(SesrConfig(scale=scale, expanded=24, width=6, blocks=2)))
    picture, w = torch.rand(2, 1, 5, 6), model.state_dict()

    def linear(x: torch.Tensor, name: str, padding: int) -> torch.Tensor:
        x = F.conv2d(x, w[f"{name}.conv_expand.weight"], padding=padding)
        return F.conv2d(x, w[f"{name}.conv_squeeze.weight"])

    first = linear(picture - 0.5, "conv_first", 2)  # no activation
    y = first
    for i in range(2):
        y = y + linear(y, f"residual_block.{i}", 1)
        slope = w[f"residual_block.{i}.activation.weight"][:, None, None]
        y = torch.where(y > 0, y, slope * y)
    y = linear(y + first, "conv_last", 2) + picture
    expected = depth_to_space(y, 2)
    if scale == 4:
        expected = depth_to_space(expected, 2)
        assert not torch.allclose(expected, F.pixel_shuffle(y, 4), atol=1e-3)  # the trap
    with torch.no_grad():
        assert_close(model(picture), expected, dtype="float32")


def test_sesr_rgb_by_hand() -> None:
    """AIMET's: ReLU after the first block too, biases, no shift."""
    model = randomised(Sesr(SesrConfig(scale=3, expanded=24, width=6, blocks=2, rgb=True)))
    picture, w = torch.rand(2, 3, 5, 6), model.state_dict()

    def linear(x: torch.Tensor, name: str, padding: int) -> torch.Tensor:
        x = F.conv2d(x, w[f"{name}.conv_expand.weight"], padding=padding)
        return F.conv2d(x, w[f"{name}.conv_squeeze.weight"], w[f"{name}.conv_squeeze.bias"])

    first = linear(picture, "conv_first", 2).relu()
    y = first
    for i in range(2):
        y = (y + linear(y, f"residual_block.{i}", 1)).relu()
    y = F.pixel_shuffle(linear(y + first, "conv_last", 2), 3) + enlarged(picture, 3)
    with torch.no_grad():
        assert_close(model(picture), y, dtype="float32")


def test_sesr_starts_as_relu() -> None:
    """The slopes start at 0, as in the framework of the authors' code."""
    model = Sesr(SesrConfig(scale=2, **SMALL))
    assert not model.residual_block[0].activation.weight.any()


# PISR


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_pisr_parameters_are_the_published_ones(scale: int) -> None:
    teacher = on_meta(PisrTeacher, PisrConfig(scale=scale))
    student = on_meta(PisrStudent, PisrConfig(scale=scale))
    assert count_parameters(teacher.encoder) == 86_084
    assert count_parameters(teacher.decoder) == 12_644
    assert count_parameters(student) == 25_414
    assert count_parameters(student.backbone) == 12_644


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pisr_teacher_sees_the_large_picture(scale: int, size: tuple[int, int]) -> None:
    h, w = size
    teacher = PisrTeacher(PisrConfig(scale=scale, features=6, shrunk=3, mappings=1))
    large = torch.rand(2, 1, h * scale, w * scale)
    with torch.no_grad():
        picture, compact = teacher(large)
        assert picture.shape == large.shape
        assert compact.shape == (2, 1, h, w)
        assert torch.equal(teacher.decoder(compact), picture)
        assert teacher.feature(large).shape == (2, 6, h, w)


def test_pisr_compact_feature_by_hand() -> None:
    """Four convolutions, the second one with the stride, none after the last activation."""
    teacher = randomised(PisrTeacher(PisrConfig(scale=3, features=6, shrunk=3, mappings=1)))
    large, w = torch.rand(1, 1, 12, 9), teacher.state_dict()
    y = large
    for i, (padding, stride) in {0: (2, 1), 2: (2, 3), 4: (1, 1), 6: (1, 1)}.items():
        weight, bias = w[f"encoder.0.{i}.weight"], w[f"encoder.0.{i}.bias"]
        y = F.conv2d(y, weight, bias, padding=padding)[..., ::stride, ::stride]
        if i < 6:
            y = torch.where(y > 0, y, w[f"encoder.0.{i + 1}.weight"] * y)
    with torch.no_grad():
        assert_close(teacher(large)[1], y, dtype="float32")


def test_pisr_student_starts_from_the_teachers_decoder() -> None:
    """All five parts; on the compact feature the student then says what the teacher says."""
    config = PisrConfig(scale=2, features=6, shrunk=3, mappings=1)
    teacher, student = PisrTeacher(config), PisrStudent(config)
    student.backbone.load_state_dict(teacher.decoder.state_dict())
    large = torch.rand(1, 1, 12, 10)
    with torch.no_grad():
        picture, compact = teacher(large)
        assert torch.equal(student(compact), picture)
        assert torch.equal(pisr.feature(student.backbone, compact), teacher.feature(large))


@pytest.mark.parametrize(
    ("shared", "shape"),
    [(None, (2, 6, 5, 7)), ("C", (2, 6, 1, 1)), ("HW", (2, 1, 5, 7)), ("CHW", (2, 1, 1, 1))],
)
def test_pisr_estimates_by_hand(shared: str | None, shape: tuple[int, ...]) -> None:
    config = PisrConfig(scale=2, features=6, shrunk=3, mappings=1, shared_spread=shared)
    student = randomised(PisrStudent(config))
    captured = []
    # The feature is what the last layer of the FSRCNN gets, so after expanding and its PReLU.
    student.backbone.last_part.register_forward_hook(lambda m, x, y: captured.append(x[0]))
    picture, w = torch.rand(2, 1, 5, 7), student.state_dict()
    with torch.no_grad():
        plain = student(picture)
        small, location, scale = student.with_estimates(picture)
    assert torch.equal(plain, small)

    def by_hand(name: str) -> torch.Tensor:
        y = F.conv2d(captured[0], w[f"{name}.0.weight"], w[f"{name}.0.bias"])
        y = torch.where(y > 0, y, w[f"{name}.1.weight"] * y)
        return F.conv2d(y, w[f"{name}.2.weight"], w[f"{name}.2.bias"])

    assert_close(location, by_hand("expanding_mean"), dtype="float32")
    spread = by_hand("expanding_var")
    if shared in ("C", "CHW"):
        spread = spread.mean(dim=(2, 3), keepdim=True)
    assert_close(scale, 0.1 * torch.log1p(spread.exp()) + 1e-8, dtype="float32")
    assert scale.shape == shape
    assert location.shape == (2, 6, 5, 7)
    assert scale.min() > 0


def test_pisr_scale_stays_over_zero_where_softplus_is_zero() -> None:
    student = zeroed(PisrStudent(PisrConfig(scale=2, features=6, shrunk=3, mappings=1)))
    with torch.no_grad():
        student.expanding_var[2].bias.fill_(-1e4)
        assert student.with_estimates(torch.rand(1, 1, 3, 3))[2].min() == pytest.approx(1e-8)
        student.expanding_var[2].bias.fill_(0.0)
        scale = student.with_estimates(torch.rand(1, 1, 3, 3))[2]
    assert scale[0, 0, 0, 0].item() == pytest.approx(0.1 * math.log(2))


def test_pisr_merge_drops_the_heads() -> None:
    student = randomised(PisrStudent(PisrConfig(scale=3, features=6, shrunk=3, mappings=1)))
    plain = pisr.merge(student)
    assert type(plain) is Fsrcnn
    assert set(plain.state_dict()) == set(Fsrcnn(plain.config).state_dict())
    picture = torch.rand(2, 1, 5, 7)
    with torch.no_grad():
        assert torch.equal(plain(picture), student(picture))
        plain.last_part.weight.zero_()
        assert student.backbone.last_part.weight.any()  # a copy


def test_pisr_does_not_start_silent() -> None:
    """Torch's own initialisation, not FSRCNN's N(0, 0.001) of the last layer."""
    torch.manual_seed(0)
    silent = Fsrcnn(FsrcnnConfig(scale=2)).last_part.weight.std()
    loud = PisrStudent(PisrConfig(scale=2)).backbone.last_part.weight.std()
    assert loud > 5 * silent
