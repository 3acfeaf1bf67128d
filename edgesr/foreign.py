"""The facts of an .onnx file from elsewhere, found by running it: nothing in it tells them.

What runs: one float32 picture in and one out, NCHW, one or three channels, of any size or of one.
Real-ESRGAN's exports and the models of vs-mlrt are of that kind. The answers are kept under
$XDG_CACHE_HOME/edgesr/foreign (~/.cache/edgesr/foreign), by the digest of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgesr.errors import EdgesrError, MissingDependency, ModelError
from edgesr.onnxmeta import read_slopes
from edgesr.spec import IoSpec, ModelSpec

Array = np.ndarray[Any, Any]
Size = tuple[int, int]

NETWORK = "foreign"
"""ModelSpec.network of such a file: no entry of `edgesr.networks.NETWORKS`."""

VERSION = 1  # of the probe: another one does not read what this one kept
ANCHORS = (48, 64, 60, 56, 80, 72, 128)  # sizes with many divisors: one suits nearly every network
LARGEST_MINIMUM = 64
HALVES = (32, 128, 512)  # of the strips on which the reach is measured; beyond: as good as global
SHORT = 8  # their other side
SHOUT = 1e4  # a change this large is still seen at the faint edge of a receptive field
SAME = 2e-5  # a tile against the whole: rounding of float32, of the largest value or of 1
OFF_GRAY = 0.25  # of its value; flat gray that comes back further off is worth a word
OTHER_RANGE, RIGHT_RANGE = 0.5, 0.1  # further off than the one in 0..1, nearer than the other


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a probe found.

    gray      what flat 0.5 comes back as, on average
    white     1 or 255: the value range that the answers to flat gray fit
    slopes    PReLU slopes as [C] or [C, 1, 1], which OpenVINO runs slowly
    """

    scale: int
    channels: int
    multiple: int
    min_size: int
    fixed_size: Size | None
    halo: int | None
    white: int
    gray: float
    slopes: bool

    def spec(self, name: str) -> ModelSpec:
        return ModelSpec(
            name=name,
            network=NETWORK,
            scale=self.scale,
            colour="y" if self.channels == 1 else "rgb",
            multiple=self.multiple,
            min_size=self.min_size,
            fixed_size=self.fixed_size,
            halo=self.halo,
            io=IoSpec(range=(0.0, float(self.white))),
        )

    def describe(self, path: Path) -> str:
        """One line for who runs it: what it was taken for."""
        if self.fixed_size is not None:
            sizes = f"{self.fixed_size[1]}x{self.fixed_size[0]} only"
        else:
            sizes = "any size" if self.multiple == 1 else f"multiples of {self.multiple}"
            least = "" if self.min_size <= self.multiple else f" from {self.min_size} up"
            halo = "sees the whole picture" if self.halo is None else f"halo {self.halo}"
            sizes += f"{least}, {halo}"
        colour = "y" if self.channels == 1 else "rgb"
        line = f"{path.name} carries no facts: {colour}, x{self.scale}, {sizes} (probed)"
        if self.white == 1 and abs(self.gray - 0.5) > OFF_GRAY * 0.5:
            line += f"; gray 0.5 comes back as {self.gray:.2f}: is it for pictures in 0..1?"
        if self.slopes:
            line += f"; `edgesr export {path.name}` makes it faster on OpenVINO"
        return line


