"""Somebody else's checkpoint file as plain tensors; no code in it is ever run."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from edgesr.errors import ModelError
from edgesr.networks.foreign import Tensors
from edgesr.spec import METADATA_KEY

# In the order of preference: averaged weights come before raw ones.
WRAPPERS = (
    "params_ema",
    "params-ema",
    "ema_state_dict",
    "state_dict_ema",
    "params",
    "state_dict",
    "model_state_dict",
    "generator_ema",
    "generator",
    "g_ema",
    "net",
    "model",
)

# Taken off when every tensor that is kept carries it.
PREFIXES = ("module.", "generator_ema.", "generator.", "netG.", "net_g.", "model.", "_orig_mod.")

# What trainers keep beside the network.
OTHERS = re.compile(
    r"^(module\.)?(discriminator|step_counter|perceptual_loss|data_preprocessor|loss|n_averaged$)"
)


@dataclass(frozen=True, kw_only=True)
class ForeignFile:
    """The tensors of a network by name, and what lay around them.

    wrapper  key of the file below which they are; "": none
    scale    as the name of the file tells it
    """

    tensors: Tensors
    wrapper: str = ""
    scale: int | None = None


def read(path: Path) -> ForeignFile:
    """What a `.pth`, `.pt`, `.ckpt` or `.safetensors` holds, bare. Raises ModelError."""
    if not path.exists():
        raise ModelError(f"{path}: no such file")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not a checkpoint")
    content, wrapper = unwrap(read_content(path))
    tensors = strip(content)
    if not tensors:
        raise ModelError(f"{path} holds no tensors of a network")
    return ForeignFile(tensors=tensors, wrapper=wrapper, scale=scale_in_name(path.stem))


def read_content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                ours = METADATA_KEY in (file.metadata() or {})
            content: Any = None if ours else load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=True)
            ours = False
    except pickle.UnpicklingError as error:
        if not looks_pickled(path):
            raise ModelError(f"{path} is no checkpoint that torch can read") from error
        raise ModelError(
            f"{path} holds pickled objects, not only tensors, and edgesr runs no code from a "
            "checkpoint. Where you trust it, save its tensors once: "
            "torch.save(model.state_dict(), 'plain.pth')"
        ) from error
    # What a parser says of a file that is none is open-ended: KeyError, EOFError, RuntimeError, ...
    except Exception as error:
        words = str(error).partition("\n")[0].partition(". ")[0]
        reason = type(error).__name__ if isinstance(error, LookupError) else words
        raise ModelError(f"{path} is no checkpoint that torch can read: {reason}") from error
    if ours:
        raise ModelError(f"{path} is a checkpoint of edgesr already: edgesr export {path}")
    return content


def looks_pickled(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def unwrap(content: Any, wrapper: str = "") -> tuple[Tensors, str]:
    """Down through {"params_ema": {...}} and its like to the dict of tensors, and the last key."""
    if not isinstance(content, Mapping):
        return {}, wrapper
    for key in WRAPPERS:
        if isinstance(content.get(key), Mapping):
            inside = unwrap(content[key], key)
            if inside[0]:
                return inside
    return {str(k): t for k, t in content.items() if isinstance(t, Tensor)}, wrapper


def strip(tensors: Tensors) -> Tensors:
    """Without what is not the network, and without prefixes that all of the rest carry."""
    tensors = {name: t for name, t in tensors.items() if not OTHERS.search(name)}
    averaged = {name: t for name, t in tensors.items() if name.startswith("generator_ema.")}
    if averaged and all(name.startswith(("generator.", "generator_ema.")) for name in tensors):
        tensors = averaged
    while True:
        common = [p for p in PREFIXES if tensors and all(n.startswith(p) for n in tensors)]
        if not common or "model.0.weight" in tensors:
            return tensors  # `model.0.weight` is the name itself in the old ESRGAN files
        tensors = {name.removeprefix(common[0]): t for name, t in tensors.items()}


def scale_in_name(stem: str) -> int | None:
    """2 of "fsrcnn_x2", "x2plus" and "2x_name"; None where no or more than one scale stands."""
    found = set(re.findall(r"(?:^|[_\W])x([2348])(?!\d)|(?:^|[_\W])([2348])x(?!\d)", stem.lower()))
    scales = {int(a or b) for a, b in found}
    return scales.pop() if len(scales) == 1 else None
