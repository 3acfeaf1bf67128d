"""Model files that keep their facts in a .json beside them: an OpenVINO IR and a TensorRT engine.

model.xml (graph), model.bin (weights), model.json: the ModelSpec
model.plan, model.json: the ModelSpec under "spec", with the key of the machine that built it
"""

from __future__ import annotations

import json
from pathlib import Path

from edgesr.errors import ModelError
from edgesr.spec import ModelSpec

PARTS = {".xml": (".xml", ".bin", ".json"), ".plan": (".plan", ".json")}
"""Suffix of the file that is named -> all files that there have to be."""
MADE_BY = {".xml": "edgesr export --openvino", ".plan": "edgesr export --trt"}


def load_sidecar(path: Path) -> ModelSpec:
    """The facts of `path`, which ends in one of `PARTS`. Raises ModelError."""
    for suffix in PARTS[path.suffix]:
        part = path.with_suffix(suffix)
        if not part.is_file():
            every = ", ".join(PARTS[path.suffix])
            raise ModelError(
                f"{path} is not complete: there is no {part.name} beside it; such a model is the "
                f"files {every} together, as `{MADE_BY[path.suffix]}` writes them"
            )
    facts = path.with_suffix(".json")
    try:
        values = json.loads(facts.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ModelError("not a JSON object")
        return ModelSpec.from_dict(values.get("spec", values))
    except (OSError, ValueError, ModelError) as error:
        raise ModelError(f"{facts} holds no facts of a model: {error}") from error
