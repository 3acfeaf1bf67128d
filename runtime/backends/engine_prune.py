"""The engine cache stays below a limit: what was used longest ago goes first.

Engines of a driver, a TensorRT or a GPU that is gone are never loaded again, so they grow old and
go. Why not at once: a home folder may be shared by machines, and a machine may have two GPUs, so
that what does not fit here is another one's. Each load touches the plan; its time is the use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edgesr.runtime.backends.engine import sidecar_path

LIMIT = 2 * 1000**3
"""Bytes of all engines together."""


def touch(plan: Path) -> None:
    """Say that an engine was used now. In a cache that is read only nothing is pruned either."""
    with contextlib.suppress(OSError):
        os.utime(plan)


def prune(folder: Path, *, keep: Path, limit: int | None = None) -> str | None:
    """Remove the engines used longest ago until all together take no more than `limit` bytes.

    keep    the engine whose lock the caller holds: stays, however large
    limit   None: `LIMIT`

    An engine that another process is building or loading is locked, and stays. One that runs is in
    memory: its file may go, and is built again at the next start. Lock files stay, for a process
    may wait at one; so do the timings of builds, which are small.

    Returns one line to say, None where nothing was removed. What cannot be removed stays.
    """
    limit = LIMIT if limit is None else limit
    found = []
    for plan in folder.glob("*.plan"):
        with contextlib.suppress(OSError):  # another process pruned it
            facts = plan.stat()
            found.append((facts.st_mtime_ns, facts.st_size, plan))
    before = total = sum(size for _, size, _ in found)
    gone = []
    for _, size, plan in sorted(found):
        if total <= limit:
            break
        if plan != keep and _removed(plan):
            total -= size
            gone.append(plan.name)
    if not gone:
        return None
    return (
        f"the engine cache held {before / 1e9:.1f} GB, {limit / 1e9:g} GB are kept: "
        f"removed what was used longest ago ({', '.join(gone)})"
    )


def _removed(plan: Path) -> bool:
    try:
        with _free(plan.with_suffix(".lock")) as free:
            if free:
                # In the order of `save_engine`: no sidecar ever vouches for what is not there.
                sidecar_path(plan).unlink(missing_ok=True)
                plan.unlink(missing_ok=True)
            return free
    except OSError:
        return False


@contextlib.contextmanager
def _free(lock: Path) -> Iterator[bool]:
    """Whether nobody held the lock file; then it is held meanwhile."""
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True  # closing the file gives it back
