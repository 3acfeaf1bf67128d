"""`edgesr convert`: small checkpoints in the layouts of other people, made in `official*.py`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import official as big
import official_small as small
import torch.nn.functional as F
from official import Layout
from safetensors.torch import save_file
from tolerances import assert_close
from torch import Tensor, nn

from edgesr import cli
from edgesr.errors import ModelError, UsageError
from edgesr.export.onnx import export_onnx
from edgesr.networks import checkpoint, deployed
from edgesr.networks.abpn import Abpn, AbpnConfig
from edgesr.networks.basicvsr import BasicVsr, BasicVsrConfig
from edgesr.networks.bicubicpp import BicubicPlusPlus, BicubicPlusPlusConfig
from edgesr.networks.bsrn import Bsrn, BsrnConfig
from edgesr.networks.bsrn_s import BsrnS, BsrnSConfig
from edgesr.networks.convert import FORMS, convert
from edgesr.networks.ecbsr import Ecbsr, EcbsrConfig
from edgesr.networks.edsr import Edsr, EdsrConfig
from edgesr.networks.espcn import Espcn, EspcnConfig
from edgesr.networks.foreign_file import scale_in_name
from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig
from edgesr.networks.glean import Glean, GleanConfig
from edgesr.networks.iconvsr import IconVsr, IconVsrConfig
from edgesr.networks.lapsrn import Lapsrn, LapsrnConfig
from edgesr.networks.mslapsrn import Mslapsrn, MslapsrnConfig
from edgesr.networks.msrresnet import Msrresnet, MsrresnetConfig
from edgesr.networks.pisr import PisrConfig, PisrTeacher
from edgesr.networks.quicksrnet import QuickSrNet, QuickSrNetConfig
from edgesr.networks.rcan import Rcan, RcanConfig
from edgesr.networks.rdn import Rdn, RdnConfig
from edgesr.networks.rlfn import Rlfn, RlfnConfig
from edgesr.networks.rrdb import Rrdb, RrdbConfig
from edgesr.networks.safmn import Safmn, SafmnConfig
from edgesr.networks.sesr import Sesr, SesrConfig
from edgesr.networks.span import Span, SpanConfig
from edgesr.networks.spsr import Spsr, SpsrConfig
from edgesr.networks.srcnn import Srcnn, SrcnnConfig
from edgesr.networks.srdensenet import Srdensenet, SrdensenetConfig
from edgesr.networks.srresnet import Srresnet, SrresnetConfig
from edgesr.networks.srvgg import Srvgg, SrvggConfig
from edgesr.networks.vdsr import Vdsr, VdsrConfig
from edgesr.networks.xlsr import Xlsr, XlsrConfig

TANH = {"activation": "tanh"}
FLOW = {"flow_levels": 3, "flow_widths": (4, 5, 4, 3)}
VSR: dict[str, Any] = {"features": 4, "blocks": 2, "refined": 6, **FLOW}
DENSENET: dict[str, Any] = {"stem": 7, "growth": 2, "layers": 2, "bottleneck": 5}
WXYWHU: dict[str, Any] = {
    **DENSENET,
    "blocks": 2,
    "layers_see_everything": True,
    "transposed_kernel": 4,
    "activated_tail": False,
}

# Layout, our network of that size, and who stores it so. The file is called "net_x3".
CASES: list[tuple[Callable[[Layout], None], Any, Any, str]] = [
    (big.srcnn_yjn870, Srcnn, SrcnnConfig(scale=3, widths=(8, 6)), "yjn870/SRCNN"),
    (
        big.srcnn_lornatang,
        Srcnn,
        SrcnnConfig(scale=3, widths=(8, 6), kernels=(9, 1, 5)),
        "Lornatang/SRCNN",
    ),
    (
        big.srcnn_mmagic,
        Srcnn,
        SrcnnConfig(scale=3, widths=(8, 6), kernels=(9, 1, 5), colour="rgb"),
        "mmagic",
    ),
    (
        big.fsrcnn_yjn870,
        Fsrcnn,
        FsrcnnConfig(scale=3, features=6, shrunk=3, mappings=2),
        "yjn870/FSRCNN",
    ),
    (
        big.fsrcnn_lornatang,
        Fsrcnn,
        FsrcnnConfig(scale=3, features=6, shrunk=3, mappings=2),
        "Lornatang/FSRCNN",
    ),
    (
        big.pisr_student,
        Fsrcnn,
        FsrcnnConfig(scale=3, features=6, shrunk=3, mappings=3, shared_slopes=True),
        "PISR, student",
    ),
    (
        big.pisr_teacher,
        PisrTeacher,
        PisrConfig(scale=3, features=6, shrunk=3, mappings=3),
        "PISR, teacher",
    ),
    (big.espcn_yjn870, Espcn, EspcnConfig(scale=3, widths=(8, 6), **TANH), "yjn870/ESPCN"),
    (
        big.espcn_lornatang,
        Espcn,
        EspcnConfig(scale=2, channels=3, widths=(8, 4), **TANH),
        "Lornatang/ESPCN",
    ),
    (
        big.espcn_leftthomas,
        Espcn,
        EspcnConfig(scale=4, widths=(8, 6), output="sigmoid", **TANH),
        "leftthomas/ESPCN",
    ),
    (big.vdsr_twtygqyy, Vdsr, VdsrConfig(scale=3, width=5, depth=5, bias=False), "twtygqyy"),
    (big.vdsr_lornatang, Vdsr, VdsrConfig(scale=3, width=5, depth=5, bias=False), "Lornatang"),
    (
        big.lapsrn_twtygqyy,
        Lapsrn,
        LapsrnConfig(scale=4, width=4, depth=3, feature_kernel=4, bias=False),
        "twtygqyy/pytorch-LapSRN",
    ),
    (
        big.mslapsrn_lorenzomammana,
        Mslapsrn,
        MslapsrnConfig(scale=3, width=4, depth=3),
        "lorenzomammana",
    ),
    (
        big.srdensenet_yjn870,
        Srdensenet,
        SrdensenetConfig(scale=4, blocks=3, **DENSENET),
        "yjn870/SRDenseNet",
    ),
    (big.srdensenet_wxywhu_1, Srdensenet, SrdensenetConfig(scale=4, **WXYWHU), "wxywhu"),
    (big.srdensenet_wxywhu_2, Srdensenet, SrdensenetConfig(scale=4, **WXYWHU), "wxywhu"),
    (big.rrdb_basicsr, Rrdb, RrdbConfig(scale=2, width=8, growth=4, blocks=3), "Real-ESRGAN"),
    (big.rrdb_esrgan, Rrdb, RrdbConfig(scale=4, width=8, growth=4, blocks=2), "ESRGAN"),
    (big.rrdb_old, Rrdb, RrdbConfig(scale=4, width=8, growth=4, blocks=2), "the old ESRGAN"),
    (big.spsr, Spsr, SpsrConfig(scale=4, width=4, growth=2, blocks=20), "Maclory/SPSR"),
    (big.srvgg, Srvgg, SrvggConfig(scale=2, width=6, convs=3), "Real-ESRGAN"),
    (big.msrresnet_basicsr, Msrresnet, MsrresnetConfig(scale=4, blocks=2, width=6), "BasicSR"),
    (big.msrresnet_esrgan, Msrresnet, MsrresnetConfig(scale=3, blocks=2, width=6), "ESRGAN"),
    (big.srresnet_lornatang, Srresnet, SrresnetConfig(scale=4, blocks=3, width=6), "Lornatang"),
    (big.srresnet_2022, Srresnet, SrresnetConfig(scale=4, blocks=3, width=6), "of 2022"),
    (big.edsr_basicsr, Edsr, EdsrConfig(scale=4, blocks=3, width=6), "BasicSR"),
    (big.edsr_mmagic, Edsr, EdsrConfig(scale=4, blocks=3, width=6, pixel_range=1.0), "mmagic"),
    (big.edsr_authors, Edsr, EdsrConfig(scale=3, blocks=3, width=6), "EDSR-PyTorch"),
    (
        big.rcan_basicsr,
        Rcan,
        RcanConfig(scale=4, groups=2, blocks=3, width=8, squeeze=4),
        "BasicSR",
    ),
    (
        big.rcan_authors,
        Rcan,
        RcanConfig(scale=2, groups=2, blocks=3, width=8, squeeze=4),
        "yulunzhang/RCAN",
    ),
    (
        big.rdn_yjn870,
        Rdn,
        RdnConfig(scale=4, blocks=2, layers=3, growth=4, width=6),
        "yjn870/RDN",
    ),
    (
        big.rdn_lornatang,
        Rdn,
        RdnConfig(scale=4, blocks=2, layers=3, growth=4, width=6),
        "Lornatang/RDN",
    ),
    (small.bsrn, Bsrn, BsrnConfig(scale=3, features=16, blocks=3, reduction=4), "xiaom233"),
    (small.bsrn_s, BsrnS, BsrnSConfig(scale=4, features=16, blocks=3), "xiaom233"),
    (
        small.rlfn,
        Rlfn,
        RlfnConfig(scale=2, features=6, inner=7, blocks=3, attention=4, pixel_range=255.0),
        "bytedance/RLFN",
    ),
    (small.span, Span, SpanConfig(scale=2, features=6, blocks=3), "hongyuanyu/SPAN"),
    (
        small.safmn,
        Safmn,
        SafmnConfig(scale=2, features=8, blocks=3, expansion=1.5),
        "sunny2109/SAFMN",
    ),
    (
        small.sesr_aimet,
        Sesr,
        SesrConfig(scale=2, blocks=3, width=4, expanded=10, rgb=True),
        "AIMET",
    ),
    (
        small.quicksrnet_aimet,
        QuickSrNet,
        QuickSrNetConfig(scale=2, width=6, blocks=3, ito=True),
        "AIMET",
    ),
    (small.xlsr_aimet, Xlsr, XlsrConfig(scale=3, width=8, side=4, blocks=2), "AIMET"),
    (small.xlsr_cxzhou95, Xlsr, XlsrConfig(scale=3, width=8, side=4, blocks=2), "cxzhou95"),
    (small.abpn_aimet, Abpn, AbpnConfig(scale=3, width=6, blocks=3), "AIMET"),
    (small.bicubicpp, BicubicPlusPlus, BicubicPlusPlusConfig(scale=3, width=6), "bicubic-plus"),
    (small.basicvsr_basicsr, BasicVsr, BasicVsrConfig(**VSR), "BasicSR"),
    (small.basicvsr_mmagic, BasicVsr, BasicVsrConfig(**VSR), "mmagic"),
    (
        small.iconvsr_basicsr,
        IconVsr,
        IconVsrConfig(**VSR, extraction_blocks=3, deform_groups=2),
        "BasicSR",
    ),
    (
        small.iconvsr_mmagic,
        IconVsr,
        IconVsrConfig(**VSR, extraction_blocks=3, deform_groups=2),
        "mmagic",
    ),
    (
        small.glean_mmagic,
        Glean,
        GleanConfig(
            scale=2,
            in_size=8,
            rrdb_blocks=2,
            width=6,
            growth=4,
            style_channels=10,
            mapping_layers=3,
            channel_base=128,
            channel_max=12,
        ),
        "mmagic",
    ),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The halo has its own tests, and takes most of the time."""
    monkeypatch.setattr(checkpoint, "measure_halo", lambda *_, **__: None)


