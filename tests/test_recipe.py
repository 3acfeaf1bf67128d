from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pydantic")

from edgesr.distill.recipe import Recipe, load_recipe, parse_override
from edgesr.errors import UsageError


def test_file_then_options_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('student = "espcn"\nlr = 1e-2\nsteps = 5\n[quick]\nsteps = 2\n')
    recipe = load_recipe(file, overrides=["lr=5e-4"], scale=3, student=None)
    assert (recipe.student, recipe.scale, recipe.lr, recipe.steps) == ("espcn", 3, 5e-4, 5)
    assert load_recipe(file, overrides=["quick=true"]).steps == 2
    assert load_recipe(file, overrides=["quick=true", "steps=3"]).steps == 3


def test_toml_round_trip(tmp_path: Path) -> None:
    recipe = load_recipe("bicubic", overrides=["copies=[1.0, 0.75]", "init=a-x2"])
    file = tmp_path / "r.toml"
    file.write_text(recipe.to_toml())
    again = load_recipe(file)
    assert again == recipe
    assert again.digest() == recipe.digest()
    assert recipe.digest() != load_recipe("bicubic").digest()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("lr=5e-4", ("lr", 5e-4)), ("loss=mse", ("loss", "mse")), ("copies=[1.0]", ("copies", [1.0]))],
)
def test_overrides_are_toml_or_bare_words(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "write key=value"),
        ("lr=-1", "lr = -1: .*greater than 0"),
        ("loss=huber", "loss = 'huber'.*'l1', 'mse' or 'charbonnier'"),
        ("learning_rate=1", "learning_rate = 1.*known are student"),
    ],
)
def test_wrong_settings_say_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(None, overrides=[override])


def test_recipe_files_that_are_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of bicubic"):
        load_recipe("tricubic")
    with pytest.raises(UsageError, match="No such file"):
        load_recipe(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        load_recipe(tmp_path / "bad.toml")


def test_defaults_are_a_recipe() -> None:
    assert load_recipe() == Recipe()
