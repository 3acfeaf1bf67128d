"""Checkpoints as other people lay them out, in small: every name written down, no weights fetched.

Each function below fills a `Layout` in the words of one repository. A second name is where the
tensor belongs in edgesr's network, None: nowhere; without one it has the same name there.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import Tensor

SAME = "="


class Layout:
    """Random tensors under their official names, and under ours."""

    def __init__(self, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.official: dict[str, Tensor] = {}
        self.ours: dict[str, Tensor] = {}

    def tensor(self, there: str, here: str | None, shape: tuple[int, ...], size: float) -> None:
        """`{1,3}` and `{0..2}` in both names run side by side."""
        places = spread(there)
        own: list[Any] = places
        if here != SAME:
            own = [None] * len(places) if here is None else spread(here)
        for theirs, mine in zip(places, own, strict=True):
            assert theirs not in self.official, theirs
            value = torch.randn(shape, generator=self.random) * size
            self.official[theirs] = value
            if mine is not None:
                assert mine not in self.ours, mine
                self.ours[mine] = value

    def conv(
        self,
        name: str,
        out: int,
        inp: int,
        kernel: int = 3,
        *,
        to: str | None = SAME,
        bias: bool = True,
    ) -> None:
        shape = (out, inp, kernel, kernel) if kernel else (out, inp)
        size = (inp * max(1, kernel) ** 2) ** -0.5
        self.tensor(f"{name}.weight", below(to, "weight"), shape, size)
        if bias:
            self.tensor(f"{name}.bias", below(to, "bias"), (out,), 0.1)

    def deconv(self, name: str, inp: int, out: int, kernel: int, *, to: str | None = SAME) -> None:
        self.tensor(f"{name}.weight", below(to, "weight"), (inp, out, kernel, kernel), inp**-0.5)
        self.tensor(f"{name}.bias", below(to, "bias"), (out,), 0.1)

    def slopes(self, name: str, channels: int, *, to: str | None = SAME) -> None:
        self.tensor(f"{name}.weight", below(to, "weight"), (channels,), 0.3)

    def norm(self, name: str, channels: int, *, to: str | None = SAME) -> None:
        """Batch normalisation: what it learned, and what it saw."""
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.tensor(f"{name}.{part}", below(to, part), (channels,), 0.1)
        for places in (self.official, self.ours):
            for key in places:
                if key.endswith("running_var"):
                    places[key] = places[key].abs() + 0.5
        for theirs, mine in zip(spread(name), spread(name if to == SAME else str(to)), strict=True):
            for places, key in ((self.official, theirs), (self.ours, mine)):
                places[f"{key}.num_batches_tracked"] = torch.tensor(7)


def below(name: str | None, part: str) -> str | None:
    return name if name in (None, SAME) else f"{name}.{part}"


def spread(name: str) -> list[str]:
    """ "a{0..1}.b{x,y}" -> a0.bx, a0.by, a1.bx, a1.by."""
    pieces: list[list[str]] = []
    for piece in re.split(r"(\{[^}]*\})", name):
        if not piece.startswith("{"):
            pieces.append([piece])
        elif ".." in piece:
            first, last = piece[1:-1].split("..")
            pieces.append([str(i) for i in range(int(first), int(last) + 1)])
        else:
            pieces.append(piece[1:-1].split(","))
    return ["".join(words) for words in itertools.product(*pieces)]


# Luma


def srcnn_yjn870(o: Layout) -> None:
    o.conv("conv1", 8, 1, 9)
    o.conv("conv2", 6, 8, 5)
    o.conv("conv3", 1, 6, 5)


def srcnn_lornatang(o: Layout) -> None:
    o.conv("features.0", 8, 1, 9, to="conv1")
    o.conv("map.0", 6, 8, 1, to="conv2")
    o.conv("reconstruction", 1, 6, 5, to="conv3")


def srcnn_mmagic(o: Layout) -> None:
    o.conv("generator.conv1", 8, 3, 9, to="conv1")
    o.conv("generator.conv2", 6, 8, 1, to="conv2")
    o.conv("generator.conv3", 3, 6, 5, to="conv3")
    o.tensor("step_counter", None, (1,), 1)


def fsrcnn_yjn870(o: Layout) -> None:
    o.conv("first_part.0", 6, 1, 5)
    o.slopes("first_part.1", 6)
    o.conv("mid_part.0", 3, 6, 1)
    o.conv("mid_part.{2,4}", 3, 3)
    o.slopes("mid_part.{1,3,5}", 3)
    o.conv("mid_part.6", 6, 3, 1)
    o.slopes("mid_part.7", 6)
    o.deconv("last_part", 6, 1, 9)


def fsrcnn_lornatang(o: Layout) -> None:
    o.conv("feature_extraction.0", 6, 1, 5, to="first_part.0")
    o.slopes("feature_extraction.1", 6, to="first_part.1")
    o.conv("shrink.0", 3, 6, 1, to="mid_part.0")
    o.slopes("shrink.1", 3, to="mid_part.1")
    o.conv("map.{0,2}", 3, 3, to="mid_part.{2,4}")
    o.slopes("map.{1,3}", 3, to="mid_part.{3,5}")
    o.conv("expand.0", 6, 3, 1, to="mid_part.6")
    o.slopes("expand.1", 6, to="mid_part.7")
    o.deconv("deconv", 6, 1, 9, to="last_part")


def pisr_fsrcnn(o: Layout, below: str) -> None:
    network = "backbone.network."
    o.conv(f"{network}feature_extraction.0.0", 6, 1, 5, to=f"{below}first_part.0")
    o.slopes(f"{network}feature_extraction.0.1", 1, to=f"{below}first_part.1")
    o.conv(f"{network}shrinking.0.0", 3, 6, 1, to=f"{below}mid_part.0")
    o.slopes(f"{network}shrinking.0.1", 1, to=f"{below}mid_part.1")
    o.conv(f"{network}mapping.{{0,1,2}}.0", 3, 3, to=f"{below}mid_part.{{2,4,6}}")
    o.slopes(f"{network}mapping.{{0,1,2}}.1", 1, to=f"{below}mid_part.{{3,5,7}}")
    o.conv(f"{network}expanding.0.0", 6, 3, 1, to=f"{below}mid_part.8")
    o.slopes(f"{network}expanding.0.1", 1, to=f"{below}mid_part.9")
    o.deconv(f"{network}last_layer.0.0", 6, 1, 9, to=f"{below}last_part")


def pisr_student(o: Layout) -> None:
    pisr_fsrcnn(o, "")
    o.conv("vid_module_dict.expanding_{mean,var}.{0,2}", 6, 6, 1, to=None)
    o.slopes("vid_module_dict.expanding_{mean,var}.1", 1, to=None)


def pisr_teacher(o: Layout) -> None:
    pisr_fsrcnn(o, "decoder.")
    o.conv("backbone.network.encoder.0.0", 6, 1, 5, to="encoder.0.0")
    o.conv("backbone.network.encoder.0.2", 6, 6, 5, to="encoder.0.2")
    o.conv("backbone.network.encoder.0.4", 3, 6, 3, to="encoder.0.4")
    o.conv("backbone.network.encoder.0.6", 1, 3, 3, to="encoder.0.6")
    o.slopes("backbone.network.encoder.0.{1,3,5}", 1, to="encoder.0.{1,3,5}")


def espcn_yjn870(o: Layout) -> None:
    o.conv("first_part.0", 8, 1, 5, to="conv1")
    o.conv("first_part.2", 6, 8, 3, to="conv2")
    o.conv("last_part.0", 9, 6, 3, to="conv3")


def espcn_lornatang(o: Layout) -> None:
    o.conv("feature_maps.0", 8, 3, 5, to="conv1")
    o.conv("feature_maps.2", 4, 8, 3, to="conv2")
    o.conv("sub_pixel.0", 12, 4, 3, to="conv3")


def espcn_leftthomas(o: Layout) -> None:
    o.conv("conv1", 8, 1, 5)
    o.conv("conv2", 6, 8, 3)
    o.conv("conv3", 16, 6, 3)


def vdsr_twtygqyy(o: Layout) -> None:
    o.conv("input", 5, 1, bias=False)
    o.conv("residual_layer.{0..2}.conv", 5, 5, bias=False)
    o.conv("output", 1, 5, bias=False)


def vdsr_lornatang(o: Layout) -> None:
    o.conv("conv1.0", 5, 1, bias=False, to="input")
    o.conv("trunk.{0..2}.conv", 5, 5, bias=False, to="residual_layer.{0..2}.conv")
    o.conv("conv2", 1, 5, bias=False, to="output")


def lapsrn_twtygqyy(o: Layout) -> None:
    o.conv("conv_input", 4, 1, bias=False)
    o.conv("convt_F{1,2}.0.cov_block.{0,2,4}", 4, 4, bias=False)
    o.conv("convt_F{1,2}.0.cov_block.6", 4, 4, 4, bias=False)
    o.conv("convt_I{1,2}", 1, 1, 4, bias=False)
    o.conv("convt_R{1,2}", 1, 4, bias=False)


def mslapsrn_lorenzomammana(o: Layout) -> None:
    o.conv("conv_input", 4, 1, to="input_conv")
    o.conv("features.recursive_block.block.conv_{0..2}", 4, 4, to="conv{1..3}")
    o.deconv("transpose", 4, 4, 3, to="upconv")
    o.conv("scale_img", 1, 1, 4, bias=False, to="img_up")
    o.conv("predict", 1, 4, to="residual_conv")


def srdensenet_yjn870(o: Layout) -> None:
    o.conv("conv.conv", 7, 1)
    for block in range(3):
        o.conv(f"dense_blocks.{block}.block.0.conv", 2, 7 + 4 * block)
        o.conv(f"dense_blocks.{block}.block.1.conv", 2, 2)
    o.conv("bottleneck.0", 5, 19, 1)
    o.deconv("deconv.{0,2}", 5, 5, 3)
    o.conv("reconstruction", 1, 5)


def srdensenet_wxywhu_1(o: Layout) -> None:
    """Every layer sees all of its block's input; blocks are counted from 1."""
    o.conv("conv1", 7, 1, to="conv.conv")
    for block in (1, 2):
        for layer in (0, 1):
            o.conv(
                f"dense{block}.{layer}.conv",
                2,
                7 + 4 * (block - 1) + 2 * layer,
                to=f"dense_blocks.{block - 1}.block.{layer}.conv",
            )
    o.conv("Bottleneck", 5, 15, 1, to="bottleneck.0")
    o.deconv("convt1", 5, 5, 4, to="deconv.0")
    o.deconv("convt2", 5, 5, 4, to="deconv.2")
    o.conv("conv2", 1, 5, to="reconstruction")


