"""A whole training as one call: data, validation set, loop, export, summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from edgesr.distill.answers import check_kept_answers
from edgesr.distill.cache import sources_of
from edgesr.distill.conclude import Result, conclude
from edgesr.distill.evaluate import bicubic_scores, load_pairs, mean_score
from edgesr.distill.feed import degraded_pairs, said_of
from edgesr.distill.gan import fixed_pairs
from edgesr.distill.intake import FRAMES
from edgesr.distill.lesson import (
    build_student,
    student_lesson,
)
from edgesr.distill.parallel import require_slices, team, together
from edgesr.distill.prepare import TEACHING, prepare, starting_tensors
from edgesr.distill.recipe import Recipe
from edgesr.distill.room import (
    Room,
    check_device,
    cut_pairs,
    named_kind,
    writing,
)
from edgesr.distill.teachers import names_of
from edgesr.distill.train import Progress
from edgesr.errors import UsageError
from edgesr.export.onnx import export_onnx
from edgesr.networks import checkpoint, find


@together
def distill(
    recipe: Recipe,
    *,
    data: Path | Sequence[Path],
    out: Path,
    val: Path | None = None,
    init: Path | None = None,
    resume: bool = False,
    compare: bool = False,
    device: str = "auto",
    terms: str | None = None,
    on_decode: Callable[[int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    stop: Callable[[], bool] = lambda: False,
    answers: Path | None = None,
) -> Result:
    """Train a student on photos and footage, leave a run folder with `model.onnx` in it.

    init     checkpoint to start from; None: what `recipe.init` names, if anything
    data     folders and files, see `sources`
    val      folder of test pictures (pairs, or HR alone); None: some photos of `data`, and some
             seconds of its clips, are held out
    compare  train the student without its teacher too, to say what the teacher was worth
    device   "auto", "cpu" or "cuda"
    terms    licence of the photos, recorded in the model's facts
    answers  where teachers' answers are kept with `recipe.cache_teacher`; None: in `out`

    A teacher without weights is trained first, in a folder of its own inside `out`; one that is
    finished there is taken as it is. Several processes that a launcher has started train together
    (`parallel`). Raises UsageError for what cannot be meant, Interrupted when `stop` said so:
    `resume` goes on.
    """
    check_device(device)
    data = (data,) if isinstance(data, Path) else tuple(data)
    room = Room(
        data=data,
        sampling=FRAMES if val is not None else replace(FRAMES, part="train"),
        pairs=[],
        device=device,
        terms=terms,
        on_decode=on_decode,
        on_progress=on_progress,
        on_note=on_note or (lambda note: None),
        stop=stop,
        answers=answers,
    )
    if find(recipe.student).kind == "video":
        from edgesr.distill.temporal import distill_sequences

        if val is not None or compare:
            raise UsageError(
                f"{'--val' if val else '--compare'}: not for {recipe.student}, which is judged on "
                "held-out seconds of --data"
            )
        return distill_sequences(recipe, room, out=out, init=init, resume=resume)
    check_student(recipe)
    if recipe.scales:
        from edgesr.distill.mixed import distill_scales

        if compare:
            raise UsageError("--compare: there is no teacher to compare with")
        return distill_scales(recipe, room, out=out, val=val, init=init, resume=resume)
    names = names_of(recipe.teacher)
    check_kept_answers(recipe, names)
    require_slices(recipe.batch)
    if compare and not names:
        raise UsageError("--compare: there is no teacher to compare with")
    if compare and recipe.gan:
        raise UsageError("--compare: not with a discriminator, which changes what is compared")
    named = str(init) if init is not None else recipe.init
    start = starting_tensors(named) if named else None
    pairs = load_pairs(val, scale=recipe.scale) if val else []
    sources = sources_of(data, scale=recipe.scale)
    what = val.name if val is not None else ""
    if val is None:
        pairs = cut_pairs(sources, recipe)
        what = f"{len(pairs)} held-out {named_kind(sources)}"
    what += said_of(recipe)
    room = replace(room, pairs=degraded_pairs(fixed_pairs(pairs, recipe), recipe))
    with writing(out):
        return learn_all(
            recipe, room, names, out=out, start=start, resume=resume, compare=compare, what=what
        )


def learn_all(
    recipe: Recipe,
    room: Room,
    names: list[str],
    *,
    out: Path,
    start: dict[str, Tensor] | None,
    resume: bool,
    compare: bool,
    what: str,
) -> Result:
    """The trainings of one run, the export and the report. what: the validation set's name."""
    lesson = prepare(recipe, room, names, out=out, start=start)
    state = room.learn(recipe, lesson, out, resume=resume)
    if team().first:
        model, spec = checkpoint.load(out / "best.safetensors")
        export_onnx(model, spec, out / "model.onnx")
    plain = None
    if compare:
        alone = recipe.model_copy(update=dict.fromkeys(TEACHING))
        room.on_note("the same student without a teacher, at equal steps")
        lesson = student_lesson(alone, room.pairs, start=start, terms=room.terms)
        plain = room.learn(alone, lesson, out / "plain", resume=True).best
    result = Result(
        out=out,
        steps=state.step,
        minutes=state.seconds / 60,
        psnr_y=state.best,
        bicubic_psnr_y=mean_score(bicubic_scores(room.pairs, scale=recipe.scale)).psnr_y,
        validation=what,
        plain_psnr_y=plain,
        data_share=state.data_share,
    )
    if team().first:
        conclude(recipe, room, result)
    return result


def check_student(recipe: Recipe) -> None:
    builder = find(recipe.student)
    if builder.kind != "picture":
        raise UsageError(
            f"{recipe.student} is a {builder.kind} network: distill trains networks of single "
            "pictures so far; `edgesr models --json` tells the kind of each"
        )
    for name in ("frames", "temporal"):
        if getattr(recipe, name) is not None:
            raise UsageError(
                f"recipe: {name}: {recipe.student} sees single pictures; it is for students with "
                "state, such as --student causal-r5c16"
            )
    build_student(recipe)  # says what does not fit
