"""INT8 for OpenVINO by NNCF: activations asymmetric, weights symmetric and per channel.

Slower to make than the Q/DQ graph of `edgesr.export.repair`, and further from the float output:
it is tried where that one stays past the budget.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import onnx

from edgesr.errors import UsageError

Array = np.ndarray[Any, Any]

WITH_BIAS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


def operations(model: Any, graph: onnx.ModelProto, nodes: Collection[str]) -> list[str]:
    """OpenVINO's names of the operations that ONNX nodes became; a bias is an Add of its own.

    Raises UsageError for a node that is not there.
    """
    tensors = {node.output[0] for node in graph.graph.node if node.name and node.name in nodes}
    if len(tensors) != len(set(nodes)):
        there = {node.name for node in graph.graph.node}
        raise UsageError(f"the graph has no nodes {sorted(set(nodes) - there)}")
    found = []
    for operation in model.get_ordered_ops():
        if any(out.get_names() & tensors for out in operation.outputs()):
            found.append(operation.get_friendly_name())
            before = (value.get_node() for value in operation.input_values())
            found += [
                node.get_friendly_name()
                for node in before
                if operation.get_type_name() == "Add" and node.get_type_name() in WITH_BIAS
            ]
    return sorted(set(found))


def quantised(
    model: Any,
    pictures: list[Array],
    *,
    keep: list[str],
    on_note: Callable[[str], None] = lambda line: None,
) -> tuple[Any, str]:
    """The int8 form of an OpenVINO model, and NNCF's version.

    pictures   inputs to take ranges from; keep: names of operations that stay float
    on_note    called with a line for each picture; NNCF looks at them several times
    """
    looks = itertools.count(1)

    def looked_at(picture: Array) -> Array:
        on_note(f"NNCF, look {next(looks)} at one of {len(pictures)} pictures")
        return picture

    with _silent():
        nncf: Any = importlib.import_module("nncf")
        nncf.set_log_level(logging.ERROR)
        ranges: Any = importlib.import_module("nncf.quantization.range_estimator")
        made = nncf.quantize(
            model,
            nncf.Dataset(pictures, looked_at),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(pictures),
            # Its default is the mean over the pictures of their smallest and largest value, which
            # cuts off highlights: 13 dB lost to the float output for ecbsr-m4c16, 6 for espcn.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                activations_range_estimator_params=ranges.RangeEstimatorParametersSet.MINMAX
            ),
            ignored_scope=nncf.IgnoredScope(names=keep) if keep else None,
        )
    return made, nncf.__version__


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """NNCF draws progress bars on stdout, and reports its use to a server unless told otherwise.

    It reads that variable when it is imported.
    """
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        del os.environ["NNCF_CI"]
        if before is not None:
            os.environ["NNCF_CI"] = before
