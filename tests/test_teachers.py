"""What stands beside a student: teachers by name and file, their terms, the privileged teacher."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from photos import write_photos
from safetensors.torch import load_file

from edgesr.distill.colours import as_colour, stretched
from edgesr.distill.features import feature_points, last_layer, tap_input, tap_outputs
from edgesr.distill.lesson import student_lesson
from edgesr.distill.privileged import build_privileged, privileged_lesson, teacher_lesson
from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.run import distill
from edgesr.distill.teachers import Teacher, load_teacher, names_of, needs_training
from edgesr.errors import Interrupted, ModelError, UsageError
from edgesr.metrics import rgb_to_y
from edgesr.models import shipped
from edgesr.networks import build, checkpoint
from edgesr.networks.facts import count_parameters

TINY = {
    "student": "ecbsr-m4c8",
    "steps": 8,
    "batch": 3,
    "patch": 16,
    "warmup": 2,
    "validate_every": 4,
    "save_every": 4,
    "copies": [1.0],
}
TINY_RRDB = {"blocks": 1, "width": 8, "growth": 4}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


def tiny(**changes: object) -> Recipe:
    return Recipe(**{**TINY, **changes})


def rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").read_text().splitlines()))


def test_luma_of_a_batch_is_the_published_luma() -> None:
    rgb = torch.rand(2, 3, 5, 7)
    expected = rgb_to_y(np.moveaxis(rgb.numpy(), 1, 3)[0] * 255) / 255
    np.testing.assert_allclose(as_colour(rgb, "y")[0, 0].numpy(), expected, atol=1e-6)
    assert as_colour(rgb, "rgb") is rgb
    with pytest.raises(ValueError, match="luma holds no colours"):
        as_colour(rgb[:, :1], "rgb")


def test_stretching_takes_studio_black_and_white_to_0_and_1() -> None:
    batch = torch.tensor([16 / 255, 235 / 255]).view(1, 1, 1, 2).repeat(4, 1, 1, 1)
    out = stretched(batch, 0.5)
    torch.testing.assert_close(out[:2].flatten(0, 2), torch.tensor([[0.0, 1.0]] * 2))
    assert torch.equal(out[2:], batch[2:])


@pytest.mark.parametrize(
    ("network", "layer", "channels"),
    [
        ("fsrcnn-pisr", "last_part", 56),  # what `expanding` and its PReLU give
        ("espcn", "conv3", 32),
        ("ecbsr-m4c16", "backbone.5", 16),
        ("bsrn", "upsampler.upsampleOneStep.0", 64),
    ],
)
def test_the_layer_that_makes_the_picture(network: str, layer: str, channels: int) -> None:
    model = build(network, 2)
    picture = torch.rand(1, 1 if model.colour == "y" else 3, 16, 20)
    assert last_layer(model, picture) == (layer, channels)
    entering = tap_input(model, layer)
    model(picture)
    assert entering[0].shape == (1, channels, 16, 20)


def test_features_are_spread_over_the_depth() -> None:
    model = build("vdsr", 2)
    picture = torch.rand(1, 1, 8, 8)
    points = feature_points(model, picture)
    assert points == {
        "residual_layer.4.conv": 64,
        "residual_layer.11.conv": 64,
        "residual_layer.17.conv": 64,
    }
    found = tap_outputs(model, list(points))
    model(picture)
    assert [f.shape for f in found] == [(1, 64, 16, 16)] * 3
    first = found[0]
    model(picture * 0.5)
    assert not torch.equal(first, found[0])  # the list is filled anew by every run


def test_a_rewarded_answer_is_that_of_the_teacher() -> None:
    """The response term by hand, with an RGB teacher for a luma student."""
    torch.manual_seed(0)
    mentor = build("espcn-rgb", 2).eval()
    teacher = Teacher(name="t", colour="rgb", run=mentor, module=mentor)
    lesson = student_lesson(tiny(response=0.3, truth=0.7, full_range=0.0), [], teachers=[teacher])
    assert lesson.colour == "rgb"
    small, truth = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        parts = lesson.objective(lesson.model)(small, truth)
        output = lesson.model(as_colour(small, "y"))
        answer = as_colour(mentor(small).clamp(0, 1), "y")
    torch.testing.assert_close(parts["truth"], 0.7 * F.l1_loss(output, as_colour(truth, "y")))
    torch.testing.assert_close(parts["response"], 0.3 * F.l1_loss(output, answer))


def test_a_luma_teacher_judges_the_luma_of_an_rgb_student() -> None:
    mentor = build("espcn", 2).eval()
    teacher = Teacher(name="t", colour="y", run=mentor, module=mentor)
    recipe = tiny(student="espcn-rgb")
    lesson = student_lesson(recipe, [], teachers=[teacher])
    small, truth = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 24, 24)
    with torch.no_grad():
        parts = lesson.objective(lesson.model)(small, truth)
        output = as_colour(lesson.model(small), "y")
        answer = mentor(as_colour(small, "y"))
    torch.testing.assert_close(parts["response"], F.l1_loss(output, answer))


def test_features_and_affinities_reach_the_student_and_the_adapters() -> None:
    mentor = build("espcn-rgb", 2).eval().requires_grad_(False)
    teacher = Teacher(name="t", colour="rgb", run=mentor, module=mentor)
    recipe = tiny(feature=0.5, affinity=0.1, response=0.0)
    lesson = student_lesson(recipe, [], teachers=[teacher])
    assert not lesson.compilable
    parts = lesson.objective(lesson.model)(torch.rand(2, 3, 12, 12), torch.rand(2, 3, 24, 24))
    assert set(parts) == {"truth", "feature", "affinity"}
    (parts["feature"] + parts["affinity"]).backward()
    assert all(p.grad is not None for p in lesson.helpers.parameters())
    assert lesson.model.backbone[1].conv3x3.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in mentor.parameters())
    with pytest.raises(UsageError, match=r"need a teacher that is no \.onnx file"):
        student_lesson(recipe, [], teachers=[Teacher(name="o", colour="y", run=mentor)])


def test_rrdb_is_trained_first_then_taken_as_it_is(photos: Path, tmp_path: Path) -> None:
    recipe = tiny(teacher="rrdb", teacher_config=TINY_RRDB, teacher_steps=4)
    notes: list[str] = []
    out = tmp_path / "run"
    distill(recipe, data=photos, out=out, device="cpu", on_note=notes.append, compare=True)
    assert notes[0].startswith("rrdb has no weights: it is trained first")
    model, spec = checkpoint.load(out / "teacher-rrdb" / "best.safetensors")
    assert (spec.network, model.config.blocks) == ("rrdb", 1)
    assert set(rows(out)[0]) >= {"loss_truth", "loss_response"}
    assert "loss_truth" not in rows(out / "plain")[0]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["plain_psnr_y"] is not None
    assert "without teacher" in (out / "report.html").read_text()
    # Again, resumed: the finished teacher is not trained a second time.
    before = (out / "teacher-rrdb" / "state.safetensors").stat().st_mtime_ns
    distill(recipe, data=photos, out=out, device="cpu", resume=True)
    assert (out / "teacher-rrdb" / "state.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("teacher", ["rrdb", "pisr"])
def test_taught_students_resume_to_the_same_bits(
    photos: Path, tmp_path: Path, teacher: str
) -> None:
    student = "fsrcnn-pisr" if teacher == "pisr" else "ecbsr-m4c8"
    settings = {"teacher_config": TINY_RRDB, "feature": 0.1} if teacher == "rrdb" else {}
    recipe = tiny(student=student, teacher=teacher, teacher_steps=4, **settings)
    distill(recipe, data=photos, out=tmp_path / "whole", device="cpu")
    asked = 0

    def stop() -> bool:  # once in the teacher's training, once in the student's
        nonlocal asked
        asked += 1
        return asked in (3, 9)

    for attempt in range(3):
        try:
            distill(
                recipe, data=photos, out=tmp_path / "p", device="cpu", stop=stop, resume=attempt > 0
            )
        except Interrupted:
            continue
    whole, parts = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "p"))
    assert whole.keys() == parts.keys()
    assert any(name.startswith("helper/") for name in whole)
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_a_file_teaches(photos: Path, tmp_path: Path) -> None:
    """A checkpoint, somebody else's .pth and an .onnx, averaged."""
    from edgesr.networks import build_as

    entry = next(m for m in shipped() if m.name == "ecbsr-m4c16-x2")
    foreign = build_as("srvgg-16", {"scale": 2, "width": 8, "convs": 2})
    torch.save({"params": foreign.state_dict()}, tmp_path / "srvgg.pth")
    names = [str(entry.checkpoint), str(tmp_path / "srvgg.pth"), str(entry.onnx)]
    teachers = [load_teacher(name, scale=2, device=CPU) for name in names]
    assert [t.colour for t in teachers] == ["y", "rgb", "y"]
    assert [t.module is None for t in teachers] == [False, False, True]
    small = torch.rand(1, 3, 20, 24)
    torch.testing.assert_close(
        teachers[0].answer(small, "y"), teachers[2].answer(small, "y"), atol=1e-4, rtol=0
    )
    recipe = tiny(teacher="+".join(names))
    distill(recipe, data=photos, out=tmp_path / "run", device="cpu")
    assert "loss_response" in rows(tmp_path / "run")[0]


