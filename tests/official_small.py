"""As `official`: the efficient networks, the video networks, and GLEAN."""

from __future__ import annotations

import torch
from official import Layout, dense_blocks

SOBEL_X = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
LAPLACE = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])


def ecbsr(o: Layout, channels: int = 1, scale: int = 2) -> None:
    """M2C4; the edge masks are in the file too."""
    widths = [(channels, 4), (4, 4), (4, 4), (4, channels * scale**2)]
    for i, (c_in, c_out) in enumerate(widths):
        block = f"backbone.{i}"
        o.conv(f"{block}.conv3x3", c_out, c_in)
        o.tensor(f"{block}.conv1x1_3x3.k0", "=", (2 * c_out, c_in, 1, 1), 0.5)
        o.tensor(f"{block}.conv1x1_3x3.b0", "=", (2 * c_out,), 0.5)
        o.tensor(f"{block}.conv1x1_3x3.k1", "=", (c_out, 2 * c_out, 3, 3), 0.1)
        o.tensor(f"{block}.conv1x1_3x3.b1", "=", (c_out,), 0.5)
        for edge, taps in (("sbx", SOBEL_X), ("sby", SOBEL_X.T), ("lpl", LAPLACE)):
            o.tensor(f"{block}.conv1x1_{edge}.k0", "=", (c_out, c_in, 1, 1), 0.5)
            o.tensor(f"{block}.conv1x1_{edge}.{{b0,bias}}", "=", (c_out,), 0.5)
            o.tensor(f"{block}.conv1x1_{edge}.scale", "=", (c_out, 1, 1, 1), 0.1)
            o.tensor(f"{block}.conv1x1_{edge}.mask", "=", (c_out, 1, 3, 3), 0.0)
            for places in (o.official, o.ours):
                places[f"{block}.conv1x1_{edge}.mask"] = taps.repeat(c_out, 1, 1, 1)
        if i < 3:
            o.slopes(f"{block}.act", c_out)


def ecbsr_rgb(o: Layout) -> None:
    ecbsr(o, channels=3, scale=3)


def bsrn(o: Layout) -> None:
    def separable(name: str, out: int, inp: int) -> None:
        o.conv(f"{name}.pw", out, inp, 1, bias=False)
        o.conv(f"{name}.dw", out, 1)

    separable("fea_conv", 16, 12)
    o.conv("B{1..3}.c{1,2,3}_d", 8, 16, 1)
    separable("B{1..3}.c{1,2,3}_r", 16, 16)
    separable("B{1..3}.c4", 8, 16)
    o.conv("B{1..3}.c5", 16, 32, 1)
    o.conv("B{1..3}.esa.conv1", 4, 16, 1)
    o.conv("B{1..3}.esa.conv_f", 4, 4, 1)
    separable("B{1..3}.esa.{conv2,conv_max,conv3,conv3_}", 4, 4)
    o.conv("B{1..3}.esa.conv4", 16, 4, 1)
    o.conv("B{1..3}.cca.conv_du.0", 4, 16, 1)
    o.conv("B{1..3}.cca.conv_du.2", 16, 4, 1)
    o.conv("c1", 16, 48, 1)
    separable("c2", 16, 16)
    o.conv("upsampler.upsampleOneStep.0", 27, 16)


def bsrn_s(o: Layout) -> None:
    """Its 1x1 convolutions are linear layers: two axes (kernel 0 here), and a bias."""

    def separable(name: str, out: int, inp: int) -> None:
        o.conv(f"{name}.pw", out, inp, 0)
        o.conv(f"{name}.dw", out, 1)

    separable("fea_conv", 16, 12)
    o.conv("B{1..3}.c{1,2,3}_d", 8, 16, 0)
    separable("B{1..3}.c{1,2,3}_r", 16, 16)
    separable("B{1..3}.c4", 8, 16)
    o.conv("B{1..3}.c5", 16, 32, 0)
    o.conv("B{1..3}.esa.conv1", 4, 16, 0)
    o.conv("B{1..3}.esa.conv_f", 4, 4, 0)
    o.conv("B{1..3}.esa.conv2", 4, 4)
    separable("B{1..3}.esa.{conv_max,conv3,conv3_}", 4, 4)
    o.conv("B{1..3}.esa.conv4", 16, 4, 0)
    o.tensor("B{1..3}.cw", "=", (1, 16), 1.0)
    o.conv("B{1..3}.conv_out", 16, 16, 0)
    o.conv("c1", 16, 48, 0)
    separable("c2", 16, 16)
    o.conv("upsampler.upsampleOneStep.0", 48, 16)


