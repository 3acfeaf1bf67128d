"""A short fine-tuning with fake quantisation: the network learns to live with 8 bits.

The inputs and weights of its convolutions pass through the 8-bit grid on the way forward, and the
gradient passes through unchanged (straight-through estimator, Bengio et al. 2013; as in Jacob et
al., CVPR 2018). Weights symmetric for each output channel; inputs for each tensor, with the range
that calibration would draw: its gradient teaches the network to keep ranges small. The float32
network is the teacher, on the calibration pictures, so that no truth is needed. The result is a
float32 graph with other weights, which goes through the same quantisation as every other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgesr.errors import ModelError, UsageError
from edgesr.export.onnx import trace
from edgesr.export.quantize import Scheme, convolutions
from edgesr.export.rewrite import rewrite
from edgesr.export.tidy import tidy

if TYPE_CHECKING:
    import onnx

    from edgesr.export.calibrate import Calibration
    from edgesr.export.source import Source

OnNote = Callable[[str], None]

STEPS = 600
BATCH = 4
CROP = 64
RATE = 1e-3
EVERY = 100  # steps between two notes
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def check_source(source: Source) -> None:
    """Raises UsageError where there is no network to fine-tune."""
    if source.module is None:
        raise UsageError(
            f"{source.spec.name}: --qat needs the network itself, which an .onnx does not hold: "
            "give the checkpoint (.safetensors, a run folder, or a model's name)"
        )
    if not layers_of(source.module):
        raise UsageError(f"{source.spec.name}: --qat finds no convolution in this network")


def layers_of(module: nn.Module) -> list[nn.Module]:
    return [layer for layer in module.modules() if isinstance(layer, LAYERS)]


def fine_tuned(
    source: Source,
    calibration: Calibration,
    *,
    scheme: Scheme,
    steps: int = STEPS,
    rate: float = RATE,
    seed: int = 0,
    on_note: OnNote = lambda line: None,
) -> onnx.ModelProto:
    """The canonical float32 graph with weights that lose less in INT8.

    scheme  how it will be quantised: method, what stays in float, symmetric or not
    steps   of Adam, on crops of the calibration pictures; the rate falls to 0 along a cosine
    seed    of crops and order: equal arguments give equal weights on one machine

    The source's network stays untouched. Raises as `check_source`,
    ModelError where the graph of the tuned network is another one.
    """
    student = fine_tuned_network(
        source, calibration, scheme=scheme, steps=steps, rate=rate, seed=seed, on_note=on_note
    )
    graph, _ = rewrite(trace(student, source.spec))
    return _named_as(tidy(graph, source.spec), source.graph)


def fine_tuned_network(
    source: Source,
    calibration: Calibration,
    *,
    scheme: Scheme,
    steps: int,
    rate: float = RATE,
    seed: int = 0,
    on_note: OnNote = lambda line: None,
) -> nn.Module:
    """The torch network of `fine_tuned`: a copy of the source's, its weights in float32."""
    check_source(source)
    teacher: Any = source.module
    # Whatever was frozen for deployment learns again.
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    floating = _in_float(student, source.graph, scheme)
    handles = _attach(student, scheme, floating)
    train(student, teacher, calibration, steps=steps, rate=rate, seed=seed, on_note=on_note)
    for handle in handles:
        handle.remove()
    for layer in layers_of(student):
        if parametrize.is_parametrized(layer):
            # The float weights; the grid comes back when the graph is quantised.
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    return student.eval()


def _named_as(graph: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """The node names of `source`, by which nodes stay in float.

    The exporter's names depend on the numbers: it makes a new node of a Conv whose bias is all
    zeros, and gives a new name. Raises ModelError where the numbers changed more than names.
    """
    nodes, theirs = graph.graph.node, source.graph.node
    if [node.op_type for node in nodes] != [node.op_type for node in theirs]:
        raise ModelError("the fine-tuned network became another graph: quantise without --qat")
    for node, other in zip(nodes, theirs, strict=True):
        node.name = other.name
    return graph


def train(
    student: nn.Module,
    teacher: Any,
    calibration: Calibration,
    *,
    steps: int,
    rate: float,
    seed: int,
    on_note: OnNote,
) -> None:
    """The student, with the grid in it, follows the teacher's output."""
    generator = np.random.default_rng(seed)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda done: 0.5 * (1.0 + math.cos(math.pi * done / steps))
    )
    best, kept = math.inf, copy.deepcopy(student.state_dict())
    recent: list[float] = []
    for step in range(1, steps + 1):
        batch = _batch(calibration, generator)
        with torch.no_grad():
            wanted = teacher(batch)
        loss = torch.nn.functional.mse_loss(student(batch), wanted)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        recent.append(float(loss.detach()))
        if step % EVERY == 0 or step == steps:
            mean = float(np.mean(recent[-EVERY:]))
            if mean < best:
                best, kept = mean, copy.deepcopy(student.state_dict())
            psnr = -10.0 * math.log10(max(mean, 1e-20))
            on_note(f"fine-tuning, step {step} of {steps}: {psnr:.2f} dB to float32")
    student.load_state_dict(kept)


