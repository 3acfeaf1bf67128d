"""Small graphs for tests of rewrites, and the comparison of what they give before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgesr.export.onnx import trace
from edgesr.export.rewrite import rewrite
from edgesr.spec import ModelSpec

SIZES = [(8, 8), (7, 11), (1, 2), (12, 5)]
LARGE = [(8, 8), (7, 11), (6, 5)]
PADDED = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}


def graph(
    nodes: list[tuple[Any, ...]],
    constants: dict[str, Any],
    *,
    channels: int = 3,
    outputs: tuple[str, ...] = ("y",),
):
    """A graph of (op, inputs, outputs, attributes) from "x" (n, channels, h, w)."""
    made = [helper.make_node(op, i, o, name=o[0], **attributes) for op, i, o, attributes in nodes]
    arrays = {
        k: np.asarray(v, np.float32 if np.asarray(v).dtype.kind == "f" else np.int64)
        for k, v in constants.items()
    }
    model = helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, [None] * 4) for o in outputs],
            [numpy_helper.from_array(v, k) for k, v in arrays.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def drawer() -> Callable[..., np.ndarray]:
    """Draws weights of a given shape, the same ones in every run of the file that asked."""
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))

    return weights


def run(model, picture: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": picture})


def same(model, *, sizes=SIZES, tolerance: float = 1e-5) -> tuple[list[str], list[str]]:
    """Rewrite, compare at several sizes; the kinds of nodes that are left, and the rules used."""
    before = model.SerializeToString()
    result, applied = rewrite(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(result, full_check=True)
    assert [o.name for o in result.graph.output] == [o.name for o in model.graph.output]
    channels = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    for height, width in sizes:
        picture = np.random.default_rng(1).random((2, channels, height, width), dtype=np.float32)
        for expected, got in zip(run(model, picture), run(result, picture), strict=True):
            assert got.shape == expected.shape
            largest = max(1.0, float(np.abs(expected).max()))
            assert np.abs(got - expected).max() <= tolerance * largest, (height, width)
    assert rewrite(result)[1] == []
    assert len(model.graph.node) - len(result.graph.node) >= sum(a.nodes for a in applied)
    return [n.op_type for n in result.graph.node], [a.rewrite for a in applied]


def stays(model, **options: Any) -> None:
    kinds, applied = same(model, **options)
    assert applied == []
    assert kinds == [n.op_type for n in model.graph.node]


def traced(forward, *, colour: str = "rgb", sizes=SIZES, **parts: nn.Module):
    """The same for a torch function of (parts, x)."""
    torch.manual_seed(0)
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    module.forward = lambda x: forward(module, x)
    spec = ModelSpec(name="a", network="a", scale=2, colour=colour, halo=None)
    return same(trace(module.eval(), spec), sizes=sizes)