def rlfn(o: Layout) -> None:
    o.conv("conv_1", 6, 3)
    o.conv("block_{1..3}.c1_r", 7, 6)
    o.conv("block_{1..3}.c2_r", 7, 7)
    o.conv("block_{1..3}.c3_r", 6, 7)
    o.conv("block_{1..3}.c5", 6, 6, 1)
    o.conv("block_{1..3}.esa.conv1", 4, 6, 1)
    o.conv("block_{1..3}.esa.conv_f", 4, 4, 1)
    o.conv("block_{1..3}.esa.conv{2,3}", 4, 4)
    o.conv("block_{1..3}.esa.conv4", 6, 4, 1)
    o.conv("conv_2", 6, 6)
    o.conv("upsampler.0", 12, 6)


def span(o: Layout) -> None:
    def conv3xc(name: str, out: int, inp: int) -> None:
        o.conv(f"{name}.sk", out, inp, 1)
        o.conv(f"{name}.conv.0", 2 * inp, inp, 1)
        o.conv(f"{name}.conv.1", 2 * out, 2 * inp, 3)
        o.conv(f"{name}.conv.2", out, 2 * out, 1)
        o.conv(f"{name}.eval_conv", out, inp, 3, to=None)  # outdated: of no use to anybody

    conv3xc("conv_1", 6, 3)
    conv3xc("block_{1..3}.{c1_r,c2_r,c3_r}", 6, 6)
    conv3xc("conv_2", 6, 6)
    o.conv("conv_cat", 6, 24, 1)
    o.conv("upsampler.0", 12, 6)


def safmn(o: Layout) -> None:
    o.conv("to_feat", 8, 3)
    o.tensor("feats.{0..2}.norm{1,2}.{weight,bias}", "=", (8,), 0.5)
    o.conv("feats.{0..2}.safm.mfr.{0..3}", 2, 1)
    o.conv("feats.{0..2}.safm.aggr", 8, 8, 1)
    o.conv("feats.{0..2}.ccm.ccm.0", 12, 8)
    o.conv("feats.{0..2}.ccm.ccm.2", 8, 12, 1)
    o.conv("to_img.0", 12, 8)


def sesr_aimet(o: Layout) -> None:
    o.conv("conv_first.conv_expand", 10, 3, 5, bias=False)
    o.conv("conv_first.conv_squeeze", 4, 10, 1)
    o.conv("residual_block.{0..2}.conv_expand", 10, 4, bias=False)
    o.conv("residual_block.{0..2}.conv_squeeze", 4, 10, 1)
    o.conv("conv_last.conv_expand", 10, 4, 5, bias=False)
    o.conv("conv_last.conv_squeeze", 12, 10, 1)
    o.conv("anchor.net", 12, 3, 1, to=None)


def quicksrnet_aimet(o: Layout) -> None:
    o.conv("cnn.0", 6, 3)
    o.conv("cnn.{2,4,6}", 6, 6)
    o.conv("conv_last", 12, 6)
    o.conv("anchor.net", 12, 3, 1)


def xlsr_aimet(o: Layout) -> None:
    o.conv("residual", 4, 3)
    o.conv("cnn.0", 8, 3)
    o.conv("cnn.2", 8, 8, 1)
    o.conv("cnn.{3,4}.net.0", 8, 2)
    o.conv("cnn.{3,4}.net.2", 8, 8, 1)
    o.conv("tail.0", 8, 12, 1)
    o.conv("tail.2", 27, 8)


def xlsr_cxzhou95(o: Layout) -> None:
    """Its first layer comes in four pieces that lie side by side."""
    o.conv("conv0_{0..3}.conv", 2, 3, to=None)
    for kind in ("weight", "bias"):
        pieces = [o.official[f"conv0_{i}.conv.{kind}"] for i in range(4)]
        o.ours[f"cnn.0.{kind}"] = torch.cat(pieces)
    o.conv("conv1", 4, 3, to="residual")
    o.conv("conv2", 8, 8, 1, to="cnn.2")
    o.conv("Gblocks.{0,1}.conv0", 8, 2, to="cnn.{3,4}.net.0")
    o.conv("Gblocks.{0,1}.conv1", 8, 8, 1, to="cnn.{3,4}.net.2")
    o.conv("conv3.conv", 8, 12, 1, to="tail.0")
    o.conv("conv4", 27, 8, to="tail.2")


