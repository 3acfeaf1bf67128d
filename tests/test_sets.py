"""Named sets from a server on this machine: whole or not there, checked, refused in words."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import file_server
import pytest
import served_sets
from file_server import Server
from served_sets import contents, sha256, zipped

from edgesr.distill import download as downloads
from edgesr.distill import fetch
from edgesr.distill.fetch import get
from edgesr.distill.sets import SETS, Archive, NamedSet, find_set
from edgesr.distill.sources import find_source
from edgesr.errors import MediaError, UsageError

server = file_server.server
table = served_sets.table


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


def test_getting_sets_needs_no_torch() -> None:
    code = "import sys, edgesr.distill.fetch; print(*(m for m in sys.modules if m == 'torch'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
