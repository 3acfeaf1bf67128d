"""ConvTranspose: a cropped border, and the same numbers from Conv and DepthToSpace."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgesr.export.graph import (
    Array,
    Editor,
    attribute,
    describe,
    dims,
    floats,
    integers,
    is_multiple,
    producer,
    read_bias,
    used_once,
)

FEW = 4
"""Most output channels of a ConvTranspose that is worth replacing.

OpenVINO computes 16 of them whatever is asked for: 9x9 to 1 channel becomes 3 to 13 times faster.
With 16 channels or more its own kernel is faster in float32, and so is ONNX Runtime's.
"""


def crop(edit: Editor, node: ir.Node) -> bool:
    """A ConvTranspose whose border is cut off: it need not be computed."""
    source = node.inputs[0]
    deconv = producer(source, "ConvTranspose")
    if deconv is None or not used_once(source) or not _settled(deconv):
        return False
    cut = _cut(node, deconv)
    if cut is None:
        return False
    pads = [a + b for a, b in zip(attribute(deconv, "pads", [0] * 4), cut, strict=True)]
    deconv.attributes["pads"] = ir.AttrInt64s("pads", pads)
    deconv.outputs[0].shape = node.outputs[0].shape
    return edit.replace(node.outputs[0], deconv.outputs[0])


def _cut(node: ir.Node, deconv: ir.Node) -> list[int] | None:
    """Rows and columns that a Slice or negative Pad takes away: top, left, bottom, right."""
    if node.op_type == "Pad":
        amounts = integers(node.inputs[1])
        simple = attribute(node, "mode", "constant") == "constant" and len(node.inputs) < 4
        if amounts is None or not simple or len(amounts) != 8 or max(amounts) > 0:
            return None
        on_pixels = [-amounts[i] for i in (2, 3, 6, 7)]
        return on_pixels if not any(amounts[i] for i in (0, 1, 4, 5)) else None
    starts, ends, axes = (integers(value) for value in node.inputs[1:4])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1] * 4
    if starts is None or axes is None or steps is None or any(step != 1 for step in steps):
        return None
    cut = [0, 0, 0, 0]
    for i, (axis, start) in enumerate(zip(axes, starts, strict=True)):
        if axis not in (2, 3) or start < 0:
            return None
        end = ends[i] if ends is not None else None
        if end is None or 0 <= end < 2**31 - 1:
            # An end that is computed, or counted from the start, is known by the sizes.
            rest = _rest(node, deconv, axis, start)
            if rest is None:
                return None
        else:
            rest = -end if end < 0 else 0
        cut[axis - 2], cut[axis] = start, rest
    return cut


def _rest(node: ir.Node, deconv: ir.Node, axis: int, start: int) -> int | None:
    """What a Slice takes away at the end, where it leaves `stride` times the small picture."""
    small, large = dims(deconv.inputs[0]), dims(node.outputs[0])
    stride, whole = _geometry(deconv, axis - 2)
    if not small or not large or not is_multiple(large[axis], small[axis], stride):
        return None
    rest = whole - stride - start
    return rest if rest >= 0 else None


def _geometry(deconv: ir.Node, side: int) -> tuple[int, int]:
    """Stride s and w of the output size s * size + (w - s), along one side."""
    pads = attribute(deconv, "pads", [0] * 4)
    stride = attribute(deconv, "strides", [1, 1])[side]
    kernel = _kernel(deconv)[side] + attribute(deconv, "output_padding", [0, 0])[side]
    return stride, kernel - pads[side] - pads[side + 2]


def _kernel(deconv: ir.Node) -> list[int]:
    weight = floats(deconv.inputs[1])
    assert weight is not None
    return [int(side) for side in weight.shape[2:]]


def _settled(deconv: ir.Node) -> bool:
    """Two-dimensional, weights known, no automatic size, dilation or groups."""
    weight = floats(deconv.inputs[1])
    return (
        weight is not None
        and weight.ndim == 4
        and read_bias(deconv) is not None
        and attribute(deconv, "auto_pad", "NOTSET") == "NOTSET"
        and "output_shape" not in deconv.attributes
        and attribute(deconv, "dilations", [1, 1]) == [1, 1]
        and attribute(deconv, "group", 1) == 1
    )


def convolve(edit: Editor, node: ir.Node) -> bool:
    """ConvTranspose to exactly `stride` times the size -> Conv on the small picture, DepthToSpace.

    Pixel s*q + r of the output is the sum of w[t] * x[q + d] over all taps t = r + p - s*d: each
    of the s*s phases is a convolution of its own, with the zeros of the border where they were.
    """
    if not _settled(node):
        return False
    (stride, height), (stride_w, width) = _geometry(node, 0), _geometry(node, 1)
    weight, bias = floats(node.inputs[1]), read_bias(node)
    assert weight is not None
    assert bias is not None
    inner, out = weight.shape[:2]
    if not stride == stride_w == height == width or stride == 1 or out > FEW:
        return False
    top, left = attribute(node, "pads", [0] * 4)[:2]
    rows = _phases(weight.shape[2], stride, top)  # (phase, tap, d)
    columns = _phases(weight.shape[3], stride, left)
    kernel = np.einsum("atd,bue,iotu->oabide", rows[0], columns[0], weight)
    stem, output = node.name or "deconv", node.outputs[0]
    numbers = kernel.reshape(out * stride**2, inner, *kernel.shape[4:])
    conv = edit.node(
        node,
        "Conv",
        [node.inputs[0], edit.constant(numbers, f"{stem}_weight")],
        f"{stem}_phases",
        kernel_shape=list(numbers.shape[2:]),
        pads=[rows[1], columns[1], rows[2], columns[2]],
    )
    if bias.any():
        made = conv.producer()
        assert made is not None
        made.resize_inputs(3)
        every = np.repeat(np.broadcast_to(bias, (out,)), stride**2)
        made.replace_input_with(2, edit.constant(every, f"{stem}_bias"))
    describe(conv, node.inputs[0], len(numbers))
    large = edit.node(node, "DepthToSpace", [conv], stem, like=output, blocksize=stride, mode="CRD")
    return edit.replace(output, large)


def _phases(taps: int, stride: int, pad: int) -> tuple[Array, int, int]:
    """Which tap a phase takes from which neighbour: (stride, taps, neighbours), 0 or 1.

    And how many neighbours lie before and after the pixel.
    """
    before = max((taps - 1 - pad) // stride, 0)
    after = max((stride - 1 + pad) // stride, 0)
    found = np.zeros((stride, taps, before + after + 1))
    for phase in range(stride):
        for d in range(-before, after + 1):
            tap = phase + pad - stride * d
            if 0 <= tap < taps:
                found[phase, tap, d + before] = 1.0
    return found, before, after
