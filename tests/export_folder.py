"""A folder with pictures and a model, in which tests of `edgesr export` run it.

A test file takes the fixtures over by name: `home = export_folder.home`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_models
import pytest

from edgesr import cli

Captured = pytest.CaptureFixture[str]
TELLTALE = "tell-tale-folder-of-somebody"
CALIB = ("--calib", "photos", "--max-drop", "3")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of a name that must not be found again, and pictures in it."""
    from photos import write_photos

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # What is timed is not what is tested: a small picture, few rounds.
    monkeypatch.setattr("edgesr.export.report.TIMED", (32, 48))
    monkeypatch.setattr("edgesr.export.measure.ROUNDS", 3)
    folder = tmp_path / TELLTALE
    folder.mkdir()
    write_photos(folder / "photos", 5)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def net(home: Path) -> Path:
    return onnx_models.convolutions(home / "tiny.onnx", layers=2)


def run(*arguments: Any) -> int:
    return cli.run([str(argument) for argument in arguments])


def made(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()} - {"photos", "tiny.onnx"}
