"""TensorBoard's event files of a run, in its folder `tb`: losses by term, rate, dB, pictures.

    tensorboard --logdir runs/

Written where the package `tensorboard` is installed, unless `tensorboard = false`. The pictures are
strips of bicubic, student and truth, `PICTURES` at every validation.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgesr.distill.lesson import planes_function
from edgesr.distill.pictures import Pair
from edgesr.distill.recipe import Recipe
from edgesr.distill.strips import CROP, make_strips, most_detailed
from edgesr.distill.train import Progress
from edgesr.errors import MissingDependency, ModelError
from edgesr.metrics import rgb_to_y
from edgesr.networks import checkpoint, deployed, find

Array = np.ndarray[Any, Any]

PICTURES = 3
MARGIN = 16  # LR pixels that the student sees around what is shown


def open_events(folder: Path, recipe: Recipe, pairs: Sequence[Pair], *, step: int) -> Events | None:
    """Where the package is there and the recipe does not say no. Raises MissingDependency where the
    recipe says yes and it is not there.

    step  at which the training begins: what an earlier, interrupted run wrote from there on is void
    """
    there = importlib.util.find_spec("tensorboard") is not None
    if recipe.tensorboard and not there:
        raise MissingDependency(
            "tensorboard = true needs the package: pip install tensorboard; "
            "log.csv has the same numbers without it"
        )
    if not there or recipe.tensorboard is False:
        return None
    pictures = pairs if find(recipe.student).kind == "picture" else []
    return Events(folder, pictures, scale=recipe.scale, step=step)


class Events:
    """A `train.Journal`. Every report is flushed, so nothing has to be closed."""

    def __init__(self, folder: Path, pairs: Sequence[Pair], *, scale: int, step: int) -> None:
        events = import_module("tensorboard.compat.proto.event_pb2")
        self._event, log = events.Event, events.SessionLog
        self._summary = import_module("tensorboard.compat.proto.summary_pb2").Summary
        writer = import_module("tensorboard.summary.writer.record_writer")
        self._writer = writer.RecordWriter
        self._whole = pairs[:PICTURES]
        self._pairs = [detail(pair, scale=scale) for pair in self._whole]
        self._scale = scale
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("events.*")))
        self.file = folder / f"events.out.tfevents.{int(time.time())}.{number}"
        begun = log(status=log.START)
        self._write(self._event(wall_time=time.time(), file_version="brain.Event:2"))
        self._write(self._event(wall_time=time.time(), step=step + 1, session_log=begun))

    def add(self, report: Progress, terms: Mapping[str, float], *, weights: Path) -> None:
        numbers = {f"loss/{name}": value for name, value in terms.items()}
        numbers |= {"loss": report.loss, "lr": report.lr, "data_share": report.data_share}
        if report.score is not None:
            numbers |= {"psnr_y": report.score.psnr_y, "ssim_y": report.score.ssim_y}
        values = [self._summary.Value(tag=tag, simple_value=v) for tag, v in numbers.items()]
        if report.score is not None:
            values += [self._picture(name, p) for name, p in self._strips(weights).items()]
        summary = self._summary(value=values)
        self._write(self._event(wall_time=time.time(), step=report.step, summary=summary))

    def _strips(self, weights: Path) -> dict[str, Array]:
        """Bicubic, student and truth side by side, (H, 3W, 3) uint8 RGB, by name."""
        if not self._whole:
            return {}
        try:
            model, spec = checkpoint.load(weights)
        except ModelError:  # of the privileged teacher, which is no network of pictures
            return {}
        planes = planes_function(deployed(model))
        strips = make_strips(
            self._whole if spec.fixed_size else self._pairs,
            {"student": planes if spec.colour == "rgb" else lambda luma: planes(luma[None])[0]},
            scale=self._scale,
            colour=spec.colour,
            count=PICTURES,
            size=CROP,
        )
        return {strip.name: np.hstack(list(strip.pictures.values())) for strip in strips}

    def _picture(self, name: str, picture: Array) -> Any:
        good, content = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))
        assert good
        image = self._summary.Image(
            height=picture.shape[0],
            width=picture.shape[1],
            colorspace=3,
            encoded_image_string=content.tobytes(),
        )
        return self._summary.Value(tag=f"bicubic, student, truth/{name}", image=image)

    def _write(self, event: Any) -> None:
        with self.file.open("ab") as file:
            self._writer(file).write(event.SerializeToString())


def detail(pair: Pair, *, scale: int) -> Pair:
    """The most detailed part of a pair and `MARGIN` around it: quick to upscale again and again."""
    top, left = (n // scale for n in most_detailed(rgb_to_y(pair.hr), size=CROP))
    size = CROP // scale + 2 * MARGIN
    top, left = (
        max(0, min(start - MARGIN, side - size))
        for start, side in zip((top, left), pair.lr.shape[:2], strict=True)
    )
    lr = pair.lr[top : top + size, left : left + size]
    hr = pair.hr[top * scale :, left * scale :][: size * scale, : size * scale]
    return Pair(name=pair.name, lr=lr, hr=hr)
