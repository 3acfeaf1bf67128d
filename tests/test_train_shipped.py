"""The plan of what ships: every training can be made, and the index says how each was."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from scripts import scripts_of

from edgesr.errors import UsageError

torch = pytest.importorskip("torch")

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    with scripts_of(BENCHMARKS, monkeypatch) as load:
        yield load


@pytest.fixture
def plan(script):
    return script("plan")


@pytest.fixture
def train_shipped(script):
    return script("train_shipped")


def test_every_training_starts_from_an_earlier_one(plan):
    seen = []
    for name, settings in plan.TRAININGS.items():
        assert settings.get("init") in [None, *seen]
        seen.append(name)
        assert plan.lineage(name)[-1] == name


def test_recipes_are_whole_on_both_machines(plan):
    for name in plan.TRAININGS:
        small, large = plan.recipe_of(name), plan.recipe_of(name, gpu=True)
        assert f"-x{small.scale}" in name
        assert (large.batch, large.steps) == (32, 10 * small.steps)
        assert small.digest() != large.digest()
        for recipe in (small, large):  # the rate falls after half of the steps, before their end
            assert all(
                recipe.steps <= 2 * step < 2 * recipe.steps for step in recipe.milestones or ()
            )
    assert plan.recipe_of("ecbsr-m4c16-x2-video").degradation == "video"
    assert plan.recipe_of("fsrcnn-x2-stage1").teacher == "pisr"


def test_what_ships_was_trained_by_stages_of_the_plan(plan, train_shipped):
    """Or by ones that the plan had when it was trained: then it is trained again."""
    for name, entry in train_shipped.shipped_forms.index()["models"].items():
        stages = entry["training"]["stages"]
        assert sum(stage["steps"] for stage in stages) == entry["training"]["steps"]
        assert entry["spec"]["recipe"] == stages[-1]["recipe_digest"]
        assert name in plan.TRAININGS


def test_every_file_of_the_wheel_is_in_the_index(train_shipped):
    forms = train_shipped.shipped_forms
    known = {"index.json", "measured.json"}
    for entry in forms.index()["models"].values():
        known |= {entry["onnx"], entry["checkpoint"]}
        known |= {entry["int8"]["file"]} if "int8" in entry else set()
    found = {path.name for path in forms.WEIGHTS.iterdir() if not path.name.startswith("__")}
    assert found == known


def test_what_ships_stays_sane_on_noise(train_shipped):
    from edgesr.models import shipped
    from edgesr.networks import checkpoint

    for entry in shipped():
        model, spec = checkpoint.load(entry.checkpoint)
        train_shipped.require_sane(entry.name, model, spec)
    with torch.no_grad():
        next(model.parameters()).mul_(1e3)
    with pytest.raises(SystemExit, match=r"for noise in 0\.\.1"):
        train_shipped.require_sane("wild", model, spec)


@pytest.fixture
def plant(train_shipped, tmp_path, monkeypatch):
    """A plan of three small trainings over two photos, and no weights yet."""
    import cv2
    import numpy as np

    for folder in ("photos", "Set5", "weights"):
        (tmp_path / folder).mkdir()
    noise = np.random.default_rng(0)
    for number in range(3):
        photo = cv2.resize(noise.integers(0, 256, (12, 12, 3), dtype=np.uint8), (96, 96))
        place = "Set5" if number == 0 else "photos"
        cv2.imwrite(str(tmp_path / place / f"{number}.png"), photo)
    (tmp_path / "Set14").symlink_to(tmp_path / "Set5")
    common = {"batch": 2, "patch": 16, "copies": [1.0], "compile": False, "warmup": 0}
    trainings = {
        "ecbsr-m4c8-x2-stage1": {**common, "steps": 2},
        "ecbsr-m4c8-x2": {**common, "steps": 3, "init": "ecbsr-m4c8-x2-stage1"},
        "ecbsr-m4c8-x3": {**common, "steps": 2, "init": "ecbsr-m4c8-x2"},
    }
    plan = sys.modules["plan"]
    monkeypatch.setattr(plan, "TRAININGS", trainings)
    monkeypatch.setattr(train_shipped, "TRAININGS", trainings)
    monkeypatch.setattr(train_shipped.shipped_forms, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return train_shipped.Plant(tmp_path / "photos", tmp_path, tmp_path / "runs", gpu=False)


def test_trainings_stop_go_on_and_start_from_what_ships(plant, train_shipped, tmp_path, capsys):
    spent = train_shipped.Plant(plant.photos, plant.bench, plant.runs, end=0.0, gpu=False)
    spent.make(["ecbsr-m4c8-x2"], train=True, again=False)
    assert plant.state_of("ecbsr-m4c8-x2-stage1")["step"] == 1
    assert train_shipped.shipped_forms.index()["models"] == {}
    plant.make(["ecbsr-m4c8-x2"], train=True, again=False)
    assert list(train_shipped.shipped_forms.index()["models"]) == ["ecbsr-m4c8-x2"]
    capsys.readouterr()
    plant.make(["ecbsr-m4c8-x2"], train=True, again=False)
    assert capsys.readouterr().out == ""  # nothing is made twice

    shutil.rmtree(plant.runs)
    plant.make(list(train_shipped.TRAININGS), train=True, again=False)
    assert [folder.name for folder in plant.runs.iterdir()] == ["ecbsr-m4c8-x3"]
    models = train_shipped.shipped_forms.index()["models"]
    assert list(models) == ["ecbsr-m4c8-x2", "ecbsr-m4c8-x3"]
    stages = models["ecbsr-m4c8-x3"]["training"]["stages"]
    assert [stage["name"] for stage in stages] == list(train_shipped.TRAININGS)
    assert [stage["steps"] for stage in stages] == [2, 3, 2]
    assert (tmp_path / "weights" / "ecbsr-m4c8-x3.onnx").is_file()


def test_networks_of_rgb_ship_too(plant, train_shipped):
    settings = {**train_shipped.TRAININGS["ecbsr-m4c8-x2-stage1"], "full_range": 0.0}
    train_shipped.TRAININGS["ecbsr-m4c16-rgb-x2"] = settings
    plant.make(["ecbsr-m4c16-rgb-x2"], train=True, again=False)
    entry = train_shipped.shipped_forms.index()["models"]["ecbsr-m4c16-rgb-x2"]
    assert entry["spec"]["colour"] == "rgb"
    assert entry["macs_640x360"] > 640 * 360 * entry["parameters"]["deployed"] * 0.9


def test_another_plan_than_the_run_folders_is_refused(plant, train_shipped):
    assert plant.train("ecbsr-m4c8-x2-stage1")
    train_shipped.TRAININGS["ecbsr-m4c8-x2-stage1"]["lr"] = 5e-4
    with pytest.raises(UsageError, match="another recipe"):
        plant.train("ecbsr-m4c8-x2-stage1")
    with pytest.raises(SystemExit, match="other settings"):
        plant.state_of("ecbsr-m4c8-x2-stage1")


def test_the_same_training_gives_the_same_weights(plant, train_shipped, monkeypatch, capsys):
    monkeypatch.setattr(train_shipped, "CHECKED", "ecbsr-m4c8-x2-stage1")
    monkeypatch.setattr(train_shipped, "CHECK_STEPS", 3)
    train_shipped.check(plant.photos)
    out = capsys.readouterr().out
    assert out.endswith("identical weights\n")