def abpn_aimet(o: Layout) -> None:
    o.conv("cnn.0", 6, 3)
    o.conv("cnn.{2,4,6}", 6, 6)
    o.conv("cnn.8", 27, 6)
    o.conv("anchor.net", 27, 3, 1, to=None)


def bicubicpp(o: Layout) -> None:
    o.conv("conv0", 6, 3, bias=False)
    o.conv("conv{1,2}", 6, 6, bias=False)
    o.conv("conv_out", 108, 6, bias=False)


def flow(o: Layout, *, mmagic: bool) -> None:
    before = "generator." if mmagic else ""
    for k, (c_in, c_out) in enumerate(((8, 4), (4, 5), (5, 4), (4, 3), (3, 2))):
        ours = f"spynet.basic_module.{{0..2}}.basic_module.{2 * k}"
        theirs = f"{before}spynet.basic_module.{{0..2}}.basic_module.{k}.conv"
        o.conv(theirs if mmagic else ours, c_out, c_in, 7, to=ours)
    for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
        o.tensor(f"{before}spynet.{name}", f"spynet.{name}", (1, 3, 1, 1), 1.0)
        o.official[f"{before}spynet.{name}"] = torch.tensor(values).view(1, 3, 1, 1)
        o.ours[f"spynet.{name}"] = torch.tensor(values).view(1, 3, 1, 1)


def clip_ends(o: Layout, *, mmagic: bool, forward_inputs: int) -> None:
    before = "generator." if mmagic else ""
    for way, inputs in (("backward", 7), ("forward", forward_inputs)):
        theirs = f"{before}{way}_resblocks" if mmagic else f"{way}_trunk"
        o.conv(f"{theirs}.main.0", 4, inputs, to=f"{way}_trunk.main.0")
        ours = f"{way}_trunk.main.2.{{0..1}}.conv{{1,2}}"
        o.conv(f"{theirs}.main.2.{{0..1}}.conv{{1,2}}", 4, 4, to=ours)
    up = f"{before}upsample%d.upsample_conv" if mmagic else "upconv%d"
    o.conv(up % 1, 16, 4, to="upconv1")
    o.conv(up % 2, 24, 4, to="upconv2")
    o.conv(f"{before}conv_hr", 6, 6, to="conv_hr")
    o.conv(f"{before}conv_last", 3, 6, to="conv_last")


def basicvsr_basicsr(o: Layout) -> None:
    flow(o, mmagic=False)
    clip_ends(o, mmagic=False, forward_inputs=7)
    o.conv("fusion", 4, 8, 1)


def basicvsr_mmagic(o: Layout) -> None:
    flow(o, mmagic=True)
    clip_ends(o, mmagic=True, forward_inputs=7)
    o.conv("generator.fusion", 4, 8, 1, to="fusion")
    o.tensor("step_counter", None, (1,), 1)


def iconvsr(o: Layout, *, mmagic: bool) -> None:
    before, conv = ("generator.", ".conv") if mmagic else ("", "")
    align = "pcd_alignment" if mmagic else "pcd_align"
    flow(o, mmagic=mmagic)
    clip_ends(o, mmagic=mmagic, forward_inputs=11)
    o.conv(f"{before}{{back,for}}ward_fusion", 4, 8, to="{back,for}ward_fusion")

    def edvr(name: str, out: int, inp: int, kernel: int = 3, to: str = "") -> None:
        o.conv(f"{before}edvr.{name}", out, inp, kernel, to=f"edvr.{to or name}")

    edvr("conv_first", 4, 3)
    edvr("feature_extraction.{0..2}.conv{1,2}", 4, 4)
    pyramid = "feat_l{2,3}_conv{1,2}.conv" if mmagic else "conv_l{2,3}_{1,2}"
    edvr(pyramid, 4, 4, to="conv_l{2,3}_{1,2}")

    def aligning(name: str, inp: int) -> None:
        edvr(f"{align}.{name}{conv}", 4, inp, to=f"pcd_align.{name}")

    aligning("offset_conv1.{l1,l2,l3}", 8)
    aligning("offset_conv2.l3", 4)
    aligning("offset_conv2.{l1,l2}", 8)
    aligning("offset_conv3.{l1,l2}", 4)
    aligning("feat_conv.{l1,l2}", 8)
    aligning("cas_offset_conv1", 8)
    aligning("cas_offset_conv2", 4)
    for deformed in ("dcn_pack.{l1,l2,l3}", "cas_dcnpack"):
        edvr(f"{align}.{deformed}", 4, 4, to=f"pcd_align.{deformed}")
        edvr(f"{align}.{deformed}.conv_offset", 54, 4, to=f"pcd_align.{deformed}.conv_offset")

    def fusing(name: str, inp: int, kernel: int, plain: bool = False) -> None:
        edvr(f"fusion.{name}{'' if plain else conv}", 4, inp, kernel, to=f"fusion.{name}")

    fusing("temporal_attn{1,2}", 4, 3, plain=True)
    fusing("{feat_fusion,spatial_attn1}", 20, 1)
    fusing("spatial_attn2", 8, 1)
    fusing("{spatial_attn3,spatial_attn_l3}", 4, 3)
    fusing("spatial_attn5", 4, 3, plain=True)
    fusing("{spatial_attn4,spatial_attn_l1,spatial_attn_add1}", 4, 1)
    fusing("spatial_attn_l2", 8, 3)
    fusing("spatial_attn_add2", 4, 1, plain=True)


