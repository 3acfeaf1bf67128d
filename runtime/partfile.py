"""PartFile: a file that has its name only when it is complete."""

from __future__ import annotations

import os
from pathlib import Path

from edgesr.errors import MediaError, UsageError


class PartFile:
    """Checks a target, and gives a hidden path beside it to write to.

    target     where the file shall stand
    source     the input, which must not be the same file
    overwrite  an existing target may be replaced

    Raises UsageError for a target that cannot be meant, MediaError where nothing can be written.
    """

    def __init__(self, target: Path, *, source: Path, overwrite: bool) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.{os.getpid()}.part")
        if target.is_dir():
            raise UsageError(f"{target} is a folder; name a file in it")
        if target.exists() and source.exists() and target.samefile(source):
            raise UsageError(f"{target} is the input itself; choose another name for the output")
        if target.exists() and not overwrite:
            raise UsageError(f"{target} exists; pass --overwrite to replace it")
        folder = target.parent
        if not folder.is_dir():
            raise MediaError(f"{target} cannot be written: there is no folder {folder}")
        if not os.access(folder, os.W_OK):
            raise MediaError(f"{target} cannot be written: no permission in the folder {folder}")

    def commit(self) -> None:
        """Make sure that the bytes are on the disk, then give the file its name."""
        _to_disk(self.path)
        self.path.replace(self.target)
        _to_disk(self.target.parent)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
