"""Count the facts of every network and write `edgesr/zoo.json`:

    python -m edgesr.networks.table [NETWORK ...]

With names only those are counted again, and what is new; some six minutes for all of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from edgesr.networks import NETWORKS, checkpoint, deployed
from edgesr.networks.facts import count_macs_of, count_parameters
from edgesr.spec import ModelSpec
from edgesr.zoo import FILE, SCHEMA, NetworkFacts, networks

HEIGHT, WIDTH = 360, 640
FRAMES = 8
"""Length of the clip on which a video network is counted, per frame."""


def main() -> None:
    path = Path(__file__).resolve().parent.parent / FILE
    again = sys.argv[1:] or list(NETWORKS)
    known = {(row.name, row.scale): row for row in networks()} if sys.argv[1:] else {}
    rows = []
    for name, builder in NETWORKS.items():
        for scale in builder.scales:
            row = known.get((name, scale))
            if row is None or name in again:
                row = facts_of(name, scale)
                sys.stderr.write(f"{row}\n")
            rows.append(json.dumps(row.to_dict()))
    lines = ",\n  ".join(rows)
    path.write_text(f'{{"schema": {SCHEMA}, "networks": [\n  {lines}\n]}}\n')


def facts_of(name: str, scale: int, *, measured: bool = True) -> NetworkFacts:
    """Counted on the meta device; the halo (None unless `measured`) takes a real network."""
    builder = NETWORKS[name]
    with torch.device("meta"):
        model = builder.make(scale)
    plain = deployed(model)
    spec = checkpoint.spec_of(name, plain, measured=False)
    if measured and builder.kind == "picture" and spec.fixed_size is None:
        torch.manual_seed(0)
        spec = checkpoint.spec_of(name, deployed(builder.make(scale)))
    shape, frames = example_shape(spec, builder.kind)
    return NetworkFacts(
        name=name,
        scale=scale,
        kind=builder.kind,
        training=count_parameters(model),
        deployed=count_parameters(plain),
        macs=count_macs_of(plain, shape) // frames,
        macs_literature=count_macs_of(plain, shape, literature=True) // frames,
        colour=spec.colour,
        multiple=spec.multiple,
        min_size=spec.min_size,
        fixed_size=spec.fixed_size,
        halo=spec.halo,
    )


def example_shape(spec: ModelSpec, kind: str) -> tuple[tuple[int, ...], int]:
    """What goes in when operations are counted, and how many frames that is."""
    height, width = spec.fixed_size or (
        -(-side // spec.multiple) * spec.multiple for side in (HEIGHT, WIDTH)
    )
    if kind == "teacher":
        return (1, spec.channels, height * spec.scale, width * spec.scale), 1
    if kind == "video":
        return (1, FRAMES, spec.channels, height, width), FRAMES
    return (1, spec.channels, height, width), 1


if __name__ == "__main__":
    main()
