"""Two convolutions become one, where that is exact and no more work."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgesr.export.graph import (
    Conv,
    Editor,
    read_conv,
    used_once,
)


def merge_convs(edit: Editor, node: ir.Node) -> bool:
    """Two convolutions with nothing between them become one, where one of them is 1x1.

    k x k then 1x1 is always exact. 1x1 then k x k is exact when the border of the second is not
    padded, or when the first gives zero for a black pixel as the padding does: it has no bias.
    """
    second = read_conv(node.outputs[0])
    first = read_conv(second.source) if second is not None else None
    if first is None or second is None or not used_once(second.source):
        return False
    if first.dilations != [1, 1] or second.dilations != [1, 1]:
        return False
    outer, inner = second.dense(), first.dense()
    if second.pointwise and second.strides == [1, 1]:
        merged = np.einsum("om,miyx->oiyx", outer[:, :, 0, 0], inner)
        strides, pads, pixels = first.strides, first.pads, 1
    elif (
        first.pointwise and first.strides == [1, 1] and not (any(second.pads) and first.bias.any())
    ):
        merged = np.einsum("omyx,mi->oiyx", outer, inner[:, :, 0, 0])
        strides, pads = second.strides, second.pads
        pixels = strides[0] * strides[1]  # that the first computes for one of the second
    else:
        return False
    depthwise = first.group == second.group == len(outer) == len(inner) == inner.shape[1]
    group = first.group if depthwise else 1
    if depthwise:
        merged = merged[np.arange(group), np.arange(group)][:, None]
    if merged.size > first.weight.size * pixels + second.weight.size:
        return False
    bias = second.bias + outer.sum(axis=(2, 3)) @ first.bias
    second.weight, second.bias, second.group = merged, bias, group
    second.strides, second.pads = strides, pads
    second.store(edit)
    node.replace_input_with(0, first.source)
    return True


def _border_agrees(first: Conv, second: Conv) -> bool:
    """Whether the padding of the second is what the first makes of black pixels."""
    return not any(second.pads) or not first.bias.any()
