"""The second player: what it is shown, when it moves, how it resumes, how recipes reach it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import cv2
from photos import write_photos
from safetensors.torch import load_file

from edgesr.bicubic import downscale
from edgesr.distill.evaluate import Pair
from edgesr.distill.gan import KINDS, build_discriminator, fixed_pairs, gan_lesson, psnr_recipe
from edgesr.distill.kernels import usm_sharpen
from edgesr.distill.lesson import student_lesson
from edgesr.distill.losses import fft, tv
from edgesr.distill.prepare import of_teacher
from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.run import distill
from edgesr.distill.terms import Clock, Supervised
from edgesr.distill.train import clip_gradients, learning_rate, make_optimizer
from edgesr.errors import EdgesrError, Interrupted, ModelError, UsageError
from edgesr.networks import build_as

TINY = {
    "student": "ecbsr-m4c16-rgb",
    "config": {"blocks": 1, "width": 4},
    "scale": 2,
    "steps": 12,
    "batch": 2,
    "patch": 16,
    "warmup": 0,
    "validate_every": 6,
    "save_every": 6,
    "copies": [1.0],
    "full_range": 0.0,
}
GAN = {
    **TINY,
    "gan": "relativistic",
    "gan_weight": 0.01,
    "discriminator": "vgg-128",
    "discriminator_config": {"size": 32, "width": 4},
    "perceptual": "esrgan",
    "perceptual_random": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


def recipe(**changes: object) -> Recipe:
    return Recipe(**{**GAN, **changes})


def batch(size: int = 16, scale: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    truth = torch.rand(2, 3, size * scale, size * scale, generator=generator)
    small = torch.nn.functional.avg_pool2d(truth, scale)
    return small, truth


def number(tensor: torch.Tensor) -> float:
    return tensor.detach().item()


def read_log(run: Path) -> list[dict[str, float]]:
    rows = csv.DictReader((run / "log.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items()} for row in rows]


@pytest.mark.parametrize("discriminator", ["vgg-128", "unet-sn"])
def test_resumed_is_bit_for_bit_the_same(photos: Path, tmp_path: Path, discriminator: str) -> None:
    """Both networks, both optimisers, running means and the singular vectors of the U-Net."""
    changes = {"discriminator": discriminator}
    if discriminator == "unet-sn":
        changes["discriminator_config"] = {"width": 4}
    distill(recipe(**changes), data=photos, out=tmp_path / "whole", device="cpu")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 7

    with pytest.raises(Interrupted):
        distill(recipe(**changes), data=photos, out=tmp_path / "parts", device="cpu", stop=stop)
    distill(recipe(**changes), data=photos, out=tmp_path / "parts", device="cpu", resume=True)
    whole, parts = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    assert {"model", "average", "adam", "rival", "rival_adam"} == {n.split("/")[0] for n in whole}


def test_generator_moves_first_and_neither_moves_the_other() -> None:
    """By hand: the generator's backward leaves no gradient in the rival, and the reverse."""
    lesson = gan_lesson(recipe(), [])
    assert lesson.rival is not None
    parts = lesson.objective(lesson.model)(*batch())
    assert set(parts) == {"truth", "perceptual", "gan"}
    sum(parts.values()).backward()
    assert all(p.grad is None for p in lesson.rival.module.parameters())
    before = [p.grad.clone() for p in lesson.model.parameters() if p.grad is not None]
    answers = lesson.rival.objective()
    assert set(answers) == {"discriminator"}
    answers["discriminator"].backward()
    assert all(p.grad is not None for p in lesson.rival.module.parameters())
    after = [p.grad for p in lesson.model.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_terms_are_the_formulas() -> None:
    """Relativistic terms by numpy on the logits that the discriminator gives for these pictures."""
    lesson = gan_lesson(recipe(gan_weight=0.25), [])
    assert lesson.rival is not None
    small, truth = batch()
    parts = lesson.objective(lesson.model)(small, truth)
    answers = lesson.rival.objective()
    judge = lesson.rival.module["picture"]
    with torch.no_grad():
        real, fake = (judge(x).double().numpy() for x in (truth, lesson.model(small)))

    def cross_entropy(logits: np.ndarray) -> float:  # of "real"
        return float(np.log1p(np.exp(-logits)).mean())

    generator = cross_entropy(fake - real.mean()) + cross_entropy(-(real - fake.mean()))
    discriminator = cross_entropy(real - fake.mean()) + cross_entropy(-(fake - real.mean()))
    assert number(parts["gan"]) == pytest.approx(0.25 * generator / 2, rel=1e-4)
    assert number(answers["discriminator"]) == pytest.approx(discriminator / 2, rel=1e-4)


def test_flat_regions_are_hidden_from_the_discriminator_only(monkeypatch) -> None:
    lesson = gan_lesson(recipe(mask_flat=True, perceptual=None), [])
    assert lesson.rival is not None
    seen: list[torch.Tensor] = []
    lesson.rival.module["picture"].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    small, truth = batch()
    small[:, :, :, :8], truth[:, :, :, :16] = 0.5, 0.5  # the left half is flat
    parts = lesson.objective(lesson.model)(small, truth)
    lesson.rival.objective()
    assert len(seen) == 4  # real and fake, for the generator and for the rival
    for picture in seen:
        assert picture[:, :, :, :8].abs().max() == 0
        assert picture[:, :, :, 24:].abs().min() > 0 or picture[:, :, :, 24:].abs().mean() > 0.1
    output = lesson.model(small)
    assert number(parts["truth"]) == pytest.approx(number((output - truth).abs().mean()), rel=1e-5)


def test_sharpened_truth_for_the_losses_plain_truth_for_the_discriminator() -> None:
    # photos of noise around gray have strong edges, which the mask takes in
    lesson = gan_lesson(
        recipe(
            usm=True,
            perceptual=None,
            patch=32,
            discriminator="unet-sn",
            discriminator_config={"width": 4},
        ),
        [],
    )
    assert lesson.rival is not None
    seen: list[torch.Tensor] = []
    lesson.rival.module["picture"].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    small, truth = batch(32)
    parts = lesson.objective(lesson.model)(small, truth)
    lesson.rival.objective()
    assert any(torch.equal(picture, truth) for picture in seen)
    sharp = usm_sharpen(truth)
    assert (sharp - truth).abs().mean() > 0.01
    expected = (lesson.model(small) - sharp).abs().mean()
    assert number(parts["truth"]) == pytest.approx(number(expected), rel=1e-5)


def test_spsr_has_two_judges_a_branch_and_trains_its_fusion_first() -> None:
    settings = load_recipe("spsr", overrides=["quick=true", "batch=2"])
    lesson = gan_lesson(settings, [])
    assert lesson.rival is not None
    assert lesson.rival.module["gradient"].config.size == 66  # a ring around 64
    lesson.begin(0)
    parts = lesson.objective(lesson.view or lesson.model)(*batch(16, 4))
    names = {"truth", "gradient", "branch", "perceptual", "gan", "gan_gradient"}
    assert set(parts) == names
    sum(parts.values()).backward()
    assert set(lesson.rival.objective()) == {"discriminator", "discriminator_gradient"}
    for name, parameter in lesson.model.named_parameters():
        assert (parameter.grad is not None) == ("f_" in name), name
    lesson.begin(settings.only_steps or 0)
    sum(lesson.objective(lesson.view or lesson.model)(*batch(16, 4)).values()).backward()
    assert all(p.grad is not None for p in lesson.model.parameters())


def test_levels_and_recursions_by_hand() -> None:
    small, truth = batch(8, 4)
    small, truth = small[:, :1], truth[:, :1]
    model = build_as("lapsrn", {"scale": 4, "width": 4, "depth": 1})
    output, levels = Supervised(model, "levels")(small)
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 16), (32, 32)]
    assert torch.equal(output, model(small))
    settings = Recipe(
        **{
            **TINY,
            "student": "lapsrn",
            "config": {"width": 4, "depth": 1},
            "scale": 4,
            "supervise": "levels",
            "loss": "mse",
            "truth": 2.0,
        }
    )
    lesson = student_lesson(settings, [], start=model.state_dict())
    term = lesson.objective(lesson.view)(small, truth)["truth"]
    half = np.stack([downscale(t[0].numpy().astype(np.float64), 2) for t in truth])
    first = ((levels[0].detach().numpy()[:, 0] - half) ** 2).mean()
    second = number(((output - truth) ** 2).mean())
    assert number(term) == pytest.approx(2 * (second + first / 4), rel=1e-3)

    model = build_as("drcn", {"scale": 4, "width": 4, "recursions": 3})
    output, pictures = Supervised(model, "recursions")(small)
    assert len(pictures) == 3
    assert torch.allclose(output, model(small), atol=1e-6)
    settings = Recipe(
        **{
            **TINY,
            "student": "drcn",
            "config": {"width": 4, "recursions": 3},
            "scale": 4,
            "supervise": "recursions",
            "loss": "mse",
            "steps": 11,
        }
    )
    lesson = student_lesson(settings, [], start=model.state_dict())
    local = number(torch.stack([((p - truth) ** 2).mean() for p in pictures]).mean())
    final = number(((output - truth) ** 2).mean())
    for step, alpha in ((0, 1.0), (5, 0.5), (10, 0.0)):
        lesson.begin(step)
        term = lesson.objective(lesson.view)(small, truth)["truth"]
        assert number(term) == pytest.approx(alpha * local + (1 - alpha) * final, rel=1e-4)
    with pytest.raises(UsageError, match="Espcn has no levels"):
        Supervised(build_as("espcn", {"scale": 2}), "levels")


