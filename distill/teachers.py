"""Teachers that see what the student sees: networks by name, and anybody's files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgesr.distill.colours import as_colour
from edgesr.distill.data import Colour
from edgesr.errors import ModelError, UsageError
from edgesr.models import ShippedModel, load_file, shipped
from edgesr.networks import NETWORKS, checkpoint
from edgesr.networks.convert import convert
from edgesr.spec import ModelSpec

FILES = (".onnx", ".safetensors", ".pth", ".pt", ".ckpt")


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A frozen network at the student's scale.

    run     (N, C, H, W) in 0..1 of its colour -> (N, C, sH, sW), on the device of its input
    module  the network itself, for its features; None for an .onnx file, a black box
    spec    its facts
    digest  SHA-256 of the file that it came from
    """

    name: str
    colour: Colour
    run: Callable[[Tensor], Tensor]
    module: nn.Module | None = None
    spec: ModelSpec | None = None
    digest: str = ""

    @torch.no_grad()
    def answer(self, small: Tensor, colour: Colour) -> Tensor:
        """Its picture for `small`, float32, as luma or RGB; luma where it has nothing else."""
        big = self.run(as_colour(small, self.colour)).float()
        return as_colour(big.clamp(0.0, 1.0), colour) if self.colour == "rgb" else big


def names_of(teacher: str | None) -> list[str]:
    """ "rrdb+edsr.onnx" -> ["rrdb", "edsr.onnx"]; None and "none" are nobody."""
    names = [name.strip() for name in (teacher or "none").split("+")]
    return [] if names == ["none"] else names


def needs_training(name: str, *, scale: int) -> bool:
    """Whether it is the name of a network without weights at hand. Raises UsageError."""
    if name.endswith(FILES) or find_shipped(name, scale=scale) is not None:
        return False
    if name in NETWORKS and NETWORKS[name].kind == "picture":
        return True
    pictures = ", ".join(n for n, builder in NETWORKS.items() if builder.kind == "picture")
    raise UsageError(
        f"--teacher {name!r}: give none, pisr, a file ({', '.join(FILES)}) or {pictures}"
    )


def load_teacher(name: str, *, scale: int, device: torch.device) -> Teacher:
    """From a checkpoint, an .onnx file, or what is shipped. Raises ModelError, UsageError."""
    path = Path(name)
    found = find_shipped(name, scale=scale)
    if found is None and not path.is_file():
        raise ModelError(f"--teacher {name}: no such file")
    if path.suffix == ".onnx":
        return black_box(path, scale=scale)
    if found is not None and found.checkpoint is not None:
        path = found.checkpoint
    model, spec = load_any(path)
    require_scale(spec, name, scale)
    model = model.eval().requires_grad_(False).to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(
        name=spec.name,
        colour=spec.colour,
        run=model,
        module=model,
        spec=spec,
        digest=digest_of_file(path),
    )


def digest_of_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_any(path: Path) -> tuple[nn.Module, ModelSpec]:
    if path.suffix == ".safetensors":
        return checkpoint.load(path)
    converted = convert(path)
    return converted.model, converted.spec


def black_box(path: Path, *, scale: int) -> Teacher:
    """A deployable, run by ONNX Runtime on the CPU in float32."""
    from edgesr.runtime.backends import open_session

    spec = load_file(path).spec
    require_scale(spec, str(path), scale)
    session = open_session(path, spec=spec, backend="ort", precision="fp32")

    def run(small: Tensor) -> Tensor:
        batch = np.ascontiguousarray(small.cpu().numpy(), dtype=np.float32)
        return torch.from_numpy(session(batch)).to(small.device)

    return Teacher(
        name=spec.name, colour=spec.colour, run=run, spec=spec, digest=digest_of_file(path)
    )


def require_scale(spec: ModelSpec, name: str, scale: int) -> None:
    if spec.scale != scale:
        raise UsageError(f"--teacher {name} upscales {spec.scale} times, the student {scale} times")


def find_shipped(name: str, *, scale: int) -> ShippedModel | None:
    return next(
        (m for m in shipped() if m.spec.scale == scale and name in (m.name, m.family)), None
    )
