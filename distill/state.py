"""`state.safetensors` of a run folder: everything that the next step depends on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    memories = {name: taken_apart(optimizer) for name, optimizer in kept.optimizers.items()}
    for name, module in kept.modules.items():
        tensors |= {f"{name}/{n}": t for n, t in module.state_dict().items()}
    for name, memory in memories.items():
        tensors |= {f"{name}/{n}": t for n, t in memory.tensors.items()}
    plain = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    facts = {
        "state": asdict(state),
        "strides": {name: memory.strides for name, memory in memories.items()},
        "numbers": {name: memory.numbers for name, memory in memories.items()},
    }
    with replacing(path) as part:
        save_file(plain, part, metadata={key: json.dumps(value) for key, value in facts.items()})


def load_state(path: Path, kept: Kept) -> State:
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        facts = {key: json.loads(value) for key, value in file.metadata().items()}

    def part(name: str) -> dict[str, Tensor]:
        prefix = f"{name}/"
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    for name, tensor in part("average").items():
        kept.average[name].copy_(tensor)
    for name, module in kept.modules.items():
        module.load_state_dict(part(name))
    for name, optimizer in kept.optimizers.items():
        strides, numbers = (facts.get(key, {}).get(name, {}) for key in ("strides", "numbers"))
        restore(optimizer, Memory(tensors=part(name), strides=strides, numbers=numbers))
    return State(**facts["state"])


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What an optimiser remembers, by "index of the parameter/name"; members of a list have
    "/place" behind that (SOAP has one matrix for each axis of a weight, or an empty one).

    strides  of each tensor: sums run in the order of memory, and their bits depend on it
    numbers  which are no tensors; by "name" alone where all parameters share one
    """

    tensors: dict[str, Tensor]
    strides: dict[str, list[int]]
    numbers: dict[str, float]


def taken_apart(optimizer: torch.optim.Optimizer) -> Memory:
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {}
    for index, entry in optimizer.state_dict()["state"].items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            elif isinstance(value, list):
                matrices = [m if isinstance(m, Tensor) else torch.empty(0) for m in value]
                tensors |= {f"{index}/{name}/{place}": m for place, m in enumerate(matrices)}
            elif value is not None:
                numbers[f"{index}/{name}"] = value
    if "step" in (shared := optimizer.param_groups[0]):
        numbers["step"] = shared["step"]
    strides = {name: list(t.stride()) for name, t in tensors.items()}
    return Memory(tensors=tensors, strides=strides, numbers=numbers)


def restore(optimizer: torch.optim.Optimizer, memory: Memory) -> None:
    groups = optimizer.state_dict()["param_groups"]
    parameters = optimizer.param_groups[0]["params"]
    entries: dict[int, dict[str, Any]] = {}
    for path, flat in memory.tensors.items():
        number, name, *place = path.split("/")
        entry = entries.setdefault(int(number), {})
        strides = memory.strides.get(path, flat.stride())
        tensor = torch.empty_strided(flat.shape, strides, dtype=flat.dtype).copy_(flat)
        if place:  # which `load_state_dict` leaves where it is
            entry.setdefault(name, {})[int(place[0])] = tensor.to(parameters[int(number)].device)
        else:
            entry[name] = tensor
    for entry in entries.values():
        for name, value in entry.items():
            if isinstance(value, dict):
                entry[name] = [value[place] for place in sorted(value)]
    for path, value in memory.numbers.items():
        number, _, name = path.rpartition("/")
        if number:
            entries[int(number)][name] = value
        else:
            groups = [group | {name: value} for group in groups]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})