def srdensenet_wxywhu_2(o: Layout) -> None:
    o.conv("conv1", 7, 1, to="conv.conv")
    for block in (0, 1):
        for layer in (0, 1):
            o.conv(
                f"denseblock.{block}.block.{layer}.conv",
                2,
                7 + 4 * block + 2 * layer,
                to=f"dense_blocks.{block}.block.{layer}.conv",
            )
    o.conv("Bottleneck", 5, 15, 1, to="bottleneck.0")
    o.deconv("convt1", 5, 5, 4, to="deconv.0")
    o.deconv("convt2", 5, 5, 4, to="deconv.2")
    o.conv("conv2", 1, 5, to="reconstruction")


# ESRGAN and its kin


def dense_blocks(o: Layout, name: str, to: str, width: int, growth: int) -> None:
    """`name` and `to` end where "conv1" begins, with the braces of blocks and dense blocks."""
    for i in range(1, 5):
        inputs = width + (i - 1) * growth
        tail = ".0" if name.startswith(("model", "b_", "f_")) else ""
        o.conv(f"{name}conv{i}{tail}", growth, inputs, to=f"{to}conv{i}")
    tail = ".0" if name.startswith(("model", "b_", "f_")) else ""
    o.conv(f"{name}conv5{tail}", width, width + 4 * growth, to=f"{to}conv5")


