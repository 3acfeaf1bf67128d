"""SRDenseNet, RDN, EDSR, SRResNet, MSRResNet, RCAN and EBRN against counts and hand-made forms.

The hand-made forms compute a network from its state_dict alone, by functions of torch: they know
the official names, and nothing of the classes under test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.nn.functional as F
from tolerances import assert_close

from edgesr.networks.ebrn import Ebrn, EbrnConfig
from edgesr.networks.edsr import Edsr, EdsrConfig
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.networks.msrresnet import Msrresnet, MsrresnetConfig
from edgesr.networks.rcan import Rcan, RcanConfig
from edgesr.networks.rdn import Rdn, RdnConfig
from edgesr.networks.srdensenet import Srdensenet, SrdensenetConfig
from edgesr.networks.srresnet import Srresnet, SrresnetConfig

MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
WXYWHU = {
    "stem": 16,
    "layers_see_everything": True,
    "transposed_kernel": 4,
    "activated_tail": False,
}
EDSR_LARGE = {"blocks": 32, "width": 256, "res_scale": 0.1}

PARAMETERS = {
    "edsr-baseline x2": (lambda: Edsr(EdsrConfig(scale=2)), 1_369_859),
    "edsr-baseline x3": (lambda: Edsr(EdsrConfig(scale=3)), 1_554_499),
    "edsr-baseline x4": (lambda: Edsr(EdsrConfig(scale=4)), 1_517_571),
    "edsr x4": (lambda: Edsr(EdsrConfig(scale=4, **EDSR_LARGE)), 43_089_923),
    "msrresnet x2": (lambda: Msrresnet(MsrresnetConfig(scale=2)), 1_369_859),
    "msrresnet x3": (lambda: Msrresnet(MsrresnetConfig(scale=3)), 1_554_499),
    "msrresnet x4": (lambda: Msrresnet(MsrresnetConfig(scale=4)), 1_517_571),
    "srresnet x4": (lambda: Srresnet(SrresnetConfig(scale=4)), 1_547_350),
    "rdn x2": (lambda: Rdn(RdnConfig(scale=2)), 22_123_395),
    "rdn x3": (lambda: Rdn(RdnConfig(scale=3)), 22_308_035),
    "rdn x4": (lambda: Rdn(RdnConfig(scale=4)), 22_271_107),
    "srdensenet x4": (lambda: Srdensenet(SrdensenetConfig(scale=4)), 2_659_585),
    "srdensenet wxywhu v1": (lambda: Srdensenet(SrdensenetConfig(scale=4, **WXYWHU)), 7_159_969),
    "srdensenet wxywhu v2": (
        lambda: Srdensenet(SrdensenetConfig(scale=4, bottleneck=128, **WXYWHU)),
        5_452_449,
    ),
}

# Published rounded. Groups of 20 blocks in the paper, 16 in BasicSR, 6 in a usual student.
ROUNDED = {
    "rcan x4": (lambda: Rcan(RcanConfig(scale=4)), 15.59),
    "rcan 16 x2": (lambda: Rcan(RcanConfig(scale=2, blocks=16)), 12.467),
    "rcan 16 x3": (lambda: Rcan(RcanConfig(scale=3, blocks=16)), 12.652),
    "rcan 16 x4": (lambda: Rcan(RcanConfig(scale=4, blocks=16)), 12.615),
    "rcan-small x4": (lambda: Rcan(RcanConfig(scale=4, blocks=6)), 5.17),
}

# 10^9 multiply-adds for a 1280x720 output.
GIGA_MACS = {
    "edsr-baseline x2": (2, lambda: Edsr(EdsrConfig(scale=2)), 316),
    "edsr-baseline x3": (3, lambda: Edsr(EdsrConfig(scale=3)), 160),
    "edsr-baseline x4": (4, lambda: Edsr(EdsrConfig(scale=4)), 114),
    "msrresnet x4": (4, lambda: Msrresnet(MsrresnetConfig(scale=4)), 146),
}

# Every kind of layer, few of each.
REDUCED: dict[str, Callable[[int], torch.nn.Module]] = {
    "srdensenet": lambda scale: Srdensenet(
        SrdensenetConfig(scale=scale, stem=8, blocks=2, layers=3, growth=4, bottleneck=8)
    ),
    "srdensenet-wxywhu": lambda scale: Srdensenet(
        SrdensenetConfig(
            **(WXYWHU | {"stem": 4}), scale=scale, blocks=2, layers=3, growth=4, bottleneck=8
        )
    ),
    "rdn": lambda scale: Rdn(RdnConfig(scale=scale, blocks=2, layers=3, growth=4, width=8)),
    "edsr": lambda scale: Edsr(EdsrConfig(scale=scale, blocks=2, width=8, res_scale=0.1)),
    "srresnet": lambda scale: Srresnet(SrresnetConfig(scale=scale, blocks=2, width=8)),
    "msrresnet": lambda scale: Msrresnet(MsrresnetConfig(scale=scale, blocks=2, width=8)),
    "rcan": lambda scale: Rcan(RcanConfig(scale=scale, groups=2, blocks=2, width=8, squeeze=4)),
    "ebrn": lambda scale: Ebrn(EbrnConfig(scale=scale, blocks=3, width=8, stem=12)),
}
GRID = [
    (name, scale) for name in REDUCED for scale in (2, 3, 4) if scale != 3 or "dense" not in name
]


def randomised(name: str, scale: int) -> torch.nn.Module:
    """A reduced network in evaluation mode, every parameter and running statistic moved."""
    torch.manual_seed(scale)
    model = REDUCED[name](scale).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
            if "attention" in key:  # else 0..255 drives every sigmoid to 0 or 1
                tensor.mul_(0.03)
    return model


def picture(model: torch.nn.Module, height: int = 7, width: int = 10) -> torch.Tensor:
    return torch.rand(2, 1 if model.colour == "y" else 3, height, width)


def zeroed(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.eval()


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name: str) -> None:
    builder, count = PARAMETERS[name]
    with torch.device("meta"):
        assert count_parameters(builder()) == count


@pytest.mark.parametrize("name", ROUNDED)
def test_parameters_are_the_published_ones_when_rounded(name: str) -> None:
    builder, millions = ROUNDED[name]
    digits = len(str(millions).split(".")[1])
    with torch.device("meta"):
        assert round(count_parameters(builder()) / 1e6, digits) == millions


def test_ebrn_has_about_the_published_parameters() -> None:
    """7.9M; the unused down-flow of the last module, left out here, would be 0.37M."""
    with torch.device("meta"):
        count = count_parameters(Ebrn(EbrnConfig(scale=4)))
    assert count / 1e6 == pytest.approx(7.9, rel=0.05)


@pytest.mark.parametrize("name", GIGA_MACS)
def test_multiply_adds_are_the_published_ones(name: str) -> None:
    scale, builder, giga = GIGA_MACS[name]
    with torch.device("meta"):
        model = builder()
    macs = count_macs(model, height=720 // scale, width=1280 // scale, channels=3)
    assert macs / 1e9 == pytest.approx(giga, rel=5e-3)


@pytest.mark.parametrize(("name", "scale"), GRID)
@torch.no_grad()
def test_output_is_scale_times_as_large(name: str, scale: int) -> None:
    model = randomised(name, scale)
    for height, width in [(1, 1), (5, 7), (8, 6)]:
        x = picture(model, height, width)
        assert model(x).shape == (2, x.shape[1], height * scale, width * scale)


def conv(s: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    weight = s[f"{name}.weight"]
    return F.conv2d(x, weight, s.get(f"{name}.bias"), padding=weight.shape[-1] // 2)


def shuffled(s: dict, names: list[str], x: torch.Tensor) -> torch.Tensor:
    """Convolution, then out[c, h*r + i, w*r + j] = in[c*r*r + i*r + j, h, w], for every name."""
    for name in names:
        y = conv(s, name, x)
        n, c, h, w = y.shape
        r = round((c / x.shape[1]) ** 0.5)
        y = y.reshape(n, c // r**2, r, r, h, w).permute(0, 1, 4, 2, 5, 3)
        x = y.reshape(n, c // r**2, h * r, w * r)
    return x


def upsample_names(prefix: str, scale: int) -> list[str]:
    return [f"{prefix}.0", f"{prefix}.2"][: scale // 2 if scale != 3 else 1]


def edsr_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    first = y = conv(s, "conv_first", (x - MEAN) * 255)
    for i in range(2):
        y = y + 0.1 * conv(s, f"body.{i}.conv2", conv(s, f"body.{i}.conv1", y).clamp(min=0))
    y = shuffled(s, upsample_names("upsample", scale), first + conv(s, "conv_after_body", y))
    return conv(s, "conv_last", y) / 255 + MEAN


def rcan_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    first = y = conv(s, "conv_first", (x - MEAN) * 255)
    for g in range(2):
        group = y
        for b in range(2):
            block = f"body.{g}.residual_group.{b}.rcab"
            z = conv(s, f"{block}.2", conv(s, f"{block}.0", y).clamp(min=0))
            mean = z.sum(dim=(2, 3)) / (z.shape[2] * z.shape[3])  # (N, C)
            squeeze, excite = f"{block}.3.attention.1", f"{block}.3.attention.3"
            inner = mean @ s[f"{squeeze}.weight"][:, :, 0, 0].T + s[f"{squeeze}.bias"]
            outer = inner.clamp(min=0) @ s[f"{excite}.weight"][:, :, 0, 0].T + s[f"{excite}.bias"]
            y = y + z / (1 + torch.exp(-outer))[:, :, None, None]
        y = group + conv(s, f"body.{g}.conv", y)
    y = shuffled(s, upsample_names("upsample", scale), first + conv(s, "conv_after_body", y))
    return conv(s, "conv_last", y) / 255 + MEAN


def rdn_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    first = conv(s, "sfe1", x)
    y, outputs = conv(s, "sfe2", first), []
    for i in range(2):
        dense = y
        for j in range(3):
            new = conv(s, f"rdbs.{i}.layers.{j}.conv", dense).clamp(min=0)
            dense = torch.cat([dense, new], dim=1)
        y = y + conv(s, f"rdbs.{i}.lff", dense)
        outputs.append(y)
    y = first + conv(s, "gff.1", conv(s, "gff.0", torch.cat(outputs, dim=1)))
    return conv(s, "output", shuffled(s, upsample_names("upscale", scale), y))


def srresnet_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    def norm(name: str, y: torch.Tensor) -> torch.Tensor:
        def channel(key: str) -> torch.Tensor:
            return s[f"{name}.{key}"].view(1, -1, 1, 1)

        y = (y - channel("running_mean")) / torch.sqrt(channel("running_var") + 1e-5)
        return y * channel("weight") + channel("bias")

    def prelu(name: str, y: torch.Tensor) -> torch.Tensor:
        return torch.where(y > 0, y, s[f"{name}.weight"] * y)

    first = y = prelu("conv1.1", conv(s, "conv1.0", x))
    for i in range(2):
        rcb = f"trunk.{i}.rcb"
        z = prelu(f"{rcb}.2", norm(f"{rcb}.1", conv(s, f"{rcb}.0", y)))
        y = y + norm(f"{rcb}.4", conv(s, f"{rcb}.3", z))
    y = first + norm("conv2.1", conv(s, "conv2.0", y))
    for i in range(2 if scale == 4 else 1):
        block = f"upsampling.{i}.upsample_block"
        y = prelu(f"{block}.2", shuffled(s, [f"{block}.0"], y))
    return conv(s, "conv3", y)


def lrelu(x: torch.Tensor) -> torch.Tensor:
    return torch.maximum(x, 0.1 * x)


def msrresnet_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    y = lrelu(conv(s, "conv_first", x))
    for i in range(2):
        y = y + conv(s, f"body.{i}.conv2", conv(s, f"body.{i}.conv1", y).clamp(min=0))
    for name in ["upconv1", "upconv2"][: 2 if scale == 4 else 1]:
        y = lrelu(shuffled(s, [name], y))
    return conv(s, "conv_last", lrelu(conv(s, "conv_hr", y))) + bilinear_by_hand(x, scale)


def bilinear_by_hand(x: torch.Tensor, scale: int) -> torch.Tensor:
    """HR pixel i lies at (i + 0.5) / s - 0.5 between LR pixels; outside, the border repeats."""

    def along(values: np.ndarray) -> np.ndarray:
        size = values.shape[-1]
        at = np.clip((np.arange(size * scale) + 0.5) / scale - 0.5, 0, size - 1)
        left = np.floor(at).astype(int)
        right = np.minimum(left + 1, size - 1)
        return values[..., left] * (1 - (at - left)) + values[..., right] * (at - left)

    rows = along(x.double().numpy())
    return torch.from_numpy(along(rows.swapaxes(-1, -2)).swapaxes(-1, -2)).float()


def srdensenet_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    return dense_by_hand(s, x, scale, everything=False, activated=True)


def wxywhu_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    return dense_by_hand(s, x, scale, everything=True, activated=False)


def dense_by_hand(
    s: dict, x: torch.Tensor, scale: int, *, everything: bool, activated: bool
) -> torch.Tensor:
    def tail(y: torch.Tensor) -> torch.Tensor:
        return y.clamp(min=0) if activated else y

    y = conv(s, "conv.conv", x).clamp(min=0)
    for i in range(2):
        seen, new = y, y[:, :0]
        for j in range(3):
            layer = conv(s, f"dense_blocks.{i}.block.{j}.conv", seen).clamp(min=0)
            new = torch.cat([new, layer], dim=1)
            seen = torch.cat([y, new], dim=1) if everything else new
        y = torch.cat([y, new], dim=1)
    y = tail(conv(s, "bottleneck.0", y))
    for i in range(scale // 2):
        y = tail(doubled(y, s[f"deconv.{2 * i}.weight"], s[f"deconv.{2 * i}.bias"]))
    return conv(s, "reconstruction", y)


def doubled(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Transposed convolution as what it is: zeros between the pixels, then a convolution."""
    n, c, h, w = x.shape
    spread = x.new_zeros(n, c, 2 * h, 2 * w)
    spread[:, :, ::2, ::2] = x
    k = weight.shape[-1]
    framed = F.pad(spread, (k - 2, 1, k - 2, 1))
    return F.conv2d(framed, weight.transpose(0, 1).flip(2, 3), bias)


