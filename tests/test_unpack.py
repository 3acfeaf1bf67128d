"""Archives: one folder or all of it, refused before anything is written, deleted when damaged."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served_sets import PICTURES, contents, tarred, zipped

from edgesr.distill.unpack import unpack
from edgesr.errors import MediaError


@pytest.mark.parametrize(("kind", "made"), [("zip", zipped), ("tar", tarred)])
def test_an_archive_or_one_folder_of_it(
    tmp_path: Path, kind: Any, made: Callable[[dict[str, bytes]], bytes]
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(made(PICTURES | {"__MACOSX/top/._a.png": b"m", "top/Set5/._b": b"m"}))
    for name in ("all", "one", "none"):
        (tmp_path / name).mkdir()
    told: list[tuple[int, int]] = []
    count = unpack(
        archive,
        tmp_path / "all",
        kind=kind,
        progress=lambda done, total: told.append((done, total)),
    )
    assert (count, told) == (3, [(1, 3), (2, 3), (3, 3)])
    assert contents(tmp_path / "all") == PICTURES
    assert unpack(archive, tmp_path / "one", kind=kind, keep="Set5") == 2
    assert contents(tmp_path / "one") == {"HR/a.png": b"a" * 999, "LR/x2/a.png": b"b"}
    assert not (tmp_path / "one/HR/a.png").stat().st_mode & (stat.S_ISUID | stat.S_IXUSR)
    with pytest.raises(MediaError, match="has no folder B100"):
        unpack(archive, tmp_path / "none", kind=kind, keep="B100")


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/out.png", "..\\out.png"])
@pytest.mark.parametrize(("kind", "made"), [("zip", zipped), ("tar", tarred)])
def test_a_way_out_of_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, kind: Any, made: Callable[[dict[str, bytes]], bytes], name: str
) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "in/folder"
    folder.mkdir(parents=True)
    archive.write_bytes(made({"good.png": b"g", name: b"bad"}))
    with pytest.raises(MediaError, match="leads out of its folder: refused"):
        unpack(archive, folder, kind=kind)
    assert contents(tmp_path) == {"archive": archive.read_bytes()}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    folder.mkdir()
    with tarfile.open(archive, "w") as made:
        info = tarfile.TarInfo("link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        made.addfile(info)
    with pytest.raises(MediaError, match=r"link.png in it is no plain file"):
        unpack(archive, folder, kind="tar")
    with zipfile.ZipFile(archive, "w") as made_zip:
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        made_zip.writestr(link, "/etc/passwd")
    with pytest.raises(MediaError, match=r"link.png in it is no plain file"):
        unpack(archive, folder, kind="zip")
    assert contents(folder) == {}


@pytest.mark.parametrize(("kind", "made"), [("zip", zipped), ("tar", tarred)])
def test_a_damaged_archive_is_deleted(
    tmp_path: Path, kind: Any, made: Callable[[dict[str, bytes]], bytes]
) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "folder"
    folder.mkdir()
    whole = made({"a.png": os.urandom(50_000)})
    for content in (b"<html>moved</html>", whole[:30_000], whole[:40] + b"?" + whole[41:]):
        if kind == "tar" and content[40:41] == b"?":
            continue  # a tar has no sums of its contents
        archive.write_bytes(content)
        with pytest.raises(MediaError, match=rf"not a whole {kind} archive \(.*\): deleted"):
            unpack(archive, folder, kind=kind)
        assert not archive.exists()
