"""Downloads from a server on this machine: resumed, checked, never joined of two files."""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path
from typing import Any

import file_server
import pytest
from file_server import Server
from served_sets import sha256

from edgesr.distill import download as downloads
from edgesr.distill.download import Transfer, download
from edgesr.errors import MediaError

CONTENT = bytes(range(256)) * 4000  # 1 MB

server = file_server.server


def fetch_content(server: Server, tmp_path: Path, **more: Any) -> str:
    server.files.setdefault("a.zip", CONTENT)
    return download(f"{server.url}a.zip", tmp_path / "a.zip", pause=0.0, **more)


def test_a_file_arrives_and_its_sum_is_told(server: Server, tmp_path: Path) -> None:
    told: list[Transfer] = []
    found = fetch_content(
        server, tmp_path, checksum=f"sha256:{sha256(CONTENT)}", progress=told.append
    )
    assert found == sha256(CONTENT)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.zip"]
    assert (told[-1].name, told[-1].done, told[-1].total) == ("a.zip", len(CONTENT), len(CONTENT))
    assert told[-1].rate is not None
    assert told[-1].eta == 0
    fetch_content(server, tmp_path)
    assert len(server.asked) == 1  # what is there is not fetched again


def test_md5_where_only_that_is_published(server: Server, tmp_path: Path) -> None:
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    assert fetch_content(server, tmp_path, checksum=f"md5:{md5}") == sha256(CONTENT)
    with pytest.raises(MediaError, match=r"md5 is .*, 123 was published"):
        fetch_content(server, tmp_path, checksum="md5:123")


def test_a_broken_transfer_goes_on_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.break_after.extend([300_000, 1, 400_000])
    notes: list[str] = []
    fetch_content(server, tmp_path, size=len(CONTENT), on_note=notes.append)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.asked]
    assert asked == [None, "bytes=300000-", "bytes=300001-", "bytes=700001-"]
    assert len(notes) == 3
    assert "broke off after 300,000 of 1,024,000 bytes; again in" in notes[0]


def test_where_no_length_is_told_the_sum_finds_the_break(server: Server, tmp_path: Path) -> None:
    server.lengths = False
    server.break_after.append(300_000)
    checksum = f"sha256:{sha256(CONTENT)}"
    with pytest.raises(MediaError, match="sha256 is"):
        fetch_content(server, tmp_path, checksum=checksum)
    assert fetch_content(server, tmp_path, checksum=checksum) == sha256(CONTENT)


def test_a_second_call_goes_on_too(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT[:5000])
    fetch_content(server, tmp_path, checksum=f"sha256:{sha256(CONTENT)}")
    assert server.asked == [("a.zip", "bytes=5000-")]


def test_a_part_that_was_complete_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.zip.part").write_bytes(CONTENT)
    assert fetch_content(server, tmp_path) == sha256(CONTENT)
    assert server.asked == [("a.zip", f"bytes={len(CONTENT)}-")]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.break_after.append(300_000)
    fetch_content(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-"]


def test_old_and_new_are_never_joined(server: Server, tmp_path: Path) -> None:
    server.break_after.append(300_000)
    server.answers.extend([200, 404])
    with pytest.raises(MediaError, match="404"):
        fetch_content(server, tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == 300_000
    new = CONTENT[::-1]
    server.files["a.zip"], server.version = new, '"2"'
    fetch_content(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == new
    server.files["a.zip"] = b"shorter"
    (tmp_path / "a.zip").unlink()
    (tmp_path / "a.zip.part").write_bytes(new)  # no tag: the size tells
    fetch_content(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == b"shorter"


def test_passing_errors_are_tried_again_lasting_ones_not(server: Server, tmp_path: Path) -> None:
    server.answers.extend([503, 429, 200])
    fetch_content(server, tmp_path)
    assert len(server.asked) == 3
    with pytest.raises(MediaError, match=r"b.zip: the server answers 404 Not Found; see"):
        download(f"{server.url}b.zip", tmp_path / "b.zip", pause=0.0)
    assert len(server.asked) == 4
    server.answers.extend([503] * 20)
    with pytest.raises(MediaError, match=r"the server answers 503"):
        download(f"{server.url}a.zip", tmp_path / "c.zip", pause=0.0)
    assert len(server.asked) == 4 + downloads.ATTEMPTS


def test_nobody_there(tmp_path: Path) -> None:
    notes: list[str] = []
    with pytest.raises(MediaError, match=r"http://127.0.0.1:9/a: Connection refused$"):
        download("http://127.0.0.1:9/a", tmp_path / "a", on_note=notes.append, pause=0.0)
    assert len(notes) == downloads.ATTEMPTS - 1


def test_another_size_is_refused_before_the_transfer(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="1,024,000 bytes are offered, 5 were published"):
        fetch_content(server, tmp_path, size=5)
    assert not (tmp_path / "a.zip").exists()


def test_a_wrong_sum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=f"sha256 is {sha256(CONTENT)}, 00 was published"):
        fetch_content(server, tmp_path, checksum="sha256:00")
    assert [file for file in tmp_path.iterdir() if file.is_file()] == []


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        usage = type("Usage", (), {"free": 1000})
        patch.setattr(downloads.shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(MediaError, match=r"1.0 MB are needed, 1 kB are free on this disk"):
            fetch_content(server, tmp_path)

    class Full(io.BytesIO):
        def write(self, block: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MediaError) as caught:
        downloads.write(Full(), b"x", Path("a.part"))
    assert str(caught.value) == (
        "a.part cannot be written: the disk is full; make room, the same command goes on"
    )
    real, written = downloads.write, []

    def write(file: Any, block: bytes, path: Path) -> None:
        written.append(len(block))
        real(Full() if len(written) == 2 else file, block, path)

    with monkeypatch.context() as patch:
        patch.setattr(downloads, "write", write)
        with pytest.raises(MediaError, match="the disk is full"):
            fetch_content(server, tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == written[0]
    fetch_content(server, tmp_path)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_two_at_once_do_not_write_to_one_part(server: Server, tmp_path: Path) -> None:
    with (
        downloads._locked(tmp_path / "a.zip.part"),
        pytest.raises(MediaError, match="is being written by another edgesr"),
    ):
        fetch_content(server, tmp_path)
