"""`edgesr convert`: every layout of other people, made small in `official*.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import conversions
import official as big
import official_small as small
from conversions import by_hand, laid_out, output, picture, stored
from official import Layout

from edgesr.networks.abpn import Abpn, AbpnConfig
from edgesr.networks.basicvsr import BasicVsr, BasicVsrConfig
from edgesr.networks.bicubicpp import BicubicPlusPlus, BicubicPlusPlusConfig
from edgesr.networks.bsrn import Bsrn, BsrnConfig
from edgesr.networks.bsrn_s import BsrnS, BsrnSConfig
from edgesr.networks.convert import FORMS, convert
from edgesr.networks.edsr import Edsr, EdsrConfig
from edgesr.networks.espcn import Espcn, EspcnConfig
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

unmeasured = conversions.unmeasured


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
