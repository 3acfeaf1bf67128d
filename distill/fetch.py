"""`edgesr data get`: named sets downloaded, unpacked beside their place, and put there whole."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesr.distill import sets
from edgesr.distill.data import cache_root
from edgesr.distill.download import Tell, download, make_sure_of_room
from edgesr.distill.sets import NamedSet, find_set
from edgesr.distill.unpack import unpack
from edgesr.errors import EdgesrError, MediaError, UsageError
from edgesr.files import replacing

MARK = "source.json"  # in a complete set: where it came from


@dataclass(frozen=True, kw_only=True)
class Got:
    """A set on disk. `first`: its checksum was not published and is now remembered (URL, SHA-256).

    files  how many; 0: it was there already
    """

    name: str
    path: Path
    files: int
    sha256: tuple[str, ...]
    first: tuple[tuple[str, str], ...] = ()


def get(
    names: Sequence[str],
    out: Path,
    *,
    progress: Tell = lambda transfer: None,
    on_unpack: Callable[[int, int], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda line: None,
    pause: float = 1.0,
) -> list[Got]:
    """Fetch sets to `out/<name>`, each whole or not there; sets of one archive fetch it once.

    on_note  called with what it waits for

    A download that broke off, or was stopped, stays in `out/<archive>.part` for the next call.
    Raises UsageError, MediaError.
    """
    wanted = list(dict.fromkeys(find_set(name).name for name in names))
    for name in wanted:
        check_target(sets.SETS[name], out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"--out {out} cannot be made: {error.strerror}") from None
    done = []
    for place, name in enumerate(wanted):
        found = sets.SETS[name]
        if (out / name / MARK).is_file():
            done.append(Got(name=name, path=out / name, files=0, sha256=()))
            continue
        got = _get(found, out, progress=progress, on_unpack=on_unpack, on_note=on_note, pause=pause)
        done.append(got)
        later = {
            archive.url for other in wanted[place + 1 :] for archive in sets.SETS[other].archives
        }
        for archive in found.archives:
            if archive.url not in later:
                (out / archive.name).unlink(missing_ok=True)
    return done


def check_target(found: NamedSet, out: Path) -> None:
    """Raises UsageError for what cannot be fetched, or not there."""
    if not found.archives:
        raise UsageError(f"{found.name}: {found.by_hand.format(page=found.page)}")
    target = out / found.name
    if target.exists() and not (target / MARK).is_file():
        raise UsageError(f"{target} exists and is not of `edgesr data get`: choose another --out")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file, not a folder")


def _get(
    found: NamedSet,
    out: Path,
    *,
    progress: Tell,
    on_unpack: Callable[[int, int], None],
    on_note: Callable[[str], None],
    pause: float,
) -> Got:
    missing = [archive for archive in found.archives if not (out / archive.name).exists()]
    begun = sum(_begun(out / archive.name) for archive in missing)
    # Unpacked pictures take about what the archives take: they do not compress a second time.
    expected = sum(archive.size or 0 for archive in missing) - begun + (found.size or 0)
    make_sure_of_room(out, expected)
    sums, first = [], []
    for archive in found.archives:
        known = archive.checksum or _remembered().get(archive.url)
        value = download(
            archive.url,
            out / archive.name,
            size=archive.size,
            checksum=known,
            stated="published" if archive.checksum else f"kept of the first one in {_memory()}",
            progress=progress,
            on_note=on_note,
            pause=pause,
        )
        sums.append(value)
        if known is None:
            first.append((archive.url, value))
    part = out / f".{found.name}.{os.getpid()}.part"
    try:
        part.mkdir()
        files = sum(
            unpack(out / a.name, part, kind=a.kind, keep=a.keep, progress=on_unpack)
            for a in found.archives
        )
        (part / MARK).write_text(json.dumps(_source(found, sums), indent=1) + "\n")
        part.replace(out / found.name)
    except OSError as error:
        if isinstance(error, EdgesrError):
            raise
        raise MediaError(f"{part}: {error.strerror}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    _remember(dict(first))
    return Got(
        name=found.name,
        path=out / found.name,
        files=files,
        sha256=tuple(sums),
        first=tuple(first),
    )


def _begun(target: Path) -> int:
    part = target.with_name(f"{target.name}.part")
    return part.stat().st_size if part.exists() else 0


def _source(found: NamedSet, sums: Sequence[str]) -> dict[str, object]:
    return {
        "name": found.name,
        "page": found.page,
        "terms": found.terms,
        "archives": [
            {"url": archive.url, "sha256": value}
            for archive, value in zip(found.archives, sums, strict=True)
        ],
        "fetched": time.strftime("%Y-%m-%d"),
    }


def _memory() -> Path:
    return cache_root() / "checksums.json"


def _remembered() -> dict[str, str]:
    """URL -> "sha256:<hex>" of first downloads."""
    return json.loads(_memory().read_text()) if _memory().is_file() else {}


def _remember(first: dict[str, str]) -> None:
    if first:
        file = _memory()
        file.parent.mkdir(parents=True, exist_ok=True)
        known = _remembered() | {url: f"sha256:{value}" for url, value in first.items()}
        with replacing(file) as part:
            part.write_text(json.dumps(known, indent=1) + "\n")
