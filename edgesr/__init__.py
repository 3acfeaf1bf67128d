"""edgesr: small super-resolution networks, compressed for a device, run on video.

>>> import edgesr
>>> upscale = edgesr.load("ecbsr-m4c16-x2")
>>> big = upscale(frame)             # (H, W, 3) RGB or (H, W) gray, uint8 -> twice the size
>>> edgesr.stream("in.mp4", "out.mp4", scale=2)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "load", "stream"]

# `distill`, `export` and `runtime` stand beside this folder in a checkout. Python started in the
# checkout finds this folder before the installed package; this line lets it find the others too.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "runtime" / "__init__.py").is_file() and (_checkout / "pyproject.toml").is_file():
    __path__.append(str(_checkout))

if TYPE_CHECKING:
    from edgesr.runtime.stream import stream
    from edgesr.runtime.upscaler import load


def __getattr__(name: str) -> object:
    """Import on first use, so that `import edgesr` costs nothing."""
    if name == "load":
        from edgesr.runtime.upscaler import load

        return load
    if name == "stream":
        from edgesr.runtime.stream import stream

        return stream
    raise AttributeError(f"module 'edgesr' has no attribute {name!r}")
