"""What a student learns from a teacher: outputs, features, their affinities, and how frames change.

    response       the teacher's picture as a second truth
    features       features through 1x1 adapters (Romero et al., "FitNets", ICLR 2015)
    affinity       which places of a feature are alike (He et al., "FAKD", ICIP 2020)
    variational    the privileged teacher's feature as a distribution whose location and scale the
                   student predicts (Lee et al., "PISR", ECCV 2020)
    contrastive    near to the teacher, far from enlarged pictures (Wang et al., "CSD", IJCAI 2021)
    temporal       frames change from one to the next as the true ones do

The teacher is never trained here: its tensors are detached. Pictures are (N, C, H, W) in 0..1,
features (N, C, H, W), clips (N, T, C, H, W); each loss is one number, a mean. Weights that were
published beside a loss on 0..255 are divided by 255 for pictures in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgesr.errors import UsageError
from edgesr.networks.spynet import warp

Distance = Literal["l1", "mse"]
Density = Literal["laplace", "gaussian"]

FAKD_WEIGHT = 10 / 255
CSD_WEIGHT = 200 / 255
CSD_LAYERS = {
    "relu1_1": 1 / 32,
    "relu2_1": 1 / 16,
    "relu3_1": 1 / 8,
    "relu4_1": 1 / 4,
    "relu5_1": 1.0,
}


def distance_of(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    return F.l1_loss(a, b) if distance == "l1" else F.mse_loss(a, b)


def response(student: Tensor, teacher: Tensor, *, distance: Distance = "l1") -> Tensor:
    """The student's picture against the teacher's; FAKD: 0.5 of this, 0.5 against the truth."""
    return distance_of(student, teacher.detach(), distance)


class FeatureAdapters(nn.Module):
    """One 1x1 convolution a feature, from the student's channels to the teacher's.

    Trained with the student and thrown away after. `pairs`: (student, teacher) channels.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(student, teacher, 1) for student, teacher in pairs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        require_as_many(features, self.convs, what="adapters")
        return [conv(feature) for conv, feature in zip(self.convs, features, strict=True)]