def ebrn_by_hand(s: dict, x: torch.Tensor, scale: int) -> torch.Tensor:
    def act(name: str, y: torch.Tensor) -> torch.Tensor:
        return torch.where(y > 0, y, s[f"{name}.weight"].view(1, -1, 1, 1) * y)

    def stack(name: str, y: torch.Tensor, count: int) -> torch.Tensor:
        for i in range(count):
            y = act(f"{name}.{2 * i + 1}", conv(s, f"{name}.{2 * i}", y))
        return y

    y, restored = stack("features", x, 3), []
    for i in range(3):
        up, down = f"brms.{i}.enlarge", f"brms.{i}.down.shrink"
        large = F.conv_transpose2d(
            y, s[f"{up}.0.weight"], s[f"{up}.0.bias"], stride=scale, padding=2
        )
        large = act(f"{up}.1", large)
        restored.append(stack(f"brms.{i}.restore", large, 3))
        if i < 2:
            small = F.conv2d(
                large, s[f"{down}.0.weight"], s[f"{down}.0.bias"], stride=scale, padding=2
            )
            rest = y - act(f"{down}.1", small)
            y = rest + stack(f"brms.{i}.down.refine", rest, 3)
    a = restored[2]
    b = stack("fusions.0", a + restored[1], 1)
    c = stack("fusions.1", b + restored[0], 1)
    return conv(s, "reconstruction", torch.cat([a, b, c], dim=1))


