"""Exact rewrites of an ONNX graph: the same numbers from fewer or cheaper nodes.

Independent of the architecture: each rule looks at a few neighbouring nodes, makes sure that the
result is the same (borders included) and cheaper, and otherwise leaves them alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from edgesr.export.deconv import convolve, crop
from edgesr.export.fold import fold_factor, fold_shift, tie_slopes
from edgesr.export.graph import Editor, channels, constant, dims, per_channel
from edgesr.export.merge import merge_convs
from edgesr.export.repeats import add_repeated, nearest_skip, sum_repeated
from edgesr.export.tail import block_tail

Rule = Callable[[Editor, ir.Node], bool]


@dataclass(frozen=True, kw_only=True)
class Applied:
    """One rewrite that was made.

    rewrite  name of the rule
    node     the node that it started from
    nodes    how many nodes fewer the graph has; negative: cheaper ones, but more
    """

    rewrite: str
    node: str
    nodes: int


def rewrite(graph: onnx.ModelProto) -> tuple[onnx.ModelProto, list[Applied]]:
    """Apply every rule until none fits any more. The given graph stays untouched."""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(graph))
    edit = Editor(model)
    edit.prune()
    applied: list[Applied] = []
    for rules in (RULES, LAST):
        while found := _sweep(edit, rules):
            applied += found
    edit.prune()
    return ir.to_proto(model), applied


def _sweep(edit: Editor, rules: Mapping[str, tuple[Rule, ...]]) -> list[Applied]:
    """Offer each node to its rules once."""
    applied = []
    for node in list(edit.graph):
        for rule in rules.get(node.op_type, ()):
            if node.graph is None or node.domain:  # taken out by an earlier rule, or foreign
                break
            before = len(edit.graph)
            if rule(edit, node):
                edit.prune()
                name = rule.__name__.replace("_", " ")
                saved = before - len(edit.graph)
                applied.append(Applied(rewrite=name, node=node.name or "", nodes=saved))
    return applied


def drop(edit: Editor, node: ir.Node) -> bool:
    """Nodes that change nothing."""
    source = node.inputs[0]
    return source is not None and _idle(node) and edit.replace(node.outputs[0], source)


def _idle(node: ir.Node) -> bool:
    source, others = node.inputs[0], node.inputs[1:]
    numbers = constant(others[0]) if others else None
    match node.op_type:
        case "Identity":
            return True
        case "Concat":
            return not others
        case "Mul" | "Div" | "Add" | "Sub":
            neutral = 1 if node.op_type in ("Mul", "Div") else 0
            known = per_channel(others[0], channels(source))
            return known is not None and len(dims(source)) == 4 and bool((known == neutral).all())
        case "Expand" | "Tile":
            fits = numbers is not None and len(numbers) <= len(dims(source))
            return fits and numbers is not None and bool((numbers == 1).all())
        case "Pad":
            return numbers is not None and not numbers.any()
    return False


RULES: dict[str, tuple[Rule, ...]] = {
    "Identity": (drop,),
    "Concat": (drop,),
    "Expand": (drop,),
    "Tile": (drop,),
    "Pad": (drop, crop),
    "Slice": (crop,),
    "PRelu": (tie_slopes,),
    "Mul": (drop, fold_factor),
    "Div": (drop, fold_factor),
    "Add": (drop, fold_shift, nearest_skip, add_repeated),
    "Sub": (drop, fold_shift),
    "Conv": (sum_repeated, merge_convs),
    "ConvTranspose": (convolve,),
}
"""By the kind of node that a rule starts from."""

LAST: dict[str, tuple[Rule, ...]] = {"DepthToSpace": (block_tail,)}
"""Tried when nothing else fits any more: what it makes is seen through by no other rule."""