def iconvsr_basicsr(o: Layout) -> None:
    iconvsr(o, mmagic=False)


def iconvsr_mmagic(o: Layout) -> None:
    iconvsr(o, mmagic=True)
    o.conv("generator.edvr.conv_hr", 4, 4, to=None)


def glean_mmagic(o: Layout) -> None:
    """8x8 -> 16x16, 12 channels in the bank (8 at the full size), styles of 10 numbers."""

    def tensor(name: str, *shape: int) -> None:
        o.tensor(f"generator.{name}", name, shape, 0.3)

    def conv(name: str, out: int, inp: int, kernel: int = 3) -> None:
        o.conv(f"generator.{name}", out, inp, kernel, to=name)

    conv("encoder.0.0.conv_first", 6, 3)
    before = "generator.encoder.0.0.body.{0..1}.rdb{1..3}."
    dense_blocks(o, before, before.removeprefix("generator."), 6, 4)
    conv("encoder.0.0.conv_body", 6, 6)
    conv("encoder.0.1", 12, 6)
    conv("encoder.1.{0,2}", 12, 12)
    conv("encoder.2.0", 12, 12)
    conv("encoder.2.3", 60, 192, 0)
    conv("fusion_out.{0,1}", 12, 24)
    conv("fusion_skip.{0,1}", 3, 15)
    conv("decoder.0.upsample_conv", 32, 12)
    conv("decoder.1.0", 64, 16)
    conv("decoder.1.2", 3, 64)

    bank = "generator."
    tensor(f"{bank}style_mapping.{{1..3}}.bias", 10)
    tensor(f"{bank}style_mapping.{{1..3}}.linear.weight_orig", 10, 10)
    tensor(f"{bank}constant_input.input", 1, 12, 4, 4)
    for i, size in enumerate((4, 8, 8, 16, 16)):
        tensor(f"{bank}injected_noise_{i}", 1, 1, size, size)
    layers = (("conv1", 12, 12), ("convs.0", 12, 12), ("convs.1", 12, 12), ("convs.2", 12, 8))
    for name, inp, out in (*layers, ("convs.3", 8, 8)):
        tensor(f"{bank}{name}.conv.weight_orig", 1, out, inp, 3, 3)
        tensor(f"{bank}{name}.conv.style_modulation.bias", inp)
        tensor(f"{bank}{name}.conv.style_modulation.linear.weight_orig", inp, 10)
        tensor(f"{bank}{name}.noise_injector.weight", 1)
        tensor(f"{bank}{name}.activate.bias", out)
    tensor(f"{bank}convs.{{0,2}}.conv.blur.kernel", 4, 4)
    for name, inp in (("to_rgb1", 12), ("to_rgbs.0", 12), ("to_rgbs.1", 8)):
        tensor(f"{bank}{name}.bias", 1, 3, 1, 1)
        tensor(f"{bank}{name}.conv.weight_orig", 1, 3, inp, 1, 1)
        tensor(f"{bank}{name}.conv.style_modulation.bias", inp)
        tensor(f"{bank}{name}.conv.style_modulation.linear.weight_orig", inp, 10)
    tensor(f"{bank}to_rgbs.{{0,1}}.upsample.kernel", 4, 4)
    o.conv("discriminator.convs.0", 4, 3, to=None)
    o.tensor("step_counter", None, (1,), 1)