BY_HAND = {
    "srdensenet": srdensenet_by_hand,
    "srdensenet-wxywhu": wxywhu_by_hand,
    "rdn": rdn_by_hand,
    "edsr": edsr_by_hand,
    "srresnet": srresnet_by_hand,
    "msrresnet": msrresnet_by_hand,
    "rcan": rcan_by_hand,
    "ebrn": ebrn_by_hand,
}


class Reading(dict):
    """A dict that remembers which keys were read."""

    def __init__(self, tensors: dict) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> torch.Tensor:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: object = None) -> object:
        self.read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize(("name", "scale"), GRID)
@torch.no_grad()
def test_network_is_what_its_state_dict_says(name: str, scale: int) -> None:
    """Every tensor of the file is used, and nothing that is not in it."""
    model = randomised(name, scale)
    x = picture(model)
    tensors = Reading(model.state_dict())
    expected = BY_HAND[name](tensors, x, scale)
    peak = max(1.0, float(expected.abs().max()))
    assert expected.std() > 1e-3  # not a silent network
    assert_close(model(x) / peak, expected / peak, dtype="float32")
    unread = set(tensors) - tensors.read
    assert all(key.endswith("num_batches_tracked") for key in unread), unread


@pytest.mark.parametrize("scale", [2, 3, 4])
@torch.no_grad()
def test_networks_without_weights_are_their_skips(scale: int) -> None:
    x = torch.rand(1, 3, 5, 7)
    blank = torch.zeros(1, 3, 5 * scale, 7 * scale)
    bilinear = bilinear_by_hand(x, scale)
    assert_close(zeroed(REDUCED["msrresnet"](scale))(x), bilinear, dtype="float32")
    for name in ("edsr", "rcan"):
        assert_close(zeroed(REDUCED[name](scale))(x), blank + MEAN, dtype="float32")
    for name in ("rdn", "srresnet", "ebrn"):
        assert torch.equal(zeroed(REDUCED[name](scale))(x), blank)
    if scale != 3:
        y = zeroed(REDUCED["srdensenet"](scale))(x[:, :1])
        assert torch.equal(y, blank[:, :1])


