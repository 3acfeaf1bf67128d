"""SRCNN, FSRCNN, VDSR, DRCN and the Laplacian pyramids against published counts and formulas."""

from __future__ import annotations

from fractions import Fraction

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.nn.functional as F
from tolerances import assert_close
from torch import nn

from edgesr.bicubic import imresize
from edgesr.errors import UsageError
from edgesr.networks.drcn import Drcn, DrcnConfig
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig
from edgesr.networks.lapsrn import Lapsrn, LapsrnConfig, ThreeQuarters
from edgesr.networks.mslapsrn import Mslapsrn, MslapsrnConfig
from edgesr.networks.srcnn import Srcnn, SrcnnConfig
from edgesr.networks.vdsr import Vdsr, VdsrConfig

SIZES = [(1, 1), (5, 7), (12, 9)]


def small(name: str, scale: int) -> nn.Module:
    """Every layer type, few channels; every parameter moved, so that no branch is silent."""
    torch.manual_seed(0)
    model: nn.Module = {
        "srcnn": lambda: Srcnn(SrcnnConfig(scale=scale, widths=(8, 6))),
        "srcnn-rgb": lambda: Srcnn(SrcnnConfig(scale=scale, widths=(8, 6), colour="rgb")),
        "fsrcnn": lambda: Fsrcnn(FsrcnnConfig(scale=scale, features=8, shrunk=4)),
        "fsrcnn-pisr": lambda: Fsrcnn(
            FsrcnnConfig(scale=scale, features=8, shrunk=4, shared_slopes=True)
        ),
        "vdsr": lambda: Vdsr(VdsrConfig(scale=scale, width=6, depth=4)),
        "drcn": lambda: Drcn(DrcnConfig(scale=scale, width=6, recursions=3)),
        "lapsrn": lambda: Lapsrn(LapsrnConfig(scale=scale, width=6, depth=2)),
        "lapsrn-port": lambda: Lapsrn(
            LapsrnConfig(scale=scale, width=6, depth=2, feature_kernel=4, bias=False)
        ),
        "mslapsrn": lambda: Mslapsrn(
            MslapsrnConfig(scale=scale, width=6, depth=2, recursions=2),
        ),
    }[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def silence(model: nn.Module, *, but: tuple[str, ...] = ()) -> nn.Module:
    """Zero every parameter whose name holds none of `but`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not any(part in name for part in but):
                parameter.zero_()
    return model


def bicubic(picture: torch.Tensor, scale: int | Fraction) -> np.ndarray:
    planes = [[imresize(plane, scale) for plane in image] for image in picture.numpy()]
    return np.array(planes)


META = {
    "srcnn": (lambda: Srcnn(SrcnnConfig(scale=2)), 57_281),
    "srcnn-915": (lambda: Srcnn(SrcnnConfig(scale=2, kernels=(9, 1, 5))), 8_129),
    "fsrcnn": (lambda: Fsrcnn(FsrcnnConfig(scale=2)), 12_809),
    "fsrcnn-pisr": (lambda: Fsrcnn(FsrcnnConfig(scale=2, shared_slopes=True)), 12_644),
    "vdsr": (lambda: Vdsr(VdsrConfig(scale=2)), 665_921),
    "vdsr without bias": (lambda: Vdsr(VdsrConfig(scale=3, bias=False)), 664_704),
    "drcn": (lambda: Drcn(DrcnConfig(scale=4)), 1_775_121),
    "lapsrn": (lambda: Lapsrn(LapsrnConfig(scale=4)), 814_242),  # papers: "813K", "814K"
    "lapsrn of twtygqyy": (
        lambda: Lapsrn(LapsrnConfig(scale=4, feature_kernel=4, bias=False)),
        870_112,
    ),
}


@pytest.mark.parametrize("name", META)
def test_parameters_are_the_published_ones(name: str) -> None:
    build, expected = META[name]
    with torch.device("meta"):
        assert count_parameters(build()) == expected


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("recursions", [1, 2, 5, 8])
def test_mslapsrn_has_one_set_of_weights(scale: int, recursions: int) -> None:
    with torch.device("meta"):
        model = Mslapsrn(MslapsrnConfig(scale=scale, recursions=recursions))
    assert count_parameters(model) == 222_801


def test_fsrcnn_s_has_the_3937_weights_of_the_paper() -> None:
    with torch.device("meta"):
        model = Fsrcnn(FsrcnnConfig(scale=3, features=32, shrunk=5, mappings=1))
    weights = [p for p in model.parameters() if p.dim() == 4]
    assert sum(p.numel() for p in weights) == 3_937
    slopes, biases = 32 + 5 + 5 + 32, 32 + 5 + 5 + 32 + 1
    assert count_parameters(model) == 3_937 + slopes + biases


@pytest.mark.parametrize(
    ("name", "giga"), [("srcnn", 52.7), ("vdsr", 612.6), ("drcn", 17_974.3)], ids=str
)
@pytest.mark.parametrize("scale", [2, 4])
def test_multiply_adds_are_the_published_ones(name: str, giga: float, scale: int) -> None:
    """All of them work at the large size: the same count for every scale."""
    with torch.device("meta"):
        model = {
            "srcnn": lambda: Srcnn(SrcnnConfig(scale=scale)),
            "vdsr": lambda: Vdsr(VdsrConfig(scale=scale)),
            "drcn": lambda: Drcn(DrcnConfig(scale=scale)),
        }[name]()
    macs = count_macs(model, height=720 // scale, width=1280 // scale)
    assert macs / 1e9 == pytest.approx(giga, rel=1e-3)


@pytest.mark.parametrize(("scale", "giga"), [(2, 29.9), (4, 149.4)])
def test_lapsrn_multiply_adds_as_the_literature_counts(scale: int, giga: float) -> None:
    """For a 320x180 picture at both scales; transposed convolutions once an output pixel."""
    height, width = 180, 320
    with torch.device("meta"):
        model = Lapsrn(LapsrnConfig(scale=scale))
    macs = count_macs(model, height=height, width=width)
    for level in range(scale // 2):
        pixels = height * width * 4**level  # of the transposed convolution's input
        macs += 3 * pixels * (64 * 64 * 9 + 16)
    assert macs / 1e9 == pytest.approx(giga, rel=2e-3)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["srcnn-rgb", "fsrcnn-pisr", "vdsr", "drcn"])
def test_output_is_scale_times_as_large(name: str, size: tuple[int, int]) -> None:
    model, (h, w) = small(name, 3), size
    channels = 3 if model.colour == "rgb" else 1
    assert channels == (3 if name == "srcnn-rgb" else 1)
    assert model(torch.rand(2, channels, h, w)).shape == (2, channels, 3 * h, 3 * w)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["lapsrn", "lapsrn-port", "mslapsrn"])
def test_pyramid_has_every_level(name: str, scale: int, size: tuple[int, int]) -> None:
    model, picture, (h, w) = small(name, scale), torch.rand(2, 1, *size), size
    with torch.no_grad():
        levels, final = model.levels(picture), model(picture)
    factors = {2: [2], 3: [2, 4], 4: [2, 4], 8: [2, 4, 8]}[scale]
    assert [y.shape for y in levels] == [(2, 1, f * h, f * w) for f in factors]
    assert final.shape == (2, 1, scale * h, scale * w)
    if scale != 3:
        assert torch.equal(final, levels[-1])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["vdsr", "drcn"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_weights_bicubic_interpolation_is_left(
    name: str, scale: int, size: tuple[int, int]
) -> None:
    """MATLAB's, borders included; the sixteen weights of DRCN start with the sum 1."""
    torch.manual_seed(0)
    model = Drcn(DrcnConfig(scale=scale, width=4)) if name == "drcn" else small(name, scale)
    silence(model, but=("weights",))
    picture = torch.rand(2, 1, *size)
    with torch.no_grad():
        assert_close(model(picture), bicubic(picture, scale), dtype="float32")


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_srcnn_sees_bicubic_and_has_no_skip(scale: int) -> None:
    picture = torch.rand(2, 3, 5, 7)
    model = small("srcnn-rgb", scale)
    large = torch.from_numpy(bicubic(picture, scale)).float()
    with torch.no_grad():
        y = F.conv2d(large, model.conv1.weight, model.conv1.bias, padding=4).clamp(min=0)
        y = F.conv2d(y, model.conv2.weight, model.conv2.bias, padding=2).clamp(min=0)
        expected = F.conv2d(y, model.conv3.weight, model.conv3.bias, padding=2)
        assert_close(model(picture), expected, dtype="float32")
        assert not silence(model)(picture).any()


def test_srcnn_takes_the_same_weights_at_every_scale() -> None:
    small("srcnn", 4).load_state_dict(small("srcnn", 2).state_dict())
    assert list(small("srcnn", 2).state_dict()) == [
        f"conv{i}.{kind}" for i in (1, 2, 3) for kind in ("weight", "bias")
    ]


def test_fsrcnn_with_shared_slopes_is_fsrcnn_with_equal_slopes() -> None:
    shared, own = small("fsrcnn-pisr", 3), small("fsrcnn", 3)
    state = {
        name: tensor.expand(own.state_dict()[name].shape)
        for name, tensor in shared.state_dict().items()
    }
    own.load_state_dict(state)
    picture = torch.rand(1, 1, 6, 5)
    with torch.no_grad():
        assert torch.equal(shared(picture), own(picture))
    assert shared.first_part[1].weight.shape == shared.mid_part[3].weight.shape == (1,)


def test_drcn_recurses_with_one_convolution_and_sums_with_learned_weights() -> None:
    """Convolution by convolution; every prediction holds the bicubic picture."""
    model, picture = small("drcn", 2), torch.rand(1, 1, 5, 4)
    p = dict(model.named_parameters())

    def conv(y: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(y, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    with torch.no_grad():
        large = torch.from_numpy(bicubic(picture, 2)).float()
        y = conv(conv(large, "embedding.0").clamp(min=0), "embedding.2").clamp(min=0)
        expected = []
        for _ in range(3):
            y = conv(y, "inference").clamp(min=0)
            hidden = conv(y, "reconstruction.0").clamp(min=0)
            expected.append(large + conv(hidden, "reconstruction.2"))
        for ours, theirs in zip(model.predictions(picture), expected, strict=True):
            assert_close(ours, theirs, dtype="float32")
        total = sum(w * y for w, y in zip(p["weights"], expected, strict=True))
        assert_close(model(picture), total, dtype="float32")
    assert p["weights"].requires_grad
    assert len(Drcn(DrcnConfig(scale=2, width=4)).predictions(picture)) == 16


def zero_padded_bilinear(picture: torch.Tensor) -> torch.Tensor:
    """Twice as large; the picture lies on black, as a transposed convolution sees it."""
    on_black = F.pad(picture, (1, 1, 1, 1))
    large = F.interpolate(on_black, scale_factor=2, mode="bilinear", align_corners=False)
    return large[..., 2:-2, 2:-2]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["lapsrn", "mslapsrn"])
def test_pyramid_without_weights_is_bilinear_interpolation(
    name: str, size: tuple[int, int]
) -> None:
    model: nn.Module
    if name == "lapsrn":
        model = silence(Lapsrn(LapsrnConfig(scale=8, width=4, depth=1)), but=("convt_I",))
    else:
        model = silence(Mslapsrn(MslapsrnConfig(scale=8, width=4, depth=1)), but=("img_up",))
    picture = torch.rand(2, 1, *size)
    expected = picture
    with torch.no_grad():
        for level in model.levels(picture):
            expected = zero_padded_bilinear(expected)
            assert_close(level, expected, dtype="float32")
    line = np.array([1, 3, 3, 1]) / 4
    up = dict(model.named_parameters())["convt_I1.weight" if name == "lapsrn" else "img_up.weight"]
    assert np.array_equal(up.detach()[0, 0].numpy(), np.outer(line, line))
    assert up.requires_grad


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 5), (8, 6)], ids=str)
def test_three_quarters_is_matlabs_imresize(size: tuple[int, int]) -> None:
    picture = torch.rand(2, 1, 4 * size[0], 4 * size[1])
    expected = bicubic(picture, Fraction(3, 4))
    assert expected.shape == (2, 1, 3 * size[0], 3 * size[1])
    assert np.abs(ThreeQuarters()(picture).numpy() - expected).max() < 2e-6
    assert not ThreeQuarters().state_dict()


