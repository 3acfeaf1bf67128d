"""Published PSNR-Y / SSIM-Y of small networks, for the tables of quality.py and distillation.py.

Copied from the tables named in `source`; "memory" marks figures that were not read again in a
table when this list was made: a hint, not a reference. The bicubic row is here as a check of the
protocol (its Set14 x2 is 30.24 in the tables and 30.33 on these files). `PISR` are the rows of that
paper: FSRCNN as FSRCNN's authors had trained it, and taught by PISR for a million steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# name, scale, Set5 PSNR, SSIM, Set14 PSNR, SSIM, source
_Row = tuple[str, int, float, float | None, float | None, float | None, str]
_ROWS: tuple[_Row, ...] = (
    ("bicubic", 2, 33.66, 0.9299, 30.24, 0.8688, "RDN table"),
    ("SRCNN 57K", 2, 36.66, 0.9542, 32.42, 0.9063, "CARN table"),
    ("FSRCNN 12K", 2, 37.00, 0.9558, 32.63, 0.9088, "CARN table"),
    ("ESPCN 21K", 2, 36.83, 0.9564, 32.40, 0.9096, "SAFMN table, retrained by ECBSR's authors"),
    ("ECBSR-M4C8 2.8K", 2, 36.93, 0.9577, 32.51, 0.9107, "memory"),
    ("ECBSR-M4C16 10.2K", 2, 37.33, None, 32.81, None, "memory"),
    ("ECBSR-M16C64 596K", 2, 37.90, 0.9615, 33.34, 0.9178, "SAFMN table"),
    ("VDSR 665K", 2, 37.53, 0.9587, 33.03, 0.9124, "CARN table"),
    ("bicubic", 3, 30.39, 0.8682, 27.55, 0.7742, "RDN table"),
    ("SRCNN 57K", 3, 32.75, 0.9090, 29.28, 0.8209, "CARN table"),
    ("FSRCNN 12K", 3, 33.16, 0.9140, 29.43, 0.8242, "CARN table"),
    ("ESPCN 23K, 91 images", 3, 32.55, None, 29.08, None, "Lornatang's ESPCN README"),
    ("VDSR 665K", 3, 33.66, 0.9213, 29.77, 0.8314, "CARN table"),
    ("bicubic", 4, 28.42, 0.8104, 26.00, 0.7027, "RDN table"),
    ("SRCNN 57K", 4, 30.48, 0.8628, 27.49, 0.7503, "CARN table"),
    ("FSRCNN 12K", 4, 30.71, 0.8657, 27.59, 0.7535, "CARN table"),
    ("ESPCN 25K", 4, 30.52, 0.8697, 27.42, 0.7606, "SAFMN table, retrained by ECBSR's authors"),
    ("ECBSR-M4C16 11.9K", 4, 31.04, None, None, None, "memory"),
    ("ECBSR-M16C64 603K", 4, 31.92, 0.8946, 28.34, 0.7817, "SAFMN table"),
    ("VDSR 665K", 4, 31.35, 0.8838, 28.01, 0.7674, "CARN table"),
)

_PISR: tuple[_Row, ...] = (
    ("FSRCNN", 2, 37.05, 0.9560, 32.66, 0.9090, "memory"),
    ("FSRCNN-PISR", 2, 37.33, 0.9576, 32.79, 0.9105, "memory"),
    ("FSRCNN", 3, 33.18, 0.9140, 29.37, 0.8240, "memory"),
    ("FSRCNN-PISR", 3, 33.31, 0.9179, 29.57, 0.8276, "memory"),
    ("FSRCNN", 4, 30.72, 0.8660, 27.61, 0.7550, "a third party's LaTeX table"),
    ("FSRCNN-PISR", 4, 30.95, 0.8759, 27.77, 0.7615, "memory"),
)


def _entry(psnr_y: float | None, ssim_y: float | None) -> dict[str, float | None] | None:
    return None if psnr_y is None else {"psnr_y": psnr_y, "ssim_y": ssim_y}


def _entries(rows: Iterable[_Row]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "scale": scale,
            "Set5": _entry(five, five_ssim),
            "Set14": _entry(fourteen, fourteen_ssim),
            "source": source,
        }
        for name, scale, five, five_ssim, fourteen, fourteen_ssim, source in rows
    ]


PUBLISHED = _entries(_ROWS)
PISR = _entries(_PISR)
PISR_STEPS = 1_000_000  # of its teacher, and as many of its student