@torch.no_grad()
def test_msrresnet_starts_near_bilinear_interpolation() -> None:
    """At a tenth of He's initialisation; with the whole of it the distance is over 1."""
    torch.manual_seed(0)
    model = Msrresnet(MsrresnetConfig(scale=2, blocks=4)).eval()
    x = torch.rand(1, 3, 8, 8)
    assert (model(x) - bilinear_by_hand(x, 2)).abs().max() < 0.02
    weight = model.body[0].conv1.weight
    assert weight.std() == pytest.approx(0.1 * (2 / (64 * 9)) ** 0.5, rel=0.05)


@torch.no_grad()
def test_edsr_range_scales_nothing_but_the_biases() -> None:
    """Weights made for 0..255 are weights for 0..1 once every bias is divided by 255."""
    wide = randomised("edsr", 2)
    narrow = Edsr(EdsrConfig(scale=2, blocks=2, width=8, res_scale=0.1, pixel_range=1.0)).eval()
    narrow.load_state_dict(
        {k: v / 255 if k.endswith("bias") else v for k, v in wide.state_dict().items()}
    )
    x = picture(wide)
    assert_close(narrow(x), wide(x), dtype="float32")
    narrow.load_state_dict(wide.state_dict())
    assert (narrow(x) - wide(x)).abs().max() > 1e-2


