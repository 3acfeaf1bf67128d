"""`state.safetensors` of a run folder: everything that the next step depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgesr.files import replacing


@dataclass(kw_only=True)
class State:
    """What changes from step to step, beside the tensors."""

    step: int = 0
    best: float = -math.inf
    seconds: float = 0.0
    data: str = ""  # digest of the photos
    data_share: float = 0.0  # see `Progress`


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What holds those tensors, each under the name it has in the file."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    average: dict[str, Tensor]


def save_state(path: Path, kept: Kept, state: State) -> None:
    """Into one file, written beside and renamed."""
    tensors = {f"average/{n}": t for n, t in kept.average.items()}
    for name, module in kept.modules.items():
        tensors |= {f"{name}/{n}": t for n, t in module.state_dict().items()}
    for name, optimizer in kept.optimizers.items():
        for index, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}/{index}/{n}": t for n, t in entry.items() if t is not None}
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={"state": json.dumps(asdict(state))})


def load_state(path: Path, kept: Kept) -> State:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        state = State(**json.loads(file.metadata()["state"]))

    def part(name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    for name, tensor in part("average").items():
        kept.average[name].copy_(tensor)
    for name, module in kept.modules.items():
        module.load_state_dict(part(name))
    for name, optimizer in kept.optimizers.items():
        restore(optimizer, part(name))
    return state


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """tensors: by "index of the parameter/name of its moment"."""
    parameters = optimizer.param_groups[0]["params"]
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = int(name.split("/")[0]), name.split("/")[1]
        if tensor.ndim:  # in the memory order of the weight: the fused step sums in that order
            tensor = torch.empty_like(parameters[index]).copy_(tensor)
        entries.setdefault(index, {})[key] = tensor
    optimizer.load_state_dict(
        {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
    )