def test_further_losses_by_name() -> None:
    settings = Recipe(**{**TINY, "extra": {"tv": 0.5, "fft": 0.25}})
    lesson = student_lesson(settings, [])
    small, truth = batch()
    parts = lesson.objective(lesson.model)(small, truth)
    output = lesson.model(small)
    assert list(parts) == ["truth", "tv", "fft"]
    assert number(parts["tv"]) == pytest.approx(0.5 * number(tv(output, truth)), rel=1e-5)
    assert number(parts["fft"]) == pytest.approx(0.25 * number(fft(output, truth)), rel=1e-5)
    with pytest.raises(UsageError, match=r"extra\.ssim: no such loss; known are l1, mse"):
        student_lesson(Recipe(**{**TINY, "extra": {"ssim": 1.0}}), [])


def test_rates() -> None:
    steps = Recipe(
        **{
            **TINY,
            "schedule": "steps",
            "milestones": [4, 8],
            "decay": 0.1,
            "lr": 1.0,
            "lr_end": 0.05,
        }
    )
    assert [learning_rate(k, steps) for k in (0, 3, 4, 7, 8)] == [1, 1, 0.1, 0.1, 0.05]
    again = Recipe(
        **{
            **TINY,
            "steps": 40,
            "schedule": "restarts",
            "cycle": 20,
            "lr": 1.0,
            "lr_end": 0.0,
            "warmup": 10,
            "warmup_from": 0.1,
        }
    )
    rates = [learning_rate(k, again) for k in range(40)]
    assert rates[:20] == rates[20:]
    assert rates[0] == pytest.approx(0.19)
    assert rates[9] == rates[10] == pytest.approx(1.0)
    assert rates[15] == pytest.approx(0.5)
    half = Recipe(**{**TINY, "schedule": "restarts", "cycle": 24, "lr": 1.0, "lr_end": 0.0})
    assert learning_rate(12, half) == pytest.approx(0.5)  # GLEAN: the training ends half-way


