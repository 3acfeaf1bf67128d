"""One step of a training: optimiser, its rate, clipped gradients, averaged weights.

SOAP (Vyas et al., "Improving and stabilizing Shampoo using Adam", ICLR 2025) is Adam in the
eigenbasis of Shampoo's preconditioner. The networks here are so small that its matrices are, too
(16 and 16 and 3 and 3 wide for most weights). A short training reaches 0.3 to 0.9 dB more with it
in the same time (`benchmarks/results/optimizers.json`); where Adam has come to its plateau, SOAP
ends on the same one. A deep network (12 layers of 32 channels, from nothing, at 3e-3) came to be
wild far from its training data: 37.4 dB on Set5, values of 500 for noise (`sanity`). Its weight
decay is decoupled, the rate times the weight; Adam's is added to the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from edgesr.distill.recipe import Recipe
from edgesr.errors import MissingDependency

MOMENTUM = 0.9  # of SGD


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    decay = recipe.weight_decay or 0.0
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=recipe.lr, momentum=MOMENTUM, weight_decay=decay, fused=True
        )
    if recipe.optimizer == "soap":
        return make_soap(parameters, lr=recipe.lr, betas=recipe.betas or (0.95, 0.95), decay=decay)
    betas = recipe.betas or (0.9, 0.99)
    return torch.optim.Adam(parameters, lr=recipe.lr, betas=betas, weight_decay=decay, fused=True)


def make_soap(
    parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], decay: float
) -> torch.optim.Optimizer:
    try:
        from pytorch_optimizer import SOAP
    except ImportError:
        raise MissingDependency(
            "optimizer = \"soap\" needs pytorch-optimizer: pip install 'edgesr[train]'"
        ) from None
    return SOAP(parameters, lr=lr, betas=betas, weight_decay=decay)


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip_gradients(parameters: list[nn.Parameter], recipe: Recipe, *, lr: float) -> None:
    """By the norm of all, and element by element to +-theta / rate, so that no step of plain
    gradient descent moves a weight by more than theta (Kim et al., "VDSR", CVPR 2016)."""
    if recipe.clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
    if recipe.clip_theta is not None:
        torch.nn.utils.clip_grad_value_(parameters, recipe.clip_theta / lr)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear rise over `warmup` steps, then what `schedule` says: one cosine down to `lr_end`."""
    length = recipe.steps
    if recipe.schedule == "restarts":
        length = recipe.cycle or recipe.steps
        step %= length
    if step < recipe.warmup:
        if recipe.warmup_from is None:
            return recipe.lr * (step + 1) / recipe.warmup
        return recipe.lr * (
            recipe.warmup_from + (1 - recipe.warmup_from) * (step + 1) / recipe.warmup
        )
    if recipe.schedule == "steps":
        passed = sum(step >= milestone for milestone in recipe.milestones or ())
        return max(recipe.lr_end, recipe.lr * (recipe.decay or 0.5) ** passed)
    done = (step - recipe.warmup) / max(1, length - recipe.warmup)
    return recipe.lr_end + (recipe.lr - recipe.lr_end) * 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def update_average(average: dict[str, Tensor], model: nn.Module, *, decay: float) -> None:
    """Exponential moving average of the weights, the ones that are kept."""
    pairs = [(average[name], t) for name, t in model.state_dict().items()]
    floats = [(a, t) for a, t in pairs if t.is_floating_point()]
    torch._foreach_lerp_([a for a, _ in floats], [t for _, t in floats], 1 - decay)
    for a, t in pairs:
        if not t.is_floating_point():  # batch normalisation counts its batches
            a.copy_(t)
