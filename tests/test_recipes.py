"""The recipes that ship: each one loads, names what exists, and trains in its quick form."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import cv2
from photos import draw_photo

from edgesr.distill.gan import KINDS, build_discriminator, psnr_recipe
from edgesr.distill.losses import LOSSES
from edgesr.distill.recipe import Recipe, load_recipe, read_toml
from edgesr.distill.run import distill
from edgesr.distill.teachers import names_of
from edgesr.distill.train import learning_rate
from edgesr.networks import NETWORKS

FOLDER = Path(__file__).parent.parent / "distill"
RECIPES = sorted(file.stem for file in FOLDER.glob("*.toml"))
GANS = ("srgan", "esrgan", "spsr", "bebygan", "realesrgan", "glean")
CLASSICS = ("espcn", "fsrcnn", "ecbsr", "bsrn", "vdsr", "lapsrn", "drcn", "pisr", "realesrnet")

# What makes every one of them small: a handful of steps, judged once.
FEW = ("steps=4", "batch=2", "validate_every=4", "save_every=4", "copies=[1.0]", "precision=fp32")


RRDB = {"blocks": 1, "width": 8, "growth": 4}
SMALLER = {
    **dict.fromkeys(("esrgan", "bebygan", "realesrgan", "realesrnet"), RRDB),
    "spsr": {**RRDB, "taps": (1,)},
    "srgan": {"blocks": 1, "width": 8},
    "bsrn": {"features": 16, "blocks": 1, "reduction": 4},
    "lapsrn": {"width": 8, "depth": 1},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for the widest crop; the held-out one is small."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(4):
        picture = draw_photo(seed, height=132, width=132)
        cv2.imwrite(str(folder / f"{seed}.png"), picture)
    return folder


def test_those_of_the_issue_ship() -> None:
    assert {*GANS, *CLASSICS, "bicubic"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_loads_and_names_what_exists(name: str) -> None:
    for overrides in ([], ["quick=true"]):
        recipe = load_recipe(name, overrides=overrides)
        stages = [recipe] if recipe.psnr is None else [recipe, psnr_recipe(recipe)]
        for stage in stages:
            assert stage.scale in NETWORKS[stage.student].scales
            assert set(stage.extra or {}) <= set(LOSSES)
            rates = [learning_rate(step, stage) for step in range(0, stage.steps, 97)]
            assert all(0 < rate <= stage.lr * (1 + 1e-9) for rate in rates)
        assert (recipe.gan is None) == (recipe.discriminator is None)
        if recipe.gan is not None:
            assert recipe.discriminator in KINDS
            with torch.device("meta"):
                build_discriminator(recipe)  # fits the crops
        assert all(t == "pisr" or t in NETWORKS for t in names_of(recipe.teacher))
        assert Recipe(**recipe.model_dump()) == recipe
    assert "quick" in read_toml(name)


@pytest.mark.parametrize("name", RECIPES)
def test_round_trip_through_the_run_folder(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, overrides=["quick=true"])
    file = tmp_path / "recipe.toml"
    file.write_text(recipe.to_toml())
    assert load_recipe(file) == recipe


@pytest.mark.parametrize("name", [*GANS, *CLASSICS])
def test_quick_form_trains(
    name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Every network's export is proved in test_export.py, and takes longer than the training here.
    monkeypatch.setattr("edgesr.distill.run.export_onnx", lambda *arguments: None)
    recipe = load_recipe(name, overrides=["quick=true", *FEW])
    changes: dict[str, Any] = {"config": SMALLER.get(name, recipe.config)}
    if recipe.psnr is not None:
        changes["psnr"] = {**recipe.psnr, "steps": 2}
    if name == "spsr":
        changes["psnr"] = {**changes["psnr"], "config": RRDB}
    if recipe.teacher_steps is not None:
        changes["teacher_steps"] = 2
    recipe = recipe.model_copy(update=changes)
    result = distill(recipe, data=photos, out=tmp_path / "run", device="cpu")
    assert result.steps == 4
    (row,) = csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines())
    assert all(math.isfinite(float(value)) for value in row.values())
    assert "data:image/png;base64," in (tmp_path / "run" / "report.html").read_text()
    if recipe.gan is not None:
        assert {"loss_truth", "loss_gan", "loss_perceptual", "loss_discriminator"} <= row.keys()
        assert (tmp_path / "run" / "psnr").is_dir() == (recipe.psnr is not None)


def test_published_numbers() -> None:
    """A few that are known from the papers and codes, not from the files."""
    esrgan, spsr, bebygan = (load_recipe(name) for name in ("esrgan", "spsr", "bebygan"))
    assert (esrgan.truth, esrgan.gan_weight, esrgan.patch * esrgan.scale) == (1e-2, 5e-3, 128)
    assert esrgan.psnr is not None
    assert esrgan.psnr["patch"] * esrgan.scale == 192
    assert [learning_rate(step, esrgan) for step in (0, 50_000, 399_999)] == [
        1e-4,
        5e-5,
        pytest.approx(1e-4 / 16),
    ]
    assert (spsr.only, spsr.only_steps, spsr.gan_gradient, spsr.branch) == ("f_", 5000, 5e-3, 0.5)
    assert (bebygan.truth, bebygan.best_buddy, bebygan.back_projection) == (0, 1, 1)
    assert learning_rate(200_000 + 2000, bebygan) == pytest.approx(1e-4)
    vdsr, lapsrn = load_recipe("vdsr"), load_recipe("lapsrn")
    assert [learning_rate(step, vdsr) for step in (0, 2490, 7470)] == [
        0.1,
        pytest.approx(0.01),
        pytest.approx(1e-4),
    ]
    # Means over the pixels of a crop, turned into the published sums.
    assert vdsr.truth == (vdsr.patch * vdsr.scale) ** 2 / 2
    assert lapsrn.truth == (lapsrn.patch * lapsrn.scale) ** 2
    pisr = load_recipe("pisr")
    assert (pisr.imitation, pisr.vid, pisr.lr_end, pisr.patch * 2) == (1e-4, 1e-6, 1e-5, 192)


def test_another_student_leaves_the_settings_of_the_first() -> None:
    recipe = load_recipe("ecbsr", overrides=["quick=true"], student="espcn")
    assert (recipe.student, recipe.config) == ("espcn", None)
