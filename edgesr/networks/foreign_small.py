"""Forms of the efficient networks: ECBSR, BSRN, RLFN, SPAN, SAFMN and those for phones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgesr.networks.foreign import Form, Tensors, columns, count, demand, is_colour, rows, side


def ecbsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = count(t, r"backbone\.\d+\.conv3x3\.weight") - 2
    width = rows(t, "backbone.0.conv3x3.weight")
    channels = 3 if is_colour(t, "backbone.0.conv3x3.weight") else 1
    return {
        "scale": side(rows(t, f"backbone.{blocks + 1}.conv3x3.weight") // channels),
        "blocks": blocks,
        "width": width,
        "channels": channels,
        "depth_multiplier": rows(t, "backbone.0.conv1x1_3x3.k0") // width,
    }


def bsrn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    features = rows(t, "fea_conv.dw.bias")
    return {
        "scale": side(rows(t, "upsampler.upsampleOneStep.0.bias") // 3),
        "features": features,
        "blocks": count(t, r"B\d+\.c5\.weight"),
        "reduction": features // rows(t, "B1.cca.conv_du.0.weight"),
    }


def bsrn_s(t: Mapping[str, Tensor]) -> dict[str, Any]:
    demand(t, "B1.cw")
    return {
        "scale": side(rows(t, "upsampler.upsampleOneStep.0.bias") // 3),
        "features": rows(t, "fea_conv.dw.bias"),
        "blocks": count(t, r"B\d+\.c5\.weight"),
    }


def rlfn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    features, inner = rows(t, "conv_1.bias"), rows(t, "block_1.c1_r.bias")
    return {
        "scale": side(rows(t, "upsampler.0.bias") // 3),
        "features": features,
        "inner": None if inner == features else inner,
        "blocks": count(t, r"block_\d+\.c5\.weight"),
        "attention": rows(t, "block_1.esa.conv1.bias"),
    }


def span(t: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = {
        "scale": side(rows(t, "upsampler.0.bias") // 3),
        "features": rows(t, "conv_1.sk.bias"),
        "blocks": count(t, r"block_\d+\.c3_r\.sk\.bias"),
        "gain": rows(t, "conv_1.conv.0.bias") // 3,
    }
    if "no_norm" in t:  # by which later trainers say that the picture goes in as it is
        return sizes | {"pixel_range": 1.0, "mean": (0.0, 0.0, 0.0)}
    return sizes


def safmn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    features = rows(t, "to_feat.bias")
    return {
        "scale": side(rows(t, "to_img.0.bias") // 3),
        "features": features,
        "blocks": count(t, r"feats\.\d+\.safm\.aggr\.bias"),
        "expansion": rows(t, "feats.0.ccm.ccm.0.bias") / features,
        "levels": count(t, r"feats\.0\.safm\.mfr\.\d+\.bias"),
    }


def sesr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    rgb = is_colour(t, "conv_first.conv_expand.weight")
    return {
        "scale": side(rows(t, "conv_last.conv_squeeze.weight") // (3 if rgb else 1)),
        "blocks": count(t, r"residual_block\.\d+\.conv_squeeze\.weight"),
        "width": rows(t, "conv_first.conv_squeeze.weight"),
        "expanded": rows(t, "conv_first.conv_expand.weight"),
        "rgb": rgb,
    }


def quicksrnet(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "scale": side(rows(t, "conv_last.bias") // 3),
        "width": rows(t, "cnn.0.bias"),
        "blocks": count(t, r"cnn\.\d+\.bias") - 1,
        "ito": "anchor.net.weight" in t,
    }


def xlsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    width = rows(t, "cnn.0.weight")
    return {
        "scale": side(rows(t, "tail.2.weight") // 3),
        "width": width,
        "side": rows(t, "residual.weight"),
        "blocks": count(t, r"cnn\.\d+\.net\.0\.weight"),
        "groups": width // columns(t, "cnn.3.net.0.weight"),
    }


def abpn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = count(t, r"cnn\.\d+\.bias") - 2
    outputs, last = t[f"cnn.{2 * blocks + 2}.weight"].shape[:2]
    return {
        "scale": side(outputs // 3),
        "width": rows(t, "cnn.0.weight"),
        "blocks": blocks,
        "narrow_last": outputs == last,
    }


def bicubicpp(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "scale": side(rows(t, "conv_out.weight") // 12),
        "width": rows(t, "conv0.weight"),
    }


def join_first_layers(t: Tensors) -> Tensors:
    """cxzhou95 draws XLSR's first layer as four that lie side by side."""
    joined = {name: tensor for name, tensor in t.items() if not name.startswith("conv0_")}
    for kind in ("weight", "bias"):
        parts = [t[f"conv0_{i}.conv.{kind}"] for i in range(count(t, r"conv0_\d\.conv\.bias"))]
        if parts:
            joined[f"cnn.0.{kind}"] = torch.cat(parts)
    return joined


SMALL = (
    # The same names in both; only the file's wrapper tells whose it is.
    Form(
        network="ecbsr-m4c16",
        source="BasicSR",
        config=ecbsr,
        wrappers=("params_ema", "params-ema", "params"),
        ranged="biases",
        assumed=("range",),
    ),
    Form(
        network="ecbsr-m4c16",
        source="xindongzhang/ECBSR",
        config=ecbsr,
        pixel_range=255.0,
        ranged="biases",
        assumed=("range",),
    ),
    Form(network="bsrn", source="xiaom233/BSRN", config=bsrn),
    Form(network="bsrn-s", source="xiaom233/BSRN", config=bsrn_s),
    Form(
        network="rlfn",
        source="bytedance/RLFN",
        config=rlfn,
        pixel_range=255.0,
        ranged="config",
        assumed=("range",),
    ),
    Form(
        network="span",
        source="hongyuanyu/SPAN",
        config=span,
        # Kernels merged at some time before the branches that are there too, and the mark above.
        ignore=r"\.eval_conv\.|^no_norm$",
        pixel_range=255.0,
        ranged="config",
        assumed=("range",),
    ),
    Form(network="safmn", source="sunny2109/SAFMN", config=safmn),
    # What is fixed, nearest neighbour, is stored there as a convolution too.
    Form(network="sesr-m5", source="AIMET", config=sesr, ignore=r"^anchor\."),
    Form(
        network="quicksrnet-small",
        source="AIMET",
        config=quicksrnet,
        note="a file after to_dcr() looks the same, and its colours come out wrong",
    ),
    Form(network="xlsr", source="AIMET", config=xlsr),
    Form(
        network="xlsr",
        source="cxzhou95/XLSR",
        config=xlsr,
        rename=(
            (r"^conv2\.", "cnn.2."),
            *(
                (rf"^Gblocks\.{i}\.conv{j}\.", f"cnn.{i + 3}.net.{2 * j}.")
                for i in range(8)
                for j in (0, 1)
            ),
            (r"^conv1\.", "residual."),
            (r"^conv3\.conv\.", "tail.0."),
            (r"^conv4\.", "tail.2."),
        ),
        arrange=join_first_layers,
    ),
    Form(network="abpn", source="AIMET", config=abpn, ignore=r"^anchor\.", ranged="config"),
    Form(network="bicubicpp", source="aselsan-research/bicubic-plusplus", config=bicubicpp),
)
