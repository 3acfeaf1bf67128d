"""PSNR-Y, SSIM-Y and flicker on footage that went through x264: what are `-video` models worth?

    python benchmarks/video.py CLIP CLIP ... --out benchmarks/results/video.json

The first frames of each clip are made small by MATLAB's bicubic, encoded by x264 at each CRF and
decoded; bicubic, lanczos and every shipped luma model enlarge these same pictures. `--pictures
FOLDER` writes crops to look at.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import common
import numpy as np
from video_report import DECIMALS, claims, means, show, write_picture

from edgesr.distill.clips import enlarged, luma_of, luma_only, read_frames, shrunk, through_x264
from edgesr.distill.evaluate import what_ran
from edgesr.distill.scores import MOST_DB, Score, clip_score
from edgesr.errors import BackendError
from edgesr.metrics import crop_border, flicker, psnr, ssim
from edgesr.models import Model, load_file, resolve, shipped
from edgesr.runtime.backends import open_session
from edgesr.runtime.frame import Frame
from edgesr.runtime.upscale import Upscale

Array = np.ndarray[Any, Any]
Figures = dict[str, Any]
Enlarge = Callable[[Sequence[Frame]], list[Array]]

CRFS = (18, 23, 28, 33)
WIDEST = 1000  # a wider clip is halved first: what its own encoder left in it is then smaller
PICTURED = (28, 33)  # CRFs of which --pictures shows crops


@dataclass(frozen=True, kw_only=True)
class Footage:
    """truths: (H, W) luma on the 8-bit scale. smalls: the same frames made small, all planes."""

    facts: Figures
    truths: list[Array]
    smalls: list[Frame]


@dataclass(frozen=True, kw_only=True)
class Method:
    """enlarge: small frames to luma planes; None where it cannot run, `runs` says why."""

    name: str
    runs: str
    enlarge: Enlarge | None


def load(path: Path, *, scale: int, frames: int) -> Footage:
    pairs = [
        shrunk(halved(frame), scale=scale, colour="rgb")
        for frame in islice(read_frames(path), frames)
    ]
    truths = [luma_of(truth) for truth, _ in pairs]
    height, width = truths[0].shape
    facts = common.facts(path) | {"used": {"frames": len(pairs), "width": width, "height": height}}
    return Footage(facts=facts, truths=truths, smalls=[small for _, small in pairs])


def halved(frame: Frame) -> Frame:
    """Until it is no wider than WIDEST."""
    while frame.width > WIDEST:
        frame = shrunk(frame, scale=2, colour="rgb")[1]
    return frame


def bicubic(frames: Sequence[Frame], *, scale: int) -> list[Array]:
    return [enlarged(frame, scale) for frame in frames]


def lanczos(frames: Sequence[Frame], *, scale: int) -> list[Array]:
    return [common.lanczos(frame.planes[0], scale=scale) for frame in frames]


def open_model(model: Model, stack: ExitStack) -> Method:
    """As `edgesr stream` runs it, 8-bit luma in and out, but in fp32 on every machine."""
    spec = model.spec
    try:
        session = open_session(
            model.path, spec=spec, backend="ort", precision="fp32", device="cpu", io="uint8"
        )
    except BackendError as error:
        return Method(name=model.path.stem, runs=str(error), enlarge=None)
    stack.enter_context(closing(session))

    def enlarge(frames: Sequence[Frame]) -> list[Array]:
        with closing(Upscale(session, spec=spec)) as stage:
            big = [done for frame in frames for done in stage.push(frame)] + stage.flush()
        return [frame.planes[0] for frame in big]

    return Method(name=model.path.stem, runs=what_ran(session, "uint8"), enlarge=enlarge)


def open_methods(models: Sequence[Model], stack: ExitStack, *, scale: int) -> list[Method]:
    return [
        Method(
            name="bicubic",
            runs="edgesr.bicubic, MATLAB's, rounded",
            enlarge=partial(bicubic, scale=scale),
        ),
        Method(
            name="lanczos",
            runs="FFmpeg swscale lanczos, uint8 in and out",
            enlarge=partial(lanczos, scale=scale),
        ),
        *(open_model(model, stack) for model in models),
    ]


def score(lumas: Sequence[Array], truths: Sequence[Array], *, border: int) -> Figures:
    """Means over the frames of a clip."""
    scores: list[Score] = []
    before: tuple[Array, Array] | None = None
    for pair in zip(lumas, truths, strict=True):
        ours, truth = (crop_border(luma, border=border) for luma in pair)
        found = Score(name="", psnr_y=min(psnr(ours, truth), MOST_DB), ssim_y=ssim(ours, truth))
        if before is not None:
            change = flicker(before[0], ours, truth_before=before[1], truth_after=truth)
            found = found.replace(flicker=change)
        scores.append(found)
        before = (ours, truth)
    mean = clip_score(scores, name="")
    return {key: round(getattr(mean, key), decimals) for key, decimals in DECIMALS.items()}


def measure(
    clips: Sequence[Path],
    models: Sequence[Model],
    *,
    scale: int,
    frames: int,
    crfs: Sequence[int] = CRFS,
    pictures: Path | None = None,
) -> Figures:
    """What of the clips was used, the methods, a row for each clip, CRF and method."""
    used, rows = [], []
    with ExitStack() as stack:
        methods = open_methods(models, stack, scale=scale)
        for path in clips:
            footage = load(path, scale=scale, frames=frames)
            used.append(footage.facts)
            for crf in crfs:
                print(f"{path.name}, CRF {crf}", file=sys.stderr, flush=True)
                decoded = [luma_only(frame) for frame in through_x264(footage.smalls, crf=crf)]
                big = {m.name: m.enlarge(decoded) for m in methods if m.enlarge is not None}
                for name, lumas in big.items():
                    figures = score(lumas, footage.truths, border=scale)
                    rows.append({"name": name, "clip": path.name, "crf": crf} | figures)
                if pictures is not None and crf in PICTURED:
                    target = pictures / f"{path.stem}-crf{crf}.png"
                    write_picture(target, big | {"truth": footage.truths})
    rows += [{"name": m.name, "absent": m.runs} for m in methods if m.enlarge is None]
    return {
        "scale": scale,
        "crfs": list(crfs),
        "clips": used,
        "methods": {m.name: m.runs for m in methods if m.enlarge is not None},
        "rows": rows,
    }


def find_models(names: Sequence[str], *, scale: int) -> list[Model]:
    """Those named, or all shipped luma models at the scale."""
    if names:
        return [resolve(name, scale=scale) for name in names]
    return [load_file(m.onnx) for m in shipped() if m.spec.scale == scale and m.spec.colour == "y"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", metavar="CLIP")
    parser.add_argument("--models", nargs="+", default=[], help="names, or paths of .onnx files")
    parser.add_argument("--scale", type=int, default=2)
    parser.add_argument("--frames", type=int, default=32, help="of each clip the first so many")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="write crops there")
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    result = common.head(
        options.out.stem if options.out else "video",
        encoder="libx264 medium, 4:2:0 as the clip has it, one thread",
    )
    result |= measure(
        options.clips,
        find_models(options.models, scale=options.scale),
        scale=options.scale,
        frames=options.frames,
        pictures=options.pictures,
    )
    result["means"] = means(result["rows"])
    result["claims"] = claims(result["means"], worst=max(CRFS))
    print(show(result))
    common.write(result, options.out)


if __name__ == "__main__":
    main()
