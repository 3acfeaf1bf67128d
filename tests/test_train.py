"""The loop itself: it learns, it resumes to the same bits, its files are what they say."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from photos import write_photos
from safetensors.torch import load_file

from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.run import distill
from edgesr.distill.train import learning_rate
from edgesr.errors import EdgesrError, Interrupted, MissingDependency, ModelError, UsageError
from edgesr.networks import checkpoint

TINY = {
    "student": "ecbsr-m4c8",
    "steps": 24,
    "batch": 4,
    "patch": 16,
    "warmup": 4,
    "validate_every": 8,
    "save_every": 8,
    "copies": [1.0],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 6)


def tiny(**changes: object) -> Recipe:
    return Recipe(**{**TINY, **changes})


def read_log(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((run / "log.csv").read_text().splitlines()))


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "state.safetensors")


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    """From the nearest-neighbour skip towards the truth, past bicubic's score on these drawings."""
    recipe = tiny(steps=250, lr=4e-3, validate_every=50, ema=0.9)
    result = distill(recipe, data=photos, out=tmp_path / "run", device="cpu")
    rows = read_log(tmp_path / "run")
    assert float(rows[-1]["psnr_y"]) > float(rows[0]["psnr_y"]) + 1
    assert result.psnr_y > result.bicubic_psnr_y


def test_soap_needs_fewer_steps(photos: Path, tmp_path: Path) -> None:
    """Than Adam, each at the rate that suits it."""
    reached = {}
    for name, lr in (("adam", 4e-3), ("soap", 3e-3)):
        recipe = tiny(steps=100, lr=lr, optimizer=name, validate_every=50, ema=0.9)
        result = distill(recipe, data=photos, out=tmp_path / name, device="cpu")
        reached[name] = result.psnr_y
    assert reached["soap"] > reached["adam"] + 0.5


