"""Forms of the classic networks, most of which work on luma."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgesr.networks.foreign import Form, columns, count, is_colour, rows, side


def srcnn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "widths": (rows(t, "conv1.weight"), rows(t, "conv2.weight")),
        "kernels": tuple(t[f"conv{i}.weight"].shape[-1] for i in (1, 2, 3)),
        "colour": "rgb" if is_colour(t, "conv1.weight") else "y",
    }


def srcnn_luma(t: Mapping[str, Tensor]) -> dict[str, Any]:
    if is_colour(t, "conv1.weight"):
        raise ValueError("RGB")
    return srcnn(t)


def espcn_tanh(t: Mapping[str, Tensor]) -> dict[str, Any]:
    channels = 3 if is_colour(t, "conv1.weight") else 1
    return {
        "scale": side(rows(t, "conv3.weight") // channels),
        "channels": channels,
        "widths": (rows(t, "conv1.weight"), rows(t, "conv2.weight")),
        "activation": "tanh",
        "output": "linear",
    }


def espcn_sigmoid(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return espcn_tanh(t) | {"output": "sigmoid"}


def vdsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "width": rows(t, "input.weight"),
        "depth": 2 + count(t, r"residual_layer\.\d+\.conv\.weight"),
        "bias": "input.bias" in t,
    }


def lapsrn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    depth = count(t, r"convt_F1\.0\.cov_block\.\d+\.weight") - 1
    return {
        "scale": 2 ** count(t, r"convt_I\d\.weight"),
        "width": rows(t, "conv_input.weight"),
        "depth": depth,
        "feature_kernel": t[f"convt_F1.0.cov_block.{2 * depth}.weight"].shape[-1],
        "bias": "conv_input.bias" in t,
    }


def mslapsrn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "width": rows(t, "input_conv.weight"),
        "depth": count(t, r"conv\d+\.weight"),
        "recursions": 8,
    }


def srdensenet(t: Mapping[str, Tensor]) -> dict[str, Any]:
    growth = rows(t, "dense_blocks.0.block.0.conv.weight")
    return {
        "scale": 2 ** count(t, r"deconv\.\d+\.weight"),
        "stem": rows(t, "conv.conv.weight"),
        "blocks": count(t, r"dense_blocks\.\d+\.block\.0\.conv\.weight"),
        "layers": count(t, r"dense_blocks\.0\.block\.\d+\.conv\.weight"),
        "growth": growth,
        "layers_see_everything": columns(t, "dense_blocks.0.block.1.conv.weight") > growth,
        "bottleneck": rows(t, "bottleneck.0.weight"),
        "transposed_kernel": t["deconv.0.weight"].shape[-1],
        "activated_tail": True,
    }


def srdensenet_plain_tail(t: Mapping[str, Tensor]) -> dict[str, Any]:
    return srdensenet(t) | {"activated_tail": False}


LUMA = (
    Form(
        network="srcnn",
        source="yjn870/SRCNN-pytorch",
        config=srcnn_luma,
        scale_free=True,
        ranged="biases",
    ),
    Form(
        network="srcnn",
        source="mmagic",
        config=srcnn,
        scale_free=True,
        ranged="biases",
        note="mmagic puts torch's bicubic before it, here it is MATLAB's",
    ),
    Form(
        network="srcnn",
        source="Lornatang/SRCNN-PyTorch",
        config=srcnn,
        rename=(
            (r"^features\.0\.", "conv1."),
            (r"^map\.0\.", "conv2."),
            (r"^reconstruction\.", "conv3."),
        ),
        scale_free=True,
        ranged="biases",
    ),
    Form(
        network="espcn-tanh",
        source="yjn870/ESPCN-pytorch",
        config=espcn_tanh,
        rename=(
            (r"^first_part\.0\.", "conv1."),
            (r"^first_part\.2\.", "conv2."),
            (r"^last_part\.0\.", "conv3."),
        ),
        assumed=("activation",),
    ),
    Form(
        network="espcn-tanh",
        source="Lornatang/ESPCN-PyTorch",
        config=espcn_tanh,
        rename=(
            (r"^feature_maps\.0\.", "conv1."),
            (r"^feature_maps\.2\.", "conv2."),
            (r"^sub_pixel\.0\.", "conv3."),
        ),
        assumed=("activation",),
    ),
    Form(
        network="espcn-tanh",
        source="leftthomas/ESPCN",
        config=espcn_sigmoid,
        assumed=("activation", "output"),
    ),
    Form(
        network="vdsr",
        source="twtygqyy/pytorch-vdsr",
        config=vdsr,
        scale_free=True,
        ranged="biases",
    ),
    Form(
        network="vdsr",
        source="Lornatang/VDSR-PyTorch",
        config=vdsr,
        rename=(
            (r"^conv1\.0\.", "input."),
            (r"^trunk\.", "residual_layer."),
            (r"^conv2\.", "output."),
        ),
        scale_free=True,
        ranged="biases",
    ),
    Form(
        network="lapsrn",
        source="twtygqyy/pytorch-LapSRN",
        config=lapsrn,
        ranged="biases",
    ),
    Form(
        network="mslapsrn",
        source="lorenzomammana/MSLapSRN-pytorch",
        config=mslapsrn,
        rename=(
            (r"^conv_input\.", "input_conv."),
            # Counted from 0 there, from 1 here.
            *((rf"^features\..*\.conv_{i}\.", f"conv{i + 1}.") for i in range(16)),
            (r"^transpose\.", "upconv."),
            (r"^scale_img\.", "img_up."),
            (r"^predict\.", "residual_conv."),
        ),
        scale_free=True,
        ranged="biases",
        assumed=("recursions",),
        note="the source clamps every level to 0..1",
    ),
    Form(
        network="srdensenet",
        source="yjn870/SRDenseNet-pytorch",
        config=srdensenet,
        ranged="biases",
    ),
    Form(
        network="srdensenet",
        source="wxywhu/SRDenseNet-pytorch",
        config=srdensenet_plain_tail,
        rename=(
            (r"^conv1\.", "conv.conv."),
            # Blocks are counted from 1 in its first version, from 0 in its second.
            *(
                (rf"^dense{i + 1}\.(\d+)\.conv\.", rf"dense_blocks.{i}.block.\1.conv.")
                for i in range(16)
            ),
            (r"^denseblock\.", "dense_blocks."),
            (r"^Bottleneck\.", "bottleneck.0."),
            (r"^convt1\.", "deconv.0."),
            (r"^convt2\.", "deconv.2."),
            (r"^conv2\.", "reconstruction."),
        ),
        ranged="biases",
        assumed=("activated_tail",),
    ),
)
