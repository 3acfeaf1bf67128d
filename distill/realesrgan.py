"""Real-ESRGAN's second-order degradation: draw its parameters, then carry them out on a batch.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021, section 3; the numbers are those of its published x4plus training (x2plus has the same).
Draws come from a CPU generator and are plain numbers: the same on every device, and open to tests.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from edgesr.distill import host
from edgesr.distill.chain import RealEsrganSettings, StageSettings
from edgesr.distill.degrade import (
    RESIZE_MODES,
    gaussian_noise,
    poisson_noise,
    resize,
    to_8bit,
)
from edgesr.distill.jpeg import jpeg, real_jpeg
from edgesr.distill.kernels import (
    KernelDraw,
    choose,
    draw_final_sinc,
    draw_kernels,
    filter2d,
    make_kernels,
    uniform,
    usm_sharpen,
)
from edgesr.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class StageDraw:
    """One round for N samples. Per batch: blurs, factor, mode, gaussian; the rest per sample.

    strength  (N,) sigma in levels of 255, or the factor of the Poisson noise
    gray      (N,) bool
    quality   (N,) of the JPEG
    seed      of the noise itself, which is drawn where the batch is
    """

    kernels: KernelDraw
    blurs: bool
    factor: float
    mode: str
    gaussian: bool
    strength: Tensor
    gray: Tensor
    quality: Tensor
    seed: int


@dataclass(frozen=True, kw_only=True)
class ChainDraw:
    """Everything that is random in one pass of the chain over N samples.

    jpeg_last   resize, sinc, JPEG; else JPEG, resize, sinc
    final_mode  of the resize to the LR size
    """

    first: StageDraw
    second: StageDraw
    final_sinc: KernelDraw
    final_mode: str
    jpeg_last: bool


def draw_stage(
    count: int, settings: StageSettings, *, sizes: tuple[int, ...], generator: torch.Generator
) -> StageDraw:
    """Draw one round for `count` samples."""
    kernels = draw_kernels(
        count,
        sizes=sizes,
        shares=settings.kernel_shares,
        sigma=settings.sigma,
        beta_general=settings.beta_general,
        beta_plateau=settings.beta_plateau,
        sinc=settings.sinc_prob,
        generator=generator,
    )
    low, high = settings.resize_range
    bounds = ((1.0, high), (low, 1.0), (1.0, 1.0))  # up, down, keep
    way = int(choose(1, settings.resize_shares, generator=generator))
    gaussian = happens(settings.gaussian_prob, generator=generator)
    strengths = settings.gaussian_sigma if gaussian else settings.poisson_scale
    return StageDraw(
        kernels=kernels,
        blurs=happens(settings.blur_prob, generator=generator),
        factor=float(uniform(1, bounds[way], generator=generator)),
        mode=draw_mode(generator),
        gaussian=gaussian,
        strength=uniform(count, strengths, generator=generator),
        gray=uniform(count, (0.0, 1.0), generator=generator) < settings.gray_prob,
        quality=uniform(count, settings.jpeg_quality, generator=generator),
        seed=int(torch.randint(2**62, (1,), generator=generator)),
    )


def happens(chance: float, *, generator: torch.Generator) -> bool:
    return bool(uniform(1, (0.0, 1.0), generator=generator) < chance)


def draw_mode(generator: torch.Generator) -> str:
    return RESIZE_MODES[int(torch.randint(len(RESIZE_MODES), (1,), generator=generator))]


def draw_chain(
    count: int, settings: RealEsrganSettings, *, generator: torch.Generator
) -> ChainDraw:
    """Draw one pass for a batch of `count`; `generator` is one of the CPU."""
    if generator.device.type != "cpu":
        raise UsageError("degradation: draws need torch.Generator('cpu'), on every device")
    sizes = settings.kernel_sizes
    return ChainDraw(
        first=draw_stage(count, settings.first, sizes=sizes, generator=generator),
        second=draw_stage(count, settings.second, sizes=sizes, generator=generator),
        final_sinc=draw_final_sinc(
            count, sizes=sizes, chance=settings.final_sinc_prob, generator=generator
        ),
        final_mode=draw_mode(generator),
        jpeg_last=happens(settings.jpeg_last_prob, generator=generator),
    )


def degrade(batch: Tensor, draw: ChainDraw, *, scale: int, settings: RealEsrganSettings) -> Tensor:
    """Carry out `draw` on (sharpened) HR pictures: (N, C, H, W) -> (N, C, H / scale, W / scale).

    The result holds multiples of 1/255, except with jpeg = "soft", which keeps its gradient.
    """
    height, width = batch.shape[2:]
    if batch.ndim != 4 or height % scale or width % scale or len(draw.first.kernels) != len(batch):
        raise UsageError(
            f"degradation x{scale}: a batch {tuple(batch.shape)} for {len(draw.first.kernels)} "
            f"draws: one draw each, height and width multiples of {scale}"
        )
    side = max(settings.kernel_sizes)
    first, second = draw.first, draw.second
    sizes = (
        scaled((height, width), first.factor),
        scaled((height, width), second.factor / scale),
        (height // scale, width // scale),
    )
    if on_host(batch) and settings.jpeg != "soft":
        pictures = host.pictures_of(batch)
        return host.batch_of(
            host.degrade_pictures(pictures, draw, sizes=sizes, width=side, jpeg=settings.jpeg)
        )
    x = blur(batch, first, side)
    x = resize(x, sizes[0], mode=first.mode)
    x = compress(add_noise(x, first), first.quality, how=settings.jpeg)
    x = blur(x, second, side)
    x = resize(x, sizes[1], mode=second.mode)
    x = add_noise(x, second)
    if not draw.jpeg_last:
        x = compress(x, second.quality, how=settings.jpeg)
    x = resize(x, sizes[2], mode=draw.final_mode)
    x = filter2d(x, make_kernels(draw.final_sinc, width=side))
    if draw.jpeg_last:
        x = compress(x, second.quality, how=settings.jpeg)
    return x.clamp(0, 1) if settings.jpeg == "soft" else to_8bit(x)


def on_host(batch: Tensor) -> bool:
    """Whether OpenCV can do the work: on the CPU, and nobody asks for a gradient."""
    gradient = batch.requires_grad and torch.is_grad_enabled()
    return batch.device.type == "cpu" and batch.dtype == torch.float32 and not gradient


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(1, int(size[0] * factor)), max(1, int(size[1] * factor))


def blur(batch: Tensor, stage: StageDraw, side: int) -> Tensor:
    return filter2d(batch, make_kernels(stage.kernels, width=side)) if stage.blurs else batch


def add_noise(batch: Tensor, stage: StageDraw) -> Tensor:
    generator = torch.Generator(batch.device).manual_seed(stage.seed)
    add = gaussian_noise if stage.gaussian else poisson_noise
    return add(batch, stage.strength, stage.gray, generator=generator)


def compress(batch: Tensor, quality: Tensor, *, how: str) -> Tensor:
    if how == "real":
        return real_jpeg(batch, quality)
    return jpeg(batch, quality, soft=how == "soft")


def for_frames(draw: ChainDraw, count: int) -> ChainDraw:
    """The draw for one sample as that of `count` frames of a clip: only the noise changes."""

    def repeated(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.repeat_interleave(count, dim=0)
        if not isinstance(item, ChainDraw | StageDraw | KernelDraw):
            return item
        return type(item)(**{f.name: repeated(getattr(item, f.name)) for f in fields(item)})

    return ChainDraw(**{f.name: repeated(getattr(draw, f.name)) for f in fields(draw)})


def sharpen(hr: Tensor, settings: RealEsrganSettings) -> Tensor:
    """The target: `usm_sharpen` as the settings say."""
    usm: dict[str, Any] = {
        "weight": settings.usm_weight,
        "size": settings.usm_size,
        "threshold": settings.usm_threshold,
    }
    if on_host(hr):
        return host.batch_of([host.usm_picture(x, **usm) for x in host.pictures_of(hr)])
    return usm_sharpen(hr, **usm)


@torch.no_grad()
def training_pair(
    hr: Tensor,
    *,
    scale: int,
    settings: RealEsrganSettings | None = None,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, ChainDraw]:
    """HR pictures -> LR input, sharpened HR target, and what was drawn.

    L1 and perceptual losses compare with the sharpened target, the GAN's real sample is `hr`
    itself. Cut all three with `paired_crop`, then mix them in a `PairPool`.
    """
    settings = settings or RealEsrganSettings()
    target = sharpen(hr, settings)
    draw = draw_chain(len(hr), settings, generator=generator)
    return degrade(target, draw, scale=scale, settings=settings), target, draw
