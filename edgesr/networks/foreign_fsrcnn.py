"""Forms of FSRCNN, and of PISR, which is an FSRCNN and its teacher."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from edgesr.networks.foreign import Form, Tensors, count, demand, rows


def fsrcnn(t: Mapping[str, Tensor]) -> dict[str, Any]:
    features = rows(t, "first_part.0.weight")
    return {
        "features": features,
        "shrunk": rows(t, "mid_part.0.weight"),
        "mappings": count(t, r"mid_part\.\d+\.bias") - 2,
        "shared_slopes": features > 1 and rows(t, "first_part.1.weight") == 1,
    }


def pisr_teacher(t: Mapping[str, Tensor]) -> dict[str, Any]:
    demand(t, "encoder.0.0.weight")
    sizes = fsrcnn({name.removeprefix("decoder."): tensor for name, tensor in t.items()})
    return {name: size for name, size in sizes.items() if name != "shared_slopes"}


def number_middle(t: Tensors, *, below: str = "") -> Tensors:
    """FSRCNN whose five parts have names: `map.{i}` and `expand.{i}` go on where `shrink` ends."""
    tensors = count(t, rf"{re.escape(below)}map\.\d+\.(weight|bias)")
    mapped = tensors // 3 * 2  # a convolution has two, a PReLU one
    numbered: Tensors = {}
    for name, tensor in t.items():
        part, _, rest = name.removeprefix(below).partition(".")
        if name.startswith(below) and part in ("map", "expand"):
            index, _, kind = rest.partition(".")
            place = int(index) + (2 if part == "map" else 2 + mapped)
            name = f"{below}mid_part.{place}.{kind}"
        numbered[name] = tensor
    return numbered


def number_decoder(t: Tensors) -> Tensors:
    return number_middle(t, below="decoder.")


def pisr_names(below: str) -> tuple[tuple[str, str], ...]:
    """PISR's FSRCNN in the words of Lornatang's; a mapping is a pair of its own there."""
    return (
        (r"^backbone\.", ""),
        (r"^network\.encoder\.", "encoder."),
        (r"^network\.feature_extraction\.0\.", f"{below}first_part."),
        (r"^network\.shrinking\.0\.", f"{below}mid_part."),
        # Pair i, layer j is number 2 i + j.
        *(
            (rf"^network\.mapping\.{i}\.{j}\.", f"{below}map.{2 * i + j}.")
            for i in range(16)
            for j in (0, 1)
        ),
        (r"^network\.expanding\.0\.", f"{below}expand."),
        (r"^network\.last_layer\.0\.0\.", f"{below}last_part."),
    )


FSRCNN = (
    Form(
        network="fsrcnn",
        source="yjn870/FSRCNN-pytorch",
        config=fsrcnn,
        scale_free=True,
        ranged="biases",
    ),
    Form(
        network="fsrcnn",
        source="Lornatang/FSRCNN-PyTorch",
        config=fsrcnn,
        rename=(
            (r"^feature_extraction\.(\d)\.", r"first_part.\1."),
            (r"^shrink\.", "mid_part."),
            (r"^deconv\.", "last_part."),
        ),
        arrange=number_middle,
        scale_free=True,
        ranged="biases",
    ),
    Form(
        network="pisr-teacher",
        source="PISR, teacher",
        config=pisr_teacher,
        rename=pisr_names("decoder."),
        arrange=number_decoder,
        scale_free=True,
        note="it takes the large picture, and only teaches",
    ),
    Form(
        network="fsrcnn-pisr",
        source="PISR, student",
        config=fsrcnn,
        rename=pisr_names(""),
        arrange=number_middle,
        ignore=r"^(vid_module_dict|encoder)\.",
        scale_free=True,
    ),
)
