"""Tiny ONNX models for tests, made with the `onnx` helper: nothing of edgesr makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgesr import models
from edgesr.spec import METADATA_KEY, ModelSpec


def spec(scale: int = 2, **changes: Any) -> ModelSpec:
    values: dict[str, Any] = {
        "name": f"tiny-x{scale}",
        "network": "tiny",
        "scale": scale,
        "colour": "y",
        "halo": 2,
    }
    return ModelSpec(**{**values, **changes})


def nearest(
    path: Path, *, scale: int = 2, gain: float = 1.0, bias: float = 0.0, **facts: Any
) -> Path:
    """Each pixel repeated scale x scale times, times gain plus bias: an exact known answer."""
    model = spec(scale, **{"halo": 0, "name": f"nearest-x{scale}", **facts})
    c = model.channels
    weight = np.zeros((c * scale**2, c, 1, 1), np.float32)
    for channel in range(c):
        weight[channel * scale**2 : (channel + 1) * scale**2, channel] = gain
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], kernel_shape=[1, 1]),
        helper.make_node("DepthToSpace", ["h"], ["y"], blocksize=scale, mode="CRD"),
    ]
    constants = {"w": weight, "b": np.full(c * scale**2, bias, np.float32)}
    return save(path, nodes, constants, model)


def convolutions(
    path: Path, *, scale: int = 2, layers: int = 3, width: int = 8, **facts: Any
) -> Path:
    """The shape of a deployed ECBSR: 3x3 convolutions with PReLU, the input added, a shuffle."""
    model = spec(scale, **{"halo": layers + 1, "name": f"convolutions-x{scale}", **facts})
    c = model.channels
    random = np.random.default_rng(0)
    nodes, constants, last, channels = [], {}, "x", c
    for i in range(layers + 1):
        out = width if i < layers else c * scale**2
        size = 0.7 * np.sqrt(2 / (channels * 9))
        constants[f"w{i}"] = (random.standard_normal((out, channels, 3, 3)) * size).astype("f4")
        constants[f"b{i}"] = (random.standard_normal(out) * 0.01).astype("f4")
        names = [last, f"w{i}", f"b{i}"]
        nodes.append(helper.make_node("Conv", names, [f"c{i}"], kernel_shape=[3, 3], pads=[1] * 4))
        last, channels = f"c{i}", out
        if i < layers:
            constants[f"s{i}"] = np.full((1, out, 1, 1), 0.1, "f4")
            nodes.append(helper.make_node("PRelu", [last, f"s{i}"], [f"a{i}"]))
            last = f"a{i}"
    constants["g"] = np.full((c * scale**2, c, 1, 1), 1.0 / c, "f4")
    nodes += [
        helper.make_node("Conv", ["x", "g"], ["skip"], kernel_shape=[1, 1]),
        helper.make_node("Add", [last, "skip"], ["sum"]),
        helper.make_node("DepthToSpace", ["sum"], ["y"], blocksize=scale, mode="CRD"),
    ]
    return save(path, nodes, constants, model)


def save(
    path: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    facts: ModelSpec | None,
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """Write a model x -> y, NCHW with dynamic N, H and W; facts None: without edgesr facts."""
    c = facts.channels if facts else 1
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", dtype, ["n", c, "h", "w"])],
        [helper.make_tensor_value_info("y", dtype, ["n", c, "H", "W"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if facts is not None:
        helper.set_model_props(model, {"made by": "tests", METADATA_KEY: facts.to_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_index(folder: Path, names: dict[str, int], **changes: Any) -> Path:
    """A weights folder with models `name -> scale`."""
    entries = {}
    for name, scale in names.items():
        path = nearest(folder / f"{name}.onnx", scale=scale, name=name)
        spec = models.load_file(path).spec
        entries[name] = {
            "spec": spec.to_dict(),
            "onnx": path.name,
            "checkpoint": f"{name}.safetensors",
            "parameters": {"training": 90, "deployed": 20},
            "macs_640x360": 1000,
        }
    (folder / "index.json").write_text(json.dumps({"schema": 1, "models": entries, **changes}))
    return folder
