"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

# Tiny networks: threads cost more than they bring, and several workers test at a time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Helpers whose asserts, when they fail, say what they compared, as those in tests do.
pytest.register_assert_rewrite("rewriting", "tensorrt_sessions", "video_copies")


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """A background job starts with SIGINT ignored; the tests of Ctrl-C need it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random networks and pictures are the same in every run, whatever was tested before."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real clips and images that EDGESR_DATA names."""
    name = os.environ.get("EDGESR_DATA")
    if name and Path(name).is_dir():
        return Path(name)
    reason = f"EDGESR_DATA={name}: no such folder" if name else "EDGESR_DATA is not set"
    if os.environ.get("EDGESR_REQUIRE_DATA") == "1":
        pytest.fail(f"{reason}, and EDGESR_REQUIRE_DATA=1 demands it")
    pytest.skip(reason)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A model of one random convolution, x2."""
    import onnx_models

    return onnx_models.convolutions(tmp_path / "net.onnx", layers=1)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Seven small frames."""
    from edgesr.runtime.clip import make_clip

    return make_clip(tmp_path / "in.mp4", width=64, height=48, frames=7, rate=25)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder of three made-up models in the place of the shipped ones."""
    from onnx_models import write_index

    from edgesr import models

    folder = tmp_path / "zoo"
    folder.mkdir()
    write_index(folder, {"ecbsr-m10c16-x2": 2, "ecbsr-m10c16-x4": 4, "espcn-x2": 2})
    monkeypatch.setattr(models, "_weights", lambda: folder)
    return folder
