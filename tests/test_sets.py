"""Named sets from a server on this machine: resumed, checked, unpacked whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer

from edgesr import cli
from edgesr.cli_data import data as data_app
from edgesr.cli_data import describe
from edgesr.distill import download as downloads
from edgesr.distill import fetch, sets
from edgesr.distill.download import Transfer, download, in_words
from edgesr.distill.fetch import get
from edgesr.distill.sets import SETS, Archive, NamedSet, find_set
from edgesr.distill.sources import find_source
from edgesr.distill.unpack import unpack
from edgesr.errors import MediaError, UsageError

Captured = pytest.CaptureFixture[str]
CONTENT = bytes(range(256)) * 4000  # 1 MB


@dataclass
class Server:
    """What is served, how it misbehaves, and what was asked."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    lengths: bool = True
    version: str | None = '"1"'
    break_after: deque[int] = field(default_factory=deque)  # bytes of the next answers
    answers: deque[int] = field(default_factory=deque)  # status of the next answers
    slow: float = 0.0  # seconds before each 64 kB
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, server)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server = Server(url=f"http://127.0.0.1:{http.server_port}/")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    http.shutdown()
    thread.join()
    http.server_close()


def answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    name, wanted = request.path.lstrip("/"), request.headers["Range"]
    server.asked.append((name, wanted))
    request.close_connection = True
    status = server.answers.popleft() if server.answers else 200
    if name not in server.files or status != 200:
        request.send_error(404 if status == 200 else status)
        return
    body, start = server.files[name], 0
    whole = request.headers["If-Range"] not in (None, server.version)
    if wanted and server.ranges and not whole:
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]
        if start >= len(body):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(body)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206)
        request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
    else:
        request.send_response(200)
    if server.version is not None:
        request.send_header("ETag", server.version)
    if server.lengths:
        request.send_header("Content-Length", str(len(body) - start))
    request.end_headers()
    body = body[start:]
    if server.break_after:
        body = body[: server.break_after.popleft()]
    for place in range(0, len(body), 1 << 16):
        time.sleep(server.slow)
        try:
            request.wfile.write(body[place : place + (1 << 16)])
        except OSError:
            return  # the other side has hung up


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


# -- archives


PICTURES = {"top/Set5/HR/a.png": b"a" * 999, "top/Set5/LR/x2/a.png": b"b", "top/Set14/c.png": b"c"}


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


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


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


# -- sets


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


def test_sets_of_one_archive_fetch_it_once(
    server: Server, table: dict[str, NamedSet], tmp_path: Path
) -> None:
    done = get(["set5", "SET14", "Set5"], tmp_path / "d")
    assert [(got.name, got.files) for got in done] == [("Set5", 2), ("Set14", 1)]
    assert [name for name, _ in server.asked] == ["bench.tar"]
    source = json.loads((tmp_path / "d/Set5/source.json").read_text())
    sums = {"url": f"{server.url}bench.tar", "sha256": sha256(server.files["bench.tar"])}
    assert source["archives"] == [sums]
    assert source["terms"] == "ours"
    assert sorted(contents(tmp_path / "d")) == [
        *("Set14/c.png", "Set14/source.json"),
        *("Set5/HR/a.png", "Set5/LR/x2/a.png", "Set5/source.json"),
    ]  # the archive is gone
    again = get(["Set5"], tmp_path / "d")
    assert again[0].files == 0
    assert len(server.asked) == 1
    assert find_source(tmp_path / "d/Set5", scale=2)[0].kind == "pairs"


def test_a_set_of_two_archives(server: Server, table: dict[str, NamedSet], tmp_path: Path) -> None:
    (got,) = get(["DIV2K"], tmp_path)
    assert got.files == 3
    assert {"train/1.png", "train/2.png", "valid/3.png"} < contents(got.path).keys()


