"""Model cards: what they say is what the index says, and the committed page is theirs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scripts import scripts_of

from edgesr import cards, cli, models
from edgesr.card_text import markdown
from edgesr.runtime.backends.choose import remember

DOCS = Path(__file__).resolve().parent.parent / "docs"
INDEX = json.loads((Path(models.__file__).parent / "weights" / "index.json").read_text())["models"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a file of docs/ as it is run, and forget it afterwards."""
    with scripts_of(DOCS, monkeypatch) as load:
        yield load


def run(*arguments: str) -> int:
    return cli.run(list(arguments))


def card_of(name: str, capsys: Captured) -> dict[str, Any]:
    assert run("models", "--card", name, "--json") == 0
    return dict(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize("name", INDEX)
def test_a_card_says_what_the_index_says(name: str, capsys: Captured) -> None:
    entry = INDEX[name]
    assert run("models", "--card", name) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# {name}\n")
    wanted = [f"{entry['parameters'][form]:,}" for form in ("training", "deployed")]
    wanted += [f"{v['psnr_y']:.2f} / {v['ssim_y']:.4f}" for v in entry["spec"]["metrics"].values()]
    wanted += [f"{way} | {ms:.1f}" for way, ms in entry.get("speed", {}).items()]
    wanted += [entry["spec"]["terms"], entry["training"]["data_digest"]]
    for stage in entry["training"]["stages"]:
        wanted.append(f"| {stage['name']} |")
        wanted.append(f"| {stage['steps']:,} | {stage['minutes']} |")
    assert [words for words in wanted if words not in text] == []
    card = card_of(name, capsys)
    assert card["about"]
    assert card["not_for"]
    assert set(card["bicubic"]) == set(entry["spec"]["metrics"])
    for figures, base in zip(card["metrics"].values(), card["bicubic"].values(), strict=True):
        assert figures["psnr_y"] > base["psnr_y"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (("espcn",), "espcn-x2"),
        (("espcn-x4",), "espcn-x4"),
        (("espcn", "--scale", "3"), "espcn-x3"),
    ],
)
def test_names_as_everywhere_else(asked: tuple[str, ...], found: str, capsys: Captured) -> None:
    assert run("models", "--card", *asked) == 0
    assert capsys.readouterr().out.startswith(f"# {found}\n")


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ("ecbsr-m4c17", 1, "no model 'ecbsr-m4c17': did you mean 'ecbsr-m4c16'?"),
        ("espcn-x5", 2, "model 'espcn' has no scale 5: there is --scale 2"),
    ],
)
def test_no_card(asked: str, code: int, message: str, capsys: Captured) -> None:
    assert run("models", "--card", asked) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err