def laid_out(fill: Callable[[Layout], None]) -> Layout:
    layout = Layout()
    fill(layout)
    return layout


def stored(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


def picture(model: Any, *, height: int = 16, width: int = 20) -> Tensor:
    """Something that the network takes: a picture, a clip, or the large picture of a teacher."""
    random = torch.Generator().manual_seed(1)
    channels = 1 if model.colour == "y" else 3
    if isinstance(model, Glean):
        height, width = model.fixed_size
    shape: tuple[int, ...] = (1, channels, height, width)
    if isinstance(model, BasicVsr | IconVsr):
        shape = (1, 5, *shape[1:])
    if isinstance(model, PisrTeacher):
        shape = (1, channels, 3 * height, 3 * width)
    return torch.rand(shape, generator=random)


def output(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = model(x)
    return y[0] if isinstance(y, tuple) else y


def by_hand(layout: Layout, network: Any, config: Any) -> nn.Module:
    model: nn.Module = network(config)
    model.load_state_dict(layout.ours)
    return model.eval()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("fill", "network", "config", "source"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_every_layout(
    fill: Callable[[Layout], None], network: Any, config: Any, source: str, tmp_path: Path
) -> None:
    """Size read off, source named, and the same pictures as from tensors put in by hand."""
    layout = laid_out(fill)
    found = convert(stored(layout.official, tmp_path / "net_x3.pth"))
    model: Any = found.model
    assert type(model) is network
    assert model.config == config
    assert source in found.form.source
    assert source in str(found)
    assert not model.training
    reference = by_hand(layout, network, config)
    x = picture(model)
    y = output(model, x)
    assert torch.equal(y, output(reference, x))
    assert y.isfinite().all()
    assert y.std() > 0
    assert len(found.left_out) == len(layout.official) - len(layout.ours) - dropped(layout)


def dropped(layout: Layout) -> int:
    """Tensors that are no part of the network, or have become one."""
    others = ("step_counter", "discriminator")
    count = sum(1 for name in layout.official if name.startswith(others))
    return count + (6 if "conv0_0.conv.bias" in layout.official else 0)


def test_no_form_is_left_without_a_layout() -> None:
    """ECBSR's two and EDSR-PyTorch's RDN, whose biases are divided, stand in tests of their own."""
    tested = {type(case[2]).__name__ + case[3] for case in CASES}
    assert len(FORMS) == len({(form.network, form.source) for form in FORMS})
    assert len(tested) + 3 == len(FORMS)


# Value ranges: what is the same function in 0..1 as the source's was in 0..255.


def ecbsr_as_published(state: dict[str, Tensor], x: Tensor, *, scale: int) -> Tensor:
    """The official forward, branch by branch: expand, frame with the bias, filter."""
    y = x
    for i in range(4):
        block = f"backbone.{i}."
        out = F.conv2d(y, state[f"{block}conv3x3.weight"], state[f"{block}conv3x3.bias"], padding=1)
        for branch in ("conv1x1_3x3", "conv1x1_sbx", "conv1x1_sby", "conv1x1_lpl"):
            own = {n.rpartition(".")[2]: t for n, t in state.items() if f"{block}{branch}." in n}
            wide = F.conv2d(y, own["k0"], own["b0"])
            framed = own["b0"].view(1, -1, 1, 1).repeat(1, 1, y.shape[2] + 2, y.shape[3] + 2)
            framed[:, :, 1:-1, 1:-1] = wide
            if branch == "conv1x1_3x3":
                out = out + F.conv2d(framed, own["k1"], own["b1"])
            else:
                taps = own["scale"] * own["mask"]
                out = out + F.conv2d(framed, taps, own["bias"], groups=len(taps))
        slopes = state.get(f"{block}act.weight")
        y = out if slopes is None else F.prelu(out, slopes)
    return F.pixel_shuffle(y + x.repeat_interleave(scale**2, dim=1), scale)


def test_official_ecbsr_from_0_255(tmp_path: Path) -> None:
    """A bare file is the authors': luma in 0..255. Nothing but the unit of pixels may change."""
    layout = laid_out(small.ecbsr)
    found = convert(stored(layout.official, tmp_path / "model.pt"))
    assert "xindongzhang/ECBSR" in str(found)
    assert "range 0..255 (else --range 1)" in str(found)
    assert found.model.config == EcbsrConfig(blocks=2, width=4, scale=2)
    x = picture(found.model, height=9, width=13)
    published = ecbsr_as_published(layout.official, 255 * x, scale=2) / 255
    assert_close(output(found.model, x), published, dtype="float32")
    assert_close(output(deployed(found.model), x), published, dtype="float32")
    other = ecbsr_as_published(layout.official, x, scale=2)
    assert (other - published).abs().max() > 0.1  # the range matters here


@pytest.mark.parametrize(
    ("wrapper", "white", "said"),
    [
        ("params", None, "range 0..1 (else --range 255)"),
        ("params_ema", None, "range 0..1 (else --range 255)"),
        ("params", 255, None),
        (None, 1, None),
    ],
)
def test_ecbsr_of_basicsr_or_as_told(
    wrapper: str | None, white: int | None, said: str | None, tmp_path: Path
) -> None:
    """BasicSR's files are RGB in 0..1, told by their wrapper; --range has the last word."""
    layout = laid_out(small.ecbsr_rgb)
    content = {wrapper: layout.official} if wrapper else layout.official
    found = convert(stored(content, tmp_path / "a.pth"), white=white)
    assert found.spec.colour == "rgb"
    assert found.assumed.get("range") == (said.removeprefix("range ") if said else None)
    x = picture(found.model, height=9, width=13)
    top = white or 1
    published = ecbsr_as_published(layout.official, top * x, scale=3) / top
    assert_close(output(found.model, x), published, dtype="float32")


@pytest.mark.parametrize(("fill", "scale"), [(big.rdn_edsr, 4), (big.rdn_edsr_x3, 3)])
def test_rdn_of_edsr_pytorch_from_0_255(fill: Any, scale: int, tmp_path: Path) -> None:
    layout = laid_out(fill)
    found = convert(stored(layout.official, tmp_path / "a.pt"))
    config = RdnConfig(scale=scale, blocks=2, layers=3, growth=4, width=4)
    assert found.model.config == config
    x = picture(found.model)
    published = output(by_hand(layout, Rdn, config), 255 * x) / 255
    assert_close(output(found.model, x), published, dtype="float32")


def test_rlfn_from_0_255(tmp_path: Path) -> None:
    layout = laid_out(small.rlfn)
    file = stored(layout.official, tmp_path / "a.pth")
    found = convert(file)
    assert "rgb 0..1 (0..255 inside)" in str(found)
    assert "range 0..255 (else --range 1)" in str(found)
    plain = RlfnConfig(scale=2, features=6, inner=7, blocks=3, attention=4)
    x = picture(found.model)
    reference = by_hand(layout, Rlfn, plain)
    assert_close(output(found.model, x), output(reference, 255 * x) / 255, dtype="float32")
    assert torch.equal(output(convert(file, white=1).model, x), output(reference, x))


def test_edsr_with_its_mean_shift(tmp_path: Path) -> None:
    """The two 1x1 convolutions around it, which are not kept, do what the network does."""
    layout = laid_out(big.edsr_authors)
    found = convert(stored(layout.official, tmp_path / "a.pt"))
    state = layout.official
    x = picture(found.model)
    y = F.conv2d(255 * x, state["sub_mean.weight"], state["sub_mean.bias"])
    inner = by_hand(layout, Edsr, EdsrConfig(scale=3, blocks=3, width=6, pixel_range=1.0))
    with torch.no_grad():
        shifted = inner(y + inner.mean) - inner.mean  # type: ignore[operator]
    y = F.conv2d(shifted, state["add_mean.weight"], state["add_mean.bias"]) / 255
    assert_close(output(found.model, x), y, dtype="float32")
    assert "sub_mean.weight" in found.left_out
    assert "res_scale 1.0" in str(found)


def test_another_mean_shift_is_not_taken(tmp_path: Path) -> None:
    state = laid_out(big.edsr_authors).official
    state["sub_mean.bias"] = state["sub_mean.bias"] * 0.9
    with pytest.raises(ModelError, match="no network that is known"):
        convert(stored(state, tmp_path / "a.pt"))


def test_span_without_its_mean(tmp_path: Path) -> None:
    """Later trainers leave mean and range out, and a mark in the file."""
    layout = laid_out(small.span)
    layout.official["no_norm"] = torch.zeros(1)
    found = convert(stored({"params": layout.official}, tmp_path / "a.pth"))
    config = SpanConfig(scale=2, features=6, blocks=3, pixel_range=1.0, mean=(0.0, 0.0, 0.0))
    assert found.model.config == config
    assert found.assumed == {}


def test_leftthomas_ends_with_a_sigmoid(tmp_path: Path) -> None:
    layout = laid_out(big.espcn_leftthomas)
    found = convert(stored(layout.official, tmp_path / "epoch_4_100.pt"))
    assert found.assumed == {"activation": "tanh", "output": "sigmoid"}
    assert "taken as published: activation tanh, output sigmoid" in str(found)
    y = x = picture(found.model)
    for i, padding in ((1, 2), (2, 1), (3, 1)):
        weight, bias = (layout.official[f"conv{i}.{part}"] for part in ("weight", "bias"))
        y = F.conv2d(y, weight, bias, padding=padding)
        y = y.tanh() if i < 3 else F.pixel_shuffle(y, 4).sigmoid()
    assert_close(output(found.model, x), y, dtype="float32")


def test_range_must_be_possible(tmp_path: Path) -> None:
    file = stored(laid_out(big.espcn_yjn870).official, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"knows 0\.\.1 only: leave --range out"):
        convert(file, white=255)
    with pytest.raises(UsageError, match="--range 2: 1 or 255"):
        convert(file, white=2)
    assert convert(file, white=1)


# Wrappers, prefixes, number formats, names.


def same_as_bare(content: object, path: Path) -> bool:
    layout = laid_out(big.srvgg)
    found = convert(stored(content, path))
    reference = by_hand(layout, Srvgg, SrvggConfig(scale=2, width=6, convs=3))
    x = picture(reference)
    return torch.equal(output(found.model, x), output(reference, x))


@pytest.mark.parametrize(
    "prefix", ["module.", "generator.", "netG.", "module._orig_mod.", "model."]
)
@pytest.mark.parametrize("wrapper", [None, "params", "state_dict", "model_state_dict"])
def test_wrappers_and_prefixes(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    state = {prefix + name: t for name, t in laid_out(big.srvgg).official.items()}
    content = {wrapper: state, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapper else state
    assert same_as_bare(content, tmp_path / "a.pth")


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    state = laid_out(big.srvgg).official
    raw = {name: torch.zeros_like(t) for name, t in state.items()}
    assert same_as_bare({"params": raw, "params_ema": state}, tmp_path / "a.pth")
    ema = {f"module.{name}": t for name, t in state.items()} | {"n_averaged": torch.tensor(3)}
    assert same_as_bare({"state_dict": raw, "ema_state_dict": ema}, tmp_path / "b.pth")
    gan = {f"generator.{name}": t for name, t in raw.items()}
    gan |= {f"generator_ema.{name}": t for name, t in state.items()}
    gan |= {"discriminator.conv.weight": torch.zeros(3, 3), "step_counter": torch.zeros(1)}
    assert same_as_bare({"meta": {"epoch": 1}, "state_dict": gan}, tmp_path / "c.pth")


def test_old_names_that_look_like_a_prefix(tmp_path: Path) -> None:
    state = {f"module.{name}": t for name, t in laid_out(big.rrdb_old).official.items()}
    assert convert(stored(state, tmp_path / "a.pth")).form.source == "the old ESRGAN"


def test_half_precision_and_safetensors(tmp_path: Path) -> None:
    state = laid_out(small.ecbsr).official
    halves = {name: t.half() for name, t in state.items()}
    found = convert(stored(halves, tmp_path / "a.pth"))
    assert all(t.dtype == torch.float32 for t in found.model.state_dict().values())
    rounded = {name: t.float() for name, t in halves.items()}
    x = picture(found.model)
    published = ecbsr_as_published(rounded, 255 * x, scale=2) / 255
    assert_close(output(found.model, x), published, dtype="float32")
    save_file(halves, tmp_path / "b.safetensors")
    again = convert(tmp_path / "b.safetensors")
    assert torch.equal(output(again.model, x), output(found.model, x))


@pytest.mark.usefixtures("unmeasured")
def test_known_sizes_have_their_names(tmp_path: Path) -> None:
    def name_of(model: nn.Module, file: str) -> str:
        return convert(stored(model.state_dict(), tmp_path / file)).spec.name

    assert name_of(Ecbsr(EcbsrConfig(blocks=4, width=8, scale=3)), "a.pth") == "ecbsr-m4c8-x3"
    assert name_of(Srvgg(SrvggConfig(convs=32)), "a.pth") == "srvgg-32-x4"
    assert name_of(Fsrcnn(FsrcnnConfig(scale=3)), "fsrcnn_x3.pth") == "fsrcnn-x3"
    assert name_of(Srcnn(SrcnnConfig(scale=4, kernels=(9, 1, 5))), "x4.pth") == "srcnn-915-x4"
    assert name_of(Rlfn(RlfnConfig(scale=4, features=48)), "a.pth") == "rlfn-s-x4"  # 0..255
    assert name_of(Ecbsr(EcbsrConfig(blocks=3, width=5, scale=2)), "a.pth") == "ecbsr-custom-x2"


@pytest.mark.parametrize(
    ("stem", "scale"),
    [
        ("fsrcnn_x2", 2),
        ("FSRCNN-X3-91", 3),
        ("4x_model", 4),
        ("RealESRGAN_x2plus", 2),
        ("net", None),
        ("x2_to_x4", None),
        ("x264_test", None),
        ("best2x", None),
    ],
)
def test_scale_in_a_file_name(stem: str, scale: int | None) -> None:
    assert scale_in_name(stem) == scale


def test_scale_that_no_tensor_tells(tmp_path: Path) -> None:
    layout = laid_out(big.fsrcnn_yjn870)
    file = stored(layout.official, tmp_path / "best.pth")
    with pytest.raises(UsageError, match="fsrcnn, whose tensors do not tell its scale: add --sca"):
        convert(file)
    assert convert(file, scale=4).spec.scale == 4
    named = stored(layout.official, tmp_path / "best_x2.pth")
    assert convert(named).spec.scale == 2
    assert convert(named, scale=3).spec.scale == 3
    with pytest.raises(UsageError, match="not offered at scale 7: 2, 3, 4"):
        convert(file, scale=7)


def test_scale_that_the_tensors_contradict(tmp_path: Path) -> None:
    file = stored(laid_out(big.srvgg).official, tmp_path / "srvgg_x4.pth")
    assert convert(file).spec.scale == 2  # whatever the name says
    with pytest.raises(UsageError, match="upscales 2 times, not 3: leave --scale out"):
        convert(file, scale=3)


# What is refused.


class Trap:
    """Runs a command when it is unpickled by a loader that lets it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_a_file_is_refused_and_not_run(modern: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = {"state_dict": laid_out(big.srvgg).official, "hook": Trap(mark)}
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    with pytest.raises(ModelError, match=r"holds pickled objects, .* runs no code"):
        convert(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # so the trap does work


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    file = stored({"epoch": 1, "model": nn.Conv2d(1, 1, 3)}, tmp_path / "vdsr.pth")
    with pytest.raises(ModelError, match=r"torch\.save\(model\.state_dict\(\), 'plain\.pth'\)"):
        convert(file)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            convert(path)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "nowhere.pth", "nowhere.pth: no such file")
    refused(tmp_path, "is a folder, not a checkpoint")
    for name in ("a.pth", "a.safetensors"):
        file = tmp_path / name
        for content in (b"", b"hello", b"\x00" * 100, b"PK\x03\x04 cut off"):
            file.write_bytes(content)
            refused(file, "is no checkpoint that torch can read")
    for empty in ({}, {"params": {}}, {"epoch": 3}, [1, 2], {"discriminator.a": torch.zeros(1)}):
        refused(stored(empty, tmp_path / "b.pth"), "holds no tensors of a network")


def test_an_unknown_network_is_told_its_nearest(tmp_path: Path) -> None:
    state = laid_out(big.msrresnet_basicsr).official
    state["body.0.attention.weight"] = torch.zeros(3)
    state["upconv1.weight"] = torch.zeros(24, 5, 3, 3)
    del state["conv_hr.bias"]
    with pytest.raises(ModelError) as caught:
        convert(stored(state, tmp_path / "a.pth"))
    message = str(caught.value)
    assert "has its 18 tensors (conv_first.weight (6, 3, 3, 3), conv_first.bias (6,)," in message
    assert "none is near" not in message
    assert "body.0.attention.weight (3,)" in message
    assert "conv_hr.bias" in message


def test_nearest_in_the_words_of_the_file(tmp_path: Path) -> None:
    state = laid_out(big.edsr_authors).official
    state["body.1.body.0.weight"] = torch.zeros(6, 6, 5, 5)
    state["body.1.body.4.weight"] = torch.zeros(7)
    with pytest.raises(ModelError) as caught:
        convert(stored(state, tmp_path / "a.pth"))
    assert (
        "nearest is edsr-baseline as EDSR-PyTorch stores it: 19 fit, "
        "1 not in the network (body.1.body.4.weight (7,)), "
        "1 of another shape (body.1.body.0.weight (6, 6, 5, 5))"
    ) in str(caught.value)


def test_nearest_where_the_size_is_not_told(tmp_path: Path) -> None:
    """Without the layer by which its size is read off."""
    state = laid_out(small.rlfn).official
    del state["conv_1.bias"]
    with pytest.raises(ModelError, match="nearest is rlfn as bytedance/RLFN stores it") as caught:
        convert(stored(state, tmp_path / "a.pth"))
    assert "conv_1.bias" in str(caught.value)


def test_nothing_near(tmp_path: Path) -> None:
    file = stored({"fc.weight": torch.zeros(10, 4)}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"its 1 tensors \(fc.weight \(10, 4\)\); none is near"):
        convert(file)


def test_msrresnet_of_mmagic_is_another_function(tmp_path: Path) -> None:
    """The same tensors, but without an activation behind the pixel shuffles: not to be taken."""
    layout = Layout()
    layout.conv("generator.conv_first", 6, 3)
    layout.conv("generator.trunk_net.{0..1}.conv{1,2}", 6, 6)
    layout.conv("generator.upsample{1,2}.upsample_conv", 24, 6)
    layout.conv("generator.conv_hr", 6, 6)
    layout.conv("generator.conv_last", 3, 6)
    with pytest.raises(ModelError, match="no network that is known"):
        convert(stored({"state_dict": layout.official}, tmp_path / "a.pth"))


# The verb.


@pytest.fixture
def fsrcnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return stored(laid_out(big.fsrcnn_lornatang).official, tmp_path / "fsrcnn.pth")


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.run(["convert", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_verb_then_load_and_export(
    fsrcnn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, fsrcnn.name, "-o", "m.safetensors", "--scale", 3)
    assert (code, err) == (0, "")
    assert out.startswith("m.safetensors: fsrcnn-custom-x3, as Lornatang/FSRCNN-PyTorch stores it")
    assert out.endswith("; next: edgesr export m.safetensors\n")
    assert out.count("\n") == 1

    model, spec = checkpoint.load(tmp_path / "m.safetensors")
    assert (spec.network, spec.scale, spec.colour, spec.halo) == ("fsrcnn", 3, "y", 6)
    config = FsrcnnConfig(scale=3, features=6, shrunk=3, mappings=2)
    reference = by_hand(laid_out(big.fsrcnn_lornatang), Fsrcnn, config)
    x = picture(reference)
    assert torch.equal(output(model, x), output(reference, x))
    report = export_onnx(model, spec, tmp_path / "m.onnx", io="float32")
    assert report.to_dict()["difference"]["max_abs"] <= 1e-4


def test_verb_json(fsrcnn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, fsrcnn, "-s", 2, "--range", 255, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["path"] == str(fsrcnn.with_suffix(".safetensors"))
    assert report["network"] == "fsrcnn"
    assert report["source"] == "Lornatang/FSRCNN-PyTorch"
    assert report["config"]["mappings"] == 2
    assert report["spec"]["scale"] == 2
    assert report["assumed"] == {}


def test_verb_refusals(fsrcnn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(code: int, message: str, *arguments: object) -> None:
        got, out, err = said(capsys, *arguments)
        assert (got, out) == (code, "")
        assert err.startswith("error: ")
        assert message in err
        assert err.count("\n") == 1

    refused(2, "add --scale", fsrcnn)
    assert not fsrcnn.with_suffix(".safetensors").exists()
    (tmp_path / "m.safetensors").write_bytes(b"mine")
    refused(2, "exists already: add --overwrite", fsrcnn, "-o", "m.safetensors", "-s", 2)
    assert (tmp_path / "m.safetensors").read_bytes() == b"mine"
    refused(2, "a checkpoint ends in .safetensors", fsrcnn, "-o", "m.pth")
    refused(2, "there is no folder", fsrcnn, "-o", "no/m.safetensors")
    refused(1, "nowhere.pth: no such file", "nowhere.pth")
    refused(2, "--range 3: 1 or 255", fsrcnn, "--range", 3, "-s", 2)

    assert said(capsys, fsrcnn, "-o", "m.safetensors", "-s", 2, "-y", "-q") == (0, "", "")
    refused(2, "is the file to be converted", "m.safetensors", "-y")
    refused(1, "is a checkpoint of edgesr already", "m.safetensors", "-o", "n.safetensors")