def test_a_set_is_whole_or_not_there(
    server: Server, table: dict[str, NamedSet], tmp_path: Path
) -> None:
    content = server.files.pop("valid.zip")
    with pytest.raises(MediaError, match=r"valid.zip: the server answers 404"):
        get(["DIV2K"], tmp_path / "d")
    assert sorted(contents(tmp_path / "d")) == ["train.zip"]
    server.files["valid.zip"] = content
    server.asked.clear()
    get(["DIV2K"], tmp_path / "d")
    assert [name for name, _ in server.asked] == ["valid.zip"]  # the other one was kept


def test_a_bad_archive_leaves_no_folder(
    server: Server, table: dict[str, NamedSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["evil.zip"] = zipped({"a.png": b"a", "../../evil.png": b"e"})
    evil = Archive(url=f"{server.url}evil.zip", kind="zip")
    monkeypatch.setitem(table, "Evil", _evil(evil))
    with pytest.raises(MediaError, match="leads out of its folder"):
        get(["Evil"], tmp_path / "d")
    assert sorted(contents(tmp_path)) == ["d/evil.zip"]
    assert not [file for file in (tmp_path / "d").iterdir() if file.is_dir()]


def _evil(archive: Archive) -> NamedSet:
    return NamedSet(
        name="Evil", pictures=1, use="test", page="p", terms="none", archives=(archive,)
    )


def test_an_unpublished_sum_is_remembered_and_then_demanded(
    server: Server, table: dict[str, NamedSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["new.zip"] = first = zipped({"a.png": b"a"})
    url = f"{server.url}new.zip"
    monkeypatch.setitem(table, "Evil", _evil(Archive(url=url, kind="zip")))
    (got,) = get(["Evil"], tmp_path / "a")
    assert got.first == ((url, sha256(first)),)
    (again,) = get(["Evil"], tmp_path / "b")
    assert again.first == ()
    server.files["new.zip"], server.version = zipped({"a.png": b"b"}), '"2"'
    with pytest.raises(MediaError, match=rf"{sha256(first)} was kept of the first one in .*json"):
        get(["Evil"], tmp_path / "c")


def test_what_cannot_be_fetched_says_how_to_get_it(
    server: Server, table: dict[str, NamedSet], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"Hand: register at http://example.org/page"):
        get(["Set5", "Hand"], tmp_path)
    with pytest.raises(UsageError, match=r"no set 'sett5' \(did you mean Set5\?\): there is Set5"):
        get(["sett5"], tmp_path)
    (tmp_path / "Set5").mkdir()
    with pytest.raises(UsageError, match="exists and is not of `edgesr data get`"):
        get(["Set5"], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        get(["Set14"], tmp_path / "file")
    with pytest.raises(MediaError, match="cannot be made"):
        get(["Set14"], tmp_path / "file/deep")
    assert server.asked == []


def test_no_room_is_said_before_the_transfer(
    server: Server, table: dict[str, NamedSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": len(server.files["bench.tar"]) * 2 - 1})
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(MediaError, match="are needed"):
        get(["Set5"], tmp_path)
    assert server.asked == []


def test_the_published_table() -> None:
    wanted = "DIV2K Flickr2K OST Set5 Set14 B100 Urban100 Manga109 General100 T91"
    assert set(SETS) == set(wanted.split())
    for name, known in SETS.items():
        assert known.name == name
        assert known.page.startswith("http")
        assert known.terms
        assert bool(known.archives) != bool(known.by_hand)
        for archive in known.archives:
            assert archive.url.startswith(("https://", "http://"))
            assert archive.name.endswith(archive.kind)
            method, _, value = (archive.checksum or "md5:" + "0" * 32).partition(":")
            assert len(value) == {"sha256": 64, "md5": 32}[method]
            assert re.fullmatch("[0-9a-f]+", value)
    with pytest.raises(UsageError, match=r"Manga109: .* register: ask at http://www.manga109.org"):
        fetch.check_target(find_set("manga109"), Path("nowhere"))


# -- the verbs


@pytest.fixture
def verbs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    app = typer.Typer()
    app.add_typer(data_app, name="data")
    monkeypatch.setattr(cli, "app", app)
    return lambda *words: cli.run(["data", *map(str, words)])


def test_list_shows_every_set(verbs: Callable[..., int], capsys: Captured) -> None:
    assert verbs("list") == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == ["set", *SETS]
    assert "3.98 GB  academic research only" in shown.out
    assert "by hand" in next(line for line in lines if line.startswith("Manga109"))
    assert "edgesr data get NAME" in shown.err
    assert verbs("-q", "list", "--json") == 0
    shown = capsys.readouterr()
    listed = json.loads(shown.out)["sets"]
    assert [known["name"] for known in listed] == list(SETS)
    assert listed[0]["bytes"] == 3_979_597_606
    assert shown.err == ""


def test_get_says_where_it_is(
    server: Server,
    table: dict[str, NamedSet],
    verbs: Callable[..., int],
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "d"
    monkeypatch.setattr("edgesr.cli_data.LINE_EVERY", -1.0)
    assert verbs("get", "set5", "--out", out) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out / 'Set5'}: 2 files; pictures in {out / 'Set5/HR'}\n"
    assert "Set5: ours (http://example.org/page)" in shown.err
    size = in_words(len(server.files["bench.tar"]))
    assert f"bench.tar: {size} of {size}, " in shown.err
    assert "unpacking: 2/2 files" in shown.err
    assert "\r" not in shown.err
    assert verbs("get", "Set5", "--out", out, "--json", "-q") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["sets"][0]["files"] == 0
    assert shown.err == ""
    assert verbs("get", "Hand", "--out", out) == 2
    assert "error: Hand: register at" in capsys.readouterr().err


def test_progress_on_a_terminal(
    server: Server,
    table: dict[str, NamedSet],
    verbs: Callable[..., int],
    tmp_path: Path,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.break_after.append(1024)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert verbs("get", "Set5", "--out", tmp_path) == 0
    assert "broke off after 1,024" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("transfer", "line"),
    [
        ((1.2e9, 3.5306e9, 12_345_678.0, 190.0), "1.20 GB of 3.53 GB, 12.3 MB/s, 3:10 left"),
        ((512, None, None, None), "512 bytes"),
        ((99_999, 250_112_000, 900.0, None), "100 kB of 250 MB, 900 bytes/s"),
    ],
)
def test_progress_leaves_out_what_is_not_known(transfer: tuple[Any, ...], line: str) -> None:
    done, total, rate, eta = transfer
    assert describe(Transfer(name="a", done=done, total=total, rate=rate, eta=eta)) == line


SCRIPT = """
import sys
from edgesr import cli
from edgesr.cli_data import data
from edgesr.distill import sets
cli.app.add_typer(data, name="data")
archive = sets.Archive(url=sys.argv[1], kind="zip")
sets.SETS["Slow"] = sets.NamedSet(
    name="Slow", pictures=1, use="test", page="p", terms="t", archives=(archive,)
)
sys.argv = ["edgesr", "data", "get", "Slow", "--out", sys.argv[2]]
cli.main()
"""


def test_ctrl_c_keeps_the_part_and_the_next_run_goes_on(server: Server, tmp_path: Path) -> None:
    server.files["slow.zip"] = zipped({"a.png": os.urandom(1_000_000)})
    server.slow = 0.2
    out = tmp_path / "d"
    command = [sys.executable, "-c", SCRIPT, f"{server.url}slow.zip", str(out)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        part = out / "slow.zip.part"
        while not (part.exists() and part.stat().st_size):
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == 130
    assert said.splitlines()[-1] == "stopped: what has come is kept, the same command goes on"
    kept = part.stat().st_size
    assert 0 < kept < len(server.files["slow.zip"])
    server.slow = 0.0
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert server.asked[-1] == ("slow.zip", f"bytes={kept}-")
    assert (out / "Slow/a.png").stat().st_size == 1_000_000
    assert "no checksum is published; its sha256" in done.stdout
    assert sorted(file.name for file in out.iterdir()) == ["Slow"]


def test_getting_sets_needs_no_torch() -> None:
    code = "import sys, edgesr.distill.fetch; print(*(m for m in sys.modules if m == 'torch'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
