"""TensorRT engines on disk: what each was built from and for, and the cache that holds them.

A plan runs only with the TensorRT, the GPU and (for speed) the driver that it was built with, so a
`.plan` never stands alone: beside it lies a `.json` with the ModelSpec, the key of all that it
depends on, and the digest of its bytes. Nothing is loaded before all of that agrees. The cache is
$XDG_CACHE_HOME/edgesr/engines (~/.cache/edgesr/engines), 2 GB at most (`engine_prune`). This file
does not import TensorRT.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesr.errors import BackendError, ModelError
from edgesr.files import replacing
from edgesr.runtime.backends.engine_options import EngineOptions as EngineOptions
from edgesr.spec import ModelSpec

SCHEMA = 1
KIND = "edgesr engine"

Note = Callable[[str], None]

# Field of the key -> how a line calls it.
_CALLED = {
    "model": "model",
    "tensorrt": "TensorRT",
    "gpu": "GPU",
    "compute": "compute capability",
    "driver": "driver",
    "options": "options",
}


class StaleEngine(ModelError):
    """This engine must not be loaded here; the message is the reason, without the file's name."""


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """All that an engine depends on.

    model     sha256 of the ONNX file
    tensorrt  module and version, e.g. "tensorrt 10.3.0"
    gpu       its name, e.g. "Orin"
    compute   its compute capability, e.g. "8.7"
    driver    e.g. "540.4.0 CUDA 12.6"
    """

    model: str
    tensorrt: str
    gpu: str
    compute: str
    driver: str
    options: EngineOptions

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EngineKey:
        """Raises TypeError, KeyError or ValueError for what is no key."""
        facts = dict(values)
        return cls(options=EngineOptions.from_dict(facts.pop("options")), **facts)

    @property
    def digest(self) -> str:
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def unlike(self, here: EngineKey) -> dict[str, str]:
        """Field -> why an engine of this key does not fit `here`; empty when it does."""
        found = {}
        for name, called in _CALLED.items():
            mine, other = getattr(self, name), getattr(here, name)
            if mine == other:
                continue
            if name == "model":
                found[name] = f"it was built from another model ({mine[:12]}, not {other[:12]})"
            elif name == "options":
                found[name] = f"it was built with other options ({mine.differences(other)})"
            else:
                found[name] = f"it was built for {called} {mine}, this is {other}"
        return found


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """What the `.json` beside a `.plan` says.

    sha256, size  of the plan's bytes
    built         facts of the build: seconds, flags, warnings
    """

    spec: ModelSpec
    key: EngineKey
    sha256: str
    size: int
    built: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": KIND,
            "spec": self.spec.to_dict(),
            "key": self.key.to_dict(),
            "digest": self.key.digest,
            "plan": {"sha256": self.sha256, "size": self.size},
            "built": dict(self.built),
        }


def make_key(onnx: Path, *, options: EngineOptions, trt: Any, cuda: Any) -> EngineKey:
    """The key of an engine built from this file on this machine."""
    return EngineKey(model=digest_of(onnx), options=options, **here(trt=trt, cuda=cuda))


def here(*, trt: Any, cuda: Any) -> dict[str, str]:
    """The fields of a key that this machine decides."""
    major, minor = cuda.compute_capability()
    return {
        "tensorrt": f"{_family(trt)} {trt.__version__}",
        "gpu": cuda.device_name(),
        "compute": f"{major}.{minor}",
        "driver": cuda.driver_version(),
    }


def _family(trt: Any) -> str:
    """ "tensorrt" or "tensorrt_rtx": their plans are not the same although both are TensorRT."""
    return "tensorrt_rtx" if "rtx" in getattr(trt, "__name__", "") else "tensorrt"


