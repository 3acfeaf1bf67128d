"""A shipped student specialised to one camera or one film, and what that was worth.

Some seconds of the footage are held out (`scenes.Sampling`). Nothing is chosen by them: the
student of the last step is measured on them, once, beside the model it began as, and it is kept
only if it is better there. The footage is the truth, its bicubic (or degraded) downscale the input.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgesr.distill.cache import sources_of
from edgesr.distill.conclude import write_summary
from edgesr.distill.evaluate import Score, bicubic_scores, evaluate, evaluate_rgb, mean_score
from edgesr.distill.feed import degraded_pairs, said_of
from edgesr.distill.intake import FRAMES
from edgesr.distill.lesson import planes_function, score_dict, student_lesson
from edgesr.distill.parallel import require_slices, team, together
from edgesr.distill.recipe import Recipe
from edgesr.distill.report import Row, environment, summarise, write_report
from edgesr.distill.room import HELD_OUT, Room, check_device, cut_pairs, machine, writing
from edgesr.distill.strips import make_strips
from edgesr.distill.train import Progress
from edgesr.errors import UsageError
from edgesr.export.onnx import export_onnx
from edgesr.files import replacing
from edgesr.models import shipped
from edgesr.networks import checkpoint, deployed

TRAINING = replace(FRAMES, count=240, part="train")
MEASURED = replace(HELD_OUT, count=24)
MEASURED_SIZE = (1080, 1920)  # of a frame, at most: its middle
LEAST_GAIN = 0.01  # dB; below it nothing is claimed


@dataclass(frozen=True, kw_only=True)
class Specialised:
    """What the footage was worth, as means over the held-out frames.

    frames   what was measured: how many held-out frames, and how they were degraded
    better   of `pictures` so many have a higher PSNR-Y than before
    kept     whether model.onnx is the specialised student: else it is the one it began as
    verdict  that in a sentence
    """

    out: Path
    student: str
    frames: str
    pictures: int
    better: int
    bicubic: Score
    before: Score
    after: Score
    kept: bool
    verdict: str
    steps: int
    minutes: float
    data_share: float

    @property
    def gain(self) -> float:
        """dB of PSNR-Y."""
        return self.after.psnr_y - self.before.psnr_y

    def table(self) -> list[str]:
        """Lines for a terminal."""
        rows = [("bicubic", self.bicubic), ("before", self.before), ("after", self.after)]
        lines = [self.frames, f"{'':<20} {'PSNR-Y':>9} {'SSIM-Y':>9}"]
        lines += [f"{name:<20} {s.psnr_y:9.3f} {s.ssim_y:9.5f}" for name, s in rows]
        change = self.after.ssim_y - self.before.ssim_y
        return [*lines, f"{'change':<20} {self.gain:+9.3f} {change:+9.5f}"]


@together
def specialise(
    recipe: Recipe,
    *,
    on: Sequence[Path],
    out: Path,
    resume: bool = False,
    device: str = "auto",
    terms: str | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Specialised:
    """Train `recipe.init`, else the shipped `recipe.student`, on with the footage `on`.

    The run folder ends with the better of the two as model.onnx and best.safetensors. Raises
    UsageError and MediaError for footage that cannot be split or read, Interrupted when `stop` said
    so: `resume` goes on.
    """
    check_device(device)
    require_slices(recipe.batch)
    if recipe.teacher is not None or recipe.gan is not None:
        raise UsageError(
            "--on trains a finished student on: without teacher, without discriminator"
        )
    origin = origin_of(recipe)
    sources = sources_of(on, scale=recipe.scale)
    if any(source.kind not in ("video", "frames") for source in sources):
        raise UsageError(
            f"--on {', '.join(map(str, on))}: give a clip, or a folder of its numbered frames; "
            "photos go to --data"
        )
    frames = cut_pairs(sources, recipe, sampling=MEASURED, size=MEASURED_SIZE)
    room = Room(
        data=tuple(on),
        sampling=TRAINING,
        pairs=degraded_pairs(frames, recipe),
        device=device,
        terms=terms,
        on_decode=on_decode,
        on_progress=on_progress,
        on_note=on_note or (lambda note: None),
        stop=stop,
    )
    start, _ = checkpoint.load(origin)
    with writing(out):
        lesson = student_lesson(recipe, room.pairs, start=dict(start.state_dict()), terms=terms)
        state = room.learn(recipe, lesson, out, resume=resume)
        result = None
        if team().first:
            scores = {"bicubic": bicubic_scores(room.pairs, scale=recipe.scale)}
            for name, file in (("before", origin), ("after", out / "last.safetensors")):
                scores[name] = frame_scores(file, room)
            better = sum(
                after.psnr_y > before.psnr_y
                for before, after in zip(scores["before"], scores["after"], strict=True)
            )
            means = {name: mean_score(found) for name, found in scores.items()}
            gain = means["after"].psnr_y - means["before"].psnr_y
            kept = gain >= LEAST_GAIN and 2 * better > len(room.pairs)
            result = Specialised(
                out=out,
                student=recipe.student,
                frames=f"{len(frames)} held-out frames{said_of(recipe)}",
                pictures=len(room.pairs),
                better=better,
                bicubic=means["bicubic"],
                before=means["before"],
                after=means["after"],
                kept=kept,
                verdict=verdict(
                    gain, better, len(room.pairs), kept=kept, shipped=recipe.init is None
                ),
                steps=state.step,
                minutes=state.seconds / 60,
                data_share=state.data_share,
            )
            keep(out / "last.safetensors" if kept else origin, out)
            conclude(recipe, room, result, origin=origin)
        found = team().given(result)
    assert found is not None
    return found


def origin_of(recipe: Recipe) -> Path:
    """The checkpoint to begin with. Raises UsageError."""
    if recipe.init is not None and recipe.init.endswith(".safetensors"):
        if not Path(recipe.init).is_file():
            raise UsageError(f"init {recipe.init}: no such file")
        return Path(recipe.init)
    models = {model.name: model.checkpoint for model in shipped() if model.checkpoint is not None}
    name = recipe.init or f"{recipe.student}-x{recipe.scale}"
    found = models.get(name)
    if found is None:
        raise UsageError(
            f"--on: no shipped {name} to begin with: there is {', '.join(models)}; "
            "or --set init=FILE.safetensors"
        )
    return found


def verdict(gain: float, better: int, pictures: int, *, kept: bool, shipped: bool) -> str:
    if kept:
        return (
            f"gain measured on the held-out parts: {gain:+.3f} dB PSNR-Y, "
            f"{better} of {pictures} pictures better"
        )
    first = "the shipped model" if shipped else "the model it began as"
    return (
        f"no gain measured on the held-out parts ({gain:+.3f} dB, {better} of {pictures} pictures "
        f"better): {first} is kept"
    )


def frame_scores(file: Path, room: Room) -> list[Score]:
    """Of a checkpoint's deployed form on every held-out frame."""
    model, spec = checkpoint.load(file)
    planes = planes_function(deployed(model))
    if spec.colour == "rgb":
        return evaluate_rgb(planes, room.pairs, scale=spec.scale)
    return evaluate(lambda luma: planes(luma[None])[0], room.pairs, scale=spec.scale)


