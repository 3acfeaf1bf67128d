"""Forms of the larger RGB networks: ESRGAN's family, EDSR, RCAN, RDN and the ResNets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from edgesr.networks.edsr import DIV2K_MEAN
from edgesr.networks.foreign import Form, Tensors, columns, count, demand, rows, shuffles, side


def rrdb(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "scale": {3: 4, 12: 2, 48: 1}[columns(t, "conv_first.weight")],
        "width": rows(t, "conv_first.weight"),
        "growth": rows(t, "body.0.rdb1.conv1.weight"),
        "blocks": count(t, r"body\.\d+\.rdb1\.conv1\.weight"),
    }


def spsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    demand(t, "b_first.weight")
    return rrdb(t) | {"taps": tuple(5 * n for n in range(1, 1 + count(t, r"b_merges\.\d\.bias")))}


def srvgg(t: Mapping[str, Tensor]) -> dict[str, Any]:
    convs = count(t, r"body\.\d+\.bias")
    return {
        "scale": side(rows(t, f"body.{2 * convs - 2}.weight") // 3),
        "width": rows(t, "body.1.weight"),
        "convs": convs - 2,
    }


def residual_blocks(t: Mapping[str, Tensor]) -> dict[str, Any]:
    """What EDSR and MSRResNet have in common."""
    return {
        "width": rows(t, "conv_first.weight"),
        "blocks": count(t, r"body\.\d+\.conv1\.weight"),
    }


def edsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    sizes = residual_blocks(t)
    return sizes | {
        "scale": shuffles(t, r"upsample\.\d+\.weight"),
        "res_scale": 0.1 if sizes["width"] == 256 else 1.0,
    }


def edsr_authors(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return edsr(t) | {"pixel_range": range_of_shift(t)}


def msrresnet(t: Mapping[str, Tensor]) -> dict[str, Any]:
    demand(t, "conv_hr.weight")
    return residual_blocks(t) | {"scale": shuffles(t, r"upconv\d\.weight")}


def srresnet(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "scale": shuffles(t, r"upsampling\.\d+\.upsample_block\.0\.weight"),
        "width": rows(t, "conv1.0.weight"),
        "blocks": count(t, r"trunk\.\d+\.rcb\.0\.weight"),
    }


def rcan(t: Mapping[str, Tensor]) -> dict[str, Any]:
    width = rows(t, "conv_first.weight")
    return {
        "scale": shuffles(t, r"upsample\.\d+\.weight"),
        "width": width,
        "groups": count(t, r"body\.\d+\.conv\.weight"),
        "blocks": count(t, r"body\.0\.residual_group\.\d+\.rcab\.0\.weight"),
        "squeeze": width // rows(t, "body.0.residual_group.0.rcab.3.attention.1.weight"),
    }


def rcan_authors(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return rcan(t) | {"pixel_range": range_of_shift(t)}


def range_of_shift(t: Mapping[str, Tensor]) -> float:
    """EDSR-PyTorch stores its shift by DIV2K's mean as 1x1 convolutions, which tells the range."""
    matrix, shift = (t[f"sub_mean.{part}"].float() for part in ("weight", "bias"))
    for white in (1.0, 255.0):
        close = torch.allclose(shift, -white * torch.tensor(DIV2K_MEAN), atol=1e-3 * white)
        if close and torch.equal(matrix[:, :, 0, 0], torch.eye(3)):
            return white
    raise ValueError("another mean, or a division by the deviation")


def rdn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "scale": shuffles(t, r"upscale\.\d+\.weight"),
        "blocks": count(t, r"rdbs\.\d+\.lff\.weight"),
        "layers": count(t, r"rdbs\.0\.layers\.\d+\.conv\.weight"),
        "growth": rows(t, "rdbs.0.layers.0.conv.weight"),
        "width": rows(t, "sfe1.weight"),
    }


def last_upscaling_is_output(t: Tensors) -> Tensors:
    """`UPNet` ends with the convolution to the picture: number 2, or 4 after two shuffles."""
    last = "UPNet.4." if "UPNet.4.weight" in t else "UPNet.2."
    return {
        name.replace(last, "output.").replace("UPNet.", "upscale."): tensor
        for name, tensor in t.items()
    }


# A dense block's convolutions in ESRGAN's two older families.
DENSE = (r"\.RDB(\d)\.conv(\d)(?:\.0)?\.", r".rdb\1.conv\2.")

OLD_TRUNK = (
    (r"^model\.0\.", "conv_first."),
    (r"^model\.1\.sub\.(\d+)\.RDB", r"body.\1.RDB"),
    (r"^model\.1\.sub\.\d+\.(weight|bias)$", r"conv_body.\1"),
    (r"^model\.3\.", "conv_up1."),
    (r"^model\.6\.", "conv_up2."),
    (r"^model\.8\.", "conv_hr."),
    (r"^model\.10\.", "conv_last."),
    DENSE,
)

# Both ends in EDSR-PyTorch, from which RCAN was made.
HEAD_AND_TAIL = (
    (r"^body\.\d+\.(weight|bias)$", r"conv_after_body.\1"),
    (r"^head\.0\.", "conv_first."),
    (r"^tail\.0\.", "upsample."),
    (r"^tail\.1\.", "conv_last."),
)

MEAN_SHIFT = r"^(sub|add)_mean\."