def digest_of(path: Path) -> str:
    """sha256 of a file. Raises ModelError when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def sidecar_path(plan: Path) -> Path:
    return plan.with_suffix(".json")


def save_engine(
    path: Path,
    plan: bytes,
    *,
    spec: ModelSpec,
    key: EngineKey,
    built: Mapping[str, Any] | None = None,
) -> Sidecar:
    """Write plan and sidecar, each whole or not at all.

    The old sidecar goes first and the new one comes last: whatever happens in between, no plan ever
    stands beside a sidecar that vouches for it wrongly.
    """
    sidecar = Sidecar(
        spec=spec,
        key=key,
        sha256=hashlib.sha256(plan).hexdigest(),
        size=len(plan),
        built=built or {},
    )
    sidecar_path(path).unlink(missing_ok=True)
    for target, data in (
        (path, plan),
        (sidecar_path(path), (json.dumps(sidecar.to_dict(), indent=1) + "\n").encode()),
    ):
        with replacing(target) as part, part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    return sidecar


def read_sidecar(plan: Path) -> Sidecar:
    """Raises StaleEngine when there is none, or none that can be trusted."""
    path = sidecar_path(plan)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StaleEngine(f"{path.name} is missing: nothing says what it was built for") from None
    except (OSError, ValueError) as error:
        raise StaleEngine(f"{path.name} cannot be read: {error}") from error
    try:
        if values["kind"] != KIND or values["schema"] != SCHEMA:
            raise ValueError(f"{values['kind']!r} of schema {values['schema']}")
        key = EngineKey.from_dict(values["key"])
        if key.digest != values["digest"]:
            raise ValueError("its digest does not fit its key")
        return Sidecar(
            spec=ModelSpec.from_dict(values["spec"]),
            key=key,
            sha256=str(values["plan"]["sha256"]),
            size=int(values["plan"]["size"]),
            built=values["built"],
        )
    except (ModelError, AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StaleEngine(f"{path.name} is no sidecar of an engine ({reason})") from error


def load_engine(path: Path, *, key: EngineKey) -> bytes:
    """The bytes of a plan whose sidecar fits `key` in everything. Raises StaleEngine."""
    sidecar = read_sidecar(path)
    if reasons := sidecar.key.unlike(key):
        raise StaleEngine(", ".join(reasons.values()))
    return read_plan(path, sidecar)


def read_plan(path: Path, sidecar: Sidecar) -> bytes:
    """The bytes that the sidecar vouches for. Raises StaleEngine."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise StaleEngine(f"{path.name} cannot be read: {error.strerror or error}") from error
    if len(plan) < sidecar.size:
        raise StaleEngine(f"it is cut off: {len(plan)} of {sidecar.size} bytes")
    if len(plan) > sidecar.size or hashlib.sha256(plan).hexdigest() != sidecar.sha256:
        raise StaleEngine("it is damaged: its bytes are not those that were built")
    return plan


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path("~/.cache").expanduser()) / "edgesr" / "engines"


def cached_path(spec: ModelSpec, key: EngineKey, folder: Path) -> Path:
    """Where the engine of a key lies in the cache."""
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in spec.name)
    return folder / f"{name}-{key.options.precision}-{key.digest[:16]}.plan"


def why_none(spec: ModelSpec, key: EngineKey, folder: Path) -> str | None:
    """Why no engine of this model in the cache fits: of the nearest one; None: there is none."""
    nearest: dict[str, str] | None = None
    stem = cached_path(spec, key, folder).stem.rpartition("-")[0]
    for path in sorted(folder.glob(f"{stem}-*.json")):
        try:
            reasons = read_sidecar(path).key.unlike(key)
        except StaleEngine:
            continue
        if reasons.keys() == {"options"}:
            continue  # another size of the same model is nothing to speak of
        if reasons and (nearest is None or len(reasons) < len(nearest)):
            nearest = reasons
    return ", ".join(nearest.values()) if nearest else None


@contextlib.contextmanager
def locked(path: Path, *, on_note: Note | None = None, what: str = "") -> Iterator[None]:
    """Hold the lock file `path`: one process at a time.

    The lock is the kernel's and ends with the process, so a file left behind holds nobody up. It
    is never removed: another process may have it open.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise BackendError(f"{path} cannot be locked: {error.strerror}") from error
            if on_note is not None and what:
                on_note(f"another process is at {what}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
