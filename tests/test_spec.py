from __future__ import annotations

import json
from typing import Any

import pytest

from edgesr.errors import EdgesrError, ModelError, UsageError
from edgesr.spec import IoSpec, ModelSpec, StateSpec

SPEC = ModelSpec(
    name="a-x2",
    network="a",
    scale=2,
    colour="y",
    halo=6,
    state=(StateSpec(name="h", shape=(1, 16, None, None)),),
    metrics={"Set5": {"psnr_y": 37.0}},
    terms="CC0",
)


def test_json_round_trip() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_every_dtype_of_pixels(dtype: Any) -> None:
    spec = SPEC.replace(io=IoSpec(dtype=dtype))
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_no_halo_means_global_pooling() -> None:
    assert ModelSpec.from_json(SPEC.replace(halo=None).to_json()).halo is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "schema 2, this edgesr reads 1"),
        ({"colour": "cmyk"}, "colour 'cmyk'"),
        ({"scale": 0}, "scale 0"),
        ({"surprise": 1}, r"unknown entries \['surprise'\]"),
        ({"io": {"range": [0]}}, "cannot be read"),
        ({"io": {"dtype": "int4"}}, "pixels of 'int4': float32, float16, uint8 are allowed"),
    ],
)
def test_facts_that_are_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_dict(SPEC.to_dict() | change)


def test_facts_that_are_missing_or_not_json() -> None:
    values = json.loads(SPEC.to_json())
    del values["halo"]
    with pytest.raises(ModelError, match="halo"):
        ModelSpec.from_dict(values)
    with pytest.raises(ModelError, match="not JSON"):
        ModelSpec.from_json("{")
    with pytest.raises(ModelError, match="not a JSON object"):
        ModelSpec.from_json("[]")


def test_errors_carry_exit_codes_and_builtin_types() -> None:
    assert (EdgesrError("x").exit_code, UsageError("x").exit_code) == (1, 2)
    assert issubclass(UsageError, ValueError)
