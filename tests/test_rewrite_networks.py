"""Graph rewrites of whole networks: the same numbers, and every rule is used."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from rewriting import same

from edgesr.export.onnx import trace
from edgesr.spec import ModelSpec


def test_every_network_in_a_small_size() -> None:
    """Rewritten graphs of random networks give what torch gives: see test_export for the rest."""
    from small_networks import SMALL

    seen: Counter[str] = Counter()
    for name in ("fsrcnn", "ecbsr-m4c16-rgb", "srvgg-16", "lapsrn", "edsr", "sesr-m5", "abpn"):
        torch.manual_seed(0)
        from edgesr.networks import deployed

        module = deployed(SMALL[name](2))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        colour: Any = module.colour
        spec = ModelSpec(name=name, network=name, scale=2, colour=colour, halo=None)
        _, applied = same(trace(module, spec), sizes=[(16, 16), (9, 14)])
        seen.update(applied)
    assert seen.keys() == {
        *("convolve", "block tail", "crop", "nearest skip", "add repeated"),
        *("fold factor", "fold shift"),
    }