@pytest.mark.parametrize("name", ["lapsrn", "mslapsrn"])
def test_scale_3_is_the_x4_pyramid_made_smaller(name: str) -> None:
    three, four = small(name, 3), small(name, 4)
    three.load_state_dict(four.state_dict())
    picture = torch.rand(1, 1, 5, 7)
    with torch.no_grad():
        assert_close(three(picture), bicubic(four(picture), Fraction(3, 4)), dtype="float32")


def scattered(y: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Transposed 3x3 convolution of stride 2, pixel by pixel, last row and column cut off."""
    n, _, h, w = y.shape
    out = torch.zeros(n, weight.shape[1], 2 * h + 1, 2 * w + 1)
    for i in range(h):
        for j in range(w):
            stamp = torch.einsum("nc,cdyx->ndyx", y[..., i, j], weight)
            out[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += stamp
    return out[..., :-1, :-1]


def leaky(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y > 0, y, 0.2 * y)


def test_lapsrn_crops_as_the_official_code() -> None:
    """Level by level; the features are doubled by 3x3, its last row and column cut off."""
    model, picture = small("lapsrn", 4), torch.rand(1, 1, 4, 3)
    p = model.state_dict()

    def conv(y: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(y, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    y, image = leaky(conv(picture, "conv_input")), picture
    with torch.no_grad():
        for i, ours in enumerate(model.levels(picture), start=1):
            block = f"convt_F{i}.0.cov_block"
            y = leaky(conv(leaky(conv(y, f"{block}.0")), f"{block}.2"))
            bias = p[f"{block}.4.bias"].view(1, -1, 1, 1)
            y = leaky(scattered(y, p[f"{block}.4.weight"]) + bias)
            image = F.conv_transpose2d(image, p[f"convt_I{i}.weight"], stride=2, padding=1)
            image = image + conv(y, f"convt_R{i}")
            assert_close(ours, image, dtype="float32")


def test_mslapsrn_skips_from_the_level_input() -> None:
    """D = R = 2. A skip from the block's own input (the usual residual block) would fail here."""
    model, picture = small("mslapsrn", 4), torch.rand(1, 1, 4, 3)
    p = model.state_dict()

    def conv(y: torch.Tensor, name: str) -> torch.Tensor:
        return F.conv2d(y, p[f"{name}.weight"], p[f"{name}.bias"], padding=1)

    def block(y: torch.Tensor) -> torch.Tensor:
        return conv(leaky(conv(leaky(y), "conv1")), "conv2")

    y, image = conv(picture, "input_conv"), picture
    with torch.no_grad():
        for ours in model.levels(picture):
            once = block(y) + y
            twice = block(once) + y
            y = scattered(leaky(twice), p["upconv.weight"]) + p["upconv.bias"].view(1, -1, 1, 1)
            image = F.conv_transpose2d(image, p["img_up.weight"], stride=2, padding=1)
            image = image + conv(y, "residual_conv")
            assert_close(ours, image, dtype="float32")


def test_state_dicts_have_the_names_of_the_published_checkpoints() -> None:
    with torch.device("meta"):
        vdsr = Vdsr(VdsrConfig(scale=2, bias=False)).state_dict()
        port = Lapsrn(LapsrnConfig(scale=4, feature_kernel=4, bias=False)).state_dict()
        official = Lapsrn(LapsrnConfig(scale=4)).state_dict()
        shared = Mslapsrn(MslapsrnConfig(scale=8)).state_dict()
    assert list(vdsr) == [
        "input.weight",
        *(f"residual_layer.{i}.conv.weight" for i in range(18)),
        "output.weight",
    ]
    assert set(port) == {
        "conv_input.weight",
        *(f"convt_{kind}{i}.weight" for kind in "IR" for i in (1, 2)),
        *(f"convt_F{i}.0.cov_block.{k}.weight" for i in (1, 2) for k in range(0, 21, 2)),
    }
    assert port["convt_F2.0.cov_block.20.weight"].shape == (64, 64, 4, 4)
    assert official["convt_F2.0.cov_block.20.weight"].shape == (64, 64, 3, 3)
    assert {name for name in official if name.endswith("weight")} == set(port)
    layers = ["input_conv", *(f"conv{d}" for d in range(1, 6)), "upconv", "residual_conv"]
    assert set(shared) == {
        "img_up.weight",
        *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")),
    }


@pytest.mark.parametrize("scale", [1, 5, 6, 16])
def test_pyramids_refuse_other_scales(scale: int) -> None:
    with pytest.raises(UsageError, match=f"scale {scale} is not offered: 2, 3, 4, 8 are"):
        Lapsrn(LapsrnConfig(scale=scale))
