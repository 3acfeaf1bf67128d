"""IconVSR (Chan, Wang, Yu, Dong, Loy, "BasicVSR: The Search for Essential Components in Video
Super-Resolution and Beyond", CVPR 2021).

BasicVSR with two additions. Information refill: on every fifth frame and on the last, features
that EDVR-M (Wang et al., CVPRW 2019) takes from the frames around it are mixed into the travelling
hidden maps, so that alignment errors do not pile up. Coupled propagation: the forward branch also
sees what the backward branch found, and there is no fusion afterwards.

RGB in 0..1, x4. Past the ends of the clip a window takes frames from its inside, mirrored around
the window and not around the end (frames 4, 3 stand before frame 0), and the skip is that of the
picture mirrored up to multiples of four, both as all public code does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import ModelError
from edgesr.networks.basicvsr import ResidualBlock, Trunk, bilinear, neighbour_flows
from edgesr.networks.deform import DeformConv
from edgesr.networks.spynet import Spynet, SpynetConfig, warp


@dataclass(frozen=True, kw_only=True)
class IconVsrConfig:
    """`margin`: frames on either side of a keyframe, 2 for REDS and 3 for Vimeo-90K."""

    scale: int = 4
    features: int = 64
    blocks: int = 30
    refined: int = 64
    keyframe_stride: int = 5
    margin: int = 2
    extraction_blocks: int = 5
    deform_groups: int = 8
    flow_levels: int = 6
    flow_widths: tuple[int, ...] = (32, 64, 32, 16)


class IconVsr(nn.Module):
    """Clips (N, T, 3, H, W) in 0..1 -> (N, T, 3, 4H, 4W); T of `min_frames` or more."""

    colour = "rgb"
    min_size = 3  # to be mirrored up to a multiple of 4

    def __init__(self, config: IconVsrConfig) -> None:
        super().__init__()
        if config.scale != 4:
            raise ModelError(f"IconVSR is x4 only, not x{config.scale}")
        self.config = config
        c = config.features
        self.edvr = KeyframeFeatures(config)
        self.spynet = Spynet(SpynetConfig(levels=config.flow_levels, widths=config.flow_widths))
        self.backward_fusion = nn.Conv2d(2 * c, c, 3, padding=1)
        self.backward_trunk = Trunk(3 + c, c, blocks=config.blocks)
        self.forward_fusion = nn.Conv2d(2 * c, c, 3, padding=1)
        self.forward_trunk = Trunk(3 + 2 * c, c, blocks=config.blocks)
        self.upconv1 = nn.Conv2d(c, 4 * c, 3, padding=1)
        self.upconv2 = nn.Conv2d(c, 4 * config.refined, 3, padding=1)
        self.conv_hr = nn.Conv2d(config.refined, config.refined, 3, padding=1)
        self.conv_last = nn.Conv2d(config.refined, 3, 3, padding=1)

    @property
    def min_frames(self) -> int:
        return 2 * self.config.margin + 1

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[3:]
        if x.shape[1] < self.min_frames:
            raise ModelError(f"a clip of {x.shape[1]} frames: IconVSR needs {self.min_frames}")
        x = padded_to_four(x)
        frames = x.unbind(dim=1)
        to_next, to_previous = neighbour_flows(self.spynet, x)
        refill = self.keyframe_features(frames)
        start = torch.zeros_like(frames[0][:, :1]).repeat(1, self.config.features, 1, 1)

        later: list[Tensor] = []
        hidden = start  # (N, C, H, W)
        for i in reversed(range(len(frames))):
            if later:
                hidden = warp(hidden, to_next[i])
            if i in refill:
                hidden = self.backward_fusion(torch.cat([hidden, refill[i]], dim=1))
            hidden = self.backward_trunk(torch.cat([frames[i], hidden], dim=1))
            later.insert(0, hidden)

        pictures: list[Tensor] = []
        hidden = start
        for i, frame in enumerate(frames):
            if i > 0:
                hidden = warp(hidden, to_previous[i - 1])
            if i in refill:
                hidden = self.forward_fusion(torch.cat([hidden, refill[i]], dim=1))
            hidden = self.forward_trunk(torch.cat([frame, later[i], hidden], dim=1))
            pictures.append(self.reconstruct(hidden, frame))
        return torch.stack(pictures, dim=1)[..., : 4 * height, : 4 * width]

    def keyframe_features(self, frames: tuple[Tensor, ...]) -> dict[int, Tensor]:
        """Keyframe -> (N, C, H, W)."""
        windows = keyframe_windows(
            len(frames), stride=self.config.keyframe_stride, margin=self.config.margin
        )
        return {
            keyframe: self.edvr(torch.stack([frames[i] for i in window], dim=1))
            for keyframe, window in windows.items()
        }

    def reconstruct(self, features: Tensor, frame: Tensor) -> Tensor:
        y = F.leaky_relu(F.pixel_shuffle(self.upconv1(features), 2), 0.1)  # (N, C, 2H, 2W)
        y = F.leaky_relu(F.pixel_shuffle(self.upconv2(y), 2), 0.1)  # (N, 64, 4H, 4W)
        y = self.conv_last(F.leaky_relu(self.conv_hr(y), 0.1))  # (N, 3, 4H, 4W)
        return y + bilinear(frame, 4)


def padded_to_four(x: Tensor) -> Tensor:
    """(N, T, 3, H, W) mirrored at the bottom and on the right up to multiples of four."""
    # Not F.pad: the exporter cannot bring its Pad below opset 18.
    rows, columns = (mirrored(size, device=x.device) for size in x.shape[3:])
    return x.index_select(3, rows).index_select(4, columns)


def mirrored(size: int, *, device: torch.device) -> Tensor:
    """0, 1 .. size - 1, size - 2 .. up to a multiple of four."""
    last = size - 1
    return last - (last - torch.arange((size + 3) // 4 * 4, device=device)).abs()


def keyframe_windows(frames: int, *, stride: int, margin: int) -> dict[int, list[int]]:
    """Every keyframe with the 2*margin + 1 frames that its features are taken from."""
    order = [
        *range(2 * margin, margin, -1),
        *range(frames),
        *range(frames - margin - 2, frames - 2 * margin - 2, -1),
    ]
    keyframes = [*range(0, frames - 1, stride), frames - 1]
    return {keyframe: order[keyframe : keyframe + 2 * margin + 1] for keyframe in keyframes}


class KeyframeFeatures(nn.Module):
    """EDVR-M up to its fusion: a window (N, F, 3, H, W) -> (N, C, H, W) of its middle frame."""

    def __init__(self, config: IconVsrConfig) -> None:
        super().__init__()
        c = config.features
        self.conv_first = nn.Conv2d(3, c, 3, padding=1)
        self.feature_extraction = nn.Sequential(
            *[ResidualBlock(c) for _ in range(config.extraction_blocks)]
        )
        self.conv_l2_1 = nn.Conv2d(c, c, 3, stride=2, padding=1)
        self.conv_l2_2 = nn.Conv2d(c, c, 3, padding=1)
        self.conv_l3_1 = nn.Conv2d(c, c, 3, stride=2, padding=1)
        self.conv_l3_2 = nn.Conv2d(c, c, 3, padding=1)
        self.pcd_align = PyramidAlignment(c, groups=config.deform_groups)
        self.fusion = AttentionFusion(c, frames=2 * config.margin + 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]
        one = F.leaky_relu(self.conv_first(x.flatten(0, 1)), 0.1)
        one = self.feature_extraction(one)  # (N*F, C, H, W)
        two = F.leaky_relu(self.conv_l2_1(one), 0.1)
        two = F.leaky_relu(self.conv_l2_2(two), 0.1)  # (N*F, C, H/2, W/2)
        three = F.leaky_relu(self.conv_l3_1(two), 0.1)
        three = F.leaky_relu(self.conv_l3_2(three), 0.1)  # (N*F, C, H/4, W/4)
        levels = [one, two, three]
        aligned = self.pcd_align(levels, [middle_of(level, frames) for level in levels])
        return self.fusion(aligned.unflatten(0, (-1, frames)).unbind(dim=1))


def middle_of(x: Tensor, frames: int) -> Tensor:
    """(N*F, C, H, W) -> the same shape, every frame replaced by the middle one of its window."""
    clips = x.unflatten(0, (-1, frames))  # (N, F, C, H, W)
    return clips[:, frames // 2].repeat_interleave(frames, dim=0)


class PyramidAlignment(nn.Module):
    """EDVR's PCD: a frame's features moved onto the middle frame's, coarse to fine.

    Both come as three levels of (N, C, H, W), (N, C, H/2, W/2), (N, C, H/4, W/4).
    """

    def __init__(self, c: int, *, groups: int) -> None:
        super().__init__()
        self.offset_conv1 = nn.ModuleDict()
        self.offset_conv2 = nn.ModuleDict()
        self.offset_conv3 = nn.ModuleDict()
        self.dcn_pack = nn.ModuleDict()
        self.feat_conv = nn.ModuleDict()
        for level in ("l3", "l2", "l1"):
            coarsest = level == "l3"
            self.offset_conv1[level] = nn.Conv2d(2 * c, c, 3, padding=1)
            self.offset_conv2[level] = nn.Conv2d(c if coarsest else 2 * c, c, 3, padding=1)
            self.dcn_pack[level] = DeformConv(c, c, groups=groups)
            if not coarsest:
                self.offset_conv3[level] = nn.Conv2d(c, c, 3, padding=1)
                self.feat_conv[level] = nn.Conv2d(2 * c, c, 3, padding=1)
        self.cas_offset_conv1 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.cas_offset_conv2 = nn.Conv2d(c, c, 3, padding=1)
        self.cas_dcnpack = DeformConv(c, c, groups=groups)

    def forward(self, frame: list[Tensor], middle: list[Tensor]) -> Tensor:
        guide = self.guide("l3", frame[2], middle[2])
        guide = F.leaky_relu(self.offset_conv2["l3"](guide), 0.1)
        moved = F.leaky_relu(self.dcn_pack["l3"](frame[2], guide), 0.1)  # (N, C, H/4, W/4)
        for level, here, there in (("l2", frame[1], middle[1]), ("l1", frame[0], middle[0])):
            coarse, moved = 2 * bilinear(guide, 2), bilinear(moved, 2)  # offsets double too
            guide = torch.cat([self.guide(level, here, there), coarse], dim=1)
            guide = F.leaky_relu(self.offset_conv2[level](guide), 0.1)
            guide = F.leaky_relu(self.offset_conv3[level](guide), 0.1)
            moved = torch.cat([self.dcn_pack[level](here, guide), moved], dim=1)
            moved = self.feat_conv[level](moved)
            if level == "l2":
                moved = F.leaky_relu(moved, 0.1)
        guide = F.leaky_relu(self.cas_offset_conv1(torch.cat([moved, middle[0]], dim=1)), 0.1)
        guide = F.leaky_relu(self.cas_offset_conv2(guide), 0.1)
        return F.leaky_relu(self.cas_dcnpack(moved, guide), 0.1)  # (N, C, H, W)

    def guide(self, level: str, frame: Tensor, middle: Tensor) -> Tensor:
        return F.leaky_relu(self.offset_conv1[level](torch.cat([frame, middle], dim=1)), 0.1)


class AttentionFusion(nn.Module):
    """EDVR's TSA: frames weighted by their likeness to the middle one, then by place."""

    def __init__(self, c: int, *, frames: int) -> None:
        super().__init__()
        self.temporal_attn1 = nn.Conv2d(c, c, 3, padding=1)
        self.temporal_attn2 = nn.Conv2d(c, c, 3, padding=1)
        self.feat_fusion = nn.Conv2d(frames * c, c, 1)
        self.spatial_attn1 = nn.Conv2d(frames * c, c, 1)
        self.spatial_attn2 = nn.Conv2d(2 * c, c, 1)
        self.spatial_attn3 = nn.Conv2d(c, c, 3, padding=1)
        self.spatial_attn4 = nn.Conv2d(c, c, 1)
        self.spatial_attn5 = nn.Conv2d(c, c, 3, padding=1)
        self.spatial_attn_l1 = nn.Conv2d(c, c, 1)
        self.spatial_attn_l2 = nn.Conv2d(2 * c, c, 3, padding=1)
        self.spatial_attn_l3 = nn.Conv2d(c, c, 3, padding=1)
        self.spatial_attn_add1 = nn.Conv2d(c, c, 1)
        self.spatial_attn_add2 = nn.Conv2d(c, c, 1)

    def forward(self, aligned: tuple[Tensor, ...]) -> Tensor:
        middle = self.temporal_attn1(aligned[len(aligned) // 2])
        weighted = torch.cat(
            [
                frame * (self.temporal_attn2(frame) * middle).sum(dim=1, keepdim=True).sigmoid()
                for frame in aligned
            ],
            dim=1,
        )  # (N, F*C, H, W)
        features = F.leaky_relu(self.feat_fusion(weighted), 0.1)  # (N, C, H, W)

        half = pooled(F.leaky_relu(self.spatial_attn1(weighted), 0.1))
        half = F.leaky_relu(self.spatial_attn2(half), 0.1)  # (N, C, H/2, W/2)
        quarter = pooled(F.leaky_relu(self.spatial_attn_l1(half), 0.1))
        quarter = F.leaky_relu(self.spatial_attn_l2(quarter), 0.1)
        quarter = F.leaky_relu(self.spatial_attn_l3(quarter), 0.1)  # (N, C, H/4, W/4)
        half = F.leaky_relu(self.spatial_attn3(half), 0.1) + bilinear(quarter, 2)
        half = F.leaky_relu(self.spatial_attn4(half), 0.1)
        attention = self.spatial_attn5(bilinear(half, 2))  # (N, C, H, W)
        added = self.spatial_attn_add2(F.leaky_relu(self.spatial_attn_add1(attention), 0.1))
        return features * attention.sigmoid() * 2 + added  # 2: about 1 at the start


def pooled(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 2C, H/2, W/2): largest and mean of 3x3, a mean with zeros outside."""
    largest = F.max_pool2d(x, 3, stride=2, padding=1)
    return torch.cat([largest, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
