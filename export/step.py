"""A network with state as ONNX: one step, frame and state in, picture and next state out.

Inputs `x` and the names of ModelSpec.state, outputs `y` and those names with `_out`; the state
before the first frame is all zeros. Otherwise as `edgesr.export.onnx`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch.export import Dim

from edgesr.export.onnx import MAX_SIZE
from edgesr.export.opset import OPSET, lowered
from edgesr.export.quiet import quiet
from edgesr.export.verify import Difference, check_inputs, compare
from edgesr.networks.causal import Causal, CausalStep
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]

FRAMES = 5


def trace_step(model: Causal, spec: ModelSpec) -> onnx.ModelProto:
    """torch.onnx with dynamic batch, height and width, the same for frame and state."""
    shapes = [(2, spec.channels, 32, 40)]
    shapes += [(2, state.shape[1] or spec.channels, 32, 40) for state in spec.state]
    names = [state.name for state in spec.state]
    sizes = {
        0: Dim("n", min=1, max=1024),
        2: Dim("h", min=1, max=MAX_SIZE),
        3: Dim("w", min=1, max=MAX_SIZE),
    }
    with quiet():
        program = torch.onnx.export(
            CausalStep(model).eval(),
            tuple(torch.rand(shape) for shape in shapes),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            input_names=["x", *names],
            output_names=["y", *(f"{name}_out" for name in names)],
            dynamic_shapes=dict.fromkeys(("x", *names), sizes),
        )
    assert program is not None
    return lowered(program.model_proto)


def step_parity(graph: onnx.ModelProto, model: Causal, spec: ModelSpec) -> Difference:
    """A short clip frame by frame in ONNX Runtime, against the whole clip at once in torch."""
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [state.name for state in spec.state]

    def clip_of(picture: Array) -> Array:
        """(1, C, H, W) -> (1, T, C, H, W): the picture moving sideways."""
        return np.stack([np.roll(picture, t, axis=3) for t in range(FRAMES)], axis=1)

    def ours(picture: Array) -> Array:
        clip = clip_of(picture)
        n, _, _, height, width = clip.shape
        state = [
            np.zeros((n, s.shape[1] or spec.channels, height, width), np.float32)
            for s in spec.state
        ]
        pictures = []
        for t in range(FRAMES):
            feeds = {"x": clip[:, t], **dict(zip(names, state, strict=True))}
            picture, *state = session.run(None, feeds)
            pictures.append(picture)
        return np.stack(pictures, axis=1)

    @torch.no_grad()
    def reference(picture: Array) -> Array:
        return model(torch.from_numpy(clip_of(picture))).numpy()

    return compare(reference, ours, check_inputs(channels=spec.channels))
