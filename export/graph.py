"""Small steps on an ONNX graph: constants, single uses, convolutions, new nodes.

The rules that are made of them stand in rewrite.py and tail.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

Array = np.ndarray[Any, Any]
Attributes = dict[str, int | float | str | list[int]]


class Editor:
    """One graph while it is being changed."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.opset = model.opset_imports.get("", 0)
        self._names: set[str | None] = {value.name for value in self.graph.inputs}
        self._names |= set(self.graph.initializers)
        self._names |= {value.name for node in self.graph for value in node.outputs}

    def fresh(self, stem: str) -> str:
        """A name that no value has yet."""
        name, number = stem, 1
        while name in self._names:
            name, number = f"{stem}_{number}", number + 1
        self._names.add(name)
        return name

    def constant(self, array: Array, stem: str) -> ir.Value:
        """A new initializer; float64, in which the rules compute, becomes float32."""
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = self.fresh(stem)
        tensor = ir.tensor(np.ascontiguousarray(array), name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape))
        value.dtype = tensor.dtype
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        before: ir.Node,
        op: str,
        inputs: Sequence[ir.Value | None],
        stem: str,
        *,
        like: ir.Value | None = None,
        **attributes: int | float | str | list[int],
    ) -> ir.Value:
        """A new node in front of another; `like` is the value whose type and shape it has."""
        node = ir.node(op, inputs, attributes or None, name=self.fresh(stem))
        output = node.outputs[0]
        output.name = self.fresh(stem + "_out")
        if like is not None:
            output.type, output.shape = like.type, like.shape
        self.graph.insert_before(before, node)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> bool:
        """Let all users of `old` read `new`. False: an output of the graph stands in the way."""
        if old.is_graph_output():
            if new.is_graph_output() or new.producer() is None or new.is_initializer():
                return False
            for index, value in enumerate(self.graph.outputs):
                if value is old:
                    self.graph.outputs[index] = new
            name, old.name = old.name, self.fresh(f"{old.name}_before")
            new.name = name
            new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new)
        return True

    def prune(self) -> None:
        """Take out what nobody reads."""
        for node in reversed(list(self.graph)):
            if not any(value.is_graph_output() or value.uses() for value in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.graph.initializers[name]


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of an initializer or a Constant node; None: they are not known."""
    if value is None or value.is_graph_input():
        return None
    tensor = value.const_value
    producer = value.producer()
    if tensor is None and producer is not None and producer.op_type == "Constant":
        attribute = producer.attributes.get("value")
        tensor = attribute.as_tensor() if attribute is not None else None
    return None if tensor is None else np.asarray(tensor.numpy())


def floats(value: ir.Value | None) -> Array | None:
    """As `constant`, in float64, and only what is float32 in the graph."""
    array = constant(value)
    return array.astype(np.float64) if array is not None and array.dtype == np.float32 else None


def integers(value: ir.Value | None) -> list[int] | None:
    array = constant(value)
    if array is None or array.dtype.kind != "i":
        return None
    return [int(number) for number in array.ravel()]


def producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that makes `value`, if it is one of `ops` of the standard domain."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in ops else None


def used_once(value: ir.Value | None) -> bool:
    return value is not None and not value.is_graph_output() and len(value.uses()) == 1


def dims(value: ir.Value | None) -> list[int | str | None]:
    """Sizes: a number, the name of a dynamic one, or None where nothing is known."""
    if value is None or value.shape is None:
        return []
    return [d if isinstance(d, int) else d.value for d in value.shape]


def channels(value: ir.Value | None) -> int | None:
    sizes = dims(value)
    return sizes[1] if len(sizes) == 4 and isinstance(sizes[1], int) else None


def is_multiple(large: int | str | None, small: int | str | None, factor: int) -> bool:
    """Whether a size is known to be `factor` times another, by numbers or by name ("2*h")."""
    if isinstance(large, int) and isinstance(small, int):
        return large == factor * small
    if large is None or small is None:
        return False
    text = str(large).replace(" ", "")
    return text in (f"{factor}*{small}", f"{small}*{factor}", f"{factor}*({small})")


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    found = node.attributes.get(name)
    value = default if found is None else found.value
    return list(value) if isinstance(value, tuple | list) else value


@dataclass(kw_only=True)
class Conv:
    """A 2-D Conv whose numbers are known. `pads` are top, left, bottom, right.

    weight  (out, in / group, kh, kw), float64
    bias    (out,), zeros where the node has none
    """

    node: ir.Node
    weight: Array
    bias: Array
    strides: list[int]
    pads: list[int]
    dilations: list[int]
    group: int

    @property
    def source(self) -> ir.Value:
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def plain(self) -> bool:
        """Stride 1, no dilation, one group."""
        return self.strides == [1, 1] and self.dilations == [1, 1] and self.group == 1

    @property
    def keeps_size(self) -> bool:
        top, left, bottom, right = self.pads
        return self.plain and [top + bottom + 1, left + right + 1] == list(self.weight.shape[2:])

    @property
    def pointwise(self) -> bool:
        return self.weight.shape[2:] == (1, 1) and not any(self.pads)

    def dense(self) -> Array:
        """The weight as that of one group: (out, in, kh, kw)."""
        out, inner, kh, kw = self.weight.shape
        full = np.zeros((self.group, out // self.group, self.group, inner, kh, kw))
        parts = self.weight.reshape(self.group, out // self.group, inner, kh, kw)
        for g in range(self.group):
            full[g, :, g] = parts[g]
        return full.reshape(out, self.group * inner, kh, kw)

    def scale_inputs(self, factor: Array) -> None:
        """Take over a factor of the inputs: (1,) or (in,)."""
        out, inner = self.weight.shape[:2]
        per_input = np.broadcast_to(factor, (self.group * inner,)).reshape(self.group, 1, inner)
        per_weight = np.broadcast_to(per_input, (self.group, out // self.group, inner))
        self.weight = self.weight * per_weight.reshape(out, inner, 1, 1)

    def store(self, edit: Editor) -> None:
        """Write the numbers into the node; what other nodes share with it stays as it was."""
        store_weights(edit, self.node, self.weight, self.bias)
        self.node.attributes.update(
            {
                name: ir.AttrInt64s(name, value)
                for name, value in (
                    ("kernel_shape", list(self.weight.shape[2:])),
                    ("strides", self.strides),
                    ("pads", self.pads),
                    ("dilations", self.dilations),
                )
            }
        )
        self.node.attributes["group"] = ir.AttrInt64("group", self.group)
        self.node.attributes.pop("auto_pad", None)


def read_conv(value: ir.Value | None) -> Conv | None:
    """The Conv that makes `value`, unless something about it is not known."""
    node = producer(value, "Conv")
    if node is None or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    weight = floats(node.inputs[1])
    bias = read_bias(node)
    if weight is None or weight.ndim != 4 or bias is None:
        return None
    return Conv(
        node=node,
        weight=weight,
        bias=np.broadcast_to(bias, (len(weight),)).copy(),
        strides=attribute(node, "strides", [1, 1]),
        pads=attribute(node, "pads", [0, 0, 0, 0]),
        dilations=attribute(node, "dilations", [1, 1]),
        group=attribute(node, "group", 1),
    )


def read_bias(node: ir.Node) -> Array | None:
    """Bias of a Conv or ConvTranspose; (1,) zero where there is none, None where not known."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(1)
    return floats(node.inputs[2])


def store_weights(edit: Editor, node: ir.Node, weight: Array, bias: Array) -> None:
    """New weight and bias for a Conv or ConvTranspose; a bias of zeros is left out."""
    stem = node.name or "conv"
    node.replace_input_with(1, edit.constant(weight, f"{stem}_weight"))
    node.resize_inputs(3 if bias.any() else 2)
    if bias.any():
        node.replace_input_with(2, edit.constant(bias, f"{stem}_bias"))


def per_channel(value: ir.Value | None, count: int | None) -> Array | None:
    """Numbers of a constant that is one for all or one a channel: (1,) or (count,), else None."""
    array = floats(value)
    if array is None or array.ndim > 4:
        return None
    if array.size == 1:
        return array.reshape(1)
    shape = (1,) * (4 - array.ndim) + array.shape
    return array.ravel() if count is not None and shape == (1, count, 1, 1) else None


def blocks(count: int, size: int = 16) -> int:
    """Channels that a CPU computes for `count`: both engines work on whole vectors of 16."""
    return math.ceil(count / size) * size


def describe(value: ir.Value, small: ir.Value | None, count: int) -> None:
    """Type and shape of a new value that is as large as `small`."""
    if small is not None and small.shape is not None:
        value.type = small.type
        value.shape = ir.Shape([small.shape[0], count, *small.shape[2:]])