def test_gradients_are_clipped_by_element_at_theta_over_rate() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([0.05, -3.0, 9.0])
    settings = Recipe(**{**TINY, "clip_theta": 0.01, "optimizer": "sgd", "lr": 0.1})
    optimizer = make_optimizer([weight], settings)
    clip_gradients([weight], settings, lr=0.1)
    assert torch.allclose(weight.grad, torch.tensor([0.05, -0.1, 0.1]))
    optimizer.step()
    assert weight.abs().max() <= 0.01 + 1e-9
    assert isinstance(optimizer, torch.optim.SGD)


def test_sgd_resumes_too(photos: Path, tmp_path: Path) -> None:
    settings = Recipe(**{**TINY, "optimizer": "sgd", "lr": 0.01, "weight_decay": 1e-4})
    distill(settings, data=photos, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted):
        distill(settings, data=photos, out=tmp_path / "parts", device="cpu", stop=lambda: True)
    distill(settings, data=photos, out=tmp_path / "parts", device="cpu", resume=True)
    whole, parts = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts"))
    assert any(name.endswith("momentum_buffer") for name in whole)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_two_stages_in_one_command(photos: Path, tmp_path: Path) -> None:
    """The stage without discriminator first, its weights the start; it is not trained twice."""
    settings = recipe(psnr={"steps": 8, "lr": 2e-3}, steps=6, lr=1e-9, ema=0.0)
    notes: list[str] = []
    out = tmp_path / "run"
    distill(settings, data=photos, out=out, device="cpu", on_note=notes.append)
    assert load_recipe(out / "psnr" / "recipe.toml") == psnr_recipe(settings)
    first, second = (load_file(f / "best.safetensors") for f in (out / "psnr", out))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], atol=1e-5), name
    assert any("without discriminator" in note for note in notes)
    summary = json.loads((out / "summary.json").read_text())
    assert any("random weights" in note for note in summary["notes"])
    assert "random weights" in (out / "report.html").read_text()
    for row in read_log(out):
        assert all(math.isfinite(value) for value in row.values())
        assert {"loss_truth", "loss_gan", "loss_perceptual", "loss_discriminator"} <= row.keys()
    assert "loss_gan" not in read_log(out / "psnr")[0]


def test_the_last_weights_are_kept_against_a_rival(photos: Path, tmp_path: Path) -> None:
    distill(recipe(gan_weight=50.0, lr=1e-2), data=photos, out=tmp_path / "run", device="cpu")
    best, last = (load_file(tmp_path / "run" / f"{n}.safetensors") for n in ("best", "last"))
    assert all(torch.equal(best[name], last[name]) for name in best)