def rrdb_basicsr(o: Layout) -> None:
    o.conv("conv_first", 8, 12)
    dense_blocks(o, "body.{0..2}.rdb{1..3}.", "body.{0..2}.rdb{1..3}.", 8, 4)
    o.conv("{conv_body,conv_up1,conv_up2,conv_hr}", 8, 8)
    o.conv("conv_last", 3, 8)


def rrdb_esrgan(o: Layout) -> None:
    o.conv("conv_first", 8, 3)
    dense_blocks(o, "RRDB_trunk.{0..1}.RDB{1..3}.", "body.{0..1}.rdb{1..3}.", 8, 4)
    o.conv("trunk_conv", 8, 8, to="conv_body")
    o.conv("upconv{1,2}", 8, 8, to="conv_up{1,2}")
    o.conv("HRconv", 8, 8, to="conv_hr")
    o.conv("conv_last", 3, 8)


def rrdb_old(o: Layout, width: int = 8, growth: int = 4, blocks: int = 2) -> None:
    o.conv("model.0", width, 3, to="conv_first")
    inner = f"{{0..{blocks - 1}}}"
    dense_blocks(
        o, f"model.1.sub.{inner}.RDB{{1..3}}.", f"body.{inner}.rdb{{1..3}}.", width, growth
    )
    o.conv(f"model.1.sub.{blocks}", width, width, to="conv_body")
    o.conv("model.3", width, width, to="conv_up1")
    o.conv("model.6", width, width, to="conv_up2")
    o.conv("model.8", width, width, to="conv_hr")
    o.conv("model.10", 3, width, to="conv_last")


