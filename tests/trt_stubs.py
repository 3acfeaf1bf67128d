"""The real TensorRT bindings without TensorRT: libraries that are empty but for the names.

`tensorrt.so` of the bindings wheels (PyPI) links libnvinfer and others, which PyPI does not have.
Nothing in them is called by an import or a `dir()`, so functions that return null will do. Needs
gcc, nm and readelf.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LISTING = r"""
import importlib, json, re, sys

names = json.loads(sys.argv[1])
trt = importlib.import_module("tensorrt_bindings")


def returned(owner, name):
    'The class of the module that a method or property gives, by its signature; else null.'
    member = getattr(owner, name)
    text = getattr(getattr(member, "fget", member), "__doc__", None) or ""
    match = re.search(r"-> (?:Optional\[)?(?:List\[|list\[)?[\w.]*\.(\w+)", text.split("\n\n")[0])
    return match[1] if match and hasattr(trt, match[1]) else None


print(json.dumps({
    "module": [name for name in dir(trt) if not name.startswith("_")],
    "classes": {
        name: {m: returned(getattr(trt, name), m) for m in dir(getattr(trt, name)) if m[0] != "_"}
        for name in names
        if hasattr(trt, name)
    },
}))
"""


def download(package: str, version: str, folder: Path) -> Path:
    """The folder into which the wheel for this Python is unpacked."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([*command, f"{package}=={version}"], check=True, stderr=subprocess.DEVNULL)
    (wheel,) = folder.glob(f"{package}-{version}*.whl")
    target = folder / wheel.stem
    zipfile.ZipFile(wheel).extractall(target)
    return target


def make_stubs(library: Path, folder: Path) -> list[str]:
    """Libraries in `folder` for all that `library` links beyond the system; their names."""
    dynamic = tool("readelf", "--dynamic", "--wide", str(library))
    needed = re.findall(r"NEEDED.*\[(libnv[^\]]+)\]", dynamic)
    undefined = tool("nm", "--dynamic", "--undefined-only", str(library))
    symbols = [line.split()[-1] for line in undefined.splitlines() if line.split()[-2] == "U"]
    wanted = [s for s in symbols if re.fullmatch(r"(create|get|initLib|_ZN\d+nv)\w+", s)]
    # In the first library, the rest are empty: the loader looks through all of them.
    source = "\n".join(f"void* {symbol}(void) {{ return 0; }}" for symbol in wanted)
    for index, name in enumerate(needed):
        command = ["gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", str(folder / name)]
        command += [f"-Wl,-soname,{name}"]
        subprocess.run(command, input="" if index else source, text=True, check=True)
    return needed


def listing(unpacked: Path, stubs: Path, classes: Sequence[str]) -> dict[str, Any]:
    """What the bindings have: names of the module, members of each class and what they give."""
    environment = os.environ | {
        "PYTHONPATH": str(unpacked),
        "LD_LIBRARY_PATH": str(stubs),
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", LISTING, json.dumps(list(classes))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{unpacked.name} cannot be imported: {done.stderr[-1000:]}")
    return json.loads(done.stdout)


def tool(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
