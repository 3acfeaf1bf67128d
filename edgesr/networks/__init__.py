"""The networks: one file each, and one dict that names them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from edgesr.errors import ModelError, UsageError
from edgesr.networks import ecbsr, pisr, sesr, span
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


@dataclass(frozen=True)
class Builder:
    """How a network comes into being, freshly initialised, in its training form.

    scales  the factors at which it is offered
    kind    "picture": (N, C, H, W) -> (N, C, sH, sW); "video": (N, T, C, H, W) likewise;
            "teacher": sees the large picture too, and only teaches
    """

    make: Callable[[int], nn.Module]
    scales: tuple[int, ...] = (2, 3, 4)
    kind: Literal["picture", "video", "teacher"] = "picture"


NETWORKS: dict[str, Builder] = {
    "espcn": Builder(lambda scale: Espcn(EspcnConfig(scale=scale))),
    "espcn-tanh": Builder(lambda scale: Espcn(EspcnConfig(scale=scale, activation="tanh"))),
    "espcn-rgb": Builder(lambda scale: Espcn(EspcnConfig(scale=scale, channels=3))),
    "ecbsr-m4c8": Builder(lambda scale: Ecbsr(EcbsrConfig(blocks=4, width=8, scale=scale))),
    "ecbsr-m4c16": Builder(lambda scale: Ecbsr(EcbsrConfig(blocks=4, width=16, scale=scale))),
    "ecbsr-m10c16": Builder(lambda scale: Ecbsr(EcbsrConfig(blocks=10, width=16, scale=scale))),
    "ecbsr-m10c32": Builder(lambda scale: Ecbsr(EcbsrConfig(blocks=10, width=32, scale=scale))),
    "ecbsr-m4c16-rgb": Builder(
        lambda scale: Ecbsr(EcbsrConfig(blocks=4, width=16, scale=scale, channels=3))
    ),
    "ecbsr-m16c64": Builder(lambda scale: Ecbsr(EcbsrConfig(blocks=16, width=64, scale=scale))),
    "srcnn": Builder(lambda scale: Srcnn(SrcnnConfig(scale=scale))),
    "srcnn-915": Builder(lambda scale: Srcnn(SrcnnConfig(scale=scale, kernels=(9, 1, 5)))),
    "fsrcnn": Builder(lambda scale: Fsrcnn(FsrcnnConfig(scale=scale))),
    "fsrcnn-s": Builder(
        lambda scale: Fsrcnn(FsrcnnConfig(scale=scale, features=32, shrunk=5, mappings=1))
    ),
    "fsrcnn-pisr": Builder(lambda scale: Fsrcnn(FsrcnnConfig(scale=scale, shared_slopes=True))),
    "vdsr": Builder(lambda scale: Vdsr(VdsrConfig(scale=scale))),
    "drcn": Builder(lambda scale: Drcn(DrcnConfig(scale=scale))),
    "lapsrn": Builder(lambda scale: Lapsrn(LapsrnConfig(scale=scale)), scales=(2, 3, 4, 8)),
    "mslapsrn": Builder(lambda scale: Mslapsrn(MslapsrnConfig(scale=scale)), scales=(2, 3, 4, 8)),
    "srdensenet": Builder(lambda scale: Srdensenet(SrdensenetConfig(scale=scale)), scales=(2, 4)),
    "rdn": Builder(lambda scale: Rdn(RdnConfig(scale=scale))),
    "edsr-baseline": Builder(lambda scale: Edsr(EdsrConfig(scale=scale))),
    "edsr": Builder(
        lambda scale: Edsr(EdsrConfig(scale=scale, blocks=32, width=256, res_scale=0.1))
    ),
    "srresnet": Builder(lambda scale: Srresnet(SrresnetConfig(scale=scale))),
    "msrresnet": Builder(lambda scale: Msrresnet(MsrresnetConfig(scale=scale))),
    "rcan": Builder(lambda scale: Rcan(RcanConfig(scale=scale))),
    "rcan-small": Builder(lambda scale: Rcan(RcanConfig(scale=scale, blocks=6))),
    "ebrn": Builder(lambda scale: Ebrn(EbrnConfig(scale=scale))),
    "rrdb": Builder(lambda scale: Rrdb(RrdbConfig(scale=scale)), scales=(1, 2, 4)),
    "rrdb-6b": Builder(lambda scale: Rrdb(RrdbConfig(scale=scale, blocks=6)), scales=(1, 2, 4)),
    "spsr": Builder(lambda scale: Spsr(SpsrConfig(scale=scale)), scales=(4,)),
    "srvgg-16": Builder(lambda scale: Srvgg(SrvggConfig(scale=scale))),
    "srvgg-32": Builder(lambda scale: Srvgg(SrvggConfig(scale=scale, convs=32))),
    "glean": Builder(
        lambda scale: Glean(
            GleanConfig(scale=scale, in_size={8: 32, 16: 64, 32: 32, 64: 16}[scale])
        ),
        scales=(8, 16, 32, 64),
    ),
    "glean-blind": Builder(  # faces 128 -> 1024
        lambda scale: Glean(GleanConfig(scale=scale, in_size=128)), scales=(8,)
    ),
    "glean-small": Builder(  # cats 16 -> 256
        lambda scale: Glean(GleanConfig(scale=scale, in_size=16)), scales=(16,)
    ),
    "bsrn": Builder(lambda scale: Bsrn(BsrnConfig(scale=scale))),
    "bsrn-s": Builder(lambda scale: BsrnS(BsrnSConfig(scale=scale))),
    "rlfn": Builder(lambda scale: Rlfn(RlfnConfig(scale=scale))),
    "rlfn-s": Builder(lambda scale: Rlfn(RlfnConfig(scale=scale, features=48))),
    "rlfn-ntire": Builder(
        lambda scale: Rlfn(RlfnConfig(scale=scale, features=46, inner=48, blocks=4))
    ),
    "span": Builder(lambda scale: Span(SpanConfig(scale=scale))),
    "span-s": Builder(lambda scale: Span(SpanConfig(scale=scale, features=48))),
    "span-28": Builder(lambda scale: Span(SpanConfig(scale=scale, features=28))),
    "span-26": Builder(lambda scale: Span(SpanConfig(scale=scale, features=26))),
    "safmn": Builder(lambda scale: Safmn(SafmnConfig(scale=scale))),
    "sesr-m3": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=3))),
    "sesr-m5": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=5))),
    "sesr-m7": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=7))),
    "sesr-m11": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=11, expanded=64))),
    "sesr-xl": Builder(
        lambda scale: Sesr(SesrConfig(scale=scale, blocks=11, width=32, expanded=64))
    ),
    "sesr-m3-rgb": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=3, rgb=True))),
    "sesr-m5-rgb": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=5, rgb=True))),
    "sesr-m7-rgb": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=7, rgb=True))),
    "sesr-m11-rgb": Builder(lambda scale: Sesr(SesrConfig(scale=scale, blocks=11, rgb=True))),
    "sesr-xl-rgb": Builder(
        lambda scale: Sesr(SesrConfig(scale=scale, blocks=11, width=32, rgb=True))
    ),
    "quicksrnet-small": Builder(lambda scale: QuickSrNet(QuickSrNetConfig(scale=scale))),
    "quicksrnet-medium": Builder(lambda scale: QuickSrNet(QuickSrNetConfig(scale=scale, blocks=5))),
    "quicksrnet-large": Builder(
        lambda scale: QuickSrNet(QuickSrNetConfig(scale=scale, width=64, blocks=11, ito=True))
    ),
    "xlsr": Builder(lambda scale: Xlsr(XlsrConfig(scale=scale))),
    "abpn": Builder(lambda scale: Abpn(AbpnConfig(scale=scale))),
    "bicubicpp": Builder(lambda scale: BicubicPlusPlus(BicubicPlusPlusConfig(scale=scale))),
    "pisr-teacher": Builder(lambda scale: PisrTeacher(PisrConfig(scale=scale)), kind="teacher"),
    "basicvsr": Builder(
        lambda scale: BasicVsr(BasicVsrConfig(scale=scale)), scales=(2, 4), kind="video"
    ),
    "basicvsr-15": Builder(
        lambda scale: BasicVsr(BasicVsrConfig(scale=scale, blocks=15)), scales=(2, 4), kind="video"
    ),
    "iconvsr": Builder(
        lambda scale: IconVsr(IconVsrConfig(scale=scale)), scales=(4,), kind="video"
    ),
    "iconvsr-vimeo": Builder(
        lambda scale: IconVsr(IconVsrConfig(scale=scale, margin=3)), scales=(4,), kind="video"
    ),
    "causal-r2c8": Builder(
        lambda scale: Causal(CausalConfig(scale=scale, blocks=2, width=8)), kind="video"
    ),
    "causal-r2c16": Builder(
        lambda scale: Causal(CausalConfig(scale=scale, blocks=2)), kind="video"
    ),
    "causal-r5c16": Builder(lambda scale: Causal(CausalConfig(scale=scale)), kind="video"),
}

# Those that are trained in one form and deployed in another.
MERGES: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
    ecbsr.Ecbsr: ecbsr.merge,
    sesr.Sesr: sesr.merge,
    span.Span: span.merge,
    pisr.PisrStudent: pisr.merge,
}


def build(name: str, scale: int) -> nn.Module:
    """The training form of a network, freshly initialised. Raises UsageError."""
    builder = find(name)
    if scale not in builder.scales:
        offered = ", ".join(map(str, builder.scales))
        raise UsageError(f"{name}: scale {scale} is not offered: {offered}")
    return builder.make(scale)


def build_as(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A network of the named kind with another configuration (as a checkpoint holds it).

    Raises UsageError for an unknown name, ModelError for settings that it does not have.
    """
    builder = find(name)
    with torch.device("meta"):
        example: Any = builder.make(builder.scales[0])
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
    try:
        return type(example)(type(example.config)(**values))
    except TypeError as error:
        raise ModelError(f"{name} cannot be built with {dict(config)}: {error}") from error


def find(name: str) -> Builder:
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no network {name!r}: {hint}known are {', '.join(NETWORKS)}")
    return NETWORKS[name]


def deployed(model: nn.Module) -> nn.Module:
    """A copy as it is deployed: branches merged, in evaluation mode, on the CPU in float32.

    One that lies on the meta device stays there.
    """
    model = copy.deepcopy(model).eval()
    merge = MERGES.get(type(model), lambda same: same)
    if any(p.is_meta for p in model.parameters()):
        with torch.device("meta"):
            return merge(model)
    return merge(model.cpu().float())
