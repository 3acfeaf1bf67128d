"""edgesr.load: a model as a function from picture to larger picture."""

from __future__ import annotations

from collections import OrderedDict
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from edgesr.colour import upscale_chroma
from edgesr.errors import UsageError
from edgesr.models import DEFAULT_MODEL, Model, resolve
from edgesr.runtime.backends import Facts, Session, Size, open_session
from edgesr.runtime.backends.choose import choose
from edgesr.runtime.tiles import windows
from edgesr.runtime.upscale import pad, padded
from edgesr.spec import ModelSpec

Array = np.ndarray[Any, Any]

# BT.601: shares of R, G, B in luma; studio luma is 16..235 of 255.
LUMA = np.array([[0.299, 0.587, 0.114]])
BLACK, SWING = 16 / 255, 219 / 255

KEPT_SESSIONS = 4
LARGEST_TILE = 1536  # pixels a side; a 16-channel network needs 150 MB for each layer of it
BICUBIC_HALO = 2


def load(
    model: str = DEFAULT_MODEL,
    *,
    scale: int | None = None,
    backend: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
) -> Upscaler:
    """Open a model for single pictures.

    model      a name of `edgesr models`, or the path of an .onnx file
    scale      None: what the model does
    backend, precision, device   as in `edgesr.runtime.backends.open_session`
    threads    None: as many as there are usable cores

    Raises ModelError, BackendError or UsageError when that cannot be had.
    """
    return Upscaler(
        resolve(model, scale=scale),
        backend=backend,
        precision=precision,
        device=device,
        threads=threads,
    )


class Upscaler:
    """Call it with a picture; see `__call__`. Close it, or use it in a `with` block.

    spec     facts of the model
    facts    backend, precision and threads that really run
    note     what was found out of a model that carries no facts; None where it carries them
    """

    def __init__(
        self,
        model: Model,
        *,
        backend: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.spec: ModelSpec = model.spec
        self.note = model.note
        self._threads = threads
        # Chosen once: what `edgesr bench` remembers meanwhile must not mix two ways.
        self._choice = choose(
            model.path, spec=model.spec, backend=backend, precision=precision, device=device
        )
        self._sessions: OrderedDict[Size, Session] = OrderedDict()
        # Opened once for any size, so that what cannot run is said here, not at the first picture.
        trial = open_session(
            model.path,
            spec=model.spec,
            backend=backend,
            precision=precision,
            device=device,
            threads=threads,
        )
        self.facts: Facts = trial.facts
        trial.close()

    def __call__(self, picture: Array) -> Array:
        """(H, W) gray or luma, or (H, W, 3) RGB, uint8 or uint16 using all of its range.

        Returns the same dtype and layout, `spec.scale` times as high and wide. With a luma model,
        RGB goes through it as unrounded BT.601 studio luma (the protocol of published figures) and
        its colour is bicubic (a = -0.5); one plane goes through as it is. Pictures larger than
        1536 pixels a side are cut into tiles that overlap by what the model sees: no seams.

        Raises UsageError, which is a ValueError, for anything else than such a picture.
        """
        _check(picture)
        spec, scale = self.spec, self.spec.scale
        height, width = padded((picture.shape[0], picture.shape[1]), spec)
        whole = pad(picture, (height, width))
        if spec.halo is None:  # it looks at the whole picture
            rows, columns = (
                windows(height, largest=height, halo=0),
                windows(width, largest=width, halo=0),
            )
        else:
            limits = {"halo": max(spec.halo, BICUBIC_HALO), "multiple": spec.multiple}
            rows = windows(height, largest=LARGEST_TILE, **limits)
            columns = windows(width, largest=LARGEST_TILE, **limits)
        big = np.empty((height * scale, width * scale, *picture.shape[2:]), picture.dtype)
        for row in rows:
            for column in columns:
                tile = self._tile(whole[row.start : row.stop, column.start : column.stop])
                big[
                    row.first * scale : row.last * scale, column.first * scale : column.last * scale
                ] = tile[
                    (row.first - row.start) * scale : (row.last - row.start) * scale,
                    (column.first - column.start) * scale : (column.last - column.start) * scale,
                ]
        return big[: picture.shape[0] * scale, : picture.shape[1] * scale]

    def close(self) -> None:
        """Give the memory back. Calling the upscaler again opens it anew."""
        while self._sessions:
            self._sessions.popitem()[1].close()

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _tile(self, tile: Array) -> Array:
        peak = np.iinfo(tile.dtype).max
        values = tile.astype(np.float32)
        values /= np.float32(peak)  # (H, W) or (H, W, 3) in 0..1
        if self.spec.colour == "rgb":
            big = self._through_rgb_model(values)
        elif values.ndim == 2:
            big = self._run(values[None])[0]
        else:
            big = self._through_luma_model(values)
        big = big * np.float32(peak)
        np.rint(big, out=big)
        return np.clip(big, 0, peak, out=big).astype(tile.dtype)

    def _through_luma_model(self, rgb: Array) -> Array:
        luma = BLACK + SWING * cv2.transform(rgb, LUMA)  # (H, W)
        sharp = self._run(luma[None])[0]  # (sH, sW)
        # Bicubic is linear: enlarging R, G, B and exchanging their luma is the same as enlarging
        # Cb and Cr beside the network's luma.
        size = (rgb.shape[0], rgb.shape[1])
        big = np.dstack(
            [
                upscale_chroma(np.ascontiguousarray(c), scale=self.spec.scale, luma=size)
                for c in np.moveaxis(rgb, 2, 0)
            ]
        )
        big += ((sharp - BLACK) / SWING - cv2.transform(big, LUMA))[..., None]
        return big

    def _through_rgb_model(self, values: Array) -> Array:
        rgb = values if values.ndim == 3 else np.dstack([values] * 3)
        big = np.moveaxis(self._run(np.moveaxis(rgb, 2, 0)), 0, 2)  # (sH, sW, 3)
        return big if values.ndim == 3 else big.mean(axis=2)

    def _run(self, planes: Array) -> Array:
        """(C, H, W) -> (C, sH, sW), float32."""
        size = (planes.shape[1], planes.shape[2])
        session = self._sessions.pop(size, None)
        if session is None:
            session = open_session(
                self._choice.model.path,
                spec=self._choice.model.spec,
                backend=self._choice.backend,
                precision=self._choice.precision,
                device=str(self._choice.device),
                threads=self._threads,
                size=size,
            )
        self._sessions[size] = session  # the last one used stands last
        while len(self._sessions) > KEPT_SESSIONS:
            self._sessions.popitem(last=False)[1].close()
        return session(np.ascontiguousarray(planes[None], dtype=np.float32))[0]


def _check(picture: Array) -> None:
    allowed = "(H, W) or (H, W, 3) uint8 or uint16"
    if not isinstance(picture, np.ndarray):
        raise UsageError(f"a picture is a numpy array, {allowed}; got {type(picture).__name__}")
    shape = picture.shape
    if picture.dtype not in (np.uint8, np.uint16) or len(shape) not in (2, 3) or 0 in shape:
        raise UsageError(f"a picture is {allowed}; got {shape} {picture.dtype}")
    if len(shape) == 3 and shape[2] != 3:
        hint = ": take alpha off and enlarge it on its own" if shape[2] == 4 else ""
        raise UsageError(f"a picture is {allowed}; got {shape}{hint}")
