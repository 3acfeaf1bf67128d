"""BasicVSR, and what IconVSR has in common with it: both directions, known flows, by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close
from video_networks import SMALL, SMALL_ICON, randomised, run, silenced

from edgesr.errors import ModelError
from edgesr.networks.basicvsr import BasicVsr, BasicVsrConfig, neighbour_flows
from edgesr.networks.facts import count_parameters
from edgesr.networks.iconvsr import IconVsr, IconVsrConfig


@pytest.mark.parametrize(("blocks", "count"), [(30, 6_291_311), (15, 4_075_631)])
def test_basicvsr_has_the_published_parameters(blocks: int, count: int) -> None:
    with torch.device("meta"):
        model = BasicVsr(BasicVsrConfig(blocks=blocks))
    assert count_parameters(model) == count
    assert count_parameters(model.spynet) == 1_440_300


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
