"""The networks: one file each, and one dict that names them."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable

from torch import nn

from edgesr.errors import UsageError
from edgesr.networks.ecbsr import Ecbsr, EcbsrConfig, merge
from edgesr.networks.espcn import Espcn, EspcnConfig
from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig

SCALES = (2, 3, 4)

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "espcn": lambda scale: Espcn(EspcnConfig(scale=scale)),
    "espcn-tanh": lambda scale: Espcn(EspcnConfig(scale=scale, activation="tanh")),
    "fsrcnn": lambda scale: Fsrcnn(FsrcnnConfig(scale=scale)),
    "ecbsr-m4c8": lambda scale: Ecbsr(EcbsrConfig(blocks=4, width=8, scale=scale)),
    "ecbsr-m4c16": lambda scale: Ecbsr(EcbsrConfig(blocks=4, width=16, scale=scale)),
    "ecbsr-m10c16": lambda scale: Ecbsr(EcbsrConfig(blocks=10, width=16, scale=scale)),
    "ecbsr-m10c32": lambda scale: Ecbsr(EcbsrConfig(blocks=10, width=32, scale=scale)),
}


def build(name: str, scale: int) -> nn.Module:
    """The training form of a network, freshly initialised. Raises UsageError."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no network {name!r}: {hint}known are {', '.join(NETWORKS)}")
    if scale not in SCALES:
        raise UsageError(f"scale {scale} is not offered: {', '.join(map(str, SCALES))} are")
    return NETWORKS[name](scale)


def deployed(model: nn.Module) -> nn.Module:
    """A copy as it is deployed: branches merged, in evaluation mode, on the CPU in float32."""
    model = copy.deepcopy(model).cpu().float().eval()
    return merge(model) if isinstance(model, Ecbsr) else model