def test_divergence_names_the_player(photos: Path, tmp_path: Path) -> None:
    settings = recipe(discriminator_lr=1e25, steps=60, perceptual=None, gan_weight=1e-30)
    with pytest.raises(EdgesrError, match=r"the loss '(gan|discriminator|truth)' is (nan|inf)"):
        distill(settings, data=photos, out=tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"discriminator": None}, UsageError, "needs discriminator = one of srgan-96"),
        ({"discriminator": "vgg"}, UsageError, "one of srgan-96, vgg-128"),
        ({"discriminator_config": {}}, UsageError, "crops have 32 .*patch = 64"),
        ({"discriminator_config": {"depth": 3}}, UsageError, "no such setting; it has size, width"),
        ({"perceptual_random": None}, ModelError, "needs VGG19, and .*vgg19.pth is missing"),
        ({"only": "fusion", "only_steps": 3}, UsageError, "no parameter has that in its name"),
        ({"psnr": {"step": 3}}, UsageError, "step = 3"),
        ({"supervise": "levels"}, UsageError, "Ecbsr has no levels"),
    ],
)
def test_what_cannot_be_meant(
    photos: Path, tmp_path: Path, changes: dict[str, object], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        distill(recipe(**changes), data=photos, out=tmp_path / "run", device="cpu")


@pytest.mark.parametrize("name", list(KINDS))
def test_discriminators_by_name(name: str) -> None:
    width = {"channel_base": 64, "channel_max": 4} if name == "stylegan2" else {"width": 4}
    size = {} if name in ("stylegan2", "unet-sn") else {"size": 32}
    settings = recipe(discriminator=name, discriminator_config=width | size)
    logits = build_discriminator(settings)(torch.rand(2, 3, 32, 32))
    assert logits.shape[0] == 2


def test_luma_students_are_judged_as_gray(photos: Path) -> None:
    settings = recipe(student="ecbsr-m4c8", config={"blocks": 1, "width": 4})
    lesson = gan_lesson(settings, [])
    assert lesson.rival is not None
    small, truth = batch()
    parts = lesson.objective(lesson.model)(small[:, :1], truth[:, :1])
    assert all(torch.isfinite(term) for term in parts.values())


def test_pairs_for_networks_of_one_size() -> None:
    glean = load_recipe("glean", overrides=["quick=true"])
    hr = np.arange(96 * 128 * 3, dtype=np.uint32).astype(np.uint8).reshape(96, 128, 3)
    pair = Pair(name="a", lr=hr[::8, ::8], hr=hr)
    (cut,) = fixed_pairs([pair], glean)
    assert (cut.lr.shape[:2], cut.hr.shape[:2]) == ((8, 8), (64, 64))
    assert np.array_equal(cut.lr, pair.lr[2:10, 4:12])
    assert np.array_equal(cut.hr, pair.hr[16:80, 32:96])
    with pytest.raises(UsageError, match="no test picture has 64x64"):
        fixed_pairs([Pair(name="a", lr=hr[:7, :7], hr=hr[:56, :56])], glean)
    assert fixed_pairs([pair], recipe()) == [pair]
    with pytest.raises(UsageError, match=r"takes pictures of 8x8 only: patch = 8"):
        student_lesson(glean.model_copy(update={"patch": 9}), [])


def test_clock_never_trains_what_is_frozen() -> None:
    model = torch.nn.ModuleDict(
        {"f_a": torch.nn.Linear(1, 1), "bank": torch.nn.Linear(1, 1), "rest": torch.nn.Linear(1, 1)}
    )
    model["bank"].requires_grad_(False)
    clock = Clock(model, recipe(only="f_", only_steps=2))
    trained = []
    for step in range(3):
        clock.begin(step)
        trained.append({n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad})
    assert trained == [{"f_a"}, {"f_a"}, {"f_a", "rest"}]


def test_a_strip_of_pictures_is_written(photos: Path, tmp_path: Path) -> None:
    distill(recipe(steps=2), data=photos, out=tmp_path / "run", device="cpu")
    page = (tmp_path / "run" / "report.html").read_text()
    start = page.index("data:image/png;base64,") + len("data:image/png;base64,")
    import base64

    content = base64.b64decode(page[start : page.index('"', start)])
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.size


def test_a_teacher_is_not_trained_as_its_student_is() -> None:
    recipe = load_recipe("lapsrn", overrides=["quick=true"], teacher="rrdb", scale=4)
    own = of_teacher(recipe, "rrdb")
    assert (own.supervise, own.optimizer, own.truth, own.milestones) == (None,) * 4
    assert student_lesson(own, []).view is None


def test_pisr_teaches_without_a_rival(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not with the settings gan or supervise"):
        distill(recipe(teacher="pisr"), data=photos, out=tmp_path / "run", device="cpu")
