"""Several scales in one training: samples, the view without upscaling, files and their scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from photos import write_photos

torch = pytest.importorskip("torch")

from edgesr.bicubic import downscale, imresize
from edgesr.distill.data import read_rgb
from edgesr.distill.feed import batches
from edgesr.distill.mixed import scales_lesson, without_upscale
from edgesr.distill.recipe import Recipe, load_recipe
from edgesr.distill.room import Room
from edgesr.distill.run import distill
from edgesr.distill.scaleset import ScaleRoom, ScaleSet
from edgesr.distill.scenes import Sampling
from edgesr.errors import Interrupted, UsageError
from edgesr.metrics import rgb_to_y
from edgesr.networks import build_as, checkpoint

Array = np.ndarray[Any, Any]

TINY = (
    *("quick=true", "steps=6", "batch=4", "validate_every=3", "save_every=3", "milestones=[4]"),
    *("config={width=4,depth=3}", "full_range=0.0", "detail=0.0", "patch=12"),
)
PYRAMID = {
    "student": "mslapsrn",
    "scale": 4,
    "scales": (2, 3, 4),
    "config": {"width": 4, "depth": 1, "recursions": 2},
    "supervise": "levels",
    "steps": 6,
    "batch": 4,
    "patch": 12,
    "lr": 1e-4,
    "warmup": 2,
    "ema": 0.5,
    "validate_every": 3,
    "save_every": 3,
    "copies": (1.0,),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", 4)


def tiny(*more: str) -> Recipe:
    return load_recipe("vdsr", overrides=[*TINY, *more])


def photos_of(folder: Path, recipe: Recipe, *, enlarged: bool = True) -> ScaleSet:
    room = Room(
        data=(folder,),
        sampling=Sampling(count=1),
        pairs=[],
        device="cpu",
        terms=None,
        on_decode=None,
        on_progress=None,
        on_note=print,
        stop=lambda: False,
    )
    base = {name: getattr(room, name) for name in Room.__dataclass_fields__}
    return ScaleRoom(**base, enlarged=enlarged).photos(recipe, "y")


def test_the_published_scales_are_those_of_the_recipe() -> None:
    assert load_recipe("vdsr").scales == (2, 3, 4)


def test_samples_are_of_every_scale_and_enlarged_by_bicubic(folder: Path) -> None:
    """Each is found in one photo, enlarged whole from its small one, where its truth is."""
    recipe = tiny("batch=30")
    photos = photos_of(folder, recipe)
    large, truth = photos.own_batch(recipe, step=1, rank=0, size=1)
    assert large.shape == truth.shape == (30, 1, 24, 24)
    whole: list[tuple[int, Array, Array]] = []
    for file in sorted(folder.iterdir()):
        rgb = read_rgb(file)
        for scale in (2, 3, 4):
            rows, columns = (side // scale * scale for side in rgb.shape[:2])
            hr = rgb[:rows, :columns]
            small = (rgb_to_y(downscale(hr, scale)) / 255).astype(np.float32)
            luma = (rgb_to_y(hr) / 255).astype(np.float32)
            whole.append((scale, imresize(small, scale).astype(np.float32), luma))
    scales = []
    for ours, hr in zip(large[:, 0].numpy(), truth[:, 0].numpy(), strict=True):
        scale = found(ours, hr, whole)
        assert scale is not None
        scales.append(scale)
    assert {2, 3, 4} == set(scales)
    assert min(scales.count(scale) for scale in (2, 3, 4)) >= 3


def found(ours: Array, hr: Array, whole: list[tuple[int, Array, Array]]) -> int | None:
    for which in range(8):
        crop, target = (turned_back(x, which) for x in (ours, hr))
        for scale, enlarged, luma in whole:
            misses = cv2.matchTemplate(enlarged, crop, cv2.TM_SQDIFF)
            top, left = np.unravel_index(int(misses.argmin()), misses.shape)
            area = slice(top, top + 24), slice(left, left + 24)
            if np.abs(enlarged[area] - crop).max() < 1e-4:
                assert np.abs(luma[area] - target).max() < 1e-4
                return scale
    return None


def turned_back(crop: Array, which: int) -> Array:
    crop = crop.T if which & 4 else crop
    crop = crop[::-1] if which & 2 else crop
    return np.ascontiguousarray(crop[:, ::-1] if which & 1 else crop)


@pytest.mark.parametrize("student", ["vdsr", "drcn"])
def test_the_view_is_the_network_at_every_scale(student: str) -> None:
    settings = {"width": 4, "depth": 4} if student == "vdsr" else {"width": 4, "recursions": 2}
    small = torch.rand(2, 1, 9, 11)
    model = build_as(student, {"scale": 2, **settings})
    view = without_upscale(model)
    for scale in (2, 3, 4):
        other: Any = build_as(student, {"scale": scale, **settings})
        other.load_state_dict(model.state_dict())
        assert torch.equal(view(other.upscale(small)), other(small))
    assert [id(p) for p in view.parameters()] == [id(p) for p in model.parameters()]
    assert not isinstance(model.upscale, torch.nn.Identity)


def test_a_pyramid_takes_the_scales_in_turn(folder: Path) -> None:
    recipe = Recipe(**PYRAMID)
    photos = photos_of(folder, recipe, enlarged=False)
    drawn = list(batches(photos, recipe, colour="y"))
    assert [t.shape[-1] // s.shape[-1] for s, t in drawn] == [2, 3, 4, 2, 3, 4]
    lesson = scales_lesson(recipe, {}, enlarged=False)
    model: Any = lesson.model
    objective = lesson.objective(lesson.view)
    for (small, truth), levels in zip(drawn[:3], (1, 2, 2), strict=True):
        assert bool(torch.isfinite(objective(small, truth)["truth"]))
        assert model.count == levels
        assert model(small).shape == truth.shape


@pytest.mark.parametrize("kind", ["vdsr", "mslapsrn"])
def test_run_writes_every_scale_from_the_same_weights(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    recipe = tiny() if kind == "vdsr" else Recipe(**PYRAMID)
    out = tmp_path / "run"
    result = distill(recipe, data=folder, out=out, device="cpu")
    best, spec = checkpoint.load(out / "best.safetensors")
    assert spec.scale == recipe.scale
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["scales"]) == {"2", "3", "4"}
    own = summary["scales"][str(recipe.scale)]["student"]["psnr_y"]
    assert own == summary["psnr_y"] == pytest.approx(result.psnr_y, abs=1e-3)
    for scale in {2, 3, 4} - {recipe.scale}:
        other, facts = checkpoint.load(out / f"best-x{scale}.safetensors")
        assert (facts.name, facts.scale) == (f"{recipe.student}-x{scale}", scale)
        for name, tensor in best.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name])
        assert other(torch.rand(1, 1, 12, 14)).shape == (1, 1, 12 * scale, 14 * scale)
        assert (out / f"model-x{scale}.onnx").is_file()


def test_resumes_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    distill(tiny(), data=folder, out=tmp_path / "whole", device="cpu")
    asked = iter([False] * 3 + [True])
    parts = {"data": folder, "out": tmp_path / "parts", "device": "cpu"}
    with pytest.raises(Interrupted):
        distill(tiny(), stop=lambda: next(asked), **parts)  # type: ignore[arg-type]
    distill(tiny(), resume=True, **parts)  # type: ignore[arg-type]
    whole, again = (load_file(tmp_path / n / "state.safetensors") for n in ("whole", "parts"))
    for name in whole:
        assert torch.equal(whole[name], again[name]), name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("student=espcn", "config={}"), "espcn has other weights for each scale; vdsr, drcn"),
        (("scales=[3,4]",), "two or more, and the scale 2"),
        (("scales=[2]",), "two or more"),
        (("teacher=espcn-x2",), "teacher: not with scales"),
        (("degradation=blind",), "scales goes with degradation = 'bicubic'"),
    ],
)
def test_what_cannot_be(
    folder: Path, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        distill(tiny(*overrides), data=folder, out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
