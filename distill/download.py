"""One file over HTTP: resumed where it broke off, checked, and under its name only when whole.

The bytes gather in `<name>.part`. Beside it `<name>.part.tag` keeps what the server calls this
version of the file (ETag or Last-Modified), so that the end of a newer version is never joined to
the beginning of an older one. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgesr import __version__
from edgesr.errors import EdgesrError, MediaError

AGENT = f"Mozilla/5.0 (compatible; edgesr/{__version__})"  # some sites refuse Python's own
BLOCK = 1 << 18  # bytes
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5  # in a row that bring nothing
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may change
WINDOW = 5.0  # seconds that the shown rate looks back


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How far a download is, in bytes and seconds; None: not known."""

    name: str
    done: int
    total: int | None
    rate: float | None
    eta: float | None


Tell = Callable[[Transfer], None]


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    checksum: str | None = None,
    stated: str = "published",
    progress: Tell = lambda transfer: None,
    on_note: Callable[[str], None] = lambda line: None,
    pause: float = 1.0,
) -> str:
    """Fetch `url` to `target`, going on with what is there; its SHA-256.

    size      in bytes, refused before the transfer where the server has another one
    checksum  "sha256:<hex>" or "md5:<hex>"; stated: where it is from, for the message
    on_note   called with what broke and when it is tried again
    pause     seconds before the second attempt, doubled for each further one

    Raises MediaError: what has come stays in `<target>.part` unless it is wrong.
    """
    if not target.exists():
        part = target.with_name(f"{target.name}.part")
        try:
            _fetch_all(url, part, size=size, progress=progress, on_note=on_note, pause=pause)
        finally:
            if part.exists() and not _size_of(part):
                part.unlink()
        found = check(part, checksum, url=url, stated=stated)
        part.replace(target)
        _tag_of(part).unlink(missing_ok=True)
        return found
    return check(target, checksum, url=url, stated=stated)


def check(file: Path, checksum: str | None, *, url: str, stated: str) -> str:
    """SHA-256 of a file; deletes it and raises MediaError where `checksum` is not its own."""
    method, _, wanted = (checksum or "sha256:").partition(":")
    sums = {name: hashlib.new(name, usedforsecurity=False) for name in {"sha256", method}}
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            for total in sums.values():
                total.update(block)
    if wanted and sums[method].hexdigest() != wanted:
        file.unlink()
        _tag_of(file).unlink(missing_ok=True)
        raise MediaError(
            f"{url}: {method} is {sums[method].hexdigest()}, {wanted} was {stated}: the source has "
            "changed or was damaged on the way; what came is deleted, the same command tries again"
        )
    return sums["sha256"].hexdigest()


def _fetch_all(
    url: str,
    part: Path,
    *,
    size: int | None,
    progress: Tell,
    on_note: Callable[[str], None],
    pause: float,
) -> None:
    failures = 0
    while True:
        before = _size_of(part)
        try:
            _fetch(url, part, size=size, progress=progress)
            return
        except EdgesrError:
            raise
        except urllib.error.HTTPError as error:
            reason = f"the server answers {error.code} {error.reason}"
            error.close()
            if error.code not in PASSING:
                raise MediaError(f"{url}: {reason}; see `edgesr data list`") from None
        except urllib.error.URLError as error:
            reason = str(getattr(error.reason, "strerror", None) or error.reason)
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
        failures = 0 if _size_of(part) > before else failures + 1
        if failures >= ATTEMPTS:
            kept = f"; {part} is kept, the same command goes on" if _size_of(part) else ""
            raise MediaError(f"{url}: {reason}{kept}")
        wait = pause * 2.0 ** (failures - 1)
        on_note(f"{part.name.removesuffix('.part')}: {reason}; again in {wait:.0f} s")
        time.sleep(wait)