def test_soap_is_missed_by_name(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(MissingDependency, match=r"pip install 'edgesr\[train\]'"):
        distill(tiny(optimizer="soap"), data=photos, out=tmp_path / "run", device="cpu")


@pytest.mark.parametrize(
    "settings",
    [{}, {"precision": "bf16"}, {"optimizer": "soap"}, {"optimizer": "soap", "weight_decay": 1e-3}],
    ids=lambda settings: "-".join(map(str, settings.values())) or "fp32",
)
def test_resumed_is_bit_for_bit_the_same(
    photos: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    recipe = tiny(**settings)
    distill(recipe, data=photos, out=tmp_path / "whole", device="cpu")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == 11

    with pytest.raises(Interrupted, match=r"stopped at step 11 of 24.*--resume"):
        distill(recipe, data=photos, out=tmp_path / "parts", device="cpu", stop=stop)
    distill(recipe, data=photos, out=tmp_path / "parts", device="cpu", resume=True)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    for file in ("last.safetensors", "best.safetensors"):
        for name, tensor in load_file(tmp_path / "whole" / file).items():
            assert torch.equal(tensor, load_file(tmp_path / "parts" / file)[name])


def test_another_seed_is_another_training(photos: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        distill(tiny(seed=seed, steps=8), data=photos, out=tmp_path / str(seed), device="cpu")
    a, b = tensors(tmp_path / "1"), tensors(tmp_path / "2")
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_run_folder_is_complete_and_says_what_it_is(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(tiny(), data=photos, out=out, device="cpu", terms="CC0")
    assert {f.name for f in out.iterdir()} - {"tb"} == {
        "recipe.toml",
        "log.csv",
        "last.safetensors",
        "best.safetensors",
        "state.safetensors",
        "model.onnx",
        "report.html",
        "summary.json",
    }
    _, spec = checkpoint.load(out / "best.safetensors")
    assert (spec.name, spec.terms, spec.halo) == ("ecbsr-m4c8-x2", "CC0", 6)
    assert spec.recipe == load_recipe(out / "recipe.toml").digest()
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 24
    assert summary["psnr_y"] == pytest.approx(spec.metrics["validation"]["psnr_y"], abs=1e-3)
    assert summary["validation"] == "1 held-out photos"


def test_warm_start_takes_what_fits(photos: Path, tmp_path: Path) -> None:
    distill(tiny(), data=photos, out=tmp_path / "x2", device="cpu")
    body = str(tmp_path / "x2" / "best.safetensors")
    recipe = tiny(scale=3, steps=1, lr=1e-12, ema=0.0, init=body)
    distill(recipe, data=photos, out=tmp_path / "x3", device="cpu")
    small, large = load_file(body), load_file(tmp_path / "x3" / "best.safetensors")
    assert torch.allclose(
        small["backbone.1.conv3x3.weight"], large["backbone.1.conv3x3.weight"], atol=1e-6
    )
    assert large["backbone.5.conv3x3.weight"].shape[0] == 9
    with pytest.raises(ModelError, match="no tensor of that checkpoint fits"):
        distill(tiny(student="espcn", init=body), data=photos, out=tmp_path / "no", device="cpu")


def test_who_trained_a_wild_network_is_told(photos: Path, tmp_path: Path) -> None:
    notes: list[str] = []

    def trained(name: str, **given: Path) -> list[float]:
        recipe = tiny(steps=1, lr=1e-12, ema=0.0)
        out = tmp_path / name
        distill(recipe, data=photos, out=out, device="cpu", on_note=notes.append, **given)
        return json.loads((out / "summary.json").read_text())["range_on_noise"]

    low, high = trained("calm")
    assert -4 < low < high < 5
    assert notes == []
    model, spec = checkpoint.load(tmp_path / "calm" / "best.safetensors")
    wild = {name: 8 * tensor for name, tensor in model.state_dict().items()}
    checkpoint.save(tmp_path / "wild.safetensors", wild, spec=spec, model=model)
    low, high = trained("wild", init=tmp_path / "wild.safetensors")
    assert high - low > 9
    [note] = notes
    assert note.startswith("warning: the network is wild")
    assert f"{low:.3g} to {high:.3g}" in note


def test_a_run_is_not_overwritten(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    distill(tiny(steps=2), data=photos, out=out, device="cpu")
    with pytest.raises(UsageError, match="add --resume"):
        distill(tiny(steps=2), data=photos, out=out, device="cpu")
    with pytest.raises(UsageError, match="another recipe"):
        distill(tiny(steps=3), data=photos, out=out, device="cpu", resume=True)


def test_resume_on_other_photos_is_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Interrupted):
        distill(tiny(), data=photos, out=out, device="cpu", stop=lambda: True)
    other = write_photos(tmp_path / "other", 5)
    with pytest.raises(UsageError, match="trained on other photos"):
        distill(tiny(), data=other, out=out, device="cpu", resume=True)


def test_divergence_is_said(photos: Path, tmp_path: Path) -> None:
    recipe = tiny(lr=1e20, warmup=0, steps=50)
    with pytest.raises(EdgesrError, match=r"diverged before step .*--set lr=2\.5e\+19"):
        distill(recipe, data=photos, out=tmp_path / "run", device="cpu")


def test_divergence_leaves_the_last_good_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 11 on the rate is too much: what was validated before is kept."""
    monkeypatch.setattr(
        "edgesr.distill.train.learning_rate", lambda step, recipe: 1e-3 if step < 10 else 1e20
    )
    with pytest.raises(EdgesrError, match=r"diverged before step 16 \(the loss 'truth' is"):
        distill(tiny(), data=photos, out=tmp_path / "run", device="cpu")
    rows = read_log(tmp_path / "run")
    for name, tensor in load_file(tmp_path / "run" / "last.safetensors").items():
        assert tensor.isfinite().all(), name
    assert all(float(row["loss"]) > 0 for row in rows)
    assert not (tmp_path / "run" / "model.onnx").exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_trains_and_resumes_alike(photos: Path, tmp_path: Path) -> None:
    """As the shipped weights are trained: compiled, in bf16."""
    recipe = tiny(precision="bf16", compile=True, steps=12)
    distill(recipe, data=photos, out=tmp_path / "whole", device="cpu")
    with pytest.raises(Interrupted):
        distill(recipe, data=photos, out=tmp_path / "parts", device="cpu", stop=lambda: True)
    distill(recipe, data=photos, out=tmp_path / "parts", device="cpu", resume=True)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_learning_rate_rises_then_follows_one_cosine() -> None:
    recipe = tiny(steps=104, lr=1e-3, lr_end=1e-6)
    assert learning_rate(0, recipe) == pytest.approx(2.5e-4)
    assert learning_rate(4, recipe) == pytest.approx(1e-3)
    assert learning_rate(54, recipe) == pytest.approx((1e-3 + 1e-6) / 2)
    assert learning_rate(104, recipe) == pytest.approx(1e-6)


def test_broken_loss_would_show(photos: Path, tmp_path: Path) -> None:
    """A learning rate of nothing leaves the score where it was: the first test can fail."""
    recipe = tiny(steps=16, lr=1e-12, lr_end=0.0)
    distill(recipe, data=photos, out=tmp_path / "run", device="cpu")
    rows = read_log(tmp_path / "run")
    assert float(rows[-1]["psnr_y"]) == pytest.approx(float(rows[0]["psnr_y"]), abs=0.01)


def test_device_that_is_not_there(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="auto, cpu or cuda"):
        distill(tiny(), data=photos, out=tmp_path / "run", device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="no CUDA device"):
            distill(tiny(), data=photos, out=tmp_path / "run", device="cuda")