def test_a_good_teacher_helps(photos: Path, tmp_path: Path) -> None:
    """The term can do something: towards the shipped network's answers, the student gets closer."""
    teacher = load_teacher("ecbsr-m10c16", scale=2, device=CPU)
    small = torch.rand(4, 1, 16, 16)
    lesson = student_lesson(tiny(truth=0.0), [], teachers=[teacher])
    optimizer = torch.optim.Adam(lesson.model.parameters(), lr=1e-3)
    objective = lesson.objective(lesson.model)
    distances = []
    for _ in range(60):
        loss = sum(objective(small, torch.zeros(4, 1, 32, 32)).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distances.append(float(loss.detach()))
    assert distances[-1] < 0.6 * distances[0]


def test_names_and_what_they_need() -> None:
    assert names_of(None) == names_of("none") == []
    assert names_of("rrdb + a.onnx") == ["rrdb", "a.onnx"]
    assert needs_training("rrdb", scale=2)
    assert not needs_training("ecbsr-m4c16", scale=2)
    assert not needs_training("some/where.onnx", scale=2)
    with pytest.raises(UsageError, match="--teacher 'basicvsr': give none, pisr, a file"):
        needs_training("basicvsr", scale=4)
    with pytest.raises(ModelError, match="no such file"):
        load_teacher("gone.safetensors", scale=2, device=CPU)
    entry = next(m for m in shipped() if m.spec.scale == 3)
    with pytest.raises(UsageError, match="upscales 3 times, the student 2 times"):
        load_teacher(str(entry.checkpoint), scale=2, device=CPU)


def test_privileged_counts_are_the_published_ones() -> None:
    """86,084 for the encoder, 12,644 for the student, 25,414 for the student with its heads."""
    recipe = tiny(student="fsrcnn-pisr")
    teacher = build_privileged(recipe)
    assert count_parameters(teacher.encoder) == 86_084
    assert count_parameters(teacher.decoder) == 12_644
    lesson = privileged_lesson(recipe, [], teacher=teacher, device=CPU)
    assert count_parameters(lesson.model) + count_parameters(lesson.helpers) == 25_414
    assert count_parameters(lesson.model) == 12_644


def test_privileged_steps_by_hand() -> None:
    torch.manual_seed(0)
    recipe = tiny(student="fsrcnn-pisr")
    first = teacher_lesson(recipe, [])
    small, truth = torch.rand(2, 1, 12, 12), torch.rand(2, 1, 24, 24)
    with torch.no_grad():
        parts = first.objective(first.model)(small, truth)
        picture, compact = first.model(truth)
    torch.testing.assert_close(parts["truth"], F.l1_loss(picture, truth))
    torch.testing.assert_close(parts["imitation"], 1e-4 * F.l1_loss(compact, small))

    second = privileged_lesson(recipe, [], teacher=first.model, device=CPU)
    for name, tensor in first.model.decoder.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor)  # started from the decoder
    with torch.no_grad():
        parts = second.objective(second.model)(small, truth)
        feature = first.model.decoder.mid_part(first.model.decoder.first_part(compact))
        own = second.model.mid_part(second.model.first_part(small))
        location, scale = second.helpers(own)
    cost = 56 * np.log(2 * np.pi) / 2 + torch.log(2 * scale) + (location - feature).abs() / scale
    torch.testing.assert_close(parts["vid"], 1e-6 * cost.mean())