def test_no_card_of_a_file(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "espcn-x2.onnx"
    file.write_bytes(models.resolve("espcn").path.read_bytes())
    assert run("models", "--card", str(file)) == 2
    assert "--card takes a name of `edgesr models`, not a file" in capsys.readouterr().err


def test_a_card_is_quick() -> None:
    script = (
        "import sys; from edgesr import cli; cli.run(['models', '--card', 'espcn']); "
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=DOCS.parent
    )
    loaded = set(done.stderr.split())
    assert "edgesr" in loaded
    assert not loaded & {"torch", "onnx", "onnxruntime", "openvino"}


def test_speed_measured_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = models.resolve("espcn").path
    remember(path, {"ort fp32": 12.34, "ort int8": 5.67}, about={"size": "640x360"})
    run("models", "--card", "espcn")
    text = capsys.readouterr().out
    assert "| ms for a 640x360 frame | by the project, two cores | here |" in text
    assert f"| ort fp32 | {INDEX['espcn-x2']['speed']['ort fp32']:.1f} | 12.3 |" in text
    assert "| ort int8 | - | 5.7 |" in text
    remember(path, {"ort fp32": 12.34}, about={"size": "320x180"})
    run("models", "--card", "espcn")
    assert "12.3" not in capsys.readouterr().out


def test_a_model_of_which_little_is_known(zoo: Path, capsys: Captured) -> None:
    assert run("models", "--card", "espcn") == 0
    text = capsys.readouterr().out
    assert "Not measured yet: `edgesr bench --model espcn-x2` does." in text
    assert text.endswith("## Training\n\nNot recorded.\n")


@pytest.fixture
def twins(zoo: Path) -> Path:
    """A model for clean pictures and its twin for compressed video, by the same network."""
    from onnx_models import write_index

    names = ("ecbsr-m10c16-x2", "ecbsr-m10c16-x2-video")
    write_index(zoo, dict.fromkeys(names, 2))
    index = json.loads((zoo / "index.json").read_text())
    for name, psnr, kind in zip(names, (37.0, 36.0), (None, "video"), strict=True):
        settings = {"loss": "l1", "lr": 1e-3, "degradation": kind, "teacher": "rrdb"}
        stage = {"name": name, "recipe": kind or "bicubic", "steps": 1000, "minutes": 1.5}
        index["models"][name]["spec"]["network"] = "ecbsr-m10c16"
        index["models"][name]["spec"]["metrics"] = {"Set5": {"psnr_y": psnr, "ssim_y": 0.95}}
        index["models"][name]["training"] = {
            **{"command": "make", "photos": 7, "data_digest": "abc", "seed": 1, "steps": 1000},
            **{"minutes": 1.5, "chosen_by": "a coin", "machine": "a PC"},
            "stages": [stage | {"settings": settings}],
        }
    (zoo / "index.json").write_text(json.dumps(index))
    return zoo


def test_twins_name_each_other(twins: Path, capsys: Captured) -> None:
    plain = card_of("ecbsr-m10c16", capsys)
    video = card_of("ecbsr-m10c16-video", capsys)
    assert (plain["default"], plain["default_of_stream"]) == (True, False)
    assert (video["default"], video["default_of_stream"]) == (False, True)
    assert "take ecbsr-m10c16-x2-video." in plain["not_for"][0]
    assert video["not_for"][0] == (
        "Clean sources (masters, photos): ecbsr-m10c16-x2 is nearer to the truth there, "
        "Set5 37.00 to 36.00 dB."
    )
    assert plain["training"]["small_pictures"] == "made small by MATLAB's bicubic and nothing else"
    assert "x264, x265, VP9 or MPEG-2" in video["training"]["small_pictures"]
    assert "20% of the crops through none" in markdown(video)
    assert "| video, teacher rrdb |" in markdown(video)
    assert "clean, which is not what it is for" in markdown(video)
    assert "clean, which is not what it is for" not in markdown(plain)
    assert any("--crf 28" in line for line in video["measure"])


def test_no_better_twin_is_named(twins: Path, capsys: Captured) -> None:
    index = json.loads((twins / "index.json").read_text())
    index["models"]["ecbsr-m10c16-x2-video"]["spec"]["metrics"]["Set5"]["psnr_y"] = 37.5
    (twins / "index.json").write_text(json.dumps(index))
    assert "nearer to the truth" not in str(card_of("ecbsr-m10c16-video", capsys)["not_for"])


def test_what_the_list_says_of_twins(twins: Path, capsys: Captured) -> None:
    assert run("models") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("ecbsr-m10c16-x2 * ")
    assert lines[2].startswith("ecbsr-m10c16-x2-video ** ")
    run("models", "--json")
    networks = json.loads(capsys.readouterr().out)["networks"]
    known = {(n["name"], n["scale"]): n["shipped"] for n in networks}
    assert known["ecbsr-m10c16", 2] == "ecbsr-m10c16-x2"


def test_figures_of_the_wheel_are_those_of_the_benchmarks(script: Any) -> None:
    assert cards.measured() == script("models").measured(), "run: python docs/models.py"


def test_compressed_footage_is_on_the_card(capsys: Captured) -> None:
    results = json.loads((DOCS.parent / "benchmarks" / "results" / "video.json").read_text())
    name = "ecbsr-m10c16-x2"
    card = card_of(name, capsys)
    for who in ("bicubic", name):
        for crf, value in card["compressed"]["psnr_y"][who].items():
            assert value == results["means"][who][crf]["psnr_y"]
    assert "| PSNR-Y by CRF of x264 | 18 | 23 | 28 | 33 |" in markdown(card)
    assert card_of("espcn-x4", capsys)["compressed"] == {}


def test_the_page_is_up_to_date(script: Any) -> None:
    assert (DOCS / "models.md").read_text() == script("models").page(), (
        "docs/models.md is stale: run `python docs/sheets.py && python docs/models.py`"
    )


def test_the_pictures_show_what_ships() -> None:
    sheets = json.loads((DOCS / "sheets" / "sheets.json").read_text())
    assert sheets["models"] == {name: e["sha256"]["onnx"] for name, e in INDEX.items()}, (
        "docs/sheets is stale: run `python docs/sheets.py && python docs/models.py`"
    )
    files = {file.name for file in (DOCS / "sheets").iterdir()}
    assert {f"{name}.webp" for name in sheets["sheets"]} < files
    linked = set(re.findall(r"\]\(sheets/(.+?)\)", (DOCS / "models.md").read_text()))
    assert linked == files - {"sheets.json"}
    assert sum(file.stat().st_size for file in (DOCS / "sheets").iterdir()) < 2_500_000


@pytest.fixture
def sheets(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("skimage")
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    module: ModuleType = script("sheets")
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def test_a_sheet(sheets: ModuleType, tmp_path: Path) -> None:
    import cv2

    shipped = [m for m in models.shipped() if m.name in ("espcn-x2", "ecbsr-m4c16-x4")]
    clean, coded = (
        sheets.draw(name, sheets.Sheet(title=name, scale=2, rows=("text",), crf=crf), shipped)
        for name, crf in (("clean", None), ("coded", 40))
    )
    scores = clean["psnr_y"]["text"]
    assert list(scores) == ["bicubic", "lanczos", "espcn"]  # of its scale only
    assert scores["bicubic"] < scores["lanczos"] < scores["espcn"]
    assert coded["psnr_y"]["text"]["espcn"] < scores["espcn"] - 1
    picture = cv2.imread(str(tmp_path / "clean.webp"))
    width = sheets.WIDE * sheets.ZOOM
    assert picture.shape[1] == 4 * width + 3 * 6
    truth = np.kron(
        sheets.CROPS["text"].box.cut(sheets.text()),
        np.ones((sheets.ZOOM, sheets.ZOOM, 1), np.uint8),
    )
    shown = picture[-truth.shape[0] :, -width:, ::-1]
    assert np.abs(shown.astype(int) - truth).max() <= sheets.STEP // 2


def test_crops_lie_within_their_pictures(sheets: ModuleType) -> None:
    for name, crop in sheets.CROPS.items():
        cut = crop.box.cut(crop.picture())
        assert cut.shape[:2] == (sheets.TALL, sheets.WIDE), name
        assert cut.std() > 5, f"{name}: nothing to see"
