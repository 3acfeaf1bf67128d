"""The streaming student of BasicVSR: one direction, no optical flow, one hidden feature map.

After RRN (Isobe et al., "Revisiting Temporal Modeling for Video Super-Resolution", BMVC 2020) and
the MobileRNN baseline of the MAI 2022 challenge: the frame, the frame before it and the hidden map
go through residual blocks, which give the picture and the next hidden map. Nothing waits for later
frames, and all is 3x3 convolutions: flow networks and `grid_sample` are too slow on a board.

Where it differs, and why: one luma channel, as in our other deployed networks. Nearest instead of
bilinear skip, one addition before the pixel shuffle. PReLU, one slope a channel. The hidden map is
clamped to -1..1: a state without bounds can run away on streams far longer than the training clips
(Chiche et al., CVPR 2022), and a known range suits int8. It is not fed with its own output picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import MediaError
from edgesr.networks.blocks import ChannelPReLU, start_small
from edgesr.spec import StateSpec


@dataclass(frozen=True, kw_only=True)
class CausalConfig:
    """Published nowhere; ours are called causal-r<blocks>c<width>."""

    scale: int
    blocks: int = 5
    width: int = 16


@dataclass(frozen=True, kw_only=True)
class CausalState:
    """What one frame leaves behind for the next; all zeros before the first."""

    previous: Tensor
    """(N, 1, H, W) the frame itself."""
    hidden: Tensor
    """(N, width, H, W) in -1..1."""


class Causal(nn.Module):
    """Clips (N, T, 1, H, W) of luma in 0..1 -> (N, T, 1, sH, sW), every clip from a zero state."""

    colour = "y"

    def __init__(self, config: CausalConfig) -> None:
        super().__init__()
        self.config = config
        c = config.width
        self.head = nn.Conv2d(2 + c, c, 3, padding=1)
        self.act = ChannelPReLU(c)
        self.body = nn.Sequential(*[Block(c) for _ in range(config.blocks)])
        self.to_hidden = nn.Conv2d(c, c, 3, padding=1)
        self.to_picture = nn.Conv2d(c, config.scale**2, 3, padding=1)
        start_small(self.head, 1.0)
        start_small(self.to_hidden, 0.3)  # from 0.5 on, the loop amplifies itself into the clamp
        start_small(self.to_picture)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.unbind(dim=1)
        state = self.start(frames[0])
        pictures = []
        for frame in frames:
            picture, state = self.step(frame, state)
            pictures.append(picture)
        return torch.stack(pictures, dim=1)

    def step(self, frame: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """One frame (N, 1, H, W) -> its picture (N, 1, sH, sW) and the state for the next frame."""
        y = torch.cat([frame, state.previous, state.hidden], dim=1)  # (N, 2 + C, H, W)
        y = self.body(self.act(self.head(y)))  # (N, C, H, W)
        hidden = self.to_hidden(y).clamp(-1.0, 1.0)  # (N, C, H, W)
        # One channel broadcast to s*s is the nearest skip.
        picture = F.pixel_shuffle(self.to_picture(y) + frame, self.config.scale)
        return picture, CausalState(previous=frame, hidden=hidden)

    def start(self, frame: Tensor) -> CausalState:
        """The state before the first frame, in the size, dtype and place of `frame`."""
        zeros = torch.zeros_like(frame)
        return CausalState(previous=zeros, hidden=zeros.repeat(1, self.config.width, 1, 1))

    @property
    def state_shapes(self) -> tuple[StateSpec, ...]:
        """For ModelSpec.state: in the order of `CausalStep`; batch and size follow the frame."""
        return (
            StateSpec(name="previous", shape=(None, 1, None, None)),
            StateSpec(name="hidden", shape=(None, self.config.width, None, None)),
        )


class Block(nn.Module):
    """3x3, PReLU, 3x3, plus the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.act = ChannelPReLU(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        start_small(self.conv1, 1.0)
        start_small(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.act(self.conv1(x)))


class CausalStep(nn.Module):
    """One step as a function of tensors only, for export: (x, previous, hidden) -> (y, both)."""

    def __init__(self, model: Causal) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, previous: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, state = self.model.step(x, CausalState(previous=previous, hidden=hidden))
        return y, state.previous, state.hidden


class CausalStage:
    """A stage (edgesr.runtime.stages) over tensors: frames (N, 1, H, W), each answered at once.

    Anything that is no tensor passes through. Raises MediaError when the size changes within a
    clip. `flush` ends the clip, `reset` forgets it (a cut, a seek): the next frame is a first one.
    """

    def __init__(self, model: Causal) -> None:
        self._model = model.eval()
        self._state: CausalState | None = None

    @torch.inference_mode()
    def push(self, item: object) -> list[object]:
        if not isinstance(item, Tensor):
            return [item]
        state = self._model.start(item) if self._state is None else self._state
        if state.previous.shape != item.shape:
            was, now = tuple(state.previous.shape), tuple(item.shape)
            raise MediaError(f"a frame of {now} after frames of {was}: reset() between clips")
        picture, self._state = self._model.step(item, state)
        return [picture]

    def flush(self) -> list[object]:
        self.reset()
        return []

    def reset(self) -> None:
        self._state = None
