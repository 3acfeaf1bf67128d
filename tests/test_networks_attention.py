"""BSRN, BSRN-S, RLFN, SPAN and SAFMN against published counts, names and a formula of attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.nn.functional as F
from attention_networks import SMALL, picture, randomised, seen_by
from tolerances import assert_close
from torch import Tensor, nn

from edgesr.networks import bsrn, bsrn_s, rlfn
from edgesr.networks.bsrn import Bsrn, BsrnConfig
from edgesr.networks.bsrn_s import BsrnS, BsrnSConfig
from edgesr.networks.facts import count_macs, count_parameters
from edgesr.networks.rlfn import Rlfn, RlfnConfig
from edgesr.networks.safmn import Safmn, SafmnConfig
from edgesr.networks.span import PlainSpan, SpanConfig

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


def on_meta(name: str, scale: int) -> nn.Module:
    with torch.device("meta"):
        return BUILD[name](scale)


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