def _fetch(url: str, part: Path, *, size: int | None, progress: Tell) -> None:
    """One request, from where `part` ends. Raises OSError where it breaks off."""
    with _locked(part) as file:
        have = _size_of(part)
        try:
            answer = urllib.request.urlopen(_request(url, part, have), timeout=TIMEOUT)
        except urllib.error.HTTPError as error:
            if error.code != 416 or not have:
                raise
            error.close()
            if _whole_size(error.headers) == have:
                return  # nothing beyond what is there
            file.truncate(0)  # what is there is of another version
            raise ConnectionError("the server has another version of the file") from None
        with answer:
            if answer.status == 206 and _range_start(answer.headers) == have:
                total = _whole_size(answer.headers)
            else:
                have = 0
                file.truncate(0)
                if answer.status == 206:
                    raise ConnectionError("the server sends another range than asked for")
                total = int(answer.headers["Content-Length"] or 0) or None
                _remember_version(part, answer.headers)
            if size is not None and total is not None and total != size:
                raise MediaError(
                    f"{url}: {total:,} bytes are offered, {size:,} were published: the source has "
                    "changed"
                )
            make_sure_of_room(part.parent, (total or 0) - have)
            meter = Meter(part.name.removesuffix(".part"), total, have, progress)
            while block := answer.read(BLOCK):
                write(file, block, part)
                have += len(block)
                meter.add(have)
        if total is not None and have < total:
            raise ConnectionError(f"the connection broke off after {have:,} of {total:,} bytes")


def _locked(part: Path) -> IO[bytes]:
    """The file, opened for appending by nobody else. Raises MediaError."""
    try:
        file = part.open("ab")
    except OSError as error:
        raise MediaError(f"{part} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise MediaError(f"{part} is being written by another edgesr") from None
    return file


def _request(url: str, part: Path, have: int) -> urllib.request.Request:
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _tag_of(part).is_file():
            headers["If-Range"] = _tag_of(part).read_text()
    return urllib.request.Request(url, headers=headers)


def _remember_version(part: Path, headers: Any) -> None:
    tag = headers["ETag"]
    if tag is None or tag.startswith("W/"):  # a weak one does not promise the same bytes
        tag = headers["Last-Modified"]
    if tag:
        _tag_of(part).write_text(tag)
    else:
        _tag_of(part).unlink(missing_ok=True)


def _tag_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _whole_size(headers: Any) -> int | None:
    """The N of "Content-Range: bytes 5-9/N" or "bytes */N"."""
    found = re.fullmatch(r"bytes .*/(\d+)", headers["Content-Range"] or "")
    return int(found[1]) if found else None


def _range_start(headers: Any) -> int | None:
    found = re.match(r"bytes (\d+)-", headers["Content-Range"] or "")
    return int(found[1]) if found else None


def make_sure_of_room(folder: Path, needed: int) -> None:
    """Raises MediaError where the disk has fewer bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise MediaError(
            f"{folder}: {in_words(needed)} are needed, {in_words(free)} are free on this disk"
        )


def write(file: IO[bytes], block: bytes, path: Path) -> None:
    """Write, and say in one line why not. Raises MediaError."""
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise MediaError(
            f"{path} cannot be written: {why}; make room, the same command goes on"
        ) from None


def in_words(size: float) -> str:
    """Bytes as "1.2 GB", by thousands."""
    for unit in ("bytes", "kB", "MB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit != "MB" or size >= 99.5 else f"{size:.1f} MB"
        size /= 1000
    return f"{size:.2f} GB"


class Meter:
    """Rate and time left of a transfer, from the last seconds."""

    def __init__(self, name: str, total: int | None, have: int, progress: Tell) -> None:
        self._name, self._total, self._progress = name, total, progress
        self._marks = deque([(time.monotonic(), have)])

    def add(self, done: int) -> None:
        now = time.monotonic()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[0][0] > WINDOW:
            self._marks.popleft()
        then, before = self._marks[0]
        rate = (done - before) / (now - then) if now > then and done > before else None
        left = None if self._total is None else max(self._total - done, 0)
        self._progress(
            Transfer(
                name=self._name,
                done=done,
                total=self._total,
                rate=rate,
                eta=None if left is None or rate is None else left / rate,
            )
        )
