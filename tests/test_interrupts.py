"""Ctrl-C that something else has swallowed still ends the job."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgesr.cli_progress import Meter
from edgesr.cli_stages import StageMeter
from edgesr.interrupts import interrupted, listen, raise_lost
from edgesr.runtime.progress import Progress

LOSING = """
import signal
import sys

from edgesr.cli import main
from edgesr.export import reference

own_pictures = reference._own_pictures


def losing(spec):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass  # as numpy.random does while it is imported
    return own_pictures(spec)


reference._own_pictures = losing
sys.argv[1:] = ["export", "net.onnx", "--fp16", "--out", "m.onnx"]
main()
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_got_lost_is_raised_again(number: signal.Signals) -> None:
    listen()
    raise_lost()
    assert not interrupted()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert interrupted()
    with pytest.raises(KeyboardInterrupt):
        raise_lost()


def test_the_meters_ask() -> None:
    listen()
    with contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        StageMeter("m", quiet=True).note("a line")
    under_way = Progress(frames=1, total=2, fps=None, eta=None, slowest=None, elapsed=0)
    with pytest.raises(KeyboardInterrupt):
        Meter("m", quiet=True).update(under_way)


def test_an_ignored_ctrl_c_stays_ignored() -> None:
    """As in a job that a script starts by `&`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listen()
    signal.raise_signal(signal.SIGINT)
    assert not interrupted()


def test_an_export_that_loses_it_writes_nothing(net: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOSING], cwd=net.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130, done.stderr
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]