def spsr(o: Layout) -> None:
    rrdb_old(o, width=4, growth=2, blocks=20)
    for places in (o.official, o.ours):  # SPSR fuses instead
        for kind in ("weight", "bias"):
            del places[f"{'model.10' if places is o.official else 'conv_last'}.{kind}"]
    o.conv("HR_conv0_new.0", 4, 4, to=None)
    o.conv("HR_conv1_new.0", 4, 4, to="conv_features")
    o.conv("b_fea_conv.0", 4, 3, to="b_first")
    dense_blocks(o, "b_block_{1..4}.RDB{1..3}.", "b_blocks.{0..3}.rdb{1..3}.", 8, 2)
    o.conv("b_concat_{1..4}.0", 4, 8, to="b_merges.{0..3}")
    o.conv("b_LR_conv.0", 4, 4, to="b_body")
    o.conv("b_module.{1,4,6,8}", 4, 4, to="{b_up1,b_up2,b_hr,b_features}")
    o.conv("conv_w.0", 3, 4, 1, to="b_last")
    dense_blocks(o, "f_block.RDB{1..3}.", "f_block.rdb{1..3}.", 8, 2)
    o.conv("f_concat.0", 4, 8, to="f_merge")
    o.conv("f_HR_conv0.0", 4, 4, to="f_hr")
    o.conv("f_HR_conv1.0", 3, 4, to="f_last")
    o.tensor("get_g_nopadding.weight_{h,v}", None, (1, 1, 3, 3), 1)


def srvgg(o: Layout) -> None:
    o.conv("body.0", 6, 3)
    o.conv("body.{2,4,6}", 6, 6)
    o.slopes("body.{1,3,5,7}", 6)
    o.conv("body.8", 12, 6)


# The ResNets, RCAN and RDN


def msrresnet_basicsr(o: Layout) -> None:
    o.conv("conv_first", 6, 3)
    o.conv("body.{0..1}.conv{1,2}", 6, 6)
    o.conv("upconv{1,2}", 24, 6)
    o.conv("conv_hr", 6, 6)
    o.conv("conv_last", 3, 6)


def msrresnet_esrgan(o: Layout) -> None:
    o.conv("conv_first", 6, 3)
    o.conv("recon_trunk.{0..1}.conv{1,2}", 6, 6, to="body.{0..1}.conv{1,2}")
    o.conv("upconv1", 54, 6)
    o.conv("HRconv", 6, 6, to="conv_hr")
    o.conv("conv_last", 3, 6)


def srresnet_lornatang(o: Layout, ends: str = "conv") -> None:
    o.conv(f"{ends}1.0", 6, 3, 9, to="conv1.0")
    o.slopes(f"{ends}1.1", 1, to="conv1.1")
    o.conv("trunk.{0..2}.rcb.{0,3}", 6, 6, bias=False)
    o.norm("trunk.{0..2}.rcb.{1,4}", 6)
    o.slopes("trunk.{0..2}.rcb.2", 1)
    o.conv(f"{ends}2.0", 6, 6, bias=False, to="conv2.0")
    o.norm(f"{ends}2.1", 6, to="conv2.1")
    o.conv("upsampling.{0,1}.upsample_block.0", 24, 6)
    o.slopes("upsampling.{0,1}.upsample_block.2", 1)
    o.conv(f"{ends}3", 3, 6, 9, to="conv3")


def srresnet_2022(o: Layout) -> None:
    srresnet_lornatang(o, "conv_block")


def edsr_basicsr(o: Layout) -> None:
    o.conv("conv_first", 6, 3)
    o.conv("body.{0..2}.conv{1,2}", 6, 6)
    o.conv("conv_after_body", 6, 6)
    o.conv("upsample.{0,2}", 24, 6)
    o.conv("conv_last", 3, 6)


def edsr_mmagic(o: Layout) -> None:
    before = "generator."
    o.conv(f"{before}conv_first", 6, 3, to="conv_first")
    o.conv(f"{before}body.{{0..2}}.conv{{1,2}}", 6, 6, to="body.{0..2}.conv{1,2}")
    o.conv(f"{before}conv_after_body", 6, 6, to="conv_after_body")
    o.conv(f"{before}upsample.{{0,1}}.upsample_conv", 24, 6, to="upsample.{0,2}")
    o.conv(f"{before}conv_last", 3, 6, to="conv_last")


def mean_shift(o: Layout) -> None:
    for name, sign in (("sub_mean", -1), ("add_mean", 1)):
        o.conv(name, 3, 3, 1, to=None)
        o.official[f"{name}.weight"] = torch.eye(3)[:, :, None, None]
        o.official[f"{name}.bias"] = sign * 255 * torch.tensor([0.4488, 0.4371, 0.4040])


