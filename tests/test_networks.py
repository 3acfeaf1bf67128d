"""Networks against the published counts, their own slow forms and hand-made references."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close

from edgesr.errors import ModelError, UsageError
from edgesr.networks import NETWORKS, build, checkpoint, deployed
from edgesr.networks.blocks import ChannelPReLU
from edgesr.networks.ecbsr import Ecbsr
from edgesr.networks.facts import count_macs, count_parameters, measure_halo

SCALES = (2, 3, 4)
SMALL_ONES = [name for name in NETWORKS if name.startswith(("espcn", "fsrcnn", "ecbsr"))]
SIZES = [(1, 1), (5, 7), (16, 16), (23, 40), (41, 33)]

# (training form, deployed form), counted on the official modules; None: not published.
PARAMETERS = {
    ("espcn", 2): (21_284, 21_284),
    ("espcn", 3): (22_729, 22_729),
    ("espcn", 4): (24_752, 24_752),
    ("fsrcnn", 2): (12_809, 12_809),
    ("fsrcnn", 3): (12_809, 12_809),
    ("fsrcnn", 4): (12_809, 12_809),
    ("ecbsr-m4c8", 2): (10_804, 2_748),
    ("ecbsr-m4c8", 4): (None, 3_624),
    ("ecbsr-m4c16", 2): (39_956, 10_100),
    ("ecbsr-m4c16", 4): (None, 11_840),
    ("ecbsr-m10c16", 2): (90_452, 24_116),
    ("ecbsr-m10c16", 4): (None, 25_856),
    ("ecbsr-m10c32", 2): (353_620, 94_308),
    ("ecbsr-m10c32", 4): (None, 97_776),
}

# 10^9 multiply-adds for a 1280x720 output, transposed convolutions at their true cost.
GIGA_MACS = {
    ("espcn", 2): 4.88,
    ("fsrcnn", 2): 2.87,
    ("fsrcnn", 3): 1.27,
    ("fsrcnn", 4): 0.72,
    ("ecbsr-m4c8", 2): 0.614,
    ("ecbsr-m4c16", 2): 2.29,
    ("ecbsr-m10c16", 2): 5.47,
    ("ecbsr-m10c32", 4): 5.59,
}


def randomised(name: str, scale: int, *, seed: int = 0) -> torch.nn.Module:
    """A network with every parameter moved, so that no branch is silent."""
    torch.manual_seed(seed)
    model = build(name, scale).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize(("key", "counts"), PARAMETERS.items(), ids=str)
def test_parameters_are_the_published_ones(key: tuple[str, int], counts: tuple[int, int]) -> None:
    model = build(*key)
    training, plain = counts
    if training is not None:
        assert count_parameters(model) == training
    assert count_parameters(deployed(model)) == plain


@pytest.mark.parametrize(("key", "giga"), GIGA_MACS.items(), ids=str)
def test_multiply_adds_are_the_published_ones(key: tuple[str, int], giga: float) -> None:
    scale = key[1]
    macs = count_macs(deployed(build(*key)), height=720 // scale, width=1280 // scale)
    assert macs / 1e9 == pytest.approx(giga, rel=5e-3)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SMALL_ONES)
def test_output_is_scale_times_as_large(name: str, scale: int) -> None:
    model = build(name, scale)
    channels = 1 if model.colour == "y" else 3
    with torch.no_grad():
        shape = model(torch.rand(2, channels, 9, 13)).shape
    assert shape == (2, channels, 9 * scale, 13 * scale)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ["ecbsr-m4c8", "ecbsr-m4c16"])
def test_ecbsr_collapsed_and_merged_equal_the_five_branches(
    name: str, size: tuple[int, int]
) -> None:
    """Borders included: a black border must count as the 1x1's bias, not as zero."""
    model = randomised(name, 2)
    assert isinstance(model, Ecbsr)
    picture = torch.rand(2, 1, *size)
    with torch.no_grad():
        branches = model.forward_branches(picture)
        assert_close(model(picture), branches, dtype="float32")
        assert_close(deployed(model)(picture), branches, dtype="float32")


def test_ecbsr_border_needs_the_bias_frame() -> None:
    """The test above can fail: with zero padding between 1x1 and 3x3 the border differs."""
    block = randomised("ecbsr-m4c8", 2).backbone[0]
    branch = block.conv1x1_3x3
    picture = torch.rand(1, 1, 8, 8)
    with torch.no_grad():
        inner = F.conv2d(picture, branch.k0, branch.b0)
        wrong = F.conv2d(inner, branch.k1, branch.b1, padding=1)
        right = F.conv2d(picture, *branch.merged(), padding=1)
    assert torch.allclose(wrong[..., 1:-1, 1:-1], right[..., 1:-1, 1:-1], atol=1e-5)
    assert not torch.allclose(wrong, right, atol=1e-3)


