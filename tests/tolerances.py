"""How far two ways of computing the same may be apart, by dtype, on a 0..1 scale."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCES = {"float32": 1e-4, "float64": 1e-10, "bfloat16": 3e-2, "uint8": 0}


def assert_close(got: Any, expected: Any, *, dtype: str) -> None:
    """Largest absolute difference within `TOLERANCES`; a failure prints the histogram."""
    a, b = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert a.shape == b.shape, f"{a.shape} against {b.shape}"
    error = np.abs(a - b)
    limit = TOLERANCES[dtype]
    if not error.max() <= limit:
        counts, edges = np.histogram(error, bins=8)
        lines = [f"{low:10.3g} .. {n}" for low, n in zip(edges, counts, strict=False)]
        raise AssertionError(f"max {error.max():.3g} over {limit:g}\n" + "\n".join(lines))
