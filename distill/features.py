"""What networks compute inside, found by running them: where distillation can look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def layers_in_order(model: nn.Module, example: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """(name, input, output) of every weighted layer, in the order in which they run.

    A layer is a module with parameters inside of which no other module with parameters runs: a
    convolution, or a block that computes its own kernel (ECBSR's). Activations with slopes are
    left out. A layer that runs more than once stands there more than once.
    """
    seen: list[tuple[str, Tensor, Tensor]] = []
    inside: list[int] = []  # for every running module: how many layers were seen when it began

    def enter(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        inside.append(len(seen))

    def leave(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        own = inside.pop() == len(seen)
        weighted = any(p.ndim > 1 for p in module.parameters())
        if own and weighted and isinstance(output, Tensor) and output.ndim == 4:
            seen.append((name, inputs[0], output))

    handles = []
    for name, module in model.named_modules():
        if name:
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(
                module.register_forward_hook(lambda m, i, o, name=name: leave(name, m, i, o))
            )
    training = model.training
    try:
        model.eval()(example)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return seen


def feature_points(model: nn.Module, example: Tensor, *, count: int = 3) -> dict[str, int]:
    """`count` layers spread evenly over the depth, and their channels; not what makes the picture.

    Only layers of the size at which most of the network works count.
    """
    seen = layers_in_order(model, example)[:-1]  # the last one makes the picture
    sizes = Counter(output.shape[2:] for _, _, output in seen)
    ((size, _),) = sizes.most_common(1)
    unique = {name: output.shape[1] for name, _, output in seen if output.shape[2:] == size}
    names = list(unique)
    chosen = [names[round((i + 1) * len(names) / count) - 1] for i in range(count)]
    return {name: unique[name] for name in dict.fromkeys(chosen)}


def last_layer(model: nn.Module, example: Tensor) -> tuple[str, int]:
    """The layer that makes the picture, and how many channels go into it."""
    name, entering, _ = layers_in_order(model, example)[-1]
    return name, entering.shape[1]


def tap_outputs(model: nn.Module, names: Sequence[str]) -> list[Tensor]:
    """A list that every run of the model fills with the outputs of the named layers, in order."""
    kept: dict[str, Tensor] = {}
    found: list[Tensor] = []

    def keep(name: str, output: Tensor) -> None:
        kept[name] = output
        if len(kept) == len(names):
            found[:] = [kept.pop(n) for n in names]

    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: keep(name, o))
    return found


def tap_input(model: nn.Module, name: str) -> list[Tensor]:
    """The same for what goes into one layer."""
    found: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[:] = [inputs[0]]

    model.get_submodule(name).register_forward_pre_hook(keep)
    return found
