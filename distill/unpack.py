"""Archives, unpacked where they are told and nowhere else.

Every member is looked at before the first byte is written: a path that leads out of the folder, a
link or a device refuses the whole archive. Modes and owners in it are ignored.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from edgesr.distill.download import make_sure_of_room, write
from edgesr.errors import MediaError

Kind = Literal["zip", "tar"]


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file of an archive: size in bytes, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path,
    folder: Path,
    *,
    kind: Kind,
    keep: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the files of an archive below `folder`; how many.

    keep      only what lies in the folder of this name, wherever that is, and without it
    progress  called with files written and in all

    Raises MediaError; what is written by then is the caller's to remove.
    """
    try:
        with _opened(archive, kind) as members:
            chosen = [(path, m) for m in members if (path := _place(m.name, keep)) is not None]
            if not chosen:
                what = "is empty" if keep is None else f"has no folder {keep}"
                raise MediaError(f"{archive}: the archive {what}")
            make_sure_of_room(folder, sum(member.size for _, member in chosen))
            for done, (path, member) in enumerate(chosen):
                _write_member(member, folder / path)
                progress(done + 1, len(chosen))
            return len(chosen)
    except MediaError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        archive.unlink(missing_ok=True)
        reason = str(error).partition("\n")[0].rstrip(":")  # tarfile lists what it tried
        raise MediaError(
            f"{archive}: not a whole {kind} archive ({reason}): deleted, the same command fetches "
            "it again"
        ) from None
    except (OSError, RuntimeError) as error:  # RuntimeError: encrypted, or an unknown method
        why = getattr(error, "strerror", None) or error
        raise MediaError(f"{archive} cannot be unpacked: {why}") from None


@contextmanager
def _opened(archive: Path, kind: Kind) -> Iterator[list[Member]]:
    if kind == "zip":
        with zipfile.ZipFile(archive) as opened:
            yield [_of_zip(opened, info) for info in opened.infolist() if not info.is_dir()]
    else:
        with tarfile.open(archive) as tar:
            yield [_of_tar(tar, info) for info in tar if not info.isdir()]


def _of_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    if mode and not stat.S_ISREG(mode) and stat.S_IFMT(mode):
        raise MediaError(f"{opened.filename}: {info.filename} in it is no plain file: refused")
    return Member(name=info.filename, size=info.file_size, open=lambda: opened.open(info))


def _of_tar(opened: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if not info.isreg():
        raise MediaError(f"{opened.name!s}: {info.name} in it is no plain file: refused")

    def reader() -> IO[bytes]:
        file = opened.extractfile(info)
        assert file is not None  # a regular file has one
        return file

    return Member(name=info.name, size=info.size, open=reader)


def _place(name: str, keep: str | None) -> PurePosixPath | None:
    """Where a member goes; None: it is not wanted. Raises MediaError for a way out."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise MediaError(f"the archive holds {name!r}, which leads out of its folder: refused")
    if "__MACOSX" in path.parts or path.name.startswith("._"):
        return None
    if keep is None:
        return path
    if keep not in path.parts[:-1]:
        return None
    return PurePosixPath(*path.parts[path.parts.index(keep) + 1 :])


def _write_member(member: Member, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with member.open() as source, target.open("wb") as file:
        while block := source.read(1 << 20):
            write(file, block, target)
