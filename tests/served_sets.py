"""Archives made on the spot, and a table of sets that lie in them on the file server.

A test file takes the fixture over by name: `table = served_sets.table`, beside `server`.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from file_server import Server

from edgesr.distill import sets
from edgesr.distill.sets import Archive, NamedSet

PICTURES = {"top/Set5/HR/a.png": b"a" * 999, "top/Set5/LR/x2/a.png": b"b", "top/Set14/c.png": b"c"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def zipped(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return memory.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o4777
            archive.addfile(info, io.BytesIO(content))
    return memory.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture
def table(server: Server, monkeypatch: pytest.MonkeyPatch) -> dict[str, NamedSet]:
    """Two sets in one archive, one of two archives, one by hand; all on the server."""
    server.files["bench.tar"] = tarred(PICTURES)
    server.files["train.zip"] = zipped({"train/1.png": b"1", "train/2.png": b"2"})
    server.files["valid.zip"] = zipped({"valid/3.png": b"3"})

    def archive(name: str, keep: str | None = None) -> Archive:
        content = server.files[name]
        return Archive(
            url=server.url + name,
            kind="tar" if name.endswith("tar") else "zip",
            size=len(content),
            checksum=f"sha256:{sha256(content)}",
            keep=keep,
        )

    def named(name: str, *archives: Archive, **more: Any) -> NamedSet:
        page = "http://example.org/page"
        return NamedSet(
            name=name, pictures=1, use="test", page=page, terms="ours", archives=archives, **more
        )

    made = [
        named("Set5", archive("bench.tar", "Set5"), hr="HR"),
        named("Set14", archive("bench.tar", "Set14")),
        named("DIV2K", archive("train.zip"), archive("valid.zip"), hr="train"),
        named("Hand", by_hand="register at {page}"),
    ]
    found = {one.name: one for one in made}
    monkeypatch.setattr(sets, "SETS", found)
    return found
