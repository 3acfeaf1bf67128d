"""The order of the house, and what may be imported where."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Left to right: each may import what stands left of it, never right.
ORDER = {"edgesr": 0, "runtime": 1, "export": 2, "distill": 3}
LAZY = {"edgesr/__init__.py"}  # gives the lazy `edgesr.load` and `edgesr.stream`


def sources() -> list[Path]:
    return sorted(path for folder in ORDER for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Full dotted names of everything a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def folder_of(name: str) -> str | None:
    """Which code folder an imported name lies in; None: not ours."""
    parts = name.split(".")
    if parts[0] != "edgesr":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in ORDER else "edgesr"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_left(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    relative = path.relative_to(ROOT).as_posix()
    if relative in LAZY or path.name.startswith("cli"):
        return  # verbs import the one module they need, wherever it stands
    for name in imported(path):
        there = folder_of(name)
        assert there is None or ORDER[there] <= ORDER[here], f"{relative} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_board_needs_no_torch(path: Path) -> None:
    relative = path.relative_to(ROOT)
    if relative.parts[0] in ("export", "distill") or relative.parts[:2] == ("edgesr", "networks"):
        return
    if relative.name == "cli_train.py":  # the trainer's verbs
        return
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"torch", "safetensors", "onnx", "pydantic"}, relative
    assert not any(name.startswith("edgesr.networks") for name in imported(path)), relative


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_outgrows_its_reader(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400, "over 300 lines is asking to be two files"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_exec_and_no_eval(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("exec", "eval", "__import__"), path


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.splitlines()[-1].split())  # the code may print too


def test_importing_edgesr_costs_nothing() -> None:
    heavy = {"numpy", "cv2", "av", "torch", "onnxruntime", "openvino", "rich", "typer"}
    assert not loaded_after("import edgesr") & heavy


def test_command_line_loads_no_engine() -> None:
    code = "import edgesr.cli; edgesr.cli.run(['--help'])"
    assert not loaded_after(code) & {"numpy", "cv2", "av", "torch", "onnxruntime", "openvino"}


def test_package_list_holds_every_folder() -> None:
    """setuptools ships only what pyproject.toml lists."""
    text = (ROOT / "pyproject.toml").read_text()
    for path in sources():
        parts = path.relative_to(ROOT).parts[:-1]
        name = ".".join(parts if parts[0] == "edgesr" else ("edgesr", *parts))
        assert f'"{name}",' in text, f"{name} is missing from [tool.setuptools] packages"


def test_installed_name_and_checkout_are_one(tmp_path: Path) -> None:
    """Started in the checkout or elsewhere, `edgesr.runtime` is the same file."""
    code = "import edgesr.runtime; print(edgesr.runtime.__file__)"
    places = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=cwd
        ).stdout
        for cwd in (ROOT, tmp_path)
    }
    assert len(places) == 1
