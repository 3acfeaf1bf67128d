"""Named sets of pictures and where their authors publish them; `fetch` gets them.

Addresses, sizes and checksums were looked up in public code that uses them (tensorflow_datasets for
DIV2K, torchSR for Flickr2K, published SHA-256 of the EDSR authors' benchmark.tar); None where
nobody states one. Then the first download's SHA-256 is remembered, and a later download of the same
address has to have it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgesr.distill.unpack import Kind
from edgesr.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file to fetch: size in bytes, checksum "sha256:<hex>" or "md5:<hex>"; None: not published.

    keep  the folder in it that is the set; None: all of it
    """

    url: str
    kind: Kind
    size: int | None = None
    checksum: str | None = None
    keep: str | None = None

    @property
    def name(self) -> str:
        return Path(urlsplit(self.url).path).name


@dataclass(frozen=True, kw_only=True)
class NamedSet:
    """A published set.

    pictures  how many HR pictures
    use       "training" or "test"
    hr        where the HR pictures lie in it
    terms     what its authors say, or that they say nothing
    by_hand   how to get it where no program can
    """

    name: str
    pictures: int
    use: str
    page: str
    terms: str
    archives: tuple[Archive, ...] = ()
    hr: str = ""
    by_hand: str = ""

    @property
    def size(self) -> int | None:
        sizes = [archive.size for archive in self.archives if archive.size is not None]
        return sum(sizes) if sizes and len(sizes) == len(self.archives) else None


DIV2K_PAGE = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
LAPSRN_PAGE = "http://vllab.ucmerced.edu/wlai24/LapSRN/"
SNU = "https://cv.snu.ac.kr/research/EDSR/"
NOT_STATED = "no terms stated by its authors; used for research"


def _benchmark(keep: str) -> tuple[Archive, ...]:
    return (
        Archive(
            url=f"{SNU}benchmark.tar",
            kind="tar",
            size=250_112_000,
            checksum="sha256:80c21c333bbf6ceb5308b7243761f8284478274413a97b96f1d63e9045fd93e8",
            keep=keep,
        ),
    )


def _lapsrn(keep: str) -> tuple[Archive, ...]:
    return (Archive(url=f"{LAPSRN_PAGE}results/SR_training_datasets.zip", kind="zip", keep=keep),)


SETS: dict[str, NamedSet] = {
    "DIV2K": NamedSet(
        name="DIV2K",
        pictures=900,
        use="training",
        page=DIV2K_PAGE,
        terms="academic research only; copyright stays with the owners of the pictures",
        archives=(
            Archive(
                url=f"{DIV2K_PAGE}DIV2K_train_HR.zip",
                kind="zip",
                size=3_530_603_713,
                checksum="sha256:9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
            ),
            Archive(
                url=f"{DIV2K_PAGE}DIV2K_valid_HR.zip",
                kind="zip",
                size=448_993_893,
                checksum="sha256:20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
            ),
        ),
        hr="DIV2K_train_HR",
    ),
    "Flickr2K": NamedSet(
        name="Flickr2K",
        pictures=2650,
        use="training",
        page="https://github.com/limbee/NTIRE2017",
        terms="pictures of Flickr, each under its owner's terms; used for research",
        archives=(
            Archive(
                url=f"{SNU}Flickr2K.tar",
                kind="tar",
                checksum="md5:5d3f39443d5e9489bff8963f8f26cb03",
                keep="Flickr2K",
            ),
        ),
        hr="Flickr2K_HR",
    ),
    "OST": NamedSet(
        name="OST",
        pictures=10324,
        use="training",
        page="https://github.com/xinntao/SFTGAN#ost-dataset",
        terms=NOT_STATED,
        archives=(
            Archive(
                url="https://openmmlab.oss-cn-hangzhou.aliyuncs.com/datasets/OST_dataset.zip",
                kind="zip",
            ),
        ),
    ),
    "T91": NamedSet(
        name="T91",
        pictures=91,
        use="training",
        page=LAPSRN_PAGE,
        terms=NOT_STATED,
        archives=_lapsrn("T91"),
    ),
    "General100": NamedSet(
        name="General100",
        pictures=100,
        use="training",
        page="http://mmlab.ie.cuhk.edu.hk/projects/FSRCNN.html",
        terms=NOT_STATED,
        archives=_lapsrn("General100"),
    ),
    "Set5": NamedSet(
        name="Set5",
        pictures=5,
        use="test",
        page="http://people.rennes.inria.fr/Aline.Roumy/results/SR_BMVC12.html",
        terms=NOT_STATED,
        archives=_benchmark("Set5"),
        hr="HR",
    ),
    "Set14": NamedSet(
        name="Set14",
        pictures=14,
        use="test",
        page="https://sites.google.com/site/romanzeyde/research-interests",
        terms=NOT_STATED,
        archives=_benchmark("Set14"),
        hr="HR",
    ),
    "B100": NamedSet(
        name="B100",
        pictures=100,
        use="test",
        page="https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/",
        terms="non-commercial research and education (Berkeley segmentation dataset)",
        archives=_benchmark("B100"),
        hr="HR",
    ),
    "Urban100": NamedSet(
        name="Urban100",
        pictures=100,
        use="test",
        page="https://sites.google.com/site/jbhuang0604/publications/struct_sr",
        terms="pictures of Flickr under Creative Commons licences",
        archives=_benchmark("Urban100"),
        hr="HR",
    ),
    "Manga109": NamedSet(
        name="Manga109",
        pictures=109,
        use="test",
        page="http://www.manga109.org/en/download.html",
        terms="academic research after registration; not to be passed on",
        by_hand="it is given to those who register: ask at {page} and unpack what you get",
    ),
}


def find_set(name: str) -> NamedSet:
    """By name, upper or lower case. Raises UsageError."""
    by_lower = {known.lower(): known for known in SETS}
    if name.lower() in by_lower:
        return SETS[by_lower[name.lower()]]
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    meant = f" (did you mean {by_lower[near[0]]}?)" if near else ""
    raise UsageError(f"no set {name!r}{meant}: there is {', '.join(SETS)}")
