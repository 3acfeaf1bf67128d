"""Every architecture in a size that computes at once: each kind of layer, few channels."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from edgesr.networks.abpn import Abpn, AbpnConfig
from edgesr.networks.basicvsr import BasicVsr, BasicVsrConfig
from edgesr.networks.bicubicpp import BicubicPlusPlus, BicubicPlusPlusConfig
from edgesr.networks.bsrn import Bsrn, BsrnConfig
from edgesr.networks.bsrn_s import BsrnS, BsrnSConfig
from edgesr.networks.causal import Causal, CausalConfig
from edgesr.networks.drcn import Drcn, DrcnConfig
from edgesr.networks.ebrn import Ebrn, EbrnConfig
from edgesr.networks.ecbsr import Ecbsr, EcbsrConfig
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

SMALL: dict[str, Callable[[int], nn.Module]] = {
    "espcn": lambda scale: Espcn(EspcnConfig(scale=scale, widths=(24, 17))),
    "espcn-rgb": lambda scale: Espcn(EspcnConfig(scale=scale, channels=3, widths=(8, 6))),
    "ecbsr-m4c8": lambda scale: Ecbsr(EcbsrConfig(blocks=2, width=8, scale=scale)),
    "ecbsr-m4c16-rgb": lambda scale: Ecbsr(EcbsrConfig(blocks=2, width=8, scale=scale, channels=3)),
    "srcnn": lambda scale: Srcnn(SrcnnConfig(scale=scale, widths=(8, 6))),
    "srcnn-915": lambda scale: Srcnn(SrcnnConfig(scale=scale, widths=(8, 6), kernels=(9, 1, 5))),
    "fsrcnn": lambda scale: Fsrcnn(FsrcnnConfig(scale=scale)),
    "fsrcnn-s": lambda scale: Fsrcnn(FsrcnnConfig(scale=scale, features=32, shrunk=5, mappings=1)),
    "fsrcnn-pisr": lambda scale: Fsrcnn(FsrcnnConfig(scale=scale, shared_slopes=True)),
    "vdsr": lambda scale: Vdsr(VdsrConfig(scale=scale, width=8, depth=4)),
    "drcn": lambda scale: Drcn(DrcnConfig(scale=scale, width=8, recursions=3)),
    "lapsrn": lambda scale: Lapsrn(LapsrnConfig(scale=scale, width=8, depth=2)),
    "mslapsrn": lambda scale: Mslapsrn(MslapsrnConfig(scale=scale, width=8, depth=2, recursions=2)),
    "srdensenet": lambda scale: Srdensenet(
        SrdensenetConfig(scale=scale, stem=8, blocks=2, layers=3, growth=4, bottleneck=8)
    ),
    "rdn": lambda scale: Rdn(RdnConfig(scale=scale, blocks=2, layers=3, growth=4, width=8)),
    "edsr-baseline": lambda scale: Edsr(EdsrConfig(scale=scale, blocks=2, width=8)),
    "edsr": lambda scale: Edsr(EdsrConfig(scale=scale, blocks=2, width=8, res_scale=0.1)),
    "srresnet": lambda scale: Srresnet(SrresnetConfig(scale=scale, blocks=2, width=8)),
    "msrresnet": lambda scale: Msrresnet(MsrresnetConfig(scale=scale, blocks=2, width=8)),
    "rcan": lambda scale: Rcan(RcanConfig(scale=scale, groups=2, blocks=2, width=8, squeeze=4)),
    "rcan-small": lambda scale: Rcan(
        RcanConfig(scale=scale, groups=2, blocks=1, width=8, squeeze=4)
    ),
    "ebrn": lambda scale: Ebrn(EbrnConfig(scale=scale, blocks=3, width=8, stem=12)),
    "rrdb": lambda scale: Rrdb(RrdbConfig(scale=scale, width=8, growth=4, blocks=2)),
    "rrdb-6b": lambda scale: Rrdb(RrdbConfig(scale=scale, width=8, growth=4, blocks=1)),
    "spsr": lambda scale: Spsr(SpsrConfig(scale=scale, width=4, growth=2, blocks=3, taps=(1, 2))),
    "srvgg-16": lambda scale: Srvgg(SrvggConfig(scale=scale, width=8, convs=2)),
    "srvgg-32": lambda scale: Srvgg(SrvggConfig(scale=scale, width=8, convs=4)),
    "glean": lambda scale: Glean(
        GleanConfig(
            scale=scale,
            in_size=8,
            rrdb_blocks=1,
            width=6,
            growth=4,
            style_channels=10,
            mapping_layers=2,
            channel_base=256,
            channel_max=8,
        )
    ),
    "bsrn": lambda scale: Bsrn(BsrnConfig(scale=scale, features=16, blocks=2, reduction=4)),
    "bsrn-s": lambda scale: BsrnS(BsrnSConfig(scale=scale, features=16, blocks=2)),
    "rlfn": lambda scale: Rlfn(
        RlfnConfig(scale=scale, features=12, inner=14, blocks=2, attention=4)
    ),
    "span": lambda scale: Span(SpanConfig(scale=scale, features=8, blocks=3)),
    "safmn": lambda scale: Safmn(SafmnConfig(scale=scale, features=8, blocks=2)),
    "sesr-m5": lambda scale: Sesr(SesrConfig(scale=scale, blocks=2, width=8, expanded=32)),
    "sesr-m5-rgb": lambda scale: Sesr(
        SesrConfig(scale=scale, blocks=2, width=8, expanded=32, rgb=True)
    ),
    "quicksrnet-small": lambda scale: QuickSrNet(QuickSrNetConfig(scale=scale, width=8)),
    "quicksrnet-large": lambda scale: QuickSrNet(
        QuickSrNetConfig(scale=scale, width=8, blocks=3, ito=True)
    ),
    "xlsr": lambda scale: Xlsr(XlsrConfig(scale=scale, blocks=2)),
    "abpn": lambda scale: Abpn(AbpnConfig(scale=scale, width=12, blocks=2)),
    "bicubicpp": lambda scale: BicubicPlusPlus(BicubicPlusPlusConfig(scale=scale, width=8)),
    "pisr-teacher": lambda scale: PisrTeacher(
        PisrConfig(scale=scale, features=8, shrunk=4, mappings=1)
    ),
    "basicvsr": lambda scale: BasicVsr(
        BasicVsrConfig(
            scale=scale, features=4, blocks=1, refined=4, flow_levels=3, flow_widths=(4, 4, 4, 4)
        )
    ),
    "iconvsr": lambda scale: IconVsr(
        IconVsrConfig(
            scale=scale,
            features=4,
            blocks=1,
            refined=4,
            extraction_blocks=1,
            deform_groups=2,
            flow_levels=3,
            flow_widths=(4, 4, 4, 4),
        )
    ),
    "causal-r5c16": lambda scale: Causal(CausalConfig(scale=scale, blocks=2, width=8)),
}