def name_of(path: Path, scale: int) -> str:
    """The file's name as a model's name: `<stem>-x<scale>`."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or NETWORK
    return stem if re.search(rf"-x{scale}$", stem) else f"{stem}-x{scale}"


def probe(path: Path) -> Found:
    """The facts of a foreign .onnx, from the cache or by running small pictures through it.

    Takes a second or less for networks that suit video, half a minute for the largest. Raises
    ModelError for what is no such network, MissingDependency without ONNX Runtime.
    """
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        raise MissingDependency(
            f"{path} carries no edgesr facts, and finding them needs ONNX Runtime: "
            "pip install onnxruntime, or run `edgesr export` on it where that is installed"
        ) from None
    kept = _kept(path)
    try:
        values = json.loads(kept.read_text(encoding="utf-8"))
        size = values.pop("fixed_size")
        return Found(**values, fixed_size=None if size is None else (size[0], size[1]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        found = measure(path)
    _keep(kept, found)
    return found


def measure(path: Path) -> Found:
    """As `probe`, always by running it."""
    net = _Network(path)
    if net.fixed_size is not None:
        height, width = net.fixed_size
        out = net.run(net.noise(height, width))
        scale = out.shape[2] // height if out.ndim == 4 else 0
        if out.shape != (1, net.channels, height * scale, width * scale) or scale < 1:
            raise ModelError(_no_enlargement(path, net.fixed_size, out))
        multiple, least, halo = 1, 1, None
        flat = net.fixed_size
    else:
        scale = _scale(net)
        least, multiple = _sizes(net, scale)
        halo = _halo(net, scale, multiple, least)
        flat = (_up(max(16, least), multiple),) * 2
    white, gray = _white(net, flat)
    return Found(
        scale=scale,
        channels=net.channels,
        multiple=multiple,
        min_size=least,
        fixed_size=net.fixed_size,
        halo=halo,
        white=white,
        gray=gray,
        slopes=any(len(dims) < 4 and np.prod(dims) > 1 for dims in read_slopes(path)),
    )


class _Network:
    """The file in ONNX Runtime, after a look at what it takes and gives."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # sizes that fail are tried on purpose
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._inner = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exception classes are private
            line = " ".join(str(error).split())
            raise ModelError(f"ONNX Runtime cannot load {path}: {line}") from error
        inputs, outputs = self._inner.get_inputs(), self._inner.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(
                f"{path} has {len(inputs)} inputs and {len(outputs)} outputs: a model that "
                "enlarges pictures has one of each"
            )
        self._name, self._path = inputs[0].name, path
        for value in (inputs[0], outputs[0]):
            if value.type == "tensor(float16)":
                raise ModelError(
                    f"{path} takes or gives float16 at {value.name!r}: make a float32 one with "
                    f"`edgesr export {path}`"
                )
            if value.type != "tensor(float)":
                raise ModelError(
                    f"{path} takes or gives {value.type} at {value.name!r}: tensor(float) is needed"
                )
        shape = inputs[0].shape
        if len(shape) != 4:
            raise ModelError(f"{path} takes {shape}: (N, C, H, W) is needed")
        count, channels, height, width = (d if isinstance(d, int) else None for d in shape)
        if count not in (None, 1):
            raise ModelError(f"{path} takes batches of {count} only: 1 or any is needed")
        if channels not in (None, 1, 3):
            layout = ": it is NHWC, NCHW is needed" if width in (1, 3) else ": 1 or 3 are needed"
            raise ModelError(f"{path} takes {channels} channels{layout}")
        if (height is None) != (width is None):
            raise ModelError(f"{path} takes {shape}: height and width are both fixed, or neither")
        self.fixed_size = None if height is None or width is None else (height, width)
        self.channels = channels or self._try_channels()

    def run(self, picture: Array) -> Array:
        """Raises ModelError when the network fails on it."""
        try:
            out = self._inner.run(None, {self._name: picture})[0]
        except Exception as error:
            line = " ".join(str(error).split())
            raise ModelError(f"{self._path} fails on {_size(picture)}: {line}") from error
        return np.asarray(out)

    def noise(self, height: int, width: int) -> Array:
        """(1, C, height, width) in 0..1, the same for the same size."""
        random = np.random.default_rng(height * 4096 + width)
        return random.random((1, self.channels, height, width), dtype=np.float32)

    def takes(self, height: int, width: int, scale: int) -> bool:
        try:
            out = self.run(self.noise(height, width))
        except ModelError:
            return False
        right = (1, self.channels, height * scale, width * scale)
        return out.shape == right and bool(np.isfinite(out).all())

    @property
    def path(self) -> Path:
        return self._path

    def _try_channels(self) -> int:
        """For a file that leaves them open."""
        for self.channels in (3, 1):
            for size in [self.fixed_size] if self.fixed_size else [(s, s) for s in ANCHORS[:3]]:
                with contextlib.suppress(ModelError):
                    self.run(self.noise(*size))
                    return self.channels
        raise ModelError(f"{self._path} takes neither 3 nor 1 channels")


def _scale(net: _Network) -> int:
    """How many times larger the result is, at the first size that the network takes."""
    failure: ModelError | None = None
    for side in ANCHORS:
        try:
            out = net.run(net.noise(side, side))
        except ModelError as error:
            failure = failure or error
            continue
        scale = out.shape[-1] // side if out.ndim == 4 else 0
        if scale >= 1 and out.shape == (1, net.channels, side * scale, side * scale):
            if not np.isfinite(out).all():
                raise ModelError(f"{net.path} gives NaN or infinite values for a picture in 0..1")
            return scale
        failure = failure or ModelError(_no_enlargement(net.path, (side, side), out))
    assert failure is not None
    raise failure


