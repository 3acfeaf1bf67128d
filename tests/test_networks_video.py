"""Video networks: warping and flow by hand, both directions, keyframes, stream against batch."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close

from edgesr.errors import MediaError, ModelError
from edgesr.networks.basicvsr import BasicVsr, BasicVsrConfig, neighbour_flows
from edgesr.networks.causal import Causal, CausalConfig, CausalStage, CausalState, CausalStep
from edgesr.networks.deform import DeformConv, deform_conv
from edgesr.networks.facts import count_parameters
from edgesr.networks.iconvsr import IconVsr, IconVsrConfig, keyframe_windows, padded_to_four
from edgesr.networks.spynet import Spynet, SpynetConfig, warp
from edgesr.spec import ModelSpec

FLOW = {"flow_levels": 3, "flow_widths": (4, 4, 4, 4)}
SMALL = {"features": 4, "blocks": 1, "refined": 4, **FLOW}
SMALL_ICON = {**SMALL, "extraction_blocks": 1, "deform_groups": 2}


def randomised(model: torch.nn.Module, *, seed: int = 0, spread: float = 0.1) -> torch.nn.Module:
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(spread * torch.randn_like(parameter))
    return model.eval()


def silenced(model: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.eval()


@torch.no_grad()
def run(model, *inputs):
    return model(*inputs)


# Counts and names


@pytest.mark.parametrize(("blocks", "count"), [(30, 6_291_311), (15, 4_075_631)])
def test_basicvsr_has_the_published_parameters(blocks: int, count: int) -> None:
    with torch.device("meta"):
        model = BasicVsr(BasicVsrConfig(blocks=blocks))
    assert count_parameters(model) == count
    assert count_parameters(model.spynet) == 1_440_300


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
        "spynet.basic_module.0.basic_module.0.weight": (32, 8, 7, 7),
        "spynet.basic_module.5.basic_module.8.bias": (2,),
        "spynet.mean": (1, 3, 1, 1),
        "backward_trunk.main.0.weight": (64, 67, 3, 3),
        "forward_trunk.main.2.29.conv2.weight": (64, 64, 3, 3),
        "fusion.weight": (64, 128, 1, 1),
        "upconv2.weight": (256, 64, 3, 3),
        "conv_last.bias": (3,),
    }.items(),
    ids=str,
)
def test_basicvsr_speaks_basicsr(name: str, shape: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert BasicVsr(BasicVsrConfig()).state_dict()[name].shape == shape


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


# Warping and flow


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize(("right", "down"), [(0, 0), (2, 0), (0, -3), (-1, 2)], ids=str)
def test_whole_flow_moves_the_picture(right: int, down: int, padding: str) -> None:
    """Against numpy.pad and a slice: align_corners, the order x, y, and both paddings."""
    picture = torch.rand(2, 3, 9, 12)
    flow = torch.tensor([right, down]).view(1, 2, 1, 1).expand(2, 2, 9, 12).float()
    mode = {"zeros": "constant", "border": "edge"}[padding]
    framed = np.pad(picture.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode=mode)
    expected = framed[:, :, 4 + down : 13 + down, 4 + right : 16 + right]
    assert_close(warp(picture, flow, padding=padding), expected, dtype="float32")


def test_warp_reads_between_pixels_and_single_pixels() -> None:
    picture = torch.tensor([[[[0.0, 1.0, 3.0]]]])
    flow = torch.zeros(1, 2, 1, 3)
    flow[:, 0] = 0.25
    assert_close(warp(picture, flow), [[[[0.25, 1.5, 2.25]]]], dtype="float32")


def test_warp_keeps_whole_pixels_apart_in_bfloat16() -> None:
    picture = (torch.arange(600) % 2).view(1, 1, 1, 600).bfloat16()
    assert_close(
        warp(picture, torch.zeros(1, 2, 1, 600).bfloat16()).float(),
        picture.float(),
        dtype="float32",
    )


@pytest.mark.parametrize("size", [(32, 64), (33, 70), (20, 9), (64, 32)], ids=str)
def test_spynet_doubles_the_flow_from_level_to_level(size: tuple[int, int]) -> None:
    """With biases only, level l adds a constant: the flow is their sum, each doubled 5 - l times,
    and shrinks with the picture when that was stretched to multiples of 32."""
    model = silenced(Spynet(SpynetConfig(widths=(2, 2, 2, 2))))
    biases = np.random.default_rng(0).normal(size=(6, 2))
    for level, bias in zip(model.basic_module, biases, strict=True):
        level.basic_module[-1].bias.data = torch.tensor(bias, dtype=torch.float32)
    flow = run(model, torch.rand(1, 3, *size), torch.rand(1, 3, *size))
    total = sum(bias * 2 ** (5 - level) for level, bias in enumerate(biases))
    for axis, length in ((0, size[1]), (1, size[0])):
        stretched = int(np.ceil(length / 32)) * 32
        expected = np.full(size, total[axis] * length / stretched)
        assert_close(flow[0, axis], expected, dtype="float32")


def test_spynet_level_sees_reference_warped_support_and_flow() -> None:
    """In this order, normalised, the border repeated; the last level's network is listened to."""
    model = silenced(Spynet(SpynetConfig(levels=2, widths=(2,))))
    model.basic_module[0].basic_module[-1].bias.data = torch.tensor([1.0, 0.0])
    seen = []
    model.basic_module[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    near, far = torch.rand(1, 3, 8, 10), torch.rand(1, 3, 8, 10)
    run(model, near, far)
    mean, std = (
        np.array(values).reshape(1, 3, 1, 1)
        for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    columns = np.minimum(np.arange(10) + 2, 9)  # one pixel on level 0 is two on level 1
    flow = np.broadcast_to(np.array([2.0, 0.0]).reshape(1, 2, 1, 1), (1, 2, 8, 10))
    parts = [(near.numpy() - mean) / std, ((far.numpy() - mean) / std)[..., columns], flow]
    assert_close(seen[0], np.concatenate(parts, axis=1), dtype="float32")


def test_spynet_enlarges_the_flow_corner_to_corner() -> None:
    """The first and last pixels keep their flow (align_corners), doubled; against numpy.interp."""
    model = silenced(Spynet(SpynetConfig(levels=2, widths=(2,))))
    coarse = torch.randn(1, 2, 4, 5)
    model.basic_module[0].register_forward_hook(lambda *_: coarse)
    rows, columns = np.linspace(0, 3, 8), np.linspace(0, 4, 10)
    for axis in range(2):
        wide = np.array([np.interp(columns, range(5), row) for row in coarse[0, axis].numpy()])
        expected = 2 * np.array([np.interp(rows, range(4), column) for column in wide.T]).T
        flow = run(model, torch.rand(1, 3, 8, 10), torch.rand(1, 3, 8, 10))
        assert_close(flow[0, axis], expected, dtype="float32")


def test_spynet_takes_other_sizes_like_a_resized_picture() -> None:
    model = randomised(Spynet(SpynetConfig(levels=3, widths=(4, 4, 4, 4))))
    near, far = torch.rand(1, 3, 10, 19), torch.rand(1, 3, 10, 19)

    def resized(picture, width: int, height: int):
        planes = [cv2.resize(plane, (width, height)) for plane in picture[0].numpy()]
        return torch.from_numpy(np.stack(planes))[None]

    flow = resized(run(model, resized(near, 20, 12), resized(far, 20, 12)), 19, 10)
    expected = flow * torch.tensor([19 / 20, 10 / 12]).view(1, 2, 1, 1)
    assert_close(run(model, near, far), expected, dtype="float32")


# Deformable convolution


def test_deform_conv_is_its_formula() -> None:
    """Loops over pixels and taps (equation 1 of the paper), y before x, groups, zeros outside."""
    rng = np.random.default_rng(1)
    c, out, groups, height, width = 4, 3, 2, 5, 6
    x = rng.normal(size=(2, c, height, width))
    offset = 2 * rng.normal(size=(2, groups * 9 * 2, height, width))
    strength = rng.random(size=(2, groups * 9, height, width))
    weight, bias = rng.normal(size=(out, c, 3, 3)), rng.normal(size=out)

    def at(plane, down: float, across: float) -> float:
        total = 0.0
        for i in range(height):
            for j in range(width):
                near = max(0.0, 1 - abs(down - i)) * max(0.0, 1 - abs(across - j))
                total += near * plane[i, j]
        return total

    expected = np.zeros((2, out, height, width))
    for n, i, j in np.ndindex(2, height, width):
        expected[n, :, i, j] = bias
        for channel, tap in np.ndindex(c, 9):
            k = channel // (c // groups) * 9 + tap
            down = i + tap // 3 - 1 + offset[n, 2 * k, i, j]
            across = j + tap % 3 - 1 + offset[n, 2 * k + 1, i, j]
            value = strength[n, k, i, j] * at(x[n, channel], down, across)
            expected[n, :, i, j] += weight[:, channel, tap // 3, tap % 3] * value
    tensors = [torch.from_numpy(a) for a in (x, offset, strength)]
    got = deform_conv(*tensors, weight=torch.from_numpy(weight), bias=torch.from_numpy(bias))
    assert_close(got, expected, dtype="float64")


def test_deform_conv_starts_as_half_a_convolution() -> None:
    """No offsets, and the sigmoid of 0 is a half; two thirds of the channels are offsets."""
    layer = DeformConv(4, 6, groups=2)
    x, guide = torch.rand(1, 4, 7, 5), torch.rand(1, 4, 7, 5)
    plain = F.conv2d(x, layer.weight, padding=1)
    assert_close(run(layer, x, guide), 0.5 * plain.detach(), dtype="float32")
    layer.conv_offset.bias.data[36:] = 30.0  # 2 groups of 9 pairs before it
    assert_close(run(layer, x, guide), plain.detach(), dtype="float32")


# BasicVSR


@pytest.mark.parametrize(("name", "scale"), [("basicvsr", 2), ("basicvsr", 4), ("iconvsr", 4)])
def test_without_weights_the_skip_is_bilinear(name: str, scale: int) -> None:
    """Against OpenCV, whose INTER_LINEAR is the same formula."""
    if name == "basicvsr":
        model = BasicVsr(BasicVsrConfig(scale=scale, **SMALL))
    else:
        model = IconVsr(IconVsrConfig(**SMALL_ICON))
    clip = torch.rand(2, 5, 3, *((9, 7) if name == "basicvsr" else (8, 12)))
    got = run(silenced(model), clip)
    for n, t in np.ndindex(2, 5):
        frame = clip[n, t].permute(1, 2, 0).numpy()
        expected = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        assert_close(got[n, t].permute(1, 2, 0), expected, dtype="float32")


def test_basicvsr_is_the_same_backward() -> None:
    """The clip reversed, the two branches and the two halves of the fusion swapped."""
    config = BasicVsrConfig(**SMALL)
    model, mirror = randomised(BasicVsr(config)), BasicVsr(config).eval()
    weights = dict(model.state_dict())
    for name in list(weights):
        if name.startswith("forward_trunk"):
            other = name.replace("forward", "backward")
            weights[name], weights[other] = weights[other], weights[name]
    weights["fusion.weight"] = weights["fusion.weight"].roll(4, dims=1)
    mirror.load_state_dict(weights)
    clip = torch.rand(1, 5, 3, 8, 12)
    straight = run(model, clip)
    assert_close(run(mirror, clip.flip(1)).flip(1), straight, dtype="float32")
    assert not torch.allclose(run(model, clip.flip(1)).flip(1), straight, atol=1e-4)


def shifted(picture, right: int, down: int):
    """What a whole flow reads from `picture` (N, C, H, W), zeros outside; by numpy."""
    height, width = picture.shape[2:]
    framed = np.pad(picture.numpy(), ((0, 0), (0, 0), (9, 9), (9, 9)))
    return framed[:, :, 9 + down : 9 + down + height, 9 + right : 9 + right + width]


class NumberedFlow(torch.nn.Module):
    """A known answer: frames bear their number, from frame a to b flows (b - a, a)."""

    def forward(self, reference, support):
        a, b = reference[:, 0, 0, 0], support[:, 0, 0, 0]
        flow = torch.stack([b - a, a], dim=1)[:, :, None, None]
        return flow.expand(-1, 2, *reference.shape[2:])


@pytest.mark.parametrize("name", ["basicvsr", "iconvsr"])
def test_hidden_maps_travel_along_the_flow_to_the_neighbour(name: str) -> None:
    """Backward along i -> i + 1, forward along i -> i - 1; frame first, then the hidden maps."""
    if name == "basicvsr":
        model = randomised(BasicVsr(BasicVsrConfig(**SMALL)))
    else:
        # Past the first frames no keyframe but the last comes and mixes something in.
        model = randomised(IconVsr(IconVsrConfig(**SMALL_ICON, keyframe_stride=99)))
    model.spynet = NumberedFlow()
    seen, given = {}, {}
    for branch in ("backward", "forward"):

        def record(_, inputs, output, branch=branch) -> None:
            seen.setdefault(branch, []).append(inputs[0])
            given.setdefault(branch, []).append(output)

        getattr(model, f"{branch}_trunk").register_forward_hook(record)
    clip = torch.rand(2, 6, 3, 8, 8)
    clip[:, :, 0, 0, 0] = torch.arange(6)
    run(model, clip)
    for i in range(1, 5):  # the ends of an IconVSR clip are keyframes
        step = 5 - i  # the backward branch begins at frame 5
        assert torch.equal(seen["backward"][step][:, :3], clip[:, i])
        expected = shifted(given["backward"][step - 1], +1, i)
        assert_close(seen["backward"][step][:, 3:], expected, dtype="float32")
        assert torch.equal(seen["forward"][i][:, :3], clip[:, i])
        expected = shifted(given["forward"][i - 1], -1, i)
        assert_close(seen["forward"][i][:, -4:], expected, dtype="float32")


def test_flows_of_several_clips_stay_with_their_clip() -> None:
    numbers = torch.stack([torch.arange(4.0), torch.arange(4.0) + 40])  # (N, T)
    clips = numbers[:, :, None, None, None].expand(2, 4, 3, 4, 4)
    to_next, to_previous = neighbour_flows(NumberedFlow(), clips)
    for i in range(3):
        assert to_next[i][:, :, 0, 0].tolist() == [[1, i], [1, i + 40]]
        assert to_previous[i][:, :, 0, 0].tolist() == [[-1, i + 1], [-1, i + 41]]


def test_basicvsr_of_one_frame_is_its_formula() -> None:
    """No neighbour, hidden maps of zeros; layer by layer with F.conv2d."""
    model = randomised(BasicVsr(BasicVsrConfig(**SMALL)), spread=0.3)
    w = model.state_dict()
    frame = torch.rand(1, 3, 6, 5)

    def conv(name: str, x):
        kernel = w[f"{name}.weight"]
        return F.conv2d(x, kernel, w[f"{name}.bias"], padding=kernel.shape[-1] // 2)

    def leaky(x):
        return torch.where(x > 0, x, 0.1 * x)

    def doubled(x):  # (1, 4C, H, W) -> (1, C, 2H, 2W)
        _, c, height, width = x.shape
        x = x.view(c // 4, 2, 2, height, width).permute(0, 3, 1, 4, 2)
        return x.reshape(1, c // 4, 2 * height, 2 * width)

    def trunk(name: str):
        y = leaky(conv(f"{name}.main.0", torch.cat([frame, torch.zeros(1, 4, 6, 5)], dim=1)))
        inner = conv(f"{name}.main.2.0.conv1", y).clip(min=0)
        return y + conv(f"{name}.main.2.0.conv2", inner)

    y = leaky(conv("fusion", torch.cat([trunk("backward_trunk"), trunk("forward_trunk")], dim=1)))
    y = leaky(doubled(conv("upconv2", leaky(doubled(conv("upconv1", y))))))
    y = conv("conv_last", leaky(conv("conv_hr", y)))[0].permute(1, 2, 0).numpy()
    y = y + cv2.resize(frame[0].permute(1, 2, 0).numpy(), None, fx=4, fy=4)
    assert_close(run(model, frame[:, None])[0, 0].permute(1, 2, 0), y, dtype="float32")


def test_basicvsr_sees_the_whole_clip_and_clips_do_not_mix() -> None:
    model = randomised(BasicVsr(BasicVsrConfig(**SMALL)))
    clips = torch.rand(2, 4, 3, 8, 8)
    both = run(model, clips)
    assert_close(run(model, clips[:1]), both[:1], dtype="float32")
    for changed in (0, 3):
        other = clips.clone()
        other[0, changed] = 0.5
        differs = (run(model, other) - both).abs().amax(dim=(2, 3, 4)) > 1e-6
        assert differs.tolist() == [[True] * 4, [False] * 4]


def test_basicvsr_offers_two_and_four() -> None:
    with pytest.raises(ModelError, match="scale 3 is not 2 or 4"):
        BasicVsr(BasicVsrConfig(scale=3))
    with pytest.raises(ModelError, match="x4 only"):
        IconVsr(IconVsrConfig(scale=2))


# IconVSR


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


# The streaming student


def causal(scale: int = 2, *, spread: float = 0.15) -> Causal:
    model = randomised(Causal(CausalConfig(scale=scale, blocks=2, width=8)), spread=spread)
    assert isinstance(model, Causal)
    return model


def test_causal_parameters() -> None:
    """By hand: 2 + 16 -> 16, r blocks of two 16 -> 16, then 16 -> 16 and 16 -> s*s; slopes."""
    for blocks, scale, count in ((5, 2, 28_804), (5, 4, 30_544), (2, 3, 15_561)):
        by_hand = 18 * 16 * 9 + 16 + 16 + blocks * (2 * (16 * 16 * 9 + 16) + 16)
        by_hand += 16 * 16 * 9 + 16 + (16 * 9 + 1) * scale**2
        model = Causal(CausalConfig(scale=scale, blocks=blocks))
        assert count_parameters(model) == by_hand == count


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_causal_without_weights_is_nearest(scale: int) -> None:
    model = silenced(Causal(CausalConfig(scale=scale)))
    clip = torch.rand(2, 3, 1, 5, 7)
    expected = clip.numpy().repeat(scale, axis=3).repeat(scale, axis=4)
    assert np.array_equal(run(model, clip).numpy(), expected)


def test_causal_step_is_its_formula() -> None:
    """Layer by layer with F.conv2d: the order of the input, the clamp, the broadcast skip."""
    model = causal(scale=3)
    w = model.state_dict()
    frame, previous = torch.rand(1, 1, 6, 5), torch.rand(1, 1, 6, 5)
    hidden = torch.rand(1, 8, 6, 5) * 2 - 1

    def conv(name: str, x):
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    def prelu(name: str, x):
        return torch.where(x > 0, x, x * w[f"{name}.weight"].view(1, -1, 1, 1))

    y = prelu("act", conv("head", torch.cat([frame, previous, hidden], dim=1)))
    for block in ("body.0", "body.1"):
        y = y + conv(f"{block}.conv2", prelu(f"{block}.act", conv(f"{block}.conv1", y)))
    phases = conv("to_picture", y)[0].view(3, 3, 6, 5)  # (row, column, H, W)
    picture = frame.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    picture = picture + phases.permute(2, 0, 3, 1).reshape(1, 1, 18, 15)
    got, state = model.step(frame, CausalState(previous=previous, hidden=hidden))
    assert_close(got.detach(), picture, dtype="float32")
    assert_close(state.hidden.detach(), conv("to_hidden", y).clip(-1, 1), dtype="float32")
    assert torch.equal(state.previous, frame)


def test_stream_equals_batch_with_a_reset_between_clips() -> None:
    """60 frames one by one, twice, against one call on both clips; a forgotten state would show."""
    # Larger random weights make the loop chaotic: it doubles a rounding error with every frame.
    model = causal(spread=0.1)
    clips = torch.rand(2, 60, 1, 12, 17)
    batch = run(model, clips)
    stage = CausalStage(model)

    def streamed(clip):
        return [picture for frame in clip for picture in stage.push(frame[None])]

    first = [*streamed(clips[0]), *stage.flush()]
    second = streamed(clips[1])  # flush has ended the first clip
    assert_close(torch.stack([torch.cat(first), torch.cat(second)]), batch, dtype="float32")
    stage.reset()
    assert_close(torch.cat(streamed(clips[0])), batch[0], dtype="float32")

    carried = torch.cat(streamed(clips[1]))  # without a reset
    assert (carried[0] - batch[1, 0]).abs().max() > 1e-2


def test_causal_never_looks_ahead_and_remembers() -> None:
    model = causal()
    clip = torch.rand(1, 6, 1, 8, 8)
    other = clip.clone()
    other[0, 2] = 0.0
    differs = (run(model, clip) - run(model, other)).abs().amax(dim=(0, 2, 3, 4)) > 1e-6
    assert differs.tolist() == [False, False, True, True, True, True]


def test_causal_state_is_bounded_on_a_long_stream() -> None:
    model = randomised(Causal(CausalConfig(scale=2, blocks=2, width=8)), spread=1.0)
    frame = torch.rand(1, 1, 6, 6)
    state, largest = model.start(frame), []
    with torch.no_grad():
        for _ in range(300):
            picture, state = model.step(frame, state)
            assert state.hidden.abs().max() <= 1
            largest.append(float(picture.abs().max()))
    assert max(largest[100:]) <= 2 * max(largest[:100])


def test_causal_starts_with_a_loop_that_does_not_amplify_itself() -> None:
    """A clamped value has no gradient: a fresh network must not have driven its state there."""
    for seed in range(4):
        torch.manual_seed(seed)
        model = Causal(CausalConfig(scale=2))
        frame = torch.rand(1, 1, 12, 12)
        state = model.start(frame)
        with torch.no_grad():
            for _ in range(50):
                _, state = model.step(frame, state)
        assert 0 < state.hidden.abs().mean() < 0.3
        assert (state.hidden.abs() == 1).float().mean() < 0.02


def test_causal_stage_passes_on_what_it_does_not_know() -> None:
    stage = CausalStage(causal())
    assert stage.push("a caption") == ["a caption"]
    stage.push(torch.rand(1, 1, 6, 6))
    with pytest.raises(MediaError, match=r"\(1, 1, 6, 8\) after frames of \(1, 1, 6, 6\): reset"):
        stage.push(torch.rand(1, 1, 6, 8))
    stage.reset()
    assert stage.push(torch.rand(1, 1, 6, 8))[0].shape == (1, 1, 12, 16)
    assert stage.flush() == []


def test_causal_state_fits_the_spec_and_the_step() -> None:
    model = causal()
    spec = ModelSpec(
        name="a", network="a", scale=2, colour="y", halo=None, state=model.state_shapes
    )
    assert ModelSpec.from_json(spec.to_json()).state == model.state_shapes
    frame = torch.rand(2, 1, 6, 7)
    zeros = [
        torch.zeros([f if s is None else s for s, f in zip(state.shape, frame.shape, strict=True)])
        for state in spec.state
    ]
    y, previous, hidden = run(CausalStep(model), frame, *zeros)
    assert_close(y[:, None], run(model, frame[:, None]), dtype="float32")
    assert [previous.shape, hidden.shape] == [z.shape for z in zeros]
    started = model.start(frame)
    assert torch.equal(started.previous, zeros[0])
    assert torch.equal(started.hidden, zeros[1])


@pytest.mark.parametrize("name", ["basicvsr", "iconvsr"])
def test_whole_clips_export_at_a_fixed_length(name: str) -> None:
    """Not a deployable, but its operators are all there: ONNX Runtime against torch."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from edgesr.export.onnx import quiet

    if name == "basicvsr":
        model = randomised(BasicVsr(BasicVsrConfig(scale=4, **SMALL)))
    else:
        model = randomised(IconVsr(IconVsrConfig(scale=4, **SMALL_ICON)))
    clip = torch.rand(1, 3 if name == "basicvsr" else 5, 3, 33, 40)
    with quiet():
        program = torch.onnx.export(
            model,
            (clip,),
            dynamo=True,
            opset_version=17,
            external_data=False,
            verbose=False,
            input_names=["x"],
        )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    got = session.run(None, {"x": clip.numpy()})[0]
    expected = run(model, clip)
    largest = max(1.0, float(expected.abs().max()))
    assert np.abs(got - expected.numpy()).max() <= 1e-4 * largest