def test_ecbsr_collapsed_has_the_gradients_of_the_branches() -> None:
    model = randomised("ecbsr-m4c8", 2).double()
    picture, truth = torch.rand(2, 1, 9, 9).double(), torch.rand(2, 1, 18, 18).double()
    gradients = []
    for run in (model.forward, model.forward_branches):
        model.zero_grad()
        F.mse_loss(run(picture), truth).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, dtype="float64")


@pytest.mark.parametrize("scale", SCALES)
def test_ecbsr_without_weights_is_nearest_neighbour(scale: int) -> None:
    model = build("ecbsr-m4c8", scale)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    picture = torch.rand(1, 1, 7, 9)
    expected = F.interpolate(picture, scale_factor=scale, mode="nearest")
    assert torch.equal(model(picture), expected)


@pytest.mark.parametrize("scale", SCALES)
def test_espcn_starts_as_bicubic_interpolation(scale: int) -> None:
    """Against the project's MATLAB-exact bicubic, away from the border."""
    from edgesr.bicubic import imresize

    torch.manual_seed(0)
    model = build("espcn", scale).eval()
    with torch.no_grad():
        model.conv3.weight[:, scale**2 :] = 0  # the small random part
    ramp = torch.linspace(0.2, 0.8, 24)
    picture = (ramp[:, None] * ramp[None, :])[None, None].contiguous()
    with torch.no_grad():
        ours = model(picture)[0, 0].numpy()
    expected = imresize(picture[0, 0].numpy(), scale)
    inner = slice(4 * scale, -4 * scale)
    assert_close(ours[inner, inner], expected[inner, inner], dtype="float32")


@pytest.mark.parametrize("training", [False, True])
def test_channel_prelu_is_prelu(training: bool) -> None:
    ours, theirs = ChannelPReLU(5), torch.nn.PReLU(5)
    with torch.no_grad():
        ours.weight.copy_(torch.randn(5))
        theirs.weight.copy_(ours.weight)
    ours.train(training)
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 5, 6, 7).to(memory_format=layout)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        ours.zero_grad()
        theirs.zero_grad()
        (ours(a) ** 2).sum().backward()
        (theirs(b) ** 2).sum().backward()
        assert torch.equal(ours(x), theirs(x))
        assert_close(a.grad, b.grad, dtype="float32")
        assert_close(ours.weight.grad, theirs.weight.grad, dtype="float32")


@pytest.mark.parametrize(("name", "halo"), [("espcn", 4), ("ecbsr-m4c16", 6), ("ecbsr-m10c16", 12)])
def test_halo_is_the_receptive_field(name: str, halo: int) -> None:
    """5x5 + 3x3 + 3x3 reach 2 + 1 + 1 pixels; M + 2 convolutions 3x3 reach M + 2."""
    assert measure_halo(build(name, 2), scale=2) == halo


def test_wrong_names_are_answered_with_the_right_ones() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'ecbsr-m4c16'.*known are espcn"):
        build("ecbsr-m4c61", 2)
    with pytest.raises(UsageError, match="espcn: scale 5 is not offered: 2, 3, 4"):
        build("espcn", 5)


def test_checkpoint_comes_back_whole(tmp_path) -> None:
    model = randomised("ecbsr-m4c8", 3)
    spec = checkpoint.spec_of("ecbsr-m4c8", model, recipe="abc").replace(
        metrics={"Set5": {"psnr_y": 33.0}}, terms="CC0"
    )
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, model.state_dict(), spec=spec, model=model)
    again, facts = checkpoint.load(path)
    assert facts == spec
    assert facts.name == "ecbsr-m4c8-x3"
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint"):
        checkpoint.load(tmp_path / "missing.safetensors")
    text = tmp_path / "text.safetensors"
    text.write_text("hello")
    with pytest.raises(ModelError, match="not a safetensors checkpoint"):
        checkpoint.load(text)
    from safetensors.torch import save_file

    model = build("ecbsr-m4c8", 2)
    spec = checkpoint.spec_of("ecbsr-m4c8", model)
    wide = build("ecbsr-m4c16", 2)
    other = tmp_path / "other.safetensors"
    checkpoint.save(other, model.state_dict(), spec=spec, model=wide)
    with pytest.raises(ModelError, match=r"does not fit ecbsr-m4c8"):
        checkpoint.load(other)

    foreign = tmp_path / "foreign.safetensors"
    save_file({"w": torch.zeros(1)}, foreign)
    with pytest.raises(ModelError, match="holds no edgesr facts"):
        checkpoint.load(foreign)
