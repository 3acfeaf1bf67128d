"""The last Conv of a luma network at x2: four pixels at once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgesr.export.graph import (
    Conv,
    Editor,
    attribute,
    blocks,
    dims,
    read_conv,
    used_once,
)

LEAST = 512
"""Multiplications that must be saved for each pixel: cutting the odd border off is a copy."""

WORTH = 0.6
"""Largest share of the multiplications, counted in whole vectors, that is worth two more nodes."""


def block_tail(edit: Editor, node: ir.Node) -> bool:
    """Conv to very few channels, DepthToSpace -> compute blocks of 2 x 2 pixels at once.

    To 4 channels (luma, x2) an engine computes 16, for 12 of them in vain. With stride 2 and a
    kernel one larger all 16 are needed. An odd last row or column is computed and cut off.
    With a skip added in between it would not pay: that had to be a Conv, rounded to bf16.
    """
    scale, deep = attribute(node, "blocksize", 1), node.inputs[0]
    conv = read_conv(deep)
    if conv is None or not used_once(deep) or not conv.keeps_size or edit.opset < 15:
        return False
    if attribute(node, "mode", "DCR") != "CRD" or not _worth(conv):
        return False
    output, small = node.outputs[0], conv.source
    out, inner, kh, kw = conv.weight.shape
    phases = conv.weight.reshape(out // scale**2, scale, scale, inner, kh, kw)
    weight = np.zeros((len(phases), 2, scale, 2, scale, inner, kh + 1, kw + 1))
    for y in range(2):
        for x in range(2):
            weight[:, y, :, x, :, :, y : y + kh, x : x + kw] = phases
    bias = conv.bias.reshape(len(phases), 1, scale, 1, scale)
    conv.weight = weight.reshape(4 * out, inner, kh + 1, kw + 1)
    conv.bias = np.broadcast_to(bias, weight.shape[:5]).ravel()
    conv.strides = [2, 2]
    conv.pads = [a + b for a, b in zip(conv.pads, (0, 0, 1, 1), strict=True)]
    conv.store(edit)
    conv.node.outputs[0].shape = None
    stem = node.name or "shuffle"
    large = edit.node(node, "DepthToSpace", [deep], stem, blocksize=2 * scale, mode="CRD")
    return edit.replace(output, _trimmed(edit, node, large, small, scale))


def _worth(conv: Conv) -> bool:
    out, inner, kh, kw = conv.weight.shape
    before = blocks(out) * inner * kh * kw
    after = blocks(4 * out) / 4 * inner * (kh + 1) * (kw + 1)
    return after <= WORTH * before and before - after >= LEAST


def _trimmed(
    edit: Editor, before: ir.Node, large: ir.Value, small: ir.Value, scale: int
) -> ir.Value:
    """`large` without the row and column that an odd `small` has too many."""
    output = before.outputs[0]
    sizes = dims(small)[2:]
    if len(sizes) == 2 and all(isinstance(size, int) and size % 2 == 0 for size in sizes):
        large.type, large.shape = output.type, output.shape
        return large
    ends = edit.node(before, "Shape", [small], "tail_size", start=2, end=4)
    factor = edit.constant(np.array([scale, scale]), "tail_scale")
    ends = edit.node(before, "Mul", [ends, factor], "tail_ends")
    starts = edit.constant(np.array([0, 0]), "tail_starts")
    axes = edit.constant(np.array([2, 3]), "tail_axes")
    return edit.node(before, "Slice", [large, starts, ends, axes], "tail_crop", like=output)