def edsr_authors(o: Layout) -> None:
    mean_shift(o)
    o.conv("head.0", 6, 3, to="conv_first")
    o.conv("body.{0..2}.body.{0,2}", 6, 6, to="body.{0..2}.conv{1,2}")
    o.conv("body.3", 6, 6, to="conv_after_body")
    o.conv("tail.0.0", 54, 6, to="upsample.0")
    o.conv("tail.1", 3, 6, to="conv_last")


def rcan_basicsr(o: Layout) -> None:
    block = "body.{0..1}.residual_group.{0..2}.rcab"
    o.conv("conv_first", 8, 3)
    o.conv(f"{block}.{{0,2}}", 8, 8)
    o.conv(f"{block}.3.attention.1", 2, 8, 1)
    o.conv(f"{block}.3.attention.3", 8, 2, 1)
    o.conv("body.{0..1}.conv", 8, 8)
    o.conv("conv_after_body", 8, 8)
    o.conv("upsample.{0,2}", 32, 8)
    o.conv("conv_last", 3, 8)


def rcan_authors(o: Layout) -> None:
    block, ours = "body.{0..1}.body.{0..2}.body", "body.{0..1}.residual_group.{0..2}.rcab"
    mean_shift(o)
    o.conv("head.0", 8, 3, to="conv_first")
    o.conv(f"{block}.{{0,2}}", 8, 8, to=f"{ours}.{{0,2}}")
    o.conv(f"{block}.3.conv_du.0", 2, 8, 1, to=f"{ours}.3.attention.1")
    o.conv(f"{block}.3.conv_du.2", 8, 2, 1, to=f"{ours}.3.attention.3")
    o.conv("body.{0..1}.body.3", 8, 8, to="body.{0..1}.conv")
    o.conv("body.2", 8, 8, to="conv_after_body")
    o.conv("tail.0.0", 32, 8, to="upsample.0")
    o.conv("tail.1", 3, 8, to="conv_last")


def rdn_yjn870(o: Layout) -> None:
    o.conv("sfe1", 6, 3)
    o.conv("sfe2", 6, 6)
    for layer in range(3):
        o.conv(f"rdbs.{{0..1}}.layers.{layer}.conv", 4, 6 + 4 * layer)
    o.conv("rdbs.{0..1}.lff", 6, 18, 1)
    o.conv("gff.0", 6, 12, 1)
    o.conv("gff.1", 6, 6)
    o.conv("upscale.{0,2}", 24, 6)
    o.conv("output", 3, 6)


def rdn_lornatang(o: Layout) -> None:
    o.conv("conv1", 6, 3, to="sfe1")
    o.conv("conv2", 6, 6, to="sfe2")
    for layer in range(3):
        o.conv(
            f"trunk.{{0..1}}.rdb.{layer}.rb.0",
            4,
            6 + 4 * layer,
            to=f"rdbs.{{0..1}}.layers.{layer}.conv",
        )
    o.conv("trunk.{0..1}.local_feature_fusion", 6, 18, 1, to="rdbs.{0..1}.lff")
    o.conv("global_feature_fusion.0", 6, 12, 1, to="gff.0")
    o.conv("global_feature_fusion.1", 6, 6, to="gff.1")
    o.conv("upsampling.{0,1}.upsample_block.0", 24, 6, to="upscale.{0,2}")
    o.conv("conv3", 3, 6, to="output")


def rdn_edsr(o: Layout, scale: int = 4) -> None:
    """The port in EDSR-PyTorch, where growth and width must be equal for the end to fit."""
    o.conv("SFENet1", 4, 3, to="sfe1")
    o.conv("SFENet2", 4, 4, to="sfe2")
    for layer in range(3):
        o.conv(
            f"RDBs.{{0..1}}.convs.{layer}.conv.0",
            4,
            4 + 4 * layer,
            to=f"rdbs.{{0..1}}.layers.{layer}.conv",
        )
    o.conv("RDBs.{0..1}.LFF", 4, 16, 1, to="rdbs.{0..1}.lff")
    o.conv("GFF.0", 4, 8, 1, to="gff.0")
    o.conv("GFF.1", 4, 4, to="gff.1")
    if scale == 4:
        o.conv("UPNet.{0,2}", 16, 4, to="upscale.{0,2}")
    else:
        o.conv("UPNet.0", 4 * scale**2, 4, to="upscale.0")
    o.conv("UPNet.4" if scale == 4 else "UPNet.2", 3, 4, to="output")


def rdn_edsr_x3(o: Layout) -> None:
    rdn_edsr(o, scale=3)