def _sizes(net: _Network, scale: int) -> tuple[int, int]:
    """(min_size, multiple): the smallest side that works, and the step to the next one."""
    for least in range(1, LARGEST_MINIMUM + 1):
        if net.takes(least, least, scale):
            break
    else:
        raise ModelError(
            f"{net.path} takes no picture of {LARGEST_MINIMUM} pixels a side or less, as a model "
            "for video should"
        )
    for step in range(1, least + 1):
        if least % step == 0 and all(
            net.takes(*size, scale)
            for size in [(least, least + step), (least + step, least), (least + 3 * step,) * 2]
        ):
            return least, step
    raise ModelError(f"{net.path} takes squares, or a few sizes, only: {least}x{least} is one")


def _halo(net: _Network, scale: int, multiple: int, least: int) -> int | None:
    """How far a pixel is seen, in pixels of the input; None where no tile equals its part.

    Outputs of a picture and of the same with one pixel changed are compared bit by bit. What a
    changed pixel does not tell (sizes that enter the computation) a tile tells, which must come
    out as it does in the whole.
    """
    short, offsets = _up(max(SHORT, least), multiple), sorted({0, multiple // 2, multiple - 1})
    for half in (_up(h, multiple) for h in HALVES):
        if half > least and _reach(net, scale, short, half, offsets[:1], (SHOUT,)) < half - 1:
            radius = _reach(net, scale, short, half, offsets, (SHOUT, -SHOUT, 0.5))
            break
    else:
        return None
    margin = _up(radius, multiple)
    before, kept, after = _up(24, multiple), _up(16, multiple), _up(41, multiple)
    tile = _up(max(2 * margin + kept, least), multiple)
    for turned in (False, True):
        strip = net.noise(short, before + tile + after)

        def through(picture: Array, turned: bool = turned) -> Array:
            if not turned:
                return net.run(picture)
            return net.run(np.ascontiguousarray(picture.swapaxes(2, 3))).swapaxes(2, 3)

        whole = through(strip)[..., before * scale : (before + tile) * scale]
        cut = through(np.ascontiguousarray(strip[..., before : before + tile]))
        inner = (..., slice(margin * scale, (tile - margin) * scale))
        largest = max(1.0, float(np.abs(whole).max()))
        if not np.abs(whole[inner] - cut[inner]).max() <= SAME * largest:
            return None
    return radius


def _reach(
    net: _Network, scale: int, short: int, half: int, offsets: list[int], shouts: tuple[float, ...]
) -> int:
    """Largest distance, along strips of 2 * half pixels, at which a change is seen."""
    radius = 0
    for turned in (False, True):
        shape = (2 * half, short) if turned else (short, 2 * half)
        quiet = net.noise(*shape)
        before = net.run(quiet)
        for offset in offsets:
            for shout in shouts:
                loud, at = quiet.copy(), half + offset
                row, column = (at, offset) if turned else (offset, at)
                loud[:, :, row, column] += np.float32(shout)
                changed = ~(net.run(loud) == before)[0]  # a NaN is a change
                seen = changed.any(axis=(0, 2) if turned else (0, 1)).nonzero()[0]
                if len(seen):
                    radius = max(radius, int(np.abs(seen // scale - at).max()))
    return radius


def _white(net: _Network, size: Size) -> tuple[int, float]:
    """(1 or 255, what 0.5 comes back as): flat gray stays flat gray in the range it was made for.

    1 unless grays of 0..1 come back wrong and the same grays of 0..255 right.
    """
    errors: dict[int, float] = {}
    answer = 0.5
    for white in (1, 255):
        worst = 0.0
        for gray in (0.25, 0.5, 0.75):
            flat = np.full((1, net.channels, *size), gray * white, np.float32)
            mean = float(net.run(flat).mean())
            worst = max(worst, abs(mean / white - gray) / gray)
            if (white, gray) == (1, 0.5):
                answer = mean
        errors[white] = worst
    fits = errors[1] > OTHER_RANGE and errors[255] < RIGHT_RANGE
    return (255 if fits else 1), answer


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def _size(picture: Array) -> str:
    return f"a picture of {picture.shape[3]}x{picture.shape[2]}"


def _no_enlargement(path: Path, size: Size, out: Array) -> str:
    return f"{path} makes {out.shape} of a picture of {size[1]}x{size[0]}: not an enlarged one"


def _kept(path: Path) -> Path:
    """Where the answers for this file are kept; another file, or another probe: another place."""
    try:
        digest = hashlib.sha256(path.read_bytes())
        beside = path.with_name(path.name + ".data")  # weights that do not lie in the file
        if beside.exists():
            facts = beside.stat()
            digest.update(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    root = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(root) if root else Path.home() / ".cache") / "edgesr"
    return cache / "foreign" / f"{digest.hexdigest()[:32]}-{VERSION}.json"


def _keep(file: Path, found: Found) -> None:
    """A cache that cannot be written costs the next probe, nothing else."""
    with contextlib.suppress(OSError, EdgesrError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(asdict(found), out)
        Path(temporary).replace(file)