@torch.no_grad()
def test_rcan_sees_the_whole_picture_and_edsr_does_not() -> None:
    for name, everywhere in [("rcan", True), ("edsr", False)]:
        model = randomised(name, 2).double()
        x = torch.rand(1, 3, 40, 40).double()
        y = x.clone()
        y[..., :16, :16] = 1.0
        change = (model(x) - model(y)).abs()[..., -8:, -8:].max()
        assert change > 1e-5 if everywhere else change == 0


@torch.no_grad()
def test_srresnet_is_deployed_with_its_running_statistics() -> None:
    """A picture must not depend on the others of its batch; while training it does."""
    model = randomised("srresnet", 2).double()
    x = torch.rand(3, 3, 6, 6).double()
    assert_close(model(x)[:1], model(x[:1]), dtype="float64")
    model.train()
    assert (model(x)[:1] - model(x[:1])).abs().max() > 1e-3


@torch.no_grad()
def test_ebrn_hands_on_only_what_enlarging_missed() -> None:
    """Where enlarging and shrinking lose nothing, the next module gets nothing."""
    model = Ebrn(EbrnConfig(scale=2, blocks=2, width=4, overlap=0))
    brm = zeroed(model).brms[0]
    for channel in range(4):
        brm.enlarge[0].weight[channel, channel] = 1.0  # every pixel four times
        brm.down.shrink[0].weight[channel, channel] = 0.25  # and their mean
    x = torch.rand(1, 4, 5, 6)
    _, left = brm(x)
    assert_close(left, torch.zeros_like(x), dtype="float32")


