"""The streaming student: stream against batch, its state bounded, started and reset."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from tolerances import assert_close
from video_networks import randomised, run, silenced

from edgesr.errors import MediaError
from edgesr.networks.causal import Causal, CausalConfig, CausalStage, CausalState, CausalStep
from edgesr.networks.facts import count_parameters
from edgesr.spec import ModelSpec


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