@pytest.mark.parametrize("student", ["fsrcnn-pisr", "espcn", "ecbsr-m4c8", "bsrn"])
def test_pisr_with_any_student(photos: Path, tmp_path: Path, student: str) -> None:
    config = {"features": 16, "blocks": 1} if student == "bsrn" else None
    recipe = tiny(
        student=student, teacher="pisr", teacher_steps=4, teacher_lr=5e-4, steps=4, config=config
    )
    out = tmp_path / "run"
    distill(recipe, data=photos, out=out, device="cpu")
    assert (out / "teacher-pisr" / "last.safetensors").is_file()
    assert "loss_imitation" in rows(out / "teacher-pisr")[0]
    assert load_recipe(out / "teacher-pisr" / "recipe.toml").lr == 5e-4
    assert load_recipe(out / "recipe.toml").lr != 5e-4
    assert "loss_vid" in rows(out)[0]
    model, _ = checkpoint.load(out / "best.safetensors")
    assert not any("expanding" in name for name in model.state_dict())  # the heads are gone


def test_pisr_teaches_alone(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pisr teaches alone"):
        distill(tiny(teacher="pisr+rrdb"), data=photos, out=tmp_path / "run", device="cpu")


def test_rgb_students_learn(photos: Path, tmp_path: Path) -> None:
    recipe = tiny(student="ecbsr-m4c16-rgb", steps=150, lr=4e-3, validate_every=50, ema=0.9)
    distill(recipe, data=photos, out=tmp_path / "run", device="cpu")
    found = rows(tmp_path / "run")
    assert float(found[-1]["psnr_y"]) > float(found[0]["psnr_y"])
    _, spec = checkpoint.load(tmp_path / "run" / "best.safetensors")
    assert spec.colour == "rgb"


def test_settings_of_teaching_do_not_change_old_digests() -> None:
    """What is not said is left out: weights keep the digest that they were shipped with."""
    text = tiny().to_toml()
    assert not any(word in text for word in ("teacher", "response", "vid", "config"))
    assert load_recipe("bicubic", overrides=["teacher=none"]).digest() == (
        load_recipe("bicubic").digest()
    )
    quick = load_recipe("bicubic", overrides=["quick=true"], teacher="rrdb")
    assert quick.teacher_config == {"blocks": 2, "width": 32, "growth": 16}
