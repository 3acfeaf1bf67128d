"""Settings of Real-ESRGAN's degradation; the defaults are the numbers of its published training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from edgesr.distill.kernels import KINDS, Range
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
