"""The report: one file that stands alone, whose numbers are those of the run."""

from __future__ import annotations

import base64
import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from photos import draw_photo

from edgesr.bicubic import downscale, imresize
from edgesr.distill.curves import curve, ticks
from edgesr.distill.pictures import Pair
from edgesr.distill.report import Row, read_log, summarise, write_report
from edgesr.distill.scores import Score
from edgesr.distill.strips import make_strips, most_detailed

VOID = {"meta", "img", "br", "hr", "link", "input"}
FIELDS = ("step", "steps", "loss", "lr", "seconds", "psnr_y", "ssim_y")


class Page(HTMLParser):
    """Every tag closed in its order; texts, attributes and pictures kept."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "my-run"
    folder.mkdir()
    (folder / "recipe.toml").write_text('student = "espcn"\nnote = "<b>&"\n')
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=FIELDS)
        writer.writeheader()
        for k in range(1, 9):
            row = {"step": 100 * k, "steps": 800, "loss": 0.1 / k, "lr": 1e-3, "seconds": 30.0 * k}
            writer.writerow(row | {"psnr_y": 36 - 3 / k, "ssim_y": 0.9})
    return folder


def rows() -> list[Row]:
    scores = {
        "bicubic": Score(name="mean", psnr_y=33.6741, ssim_y=0.93),
        "before": Score(name="mean", psnr_y=36.5, ssim_y=0.95, lpips=0.2),
        "student": Score(name="mean", psnr_y=35.625, ssim_y=0.96, lpips=0.1),
    }
    return [Row(name="Set5 <&>", pictures=5, scores=scores)]


def pair(seed: int) -> Pair:
    hr = draw_photo(seed, height=160, width=200)
    return Pair(name=f"photo {seed}", lr=downscale(hr, 2), hr=hr)


def write(run: Path, **changes: Any) -> tuple[Page, str]:
    strips = make_strips([pair(1), pair(2)], {"student": lambda y: imresize(y, 2)}, scale=2)
    given = {
        "rows": rows(),
        "strips": strips,
        "environment": {"machine": "a CPU", "versions": "torch <1>"},
        "data": "204 photos & more",
        "notes": ["The teacher was of no use."],
    }
    path = write_report(run, **{**given, **changes})
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    return Page(text), text


def test_it_is_one_file_that_needs_nothing_else(run: Path) -> None:
    page, text = write(run)
    assert page.said("title")[0] == "my-run: edgesr training report"
    assert page.said("h1") == ["my-run"]
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    assert not re.search(r"https?://|url\(|@import|file:", text)
    sources = [attributes["src"] for _, attributes in page.tags if "src" in attributes]
    assert len(sources) == 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not any({"href", "srcset", "background"} & set(a) for _, a in page.tags)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all(
        "meta"
    )
    assert "prefers-color-scheme: dark" in text
    assert "system-ui" in text
    assert sorted(f.name for f in run.iterdir()) == ["log.csv", "recipe.toml", "report.html"]


def test_what_is_given_stands_there_as_text(run: Path) -> None:
    """Markup in names is shown, not obeyed."""
    page, _ = write(run)
    assert "The teacher was of no use." in page.said("p")
    assert "204 photos & more" in page.said("p")
    assert page.said("pre") == ['student = "espcn"\nnote = "<b>&"']
    assert "torch <1>" in page.said("td")
    assert "Set5 <&> (5)" in page.said("th")
    assert not page.all("b")


def test_the_table_holds_the_figures_and_their_change(run: Path) -> None:
    page, text = write(run)
    cells = page.said("td")
    assert cells[:5] == ["PSNR-Y", "33.674", "36.500", "35.625", "-0.875"]
    assert cells[5:10] == ["SSIM-Y", "0.9300", "0.9500", "0.9600", "+0.0100"]
    assert cells[10:15] == ["LPIPS", "-", "0.2000", "0.1000", "-0.1000"]
    assert '<td class="bad">-0.875</td>' in text  # a loss is shown as one
    assert '<td class="good">-0.1000</td>' in text  # of LPIPS less is better
    assert "student: 35.62 dB PSNR-Y on Set5 <&>, before 36.50 (-0.88)." in page.said("p")


def test_the_curves_are_those_of_the_log(run: Path) -> None:
    """Read back from the pixels of the SVG by its own axis marks, and from the table."""
    page, text = write(run)
    logged = list(csv.DictReader((run / "log.csv").read_text().splitlines()))
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) == 2  # PSNR-Y and loss
    for drawing, key, scaled in zip(drawings, ("psnr_y", "loss"), (float, np.log), strict=True):
        marks = re.findall(r'class="y" x="\d+" y="([\d.]+)">([^<]+)<', drawing)
        at = [float(y) - 4 for y, _ in marks]
        slope, offset = np.polyfit(at, [scaled(float(v)) for _, v in marks], 1)
        points = re.search(r'class="curve" points="([^"]+)"', drawing)
        assert points is not None
        xs, ys = zip(*(map(float, p.split(",")) for p in points[1].split()), strict=True)
        expected = [scaled(float(row[key])) for row in logged]
        assert np.allclose(slope * np.array(ys) + offset, expected, rtol=1e-3)
        assert np.allclose(np.diff(xs), np.diff(xs)[0], atol=0.02)  # steps are even
        tips = re.findall(r"<title>step (\d+): ([\d.]+)</title>", drawing)
        assert [int(step) for step, _ in tips] == [100 * k for k in range(1, 9)]
        assert [float(v) for _, v in tips] == pytest.approx(
            [float(row[key]) for row in logged], rel=1e-3
        )
    heads = page.said("th")
    first = heads.index("minutes") + 1
    assert heads[first : first + 8] == [str(100 * k) for k in range(1, 9)]
    assert "8 steps" not in text
    assert "800 steps in 4.0 minutes." in page.said("p")


def test_the_pictures_are_the_crops(run: Path) -> None:
    page, _ = write(run)
    images = page.all("img")
    assert [i["alt"] for i in images[:3]] == [
        "photo 1, bicubic",
        "photo 1, student",
        "photo 1, truth",
    ]
    assert len(images) == 6
    first = pair(1)
    top, left = most_detailed(first.hr.mean(axis=2), size=128)
    whole = {"bicubic": imresize(first.lr, 2), "truth": first.hr}
    for image in (images[0], images[2]):
        content = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert picture is not None
        assert (image["width"], image["height"]) == ("256", "256")
        assert picture.shape == (128, 128, 3)
        source = whole[image["alt"].partition(", ")[2]][..., ::-1]
        places = cv2.matchTemplate(np.ascontiguousarray(source), picture, cv2.TM_SQDIFF)
        y, x = np.unravel_index(places.argmin(), places.shape)
        assert np.array_equal(source[y : y + 128, x : x + 128], picture)
        assert abs(y - top) + abs(x - left) <= 8  # luma is not the mean of the channels


def test_most_detailed_finds_the_only_detail() -> None:
    luma = np.full((90, 120), 50.0)
    luma[40:60, 70:90] = np.random.default_rng(0).random((20, 20)) * 200
    top, left = most_detailed(luma, size=32)
    assert 27 <= top <= 41
    assert 57 <= left <= 71
    assert most_detailed(luma[:20, :20], size=32) == (0, 0)


def test_rgb_students_and_small_pictures(run: Path) -> None:
    hr = draw_photo(1, height=60, width=64)
    small = Pair(name="small", lr=downscale(hr, 2), hr=hr)
    nearest = {"student": lambda rgb: rgb.repeat(2, axis=1).repeat(2, axis=2)}
    (strip,) = make_strips([small], nearest, scale=2, colour="rgb")
    assert np.array_equal(strip.pictures["student"], small.lr.repeat(2, 0).repeat(2, 1))
    assert list(strip.pictures) == ["bicubic", "student", "truth"]
    page, _ = write(run, strips=[strip])
    assert page.all("img")[0]["width"] == "128"


def test_a_run_that_has_nothing_yet(tmp_path: Path) -> None:
    page, text = write(tmp_path, rows=[], strips=[], notes=[])
    assert "The run has no log.csv." in text
    assert not page.all("svg")
    assert not page.all("img")


def test_log_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    """Of a step that was written twice the later one; what is no number is no point."""
    log = tmp_path / "log.csv"
    log.write_text("step,loss,psnr_y\n100,0.3,30\n200,0.2,31\n100,0.4,29\n300,nan,\n")
    assert [(r["step"], r["loss"]) for r in read_log(log)[:2]] == [(100, 0.4), (200, 0.2)]
    page, text = write(tmp_path, rows=[], strips=[])
    assert len(page.all("polyline")) == 2
    assert all(len(p["points"].split()) == 2 for p in page.all("polyline"))
    assert "nan" not in text


def test_further_columns_of_the_log_get_curves(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("step,loss,loss_gan,psnr_y\n10,1,0.5,30\n20,0.9,0.4,31\n")
    page, _ = write(tmp_path, rows=[], strips=[])
    assert [svg["aria-label"] for svg in page.all("svg")] == [
        "psnr_y over steps",
        "loss over steps",
        "loss_gan over steps",
    ]


def test_a_yardstick_far_away_is_not_drawn() -> None:
    points = [(1.0, 37.0), (2.0, 37.2)]
    settings = {"name": "psnr_y", "decimals": 3, "log": False}
    assert 'class="line"' in curve(points, line=("before", 36.9), **settings)
    assert 'class="line"' not in curve(points, line=("bicubic", 33.7), **settings)


@pytest.mark.parametrize(
    ("low", "high", "log"),
    [(36.6, 37.4, False), (0.0143, 0.0171, True), (1e-4, 0.3, True), (2, 9, True), (0, 7e5, False)],
)
def test_axis_marks_are_round_and_span_the_values(low: float, high: float, log: bool) -> None:
    marks = ticks(low, high, log=log)
    assert 3 <= len(marks) <= 9
    assert marks[0] <= low * (1 + 1e-9)
    assert marks[-1] >= high * (1 - 1e-9)
    for mark in marks[1:]:
        assert len(f"{mark:.6g}".replace(".", "").strip("0")) <= 4
    assert ticks(5, 5, log=False) == [5]


def test_summary_holds_the_same_figures() -> None:
    values = summarise(rows(), environment={"machine": "a CPU"}, data="x", notes=["y"])
    entry = values["sets"]["Set5 <&>"]
    assert entry["pictures"] == 5
    assert entry["student"] == {"psnr_y": 35.625, "ssim_y": 0.96, "lpips": 0.1}
    assert entry["bicubic"] == {"psnr_y": 33.6741, "ssim_y": 0.93}
    assert entry["gain_psnr_y"] == -0.875
    assert (values["data"], values["notes"]) == ("x", ["y"])
