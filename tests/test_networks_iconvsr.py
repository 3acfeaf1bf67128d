"""IconVSR: its counts and names, keyframes, and their features layer by layer."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close
from video_networks import SMALL_ICON, randomised, run

from edgesr.errors import ModelError
from edgesr.networks.basicvsr import BasicVsr, BasicVsrConfig
from edgesr.networks.deform import deform_conv
from edgesr.networks.facts import count_parameters
from edgesr.networks.iconvsr import IconVsr, IconVsrConfig, keyframe_windows, padded_to_four


def test_iconvsr_has_the_published_parameters() -> None:
    """8.7 million in the paper; to the digit, what it has over BasicVSR layer by layer."""
    with torch.device("meta"):
        basic, icon = BasicVsr(BasicVsrConfig()), IconVsr(IconVsrConfig())

    def conv(c_in: int, c_out: int, kernel: int) -> int:
        return c_in * c_out * kernel**2 + c_out

    c = 64
    deform = conv(c, c, 3) + conv(c, 3 * 8 * 9, 3)
    pyramid = 5 * conv(2 * c, c, 3) + 3 * conv(c, c, 3) + 2 * conv(2 * c, c, 3) + 3 * deform
    pyramid += conv(2 * c, c, 3) + conv(c, c, 3) + deform  # the cascade
    attention = 2 * conv(c, c, 3) + 2 * conv(5 * c, c, 1)
    attention += conv(2 * c, c, 1) + 4 * conv(c, c, 1) + 3 * conv(c, c, 3) + conv(2 * c, c, 3)
    edvr = conv(3, c, 3) + 10 * conv(c, c, 3) + 4 * conv(c, c, 3) + pyramid + attention
    coupled = c * c * 9  # the forward branch takes 64 channels more
    expected = count_parameters(basic) - conv(2 * c, c, 1) + 2 * conv(2 * c, c, 3) + coupled + edvr
    assert count_parameters(icon) == expected
    assert round(expected / 1e6, 1) == 8.7


@pytest.mark.parametrize(
    ("name", "shape"),
    {
        "edvr.conv_l3_1.weight": (64, 64, 3, 3),
        "edvr.feature_extraction.4.conv1.weight": (64, 64, 3, 3),
        "edvr.pcd_align.offset_conv2.l3.weight": (64, 64, 3, 3),
        "edvr.pcd_align.offset_conv2.l1.weight": (64, 128, 3, 3),
        "edvr.pcd_align.dcn_pack.l2.weight": (64, 64, 3, 3),
        "edvr.pcd_align.cas_dcnpack.conv_offset.weight": (216, 64, 3, 3),
        "edvr.fusion.feat_fusion.weight": (64, 320, 1, 1),
        "edvr.fusion.spatial_attn_l2.weight": (64, 128, 3, 3),
        "backward_fusion.weight": (64, 128, 3, 3),
        "forward_trunk.main.0.weight": (64, 131, 3, 3),
    }.items(),
    ids=str,
)
def test_iconvsr_speaks_basicsr(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert IconVsr(IconVsrConfig()).state_dict()[name].shape == shape


def test_keyframes_and_their_windows() -> None:
    assert keyframe_windows(12, stride=5, margin=2) == {
        0: [4, 3, 0, 1, 2],
        5: [3, 4, 5, 6, 7],
        10: [8, 9, 10, 11, 8],
        11: [9, 10, 11, 8, 7],
    }
    assert keyframe_windows(7, stride=5, margin=3) == {
        0: [6, 5, 4, 0, 1, 2, 3],
        5: [2, 3, 4, 5, 6, 2, 1],
        6: [3, 4, 5, 6, 2, 1, 0],
    }
    assert list(keyframe_windows(11, stride=5, margin=2)) == [0, 5, 10]  # the last one only once


def test_iconvsr_refills_on_keyframes_and_couples_the_branches() -> None:
    model = randomised(IconVsr(IconVsrConfig(**SMALL_ICON)))
    inputs, outputs = {}, {}
    for name in ("edvr", "backward_fusion", "forward_fusion", "backward_trunk", "forward_trunk"):

        def record(_, args, output, name=name) -> None:
            inputs.setdefault(name, []).append(args[0])
            outputs.setdefault(name, []).append(output)

        getattr(model, name).register_forward_hook(record)
    clip = torch.rand(1, 7, 3, 8, 8)
    run(model, clip)

    windows = keyframe_windows(7, stride=5, margin=2)
    assert list(windows) == [0, 5, 6]
    for seen, window in zip(inputs["edvr"], windows.values(), strict=True):
        assert torch.equal(seen, clip[:, window])
    refill = dict(zip(windows, outputs["edvr"], strict=True))
    for name, order in (("backward", [6, 5, 0]), ("forward", [0, 5, 6])):
        for seen, keyframe in zip(inputs[f"{name}_fusion"], order, strict=True):
            assert torch.equal(seen[:, 4:], refill[keyframe])
    later = outputs["backward_trunk"][::-1]
    for i, seen in enumerate(inputs["forward_trunk"]):
        assert torch.equal(seen[:, :3], clip[:, i])
        assert torch.equal(seen[:, 3:7], later[i])
    assert torch.equal(inputs["forward_trunk"][0][:, 7:], outputs["forward_fusion"][0])


def test_keyframe_features_are_their_formula() -> None:
    """EDVR-M frame by frame and layer by layer; `deform_conv` has a test of its own."""
    net = randomised(IconVsr(IconVsrConfig(**SMALL_ICON)), spread=0.3).edvr
    w = net.state_dict()
    clip = torch.rand(2, 5, 3, 8, 12)

    def conv(name: str, *parts, stride: int = 1):
        kernel = w[f"{name}.weight"]
        padding = kernel.shape[-1] // 2
        joined = torch.cat(parts, dim=1)
        return F.conv2d(joined, kernel, w[f"{name}.bias"], stride=stride, padding=padding)

    def active(name: str, *parts, stride: int = 1):
        y = conv(name, *parts, stride=stride)
        return torch.where(y > 0, y, 0.1 * y)

    def double(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def features(frame):
        one = active("conv_first", frame)
        block = "feature_extraction.0"
        one = one + conv(f"{block}.conv2", conv(f"{block}.conv1", one).clip(min=0))
        two = active("conv_l2_2", active("conv_l2_1", one, stride=2))
        return one, two, active("conv_l3_2", active("conv_l3_1", two, stride=2))

    def deform(name: str, x, guide):
        both = conv(f"{name}.conv_offset", guide)  # 2 groups * 9 taps * (2 offsets + 1 strength)
        return deform_conv(
            x,
            both[:, :36],
            both[:, 36:].sigmoid(),
            weight=w[f"{name}.weight"],
            bias=w[f"{name}.bias"],
        )

    def leaky(y):
        return torch.where(y > 0, y, 0.1 * y)

    def align(here, there):
        p = "pcd_align"
        g3 = active(f"{p}.offset_conv2.l3", active(f"{p}.offset_conv1.l3", here[2], there[2]))
        f3 = leaky(deform(f"{p}.dcn_pack.l3", here[2], g3))
        g2 = active(f"{p}.offset_conv1.l2", here[1], there[1])
        g2 = active(f"{p}.offset_conv2.l2", g2, 2 * double(g3))
        g2 = active(f"{p}.offset_conv3.l2", g2)
        f2 = deform(f"{p}.dcn_pack.l2", here[1], g2)
        f2 = active(f"{p}.feat_conv.l2", f2, double(f3))
        g1 = active(f"{p}.offset_conv1.l1", here[0], there[0])
        g1 = active(f"{p}.offset_conv2.l1", g1, 2 * double(g2))
        g1 = active(f"{p}.offset_conv3.l1", g1)
        f1 = deform(f"{p}.dcn_pack.l1", here[0], g1)
        f1 = conv(f"{p}.feat_conv.l1", f1, double(f2))
        g = active(f"{p}.cas_offset_conv2", active(f"{p}.cas_offset_conv1", f1, there[0]))
        return leaky(deform(f"{p}.cas_dcnpack", f1, g))

    def pool(x):
        kept = F.max_pool2d(x, 3, stride=2, padding=1)
        return kept, F.avg_pool2d(x, 3, stride=2, padding=1)

    levels = [features(clip[:, i]) for i in range(5)]
    aligned = [align(level, levels[2]) for level in levels]
    anchor = conv("fusion.temporal_attn1", aligned[2])
    likeness = [(conv("fusion.temporal_attn2", f) * anchor).sum(1, keepdim=True) for f in aligned]
    weighted = [f * like.sigmoid() for f, like in zip(aligned, likeness, strict=True)]
    y = active("fusion.feat_fusion", *weighted)
    half = active("fusion.spatial_attn2", *pool(active("fusion.spatial_attn1", *weighted)))
    low = active("fusion.spatial_attn_l2", *pool(active("fusion.spatial_attn_l1", half)))
    low = active("fusion.spatial_attn_l3", low)
    half = active("fusion.spatial_attn4", active("fusion.spatial_attn3", half) + double(low))
    attention = conv("fusion.spatial_attn5", double(half))
    added = conv("fusion.spatial_attn_add2", active("fusion.spatial_attn_add1", attention))
    assert_close(run(net, clip), y * 2 * attention.sigmoid() + added, dtype="float32")


def test_iconvsr_mirrors_up_to_multiples_of_four() -> None:
    clip = torch.rand(1, 2, 3, 5, 6)
    expected = np.pad(clip.numpy(), [(0, 0)] * 3 + [(0, 3), (0, 2)], mode="reflect")
    assert_close(padded_to_four(clip), expected, dtype="float32")
    whole = torch.rand(1, 1, 3, 8, 4)
    assert torch.equal(padded_to_four(whole), whole)

    model = randomised(IconVsr(IconVsrConfig(**SMALL_ICON)))
    assert model.min_frames == 5
    assert run(model, torch.rand(1, 5, 3, 3, 9)).shape == (1, 5, 3, 12, 36)
    with pytest.raises(ModelError, match="clip of 4 frames: IconVSR needs 5"):
        model(torch.rand(1, 4, 3, 8, 8))