def _batch(calibration: Calibration, generator: np.random.Generator) -> Tensor:
    """(BATCH, C, h, w) float32: crops at random places, mirrored at random."""
    height, width = calibration.pictures[0].shape[2:]
    h, w = min(CROP, height), min(CROP, width)
    crops = []
    for _ in range(BATCH):
        picture = calibration.pictures[int(generator.integers(len(calibration.pictures)))]
        top = int(generator.integers(height - h + 1))
        left = int(generator.integers(width - w + 1))
        crop = picture[0, :, top : top + h, left : left + w]
        crops.append(crop[:, :, ::-1] if generator.random() < 0.5 else crop)
    return torch.from_numpy(np.ascontiguousarray(np.stack(crops)))


def _in_float(module: nn.Module, graph: onnx.ModelProto, scheme: Scheme) -> set[nn.Module]:
    """Layers that stay in float, by the order of running.

    The graph was rewritten: where it has another number of convolutions than the network, only the
    first and the last are known to be the same.
    """
    names, layers = convolutions(graph), layers_of(module)
    if len(names) == len(layers):
        pairs = list(zip(names, layers, strict=True))
    else:
        pairs = [(names[0], layers[0]), (names[-1], layers[-1])]
    return {layer for name, layer in pairs if name in scheme.keep_float}


def _attach(module: nn.Module, scheme: Scheme, floating: set[nn.Module]) -> list[Any]:
    handles = []
    for layer in layers_of(module):
        if layer in floating:
            continue
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        parametrize.register_parametrization(layer, "weight", WeightGrid(axis), unsafe=True)
        grid = InputGrid(
            symmetric=scheme.flavour in ("trt", "trt8"),
            share=scheme.percentile / 100.0 if scheme.method == "percentile" else 1.0,
        )
        handles.append(layer.register_forward_pre_hook(grid))
    return handles


class WeightGrid(nn.Module):
    """Weights -> the nearest of 255 values for each output channel (dimension `axis`)."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        others = [d for d in range(weight.ndim) if d != self.axis]
        largest = weight.detach().abs().amax(dim=others, keepdim=True)
        scale = (largest / 127.0).clamp(min=1e-12)
        return on_grid(weight, scale, torch.zeros_like(scale), low=-127.0, high=127.0)


class InputGrid:
    """The input of a layer -> the nearest of 256 values of its range, as a forward pre-hook.

    symmetric  int8 around 0, else uint8 from the least to the largest value
    share      of the values that lie in the range; 1: all
    """

    def __init__(self, *, symmetric: bool, share: float) -> None:
        self.symmetric = symmetric
        self.share = share

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *rest = inputs
        low, high = self._range(x)
        if self.symmetric:
            scale = torch.maximum(-low, high).clamp(min=1e-8) / 127.0
            return on_grid(x, scale, torch.zeros_like(scale), low=-128.0, high=127.0), *rest
        scale = (high - low).clamp(min=1e-8) / 255.0
        zero = torch.round(-low / scale).detach()
        return on_grid(x, scale, zero, low=0.0, high=255.0), *rest

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both ends, 0 inside; differentiable."""
        if self.share < 1.0:
            flat = x.flatten()
            count = max(1, round(flat.numel() * (1.0 - self.share) / 2.0))
            low = flat.kthvalue(count).values
            high = flat.kthvalue(flat.numel() - count + 1).values
        else:
            low, high = x.amin(), x.amax()
        return low.clamp(max=0.0), high.clamp(min=0.0)


def on_grid(x: Tensor, scale: Tensor, zero: Tensor, *, low: float, high: float) -> Tensor:
    """Rounded to the grid and clamped to it; differentiable by `x` and `scale`, rounding aside."""
    place = x / scale + zero
    rounded = place + (torch.round(place) - place).detach()
    return (rounded.clamp(low, high) - zero) * scale