def feature_loss(
    student: Sequence[Tensor],
    teacher: Sequence[Tensor],
    *,
    adapters: FeatureAdapters,
    distance: Distance = "l1",
) -> Tensor:
    """Mean over the features of the distance between the adapted ones and the teacher's.

    Where the sizes differ, the larger one is averaged down: see `same_size`.
    """
    require_as_many(student, teacher, what="features of the teacher")
    terms = [
        distance_of(*same_size(ours, theirs.detach()), distance)
        for ours, theirs in zip(adapters(student), teacher, strict=True)
    ]
    return torch.stack(terms).mean()


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the smaller height and the smaller width, by averaging areas."""
    size = (min(a.shape[-2], b.shape[-2]), min(a.shape[-1], b.shape[-1]))
    first, second = (x if x.shape[-2:] == size else F.adaptive_avg_pool2d(x, size) for x in (a, b))
    return first, second


def affinity_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], *, most: int = 2304
) -> Tensor:
    """Sum over the features of the L1 between affinity matrices; weight `FAKD_WEIGHT`.

    Channels may differ: an affinity is between two places. `most` bounds the places, since the
    matrices have places^2 entries (48x48: 21 MB a picture, each of student's, teacher's and
    gradient's); of larger features every second row and column enters, or every third, and so on.
    """
    require_as_many(student, teacher, what="features of the teacher")
    terms = []
    for ours, theirs in zip(student, teacher, strict=True):
        a, b = same_size(ours, theirs.detach())
        step = math.ceil(math.sqrt(a.shape[-2] * a.shape[-1] / most))
        a, b = a[..., ::step, ::step], b[..., ::step, ::step]
        terms.append(F.l1_loss(affinity(a), affinity(b)))
    return torch.stack(terms).sum()


def affinity(feature: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, HW, HW): cosine between the channel vectors of two places."""
    places = feature.flatten(2)  # (N, C, HW)
    unit = places / (torch.linalg.vector_norm(places, dim=1, keepdim=True) + 1e-8)
    return torch.bmm(unit.transpose(1, 2), unit)


def variational(
    location: Tensor, scale: Tensor, feature: Tensor, *, density: Density = "laplace"
) -> Tensor:
    """PISR's step 2: mean cost of the teacher's feature; published weight 1e-6.

    location    (N, C, H, W) of the student's head
    scale       what `PisrStudent.with_estimates` gives, 0.1 softplus + 1e-8, for either density;
                broadcasts to the feature, so that it may be shared by places, channels or both
    feature     (N, C, H, W) of the teacher

    Laplace: C ln(2 pi) / 2 + ln(2 b) + |m - f| / b with b the scale; Gaussian: C ln(2 pi) / 2 +
    ln(v) / 2 + (m - f)^2 / (2 v) with v = 0.001 softplus + 1e-8. The first term is a constant of
    the code, 51.46 for 56 channels, and belongs to neither density; kept to compare loss values.
    """
    constant = location.shape[1] * math.log(2 * math.pi) / 2
    error = location - feature.detach()
    if density == "laplace":
        cost = torch.log(2 * scale) + error.abs() / scale
    else:
        variance = gaussian_variance(scale)
        cost = torch.log(variance) / 2 + error.square() / (2 * variance)
    return constant + cost.mean()


def gaussian_variance(scale: Tensor) -> Tensor:
    """0.1 softplus + 1e-8 -> 0.001 softplus + 1e-8."""
    return 0.01 * (scale - 1e-8) + 1e-8


def imitation(compact: Tensor, small: Tensor) -> Tensor:
    """PISR's step 1: L1 of the encoder's output to the small picture; published weight 1e-4."""
    return F.l1_loss(compact, small)


def contrastive(
    student: Tensor,
    teacher: Tensor,
    enlarged: Tensor,
    *,
    features: Callable[[Tensor], Sequence[Tensor]],
    weights: Sequence[float] = tuple(CSD_LAYERS.values()),
    most: int = 10,
) -> Tensor:
    """CSD: distance of features to the teacher's over the distances to the negatives', summed up.

    weight * mean |teacher - student| / (sum over negatives of mean |negative - student|), by layer
    enlarged    (N, C, H, W) the small pictures of the same batch, enlarged by bicubic: those of the
                other pictures, up to `most`, are the negatives of each
    features    of pictures, one a weight: VGG19's `CSD_LAYERS`
    Weight `CSD_WEIGHT`. Raises UsageError for a batch of one.
    """
    if len(student) < 2:
        raise UsageError("contrastive loss: the other pictures are the negatives, batch >= 2")
    with torch.no_grad():
        wanted, shunned = features(teacher), features(enlarged)
    terms = []
    for weight, s, t, n in zip(weights, features(student), wanted, shunned, strict=True):
        far = [(n.roll(k, dims=0) - s).abs().mean() for k in range(1, min(most, len(s) - 1) + 1)]
        terms.append(weight * F.l1_loss(s, t) / (torch.stack(far).sum() + 1e-7))
    return torch.stack(terms).sum()


def temporal(output: Tensor, truth: Tensor) -> Tensor:
    """L1 between the changes from frame to frame of two clips (N, T, C, H, W) in 0..1."""
    require_clip(output)
    return F.l1_loss(output.diff(dim=1), truth.diff(dim=1))


def warped_temporal(output: Tensor, truth: Tensor, *, flow: Tensor) -> Tensor:
    """Mean change of the output along the motion, where the truth changes little along it.

    output, truth    (N, T, C, H, W) in 0..1
    flow             (N, T - 1, 2, H, W) in pixels of them, x first: from a pixel of frame t + 1 to
                     its place in frame t, as `Spynet(frame t + 1, frame t)` gives
    Lai et al., "Learning Blind Video Temporal Consistency", ECCV 2018: frames are weighted by
    exp(-50 |y - warped y|^2), which rules out what was hidden before.
    """
    require_clip(output)
    flows = flow.flatten(0, 1)  # (N(T-1), 2, H, W)
    now, before = output[:, 1:].flatten(0, 1), output[:, :-1].flatten(0, 1)
    with torch.no_grad():
        true_before = warp(truth[:, :-1].flatten(0, 1), flows, padding="border")
        error = (truth[:, 1:].flatten(0, 1) - true_before).square().sum(dim=1, keepdim=True)
        visible = torch.exp(-50 * error)  # (N(T-1), 1, H, W)
    return (visible * (now - warp(before, flows, padding="border")).abs()).mean()


def require_clip(clip: Tensor) -> None:
    if clip.ndim != 5 or clip.shape[1] < 2:
        raise UsageError(
            f"temporal loss: clips (N, T, C, H, W) of 2 frames or more, not {tuple(clip.shape)}"
        )


def require_as_many(ours: Sequence[Tensor], others: Sequence | nn.ModuleList, *, what: str) -> None:
    if len(ours) != len(others):
        raise UsageError(f"{len(ours)} features of the student, but {len(others)} {what}")