KEYS = [
    (lambda: Edsr(EdsrConfig(scale=4)), "conv_first.weight", (64, 3, 3, 3)),
    (lambda: Edsr(EdsrConfig(scale=4)), "body.15.conv2.bias", (64,)),
    (lambda: Edsr(EdsrConfig(scale=4)), "upsample.2.weight", (256, 64, 3, 3)),
    (
        lambda: Rcan(RcanConfig(scale=2)),
        "body.9.residual_group.19.rcab.3.attention.1.weight",
        (4, 64, 1, 1),
    ),
    (lambda: Msrresnet(MsrresnetConfig(scale=3)), "upconv1.weight", (576, 64, 3, 3)),
    (lambda: Msrresnet(MsrresnetConfig(scale=4)), "upconv2.weight", (256, 64, 3, 3)),
    (lambda: Srresnet(SrresnetConfig(scale=4)), "trunk.15.rcb.2.weight", (1,)),
    (
        lambda: Srresnet(SrresnetConfig(scale=4)),
        "upsampling.1.upsample_block.0.weight",
        (256, 64, 3, 3),
    ),
    (lambda: Rdn(RdnConfig(scale=2)), "rdbs.15.lff.weight", (64, 576, 1, 1)),
    (lambda: Rdn(RdnConfig(scale=2)), "gff.0.weight", (64, 1024, 1, 1)),
    (lambda: Rdn(RdnConfig(scale=3)), "upscale.0.weight", (576, 64, 3, 3)),
    (
        lambda: Srdensenet(SrdensenetConfig(scale=4)),
        "dense_blocks.7.block.0.conv.weight",
        (16, 1024, 3, 3),
    ),
    (
        lambda: Srdensenet(SrdensenetConfig(scale=4)),
        "dense_blocks.7.block.7.conv.weight",
        (16, 112, 3, 3),
    ),
    (lambda: Srdensenet(SrdensenetConfig(scale=4)), "bottleneck.0.weight", (256, 1152, 1, 1)),
    (lambda: Srdensenet(SrdensenetConfig(scale=4)), "deconv.2.weight", (256, 256, 3, 3)),
]


@pytest.mark.parametrize(("builder", "key", "shape"), KEYS, ids=[key for _, key, _ in KEYS])
def test_official_keys_and_shapes(
    builder: Callable[[], torch.nn.Module], key: str, shape: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        tensors = builder().state_dict()
    assert tuple(tensors[key].shape) == shape
    assert "mean" not in tensors
