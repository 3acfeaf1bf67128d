"""Real-ESRGAN's second-order degradation: draw its parameters, then carry them out on a batch.

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data",
ICCVW 2021, section 3; the numbers are those of its published x4plus training (x2plus has the same).
Draws come from a CPU generator and are plain numbers: the same on every device, and open to tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

import torch
from torch import Tensor

from edgesr.distill.degrade import (
    RESIZE_MODES,
    gaussian_noise,
    poisson_noise,
    resize,
    to_8bit,
)
from edgesr.distill.jpeg import jpeg, real_jpeg
from edgesr.distill.kernels import (
    KINDS,
    KernelDraw,
    Range,
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
class StageSettings:
    """One of the two rounds of blur, resize, noise and JPEG; the defaults are the first's.

    kernel_shares   of `kernels.KINDS`; resize_shares of up, down, keep; both need not sum to 1
    resize_range    smallest and largest factor
    gaussian_prob   else Poisson; gray_prob: the noise is the same in all channels
    gaussian_sigma  in levels of 255
    """

    blur_prob: float = 1.0
    kernel_shares: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma: Range = (0.2, 3.0)
    beta_general: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    sinc_prob: float = 0.1
    resize_shares: tuple[float, float, float] = (0.2, 0.7, 0.1)
    resize_range: Range = (0.15, 1.5)
    gaussian_prob: float = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_scale: Range = (0.05, 3.0)
    gray_prob: float = 0.4
    jpeg_quality: Range = (30.0, 95.0)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith("_prob"):
                good, rule = 0 <= value <= 1, "a chance from 0 to 1"
            elif item.name.endswith("_shares"):
                good = min(value) >= 0 and sum(value) > 0
                good = good and len(value) == (len(KINDS) if "kernel" in item.name else 3)
                rule = f"{len(KINDS) if 'kernel' in item.name else 3} shares, not all 0"
            else:
                good, rule = 0 < value[0] <= value[1], "a lower and an upper bound above 0"
            if not good:
                raise UsageError(f"degradation: {item.name} = {value!r}: give {rule}")
        low, high = self.resize_range
        if not low <= 1 <= high or self.jpeg_quality[1] > 100:
            raise UsageError(
                f"degradation: resize_range {self.resize_range} holds 1, "
                f"jpeg_quality {self.jpeg_quality} ends at 100 or below"
            )


@dataclass(frozen=True, kw_only=True)
class RealEsrganSettings:
    """All numbers of the chain, and of the training that goes with it.

    kernel_sizes        odd; all kernels are padded to the largest
    final_sinc_prob     for each sample
    jpeg                "exact": by tensors, where the batch is; "soft": with a gradient;
                        "real": OpenCV's, on the host
    usm_size            pixels of the Gaussian (the published radius of 50 means 51)
    frame, patch, pool  HR pixels that enter the chain, HR pixels cut from its result, pairs held
    """

    first: StageSettings = StageSettings()
    second: StageSettings = field(
        default_factory=lambda: StageSettings(
            blur_prob=0.8,
            sigma=(0.2, 1.5),
            resize_shares=(0.3, 0.4, 0.3),
            resize_range=(0.3, 1.2),
            gaussian_sigma=(1.0, 25.0),
            poisson_scale=(0.05, 2.5),
        )
    )
    kernel_sizes: tuple[int, ...] = tuple(range(7, 22, 2))
    final_sinc_prob: float = 0.8
    jpeg_last_prob: float = 0.5
    jpeg: Literal["exact", "soft", "real"] = "exact"
    usm_weight: float = 0.5
    usm_size: int = 51
    usm_threshold: float = 10.0
    frame: int = 400
    patch: int = 256
    pool: int = 180

    def __post_init__(self) -> None:
        if not self.kernel_sizes or any(size < 1 or size % 2 == 0 for size in self.kernel_sizes):
            raise UsageError(f"degradation: kernel_sizes = {self.kernel_sizes}: give odd sizes")
        for name in ("final_sinc_prob", "jpeg_last_prob"):
            if not 0 <= getattr(self, name) <= 1:
                value = getattr(self, name)
                raise UsageError(f"degradation: {name} = {value!r}: give a chance from 0 to 1")
        if self.jpeg not in ("exact", "soft", "real"):
            raise UsageError(f"degradation: jpeg = {self.jpeg!r}: it is exact, soft or real")


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
    x = blur(batch, first, side)
    x = resize(x, scaled((height, width), first.factor), mode=first.mode)
    x = compress(add_noise(x, first), first.quality, how=settings.jpeg)
    x = blur(x, second, side)
    x = resize(x, scaled((height, width), second.factor / scale), mode=second.mode)
    x = add_noise(x, second)
    if not draw.jpeg_last:
        x = compress(x, second.quality, how=settings.jpeg)
    x = resize(x, (height // scale, width // scale), mode=draw.final_mode)
    x = filter2d(x, make_kernels(draw.final_sinc, width=side))
    if draw.jpeg_last:
        x = compress(x, second.quality, how=settings.jpeg)
    return x.clamp(0, 1) if settings.jpeg == "soft" else to_8bit(x)


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
    target = usm_sharpen(
        hr,
        weight=settings.usm_weight,
        size=settings.usm_size,
        threshold=settings.usm_threshold,
    )
    draw = draw_chain(len(hr), settings, generator=generator)
    return degrade(target, draw, scale=scale, settings=settings), target, draw