def keep(chosen: Path, out: Path) -> None:
    """`best.safetensors` and `model.onnx` of a run are what was measured to be better."""
    with replacing(out / "best.safetensors") as part:
        shutil.copyfile(chosen, part)
    model, spec = checkpoint.load(chosen)
    export_onnx(model, spec, out / "model.onnx")


def conclude(recipe: Recipe, room: Room, result: Specialised, *, origin: Path) -> None:
    """Write `summary.json` and `report.html`."""
    out = result.out
    spec = checkpoint.load(origin)[1]
    means = {"bicubic": result.bicubic, "before": result.before, "after": result.after}
    rows = [Row(name=result.frames, pictures=result.pictures, scores=means)]
    photos = room.photos(recipe, spec.colour)
    names = ", ".join(path.name for path in room.data)
    line = f"{len(photos)} pictures from {names}, digest {photos.digest[:16]}"
    facts = environment(machine(room.device))
    students = {}
    for name, file in (("before", origin), ("after", out / "last.safetensors")):
        planes = planes_function(deployed(checkpoint.load(file)[0]))
        rgb = spec.colour == "rgb"
        students[name] = planes if rgb else lambda luma, planes=planes: planes(luma[None])[0]
    spread = room.pairs[:: max(1, len(room.pairs) // 3)]
    strips = make_strips(spread, students, scale=recipe.scale, colour=spec.colour)
    notes = [f"Trained on with {names}, from {origin.stem}: {result.verdict}."]
    write_report(out, rows=rows, strips=strips, environment=facts, data=line, notes=notes)
    summary: dict[str, Any] = {
        "pictures": len(photos),
        "sampling": {"train": asdict(room.sampling), "held_out": asdict(MEASURED)},
        "origin": origin.stem,
        "validation": result.frames,
        "measured_pictures": result.pictures,
        "better_pictures": result.better,
        **{name: score_dict(score) for name, score in means.items()},
        "gain_psnr_y": round(result.gain, 4),
        "kept": "specialised" if result.kept else "origin",
        "verdict": result.verdict,
        "report": summarise(rows, environment=facts, data=line, notes=notes),
    }
    write_summary(out, recipe, result, digest=photos.digest, device=room.device, more=summary)
