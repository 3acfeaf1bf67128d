"""Repeated channels and pixels: the nearest-neighbour skip, and copies that a Conv reads."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgesr.export.graph import (
    Array,
    Editor,
    attribute,
    channels,
    constant,
    describe,
    dims,
    integers,
    is_multiple,
    producer,
    read_conv,
    used_once,
)


def nearest_skip(edit: Editor, node: ir.Node) -> bool:
    """DepthToSpace + the picture enlarged by repeating -> add it before DepthToSpace, where it is
    small. OpenVINO also rounds the enlarged picture to bf16, 0.012 dB at 37 dB, and not this."""
    for shuffled, enlarged in (node.inputs, tuple(reversed(node.inputs))):
        shuffle = producer(shuffled, "DepthToSpace")
        resize = producer(enlarged, "Resize")
        if shuffle is None or resize is None or not used_once(shuffled):
            continue
        scale, source = attribute(shuffle, "blocksize", 1), resize.inputs[0]
        wide = channels(source)
        if wide is None or wide != channels(shuffled) or not _repeats(resize, scale):
            continue
        assert source is not None
        crd = attribute(shuffle, "mode", "DCR") == "CRD"
        index = np.arange(wide)
        index = np.repeat(index, scale**2) if crd else np.tile(index, scale**2)
        deep = shuffle.inputs[0]
        skip = source if wide == 1 else _copies(edit, node, source, index)
        total = edit.node(node, "Add", [deep, skip], "nearest_skip", like=deep)
        mode = "CRD" if crd else "DCR"
        new = edit.node(
            node,
            "DepthToSpace",
            [total],
            shuffle.name or "shuffle",
            like=node.outputs[0],
            blocksize=scale,
            mode=mode,
        )
        return edit.replace(node.outputs[0], new)
    return False


def _repeats(resize: ir.Node, scale: int) -> bool:
    """Whether a Resize repeats every pixel `scale` times along height and width."""
    rounding = attribute(resize, "nearest_mode", "round_prefer_floor")
    place = attribute(resize, "coordinate_transformation_mode", "half_pixel")
    copying = (place, rounding) == ("asymmetric", "floor") or (
        # Never half-way between two pixels, so that the preference does not matter.
        place == "half_pixel" and rounding in ("round_prefer_floor", "round_prefer_ceil")
    )
    if not copying or attribute(resize, "mode", "nearest") != "nearest":
        return False
    if (factors := constant(resize.inputs[2] if len(resize.inputs) > 2 else None)) is not None:
        return factors.tolist() == [1, 1, scale, scale]
    small, large = dims(resize.inputs[0]), dims(resize.outputs[0])
    return len(large) == 4 and all(is_multiple(large[side], small[side], scale) for side in (2, 3))


def _copies(edit: Editor, before: ir.Node, source: ir.Value, index: Array) -> ir.Value:
    """The channels `index` of `source`.

    A 1x1 Conv would be up to 6 % faster in OpenVINO, but rounds them to bf16 as Resize does.
    """
    inputs = [source, edit.constant(index.astype(np.int64), "copies_index")]
    value = edit.node(before, "Gather", inputs, "copies", axis=1)
    describe(value, source, len(index))
    return value


def add_repeated(edit: Editor, node: ir.Node) -> bool:
    """Repeated channels in a sum: a single one is broadcast, torch's long way becomes a Gather."""
    for at, (here, there) in enumerate((node.inputs, tuple(reversed(node.inputs)))):
        found = repeated(here)
        if found is None or constant(there) is not None or len(found[1]) != channels(there):
            continue
        source, index = found
        if channels(source) == 1:
            node.replace_input_with(at, source)
        elif producer(here, "Reshape") is not None:
            node.replace_input_with(at, _copies(edit, node, source, index))
        else:
            continue
        return True
    return False


def sum_repeated(edit: Editor, node: ir.Node) -> bool:
    """A Conv that reads copies of the same channels: sum its weights and read them once."""
    conv = read_conv(node.outputs[0])
    found = repeated(conv.source) if conv is not None else None
    if conv is None or found is None or conv.group != 1:
        return False
    source, index = found
    weight = np.zeros((len(conv.weight), channels(source) or 0, *conv.weight.shape[2:]))
    for position, channel in enumerate(index):
        weight[:, channel] += conv.weight[:, position]
    conv.weight = weight
    conv.store(edit)
    node.replace_input_with(0, source)
    return True


def repeated(value: ir.Value | None) -> tuple[ir.Value, Array] | None:
    """The source whose channels `value` repeats, and which one each channel is."""
    node = producer(value, "Concat", "Tile", "Expand", "Gather", "Reshape")
    source = None if node is None else node.inputs[0]
    if node is None or source is None:
        return None
    wide = channels(source)
    numbers = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    match node.op_type:
        case "Concat":
            return _concatenated(node)
        case "Tile":
            fits = (
                numbers is not None and len(numbers) == 4 and numbers[:1] + numbers[2:] == [1] * 3
            )
            index = np.tile(np.arange(wide or 0), numbers[1]) if fits and numbers else None
        case "Expand":
            index = None
            if wide == 1 and numbers is not None and numbers[-2:] == [1, 1]:
                index = np.zeros(numbers[-3], int) if numbers[:-3] in ([], [1]) else None
        case "Gather":
            flat = attribute(node, "axis", 0) == 1 and len(dims(node.inputs[1])) == 1
            index = np.array(numbers) if flat and numbers and min(numbers) >= 0 else None
        case _:
            return _interleaved(node)
    return (source, index) if wide is not None and index is not None else None


def _concatenated(concat: ir.Node) -> tuple[ir.Value, Array] | None:
    """A Concat of one value again and again, or of what a Split gives of its channels."""
    if attribute(concat, "axis", 0) != 1:
        return None
    sources: list[ir.Value] = []
    index: list[int] = []
    for value in concat.inputs:
        split = producer(value, "Split")
        whole = value if split is None else split.inputs[0]
        first = 0
        if split is not None:
            widths = [channels(part) for part in split.outputs]
            if attribute(split, "axis", 0) != 1 or None in widths:
                return None
            first = sum(width or 0 for width in widths[: value.index() if value else 0])
        count = channels(value)
        if whole is None or count is None or any(whole is not other for other in sources):
            return None
        sources.append(whole)
        index += range(first, first + count)
    return (sources[0], np.array(index)) if sources and channels(sources[0]) is not None else None


def _interleaved(reshape: ir.Node) -> tuple[ir.Value, Array] | None:
    """Unsqueeze, Expand, Reshape: what torch makes of repeat_interleave."""
    expand = producer(reshape.inputs[0], "Expand")
    unsqueeze = producer(expand.inputs[0], "Unsqueeze") if expand is not None else None
    if expand is None or unsqueeze is None:
        return None
    source = unsqueeze.inputs[0]
    axes, numbers = integers(unsqueeze.inputs[1]), integers(expand.inputs[1])
    wide = channels(source)
    if source is None or wide is None or axes not in ([1], [2]) or numbers is None:
        return None
    axis = axes[0]
    copies = numbers[axis] if len(numbers) == 5 else 0
    if copies < 1 or any(n != 1 for i, n in enumerate(numbers) if i != axis):
        return None
    before, after = dims(source), dims(reshape.outputs[0])
    if None in after or after != [before[0], wide * copies, *before[2:]]:
        return None
    index = np.arange(wide)
    return source, np.repeat(index, copies) if axis == 2 else np.tile(index, copies)
