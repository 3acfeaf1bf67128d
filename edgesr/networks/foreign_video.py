"""Forms of the networks for clips, and of GLEAN: teachers, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgesr.networks.foreign import Form, columns, count, demand, rows


def basicvsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    demand(t, "fusion.weight")
    return {
        "scale": 4 if "upconv2.weight" in t else 2,
        "features": rows(t, "backward_trunk.main.0.bias"),
        "blocks": count(t, r"backward_trunk\.main\.2\.\d+\.conv1\.bias"),
        "refined": rows(t, "conv_hr.bias"),
        "flow_levels": count(t, r"spynet\.basic_module\.\d+\.basic_module\.0\.weight"),
        "flow_widths": flow_widths(t),
    }


def iconvsr(t: Mapping[str, Tensor]) -> dict[str, Any]:
    demand(t, "backward_fusion.weight")
    features = rows(t, "backward_trunk.main.0.bias")
    frames = columns(t, "edvr.fusion.feat_fusion.weight") // features
    return {
        "scale": 4,
        "features": features,
        "blocks": count(t, r"backward_trunk\.main\.2\.\d+\.conv1\.bias"),
        "refined": rows(t, "conv_hr.bias"),
        "keyframe_stride": 5,
        "margin": frames // 2,
        "extraction_blocks": count(t, r"edvr\.feature_extraction\.\d+\.conv1\.bias"),
        # For each group and each of 9 taps: down, across, strength.
        "deform_groups": rows(t, "edvr.pcd_align.cas_dcnpack.conv_offset.bias") // 27,
        "flow_levels": count(t, r"spynet\.basic_module\.\d+\.basic_module\.0\.weight"),
        "flow_widths": flow_widths(t),
    }


def flow_widths(t: Mapping[str, Tensor]) -> tuple[int, ...]:
    convs = count(t, r"spynet\.basic_module\.0\.basic_module\.\d+\.bias")
    return tuple(
        rows(t, f"spynet.basic_module.0.basic_module.{2 * i}.bias") for i in range(convs - 1)
    )


def glean(t: Mapping[str, Tensor]) -> dict[str, Any]:
    in_size = 4 * 2 ** (count(t, r"fusion_out\.\d+\.weight") - 1)
    scale = 2 ** (count(t, r"decoder\.\d+\.upsample_conv\.weight"))
    widest = rows(t, "generator.conv1.activate.bias")
    last = count(t, r"generator\.convs\.\d+\.activate\.bias") - 1
    narrowest = rows(t, f"generator.convs.{last}.activate.bias")
    return {
        "scale": scale,
        "in_size": in_size,
        "rrdb_blocks": count(t, r"encoder\.0\.0\.body\.\d+\.rdb1\.conv1\.weight"),
        "width": rows(t, "encoder.0.0.conv_first.weight"),
        "growth": rows(t, "encoder.0.0.body.0.rdb1.conv1.weight"),
        "style_channels": t["generator.style_mapping.1.linear.weight_orig"].shape[1],
        "mapping_layers": count(t, r"generator\.style_mapping\.\d+\.bias"),
        "channel_base": scale * in_size * narrowest,
        "channel_max": widest,
    }


# mmagic counts a convolution and its activation as one layer, BasicSR as two.
MMAGIC = (
    (r"^(back|for)ward_resblocks\.", r"\1ward_trunk."),
    (r"^upsample(\d)\.upsample_conv\.", r"upconv\1."),
    *(
        (
            rf"^spynet\.basic_module\.(\d+)\.basic_module\.{i}\.conv\.",
            rf"spynet.basic_module.\1.basic_module.{2 * i}.",
        )
        for i in range(5)
    ),
    (r"^edvr\.feat_l(\d)_conv(\d)\.conv\.", r"edvr.conv_l\1_\2."),
    (r"^edvr\.pcd_alignment\.", "edvr.pcd_align."),
    (r"^edvr\.(pcd_align|fusion)\.(.*)\.conv\.(weight|bias)$", r"edvr.\1.\2.\3"),
)

VIDEO = (
    Form(network="basicvsr", source="BasicSR", config=basicvsr),
    Form(network="basicvsr", source="mmagic", config=basicvsr, rename=MMAGIC),
    Form(network="iconvsr", source="BasicSR", config=iconvsr, assumed=("keyframe_stride",)),
    Form(
        network="iconvsr",
        source="mmagic",
        config=iconvsr,
        rename=MMAGIC,
        # EDVR's own way to a picture.
        ignore=r"^edvr\.(reconstruction|upsample\d|conv_hr|conv_last)\.",
        assumed=("keyframe_stride",),
    ),
    Form(network="glean", source="mmagic", config=glean),
)
