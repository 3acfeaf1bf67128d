"""Constants fold into convolutions: factors, shifts (mean and value range), slopes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgesr.export.graph import (
    Array,
    Conv,
    Editor,
    attribute,
    channels,
    constant,
    dims,
    floats,
    per_channel,
    producer,
    read_bias,
    read_conv,
    store_weights,
    used_once,
)

_CARRIERS = ("Conv", "ConvTranspose", "DepthToSpace", "Add", "Relu", "LeakyRelu", "PRelu")


def tie_slopes(edit: Editor, node: ir.Node) -> bool:
    """PRelu with one slope for all channels is LeakyRelu, which engines join to the Conv."""
    slopes = floats(node.inputs[1])
    if slopes is None or slopes.size == 0 or (slopes != slopes.flat[0]).any():
        return False
    source, output = node.inputs[0], node.outputs[0]
    slope = float(slopes.flat[0])
    stem = node.name or "slope"
    if slope == 0.0:
        new = edit.node(node, "Relu", [source], stem, like=output)
    else:
        new = edit.node(node, "LeakyRelu", [source], stem, like=output, alpha=slope)
    return edit.replace(output, new)


def fold_factor(edit: Editor, node: ir.Node) -> bool:
    """Mul or Div by constants goes into the convolutions before it, else into those behind it."""
    found = _constant_operand(node)
    if found is None:
        return False
    source, factor = found
    if node.op_type == "Div":
        if not factor.all():
            return False
        factor = 1.0 / factor
    if used_once(source) and _takes_factor(source, factor):
        _multiply(edit, source, factor)
        return edit.replace(node.outputs[0], source)
    convs = _only_convs(node.outputs[0])
    if not convs:
        return False
    for conv in convs:  # zeros of the padding stay zeros
        conv.scale_inputs(factor)
        conv.store(edit)
        conv.node.replace_input_with(0, source)
    return True


def fold_shift(edit: Editor, node: ir.Node) -> bool:
    """Add or Sub of constants goes into a bias before it, or behind it where nothing is padded."""
    found = _constant_operand(node)
    if found is None:
        return False
    source, shift = found
    if node.op_type == "Sub":
        shift = -shift
    if used_once(source) and _takes_shift(source, shift):
        _shift(edit, source, shift)
        return edit.replace(node.outputs[0], source)
    convs = _only_convs(node.outputs[0])
    if not convs or any(any(conv.pads) for conv in convs):  # padding is zero, not shifted zero
        return False
    for conv in convs:
        weight = conv.dense().sum(axis=(2, 3))  # (out, in)
        conv.bias = conv.bias + weight @ np.broadcast_to(shift, weight.shape[1:])
        conv.store(edit)
        conv.node.replace_input_with(0, source)
    return True


def _constant_operand(node: ir.Node) -> tuple[ir.Value, Array] | None:
    """What a Mul, Div, Add or Sub is applied to, and its constants: (1,) or (channels,)."""
    pairs = [(0, 1)] if node.op_type in ("Div", "Sub") else [(0, 1), (1, 0)]
    for at, other in pairs:
        source = node.inputs[at]
        if source is not None and constant(source) is None and len(dims(source)) == 4:
            numbers = per_channel(node.inputs[other], channels(source))
            if numbers is not None and np.isfinite(numbers).all():
                return source, numbers
    return None


def _only_convs(value: ir.Value) -> list[Conv]:
    """All users of `value`, when each is a Conv of it with known weights; else none."""
    if value.is_graph_output():
        return []
    convs = []
    for user, index in value.uses():
        conv = read_conv(user.outputs[0])
        if index != 0 or conv is None:
            return []
        convs.append(conv)
    return convs


def _takes_factor(value: ir.Value | None, factor: Array) -> bool:
    """Whether the nodes that make `value` can make it `factor` times as large."""
    if not used_once(value) or (node := producer(value, *_CARRIERS)) is None:
        return False
    first = node.inputs[0]
    match node.op_type:
        case "Conv":
            return read_conv(value) is not None
        case "ConvTranspose":
            return _open_transposed(node)
        case "DepthToSpace":
            return _takes_factor(first, factor)
        case "Add":
            sizes = [channels(operand) for operand in node.inputs]
            same = factor.size == 1 or (sizes[0] is not None and sizes[0] == sizes[1])
            return same and all(_takes_factor(operand, factor) for operand in node.inputs)
    return bool((factor > 0).all()) and _takes_factor(first, factor)  # Relu and its kin


def _multiply(edit: Editor, value: ir.Value | None, factor: Array) -> None:
    node = producer(value, *_CARRIERS)
    assert node is not None
    match node.op_type:
        case "Conv":
            conv = read_conv(value)
            assert conv is not None
            conv.weight = conv.weight * factor.reshape(-1, 1, 1, 1)
            conv.bias = conv.bias * factor
            conv.store(edit)
        case "ConvTranspose":
            weight, bias = floats(node.inputs[1]), read_bias(node)
            assert weight is not None
            assert bias is not None
            store_weights(edit, node, weight * factor.reshape(1, -1, 1, 1), bias * factor)
        case "DepthToSpace":
            _multiply(edit, node.inputs[0], _before_shuffle(node, factor))
        case "Add":
            for operand in list(node.inputs):
                _multiply(edit, operand, factor)
        case _:
            _multiply(edit, node.inputs[0], factor)


def _takes_shift(value: ir.Value | None, shift: Array) -> bool:
    if not used_once(value) or (node := producer(value, *_CARRIERS)) is None:
        return False
    match node.op_type:
        case "Conv":
            return read_conv(value) is not None
        case "ConvTranspose":
            return _open_transposed(node)
        case "DepthToSpace":
            return _takes_shift(node.inputs[0], shift)
        case "Add":
            return _shifted_operand(node, shift) is not None
    return False


def _shifted_operand(node: ir.Node, shift: Array) -> ir.Value | None:
    """The operand of an Add that can take a shift for the sum; it must be as wide as the sum."""
    for operand in node.inputs:
        wide = channels(operand)
        if wide is not None and wide == channels(node.outputs[0]) and _takes_shift(operand, shift):
            return operand
    return None


def _shift(edit: Editor, value: ir.Value | None, shift: Array) -> None:
    node = producer(value, *_CARRIERS)
    assert node is not None
    match node.op_type:
        case "Conv":
            conv = read_conv(value)
            assert conv is not None
            conv.bias = conv.bias + shift
            conv.store(edit)
        case "ConvTranspose":
            weight, bias = floats(node.inputs[1]), read_bias(node)
            assert weight is not None
            assert bias is not None
            whole = np.broadcast_to(bias + shift, (weight.shape[1],))
            store_weights(edit, node, weight, whole)
        case "DepthToSpace":
            _shift(edit, node.inputs[0], _before_shuffle(node, shift))
        case _:
            _shift(edit, _shifted_operand(node, shift), shift)


def _before_shuffle(node: ir.Node, numbers: Array) -> Array:
    """Numbers of the channels behind a DepthToSpace, as the channels in front of it need them."""
    if numbers.size == 1:
        return numbers
    copies = attribute(node, "blocksize", 1) ** 2
    crd = attribute(node, "mode", "DCR") == "CRD"
    return np.repeat(numbers, copies) if crd else np.tile(numbers, copies)


def _open_transposed(node: ir.Node) -> bool:
    known = floats(node.inputs[1]) is not None and read_bias(node) is not None
    return known and attribute(node, "group", 1) == 1
