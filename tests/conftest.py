"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """A background job starts with SIGINT ignored; the tests of Ctrl-C need it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


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