RGB = (
    Form(network="rrdb", source="Real-ESRGAN and BasicSR", config=rrdb, ranged="biases"),
    Form(
        network="rrdb",
        source="ESRGAN",
        config=rrdb,
        rename=(
            (r"^RRDB_trunk\.", "body."),
            (r"^trunk_conv\.", "conv_body."),
            (r"^upconv(\d)\.", r"conv_up\1."),
            (r"^HRconv\.", "conv_hr."),
            DENSE,
        ),
        ranged="biases",
    ),
    Form(network="rrdb", source="the old ESRGAN", config=rrdb, rename=OLD_TRUNK, ranged="biases"),
    Form(
        network="spsr",
        source="Maclory/SPSR",
        config=spsr,
        rename=(
            *OLD_TRUNK,
            (r"^HR_conv1_new\.0\.", "conv_features."),
            (r"^b_fea_conv\.0\.", "b_first."),
            *((rf"^b_block_{n}\.", f"b_blocks.{n - 1}.") for n in range(1, 5)),
            *((rf"^b_concat_{n}\.0\.", f"b_merges.{n - 1}.") for n in range(1, 5)),
            (r"^b_LR_conv\.0\.", "b_body."),
            (r"^b_module\.1\.", "b_up1."),
            (r"^b_module\.4\.", "b_up2."),
            (r"^b_module\.6\.", "b_hr."),
            (r"^b_module\.8\.", "b_features."),
            (r"^conv_w\.0\.", "b_last."),
            (r"^f_concat\.0\.", "f_merge."),
            (r"^f_HR_conv0\.0\.", "f_hr."),
            (r"^f_HR_conv1\.0\.", "f_last."),
        ),
        # The first is `model.8` a second time, the others are fixed masks.
        ignore=r"^(HR_conv0_new|get_g_nopadding)\.",
        assumed=("taps",),
    ),
    Form(network="srvgg-16", source="Real-ESRGAN", config=srvgg, ranged="biases"),
    Form(network="msrresnet", source="BasicSR", config=msrresnet, ranged="biases"),
    Form(
        network="msrresnet",
        source="ESRGAN",
        config=msrresnet,
        rename=((r"^recon_trunk\.", "body."), (r"^HRconv\.", "conv_hr.")),
        ranged="biases",
    ),
    Form(network="srresnet", source="Lornatang/SRGAN-PyTorch", config=srresnet),
    Form(
        network="srresnet",
        source="Lornatang/SRGAN-PyTorch of 2022",
        config=srresnet,
        rename=((r"^conv_block(\d)\.", r"conv\1."),),
    ),
    Form(
        network="edsr-baseline",
        source="BasicSR",
        config=edsr,
        pixel_range=255.0,
        ranged="config",
        assumed=("res_scale", "range"),
    ),
    Form(
        network="edsr-baseline",
        source="mmagic",
        config=edsr,
        rename=(
            (r"^upsample\.1\.upsample_conv\.", "upsample.2."),
            (r"^upsample\.0\.upsample_conv\.", "upsample.0."),
        ),
        ranged="config",
        assumed=("res_scale", "range"),
    ),
    Form(
        network="edsr-baseline",
        source="EDSR-PyTorch",
        config=edsr_authors,
        rename=(
            (r"^body\.(\d+)\.body\.0\.", r"body.\1.conv1."),
            (r"^body\.(\d+)\.body\.2\.", r"body.\1.conv2."),
            *HEAD_AND_TAIL,
        ),
        ignore=MEAN_SHIFT,
        ranged="config",
        assumed=("res_scale",),
    ),
    Form(
        network="rcan",
        source="BasicSR",
        config=rcan,
        pixel_range=255.0,
        ranged="config",
        assumed=("range",),
    ),
    Form(
        network="rcan",
        source="yulunzhang/RCAN",
        config=rcan_authors,
        rename=(
            (
                r"^body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.0\.",
                r"body.\1.residual_group.\2.rcab.3.attention.1.",
            ),
            (
                r"^body\.(\d+)\.body\.(\d+)\.body\.3\.conv_du\.2\.",
                r"body.\1.residual_group.\2.rcab.3.attention.3.",
            ),
            (
                r"^body\.(\d+)\.body\.(\d+)\.body\.([02])\.",
                r"body.\1.residual_group.\2.rcab.\3.",
            ),
            (r"^body\.(\d+)\.body\.\d+\.(weight|bias)$", r"body.\1.conv.\2"),
            *HEAD_AND_TAIL,
        ),
        ignore=MEAN_SHIFT,
        ranged="config",
    ),
    Form(network="rdn", source="yjn870/RDN-pytorch and mmagic", config=rdn, ranged="biases"),
    Form(
        network="rdn",
        source="Lornatang/RDN-PyTorch",
        config=rdn,
        rename=(
            (r"^trunk\.(\d+)\.rdb\.(\d+)\.rb\.0\.", r"rdbs.\1.layers.\2.conv."),
            (r"^trunk\.(\d+)\.local_feature_fusion\.", r"rdbs.\1.lff."),
            (r"^global_feature_fusion\.", "gff."),
            (r"^upsampling\.1\.upsample_block\.0\.", "upscale.2."),
            (r"^upsampling\.0\.upsample_block\.0\.", "upscale.0."),
            (r"^conv1\.", "sfe1."),
            (r"^conv2\.", "sfe2."),
            (r"^conv3\.", "output."),
        ),
        ranged="biases",
    ),
    Form(
        network="rdn",
        source="EDSR-PyTorch",
        config=rdn,
        rename=(
            (r"^SFENet(\d)\.", r"sfe\1."),
            (r"^RDBs\.(\d+)\.convs\.(\d+)\.conv\.0\.", r"rdbs.\1.layers.\2.conv."),
            (r"^RDBs\.(\d+)\.LFF\.", r"rdbs.\1.lff."),
            (r"^GFF\.", "gff."),
        ),
        arrange=last_upscaling_is_output,
        pixel_range=255.0,
        ranged="biases",
        assumed=("range",),
    ),
)
