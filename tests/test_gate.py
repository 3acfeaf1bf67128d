"""The gate: figures that are right, rows for what cannot run, a verdict, a report without paths."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

onnxruntime = pytest.importorskip("onnxruntime")

from onnx_models import convolutions
from photos import draw_photo

from edgesr.bicubic import downscale
from edgesr.errors import ModelError, UsageError
from edgesr.export import quality
from edgesr.export.calibrate import Calibration
from edgesr.export.gate import (
    HELD_OUT,
    Candidate,
    GateReport,
    Measured,
    choose_auto,
    facts_of,
    keep_speeds,
    measure,
    pairs_in,
)
from edgesr.export.reference import Reference
from edgesr.export.repairlog import Log, Step
from edgesr.metrics import crop_border, psnr, rgb_to_y, ssim
from edgesr.models import load_file, shipped
from edgesr.runtime.backends.choose import recall
from edgesr.spec import METADATA_KEY, ModelSpec

Array = np.ndarray[Any, Any]
SIZE = (32, 48)


def model() -> Path:
    return next(m for m in shipped() if m.name == "espcn-x2").onnx


def pair(seed: int, *, size: int = 48) -> tuple[Array, Array]:
    hr = draw_photo(seed, height=2 * size, width=2 * size)
    small, big = (rgb_to_y(picture) / 255.0 for picture in (downscale(hr, 2), hr))
    return small.astype(np.float32)[None, None], big.astype(np.float32)[None, None]


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    pairs = tuple(pair(seed) for seed in range(3))
    return Calibration(
        pictures=tuple(lr for lr, _ in pairs), held_out=pairs, digest="-", about={"frames": 3}
    )


def off(folder: Path, name: str, *, by: float) -> Path:
    """The model with its last bias moved: every output value is `by` too large."""
    graph = onnx.load(model())
    last = [node for node in graph.graph.node if node.op_type == "Conv"][-1]
    bias = next(t for t in graph.graph.initializer if t.name == last.input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(by), bias.name))
    path = folder / name
    onnx.save(graph, path)
    return path


def measured(candidates: list[Candidate], **options: Any) -> list[Measured]:
    found = load_file(model())
    given = {"size": SIZE, "threads": (1,), "rounds": 3, "calibration": None} | options
    return measure(candidates, reference=onnx.load(found.path), spec=found.spec, **given)


def ort(path: Path, name: str = "ort fp32") -> Candidate:
    return Candidate(name=name, path=path, backend="ort", precision="fp32")


def row(name: str, precision: str, *, ms: float, drop: float | None = 0.0, **more: Any) -> Measured:
    candidate = Candidate(name=name, path=Path("m.onnx"), backend="ort", precision=precision)
    psnr_to_fp32 = None if "error" in more else 60.0
    figures = {"max_abs": 0.1, "mean_abs": 0.01, "psnr_to_fp32": psnr_to_fp32, "size_bytes": 1000}
    return Measured(candidate=candidate, drop=drop, ms={1: ms}, **(figures | more))


def test_figures(tmp_path: Path, calibration: Calibration) -> None:
    """Against the same figures taken by hand."""
    same, moved = measured(
        [ort(model()), ort(off(tmp_path, "moved.onnx", by=0.02), "moved")],
        calibration=calibration,
    )
    assert same.psnr_to_fp32 is not None
    assert same.psnr_to_fp32 > 100
    assert same.drop == pytest.approx(0.0, abs=1e-6)
    assert moved.max_abs == pytest.approx(0.02, abs=1e-5)
    assert moved.mean_abs == pytest.approx(0.02, abs=1e-5)
    assert moved.psnr_to_fp32 == pytest.approx(-20 * np.log10(0.02), abs=1e-2)
    session = onnxruntime.InferenceSession(model())
    drops, ssims = [], []
    for lr, hr in calibration.held_out:
        output = session.run(None, {"x": lr})[0][0, 0].astype(np.float64)
        truth = crop_border(hr[0, 0].astype(np.float64) * 255, border=2)
        rounded = [
            crop_border(np.round(np.clip((output + by) * 255, 0, 255)), border=2)
            for by in (0.0, 0.02)
        ]
        drops.append(psnr(rounded[0], truth) - psnr(rounded[1], truth))
        ssims.append(ssim(rounded[0], truth) - ssim(rounded[1], truth))
    assert moved.drop == pytest.approx(np.mean(drops), abs=1e-3)
    assert moved.ssim_drop == pytest.approx(np.mean(ssims), abs=1e-5)
    assert moved.drop > 0.1
    assert set(moved.ms) == {1}
    assert moved.size_bytes == (tmp_path / "moved.onnx").stat().st_size
    assert moved.runs is not None
    assert moved.runs.startswith("ort ")


def test_what_float32_gives_is_run_once(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = load_file(model())
    known = Reference(onnx.load(found.path), found.spec, calibration)
    (alone,) = measured([ort(model())], calibration=calibration)
    monkeypatch.setattr("edgesr.export.reference.by_graph", None)
    (shared,) = measured([ort(model())], calibration=calibration, known=known)
    assert dataclasses.replace(shared, ms={}) == dataclasses.replace(alone, ms={})


def test_more_sets_and_the_worst_counts(tmp_path: Path, calibration: Calibration) -> None:
    other = {"flat": [(np.full((1, 1, 20, 23), 0.5, np.float32), pair(9)[1][:, :, :40, :46])]}
    (moved,) = measured(
        [ort(off(tmp_path, "moved.onnx", by=0.03))], calibration=calibration, evaluation=other
    )
    assert set(moved.sets) == {HELD_OUT, "flat"}
    assert moved.drop == max(drop for drop, _ in moved.sets.values())
    assert pairs_in(calibration, other) == {HELD_OUT: 3, "flat": 1}
    assert pairs_in(None) == {}


def test_without_a_truth_the_drop_is_likely(tmp_path: Path) -> None:
    for given in (None, Calibration(pictures=(pair(0)[0],), held_out=(), digest="", about={})):
        (moved,) = measured(
            [ort(off(tmp_path, "moved.onnx", by=0.002))], calibration=given, threads=(1, 2)
        )
        assert moved.drop is None
        assert moved.likely_drop == pytest.approx(quality.likely_drop(moved.psnr_to_fp32 or 0))
        assert moved.likely_drop is not None
        assert 0.05 < moved.likely_drop < 0.2  # 54 dB away
        assert set(moved.ms) == {1, 2}


def test_what_cannot_run_is_a_row(tmp_path: Path, calibration: Calibration) -> None:
    broken = tmp_path / "broken.onnx"
    graph = onnx.load(off(tmp_path, "x.onnx", by=0.0))
    graph.graph.node[0].op_type = "NoSuchThing"
    onnx.save(graph, broken)
    nan = off(tmp_path, "nan.onnx", by=float("nan"))
    rows = measured(
        [
            ort(broken, "broken"),
            ort(tmp_path / "gone.onnx", "gone"),
            ort(nan, "nan"),
            Candidate(name="no such", path=model(), backend="nothing", precision="fp32"),
            Candidate(name="gone ir", path=tmp_path / "m.xml", backend="ort", precision="fp32"),
            ort(model(), "good"),
        ],
        calibration=calibration,
    )
    assert [m.candidate.name for m in rows] == [
        "broken",
        "gone",
        "nan",
        "no such",
        "gone ir",
        "good",
    ]
    errors = {m.candidate.name: m.error for m in rows}
    assert errors["good"] is None
    assert "NoSuchThing" in str(errors["broken"])
    assert "not finite" in str(errors["nan"])
    assert "no backend 'nothing'" in str(errors["no such"])
    assert "m" in str(errors["gone ir"])
    for m in rows[:-1]:
        assert m.error
        assert "\n" not in m.error
        assert (m.drop, m.psnr_to_fp32, dict(m.ms)) == (None, None, {})
        assert not m.within(100.0)
    report = GateReport(model="espcn-x2", origin="test", size=SIZE, measured=tuple(rows))
    text = "\n".join(report.lines())
    for m in rows[:-1]:
        assert m.candidate.name in text
        assert str(m.error) in text
    assert str(tmp_path) not in text
    assert str(tmp_path) not in json.dumps(report.to_dict())
    assert report.auto is rows[-1]


def test_another_size_and_scale_is_an_error(tmp_path: Path, calibration: Calibration) -> None:
    other = convolutions(tmp_path / "x4.onnx", layers=1, scale=4)
    (wrong,) = measured([ort(other)], calibration=calibration)
    assert wrong.error is not None


def test_a_fixed_size(tmp_path: Path, calibration: Calibration) -> None:
    """A file for one size: pictures are cut or filled up to it."""
    found = load_file(model())
    graph = onnx.load(found.path)
    spec = found.spec.replace(fixed_size=(40, 56))
    onnx.helper.set_model_props(graph, {METADATA_KEY: spec.to_json()})
    for axis, side in ((2, 40), (3, 56)):
        graph.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = side
    path = tmp_path / "fixed.onnx"
    onnx.save(graph, path)
    (m,) = measure(
        [ort(path)], reference=graph, spec=spec, calibration=calibration, size=(9, 9), threads=(1,)
    )
    assert m.error is None
    assert m.drop == pytest.approx(0.0, abs=1e-6)


def test_wrong_arguments(calibration: Calibration) -> None:
    for options in ({"rounds": 0}, {"threads": ()}, {"threads": (0,)}):
        with pytest.raises(UsageError, match="1 or more"):
            measured([ort(model())], **options)
    tiny = {"tiny": [(np.zeros((1, 1, 5, 5), np.float32), np.zeros((1, 1, 10, 10), np.float32))]}
    with pytest.raises(UsageError, match="10x10"):
        measured([ort(model())], evaluation=tiny)


def test_a_model_with_state_is_not_measured() -> None:
    found = load_file(model())
    from edgesr.spec import StateSpec

    spec = found.spec.replace(state=(StateSpec(name="h", shape=(1, 4, None, None)),))
    (m,) = measure(
        [ort(model())], reference=onnx.load(model()), spec=spec, calibration=None, size=SIZE
    )
    assert "state" in str(m.error)


def test_auto_takes_the_fastest_within_the_budget() -> None:
    fp32, bf16 = row("ort fp32", "fp32", ms=100), row("ov bf16", "bf16", ms=50, drop=0.005)
    fast = row("int8", "int8", ms=20, drop=0.05)
    assert choose_auto([fp32, bf16, fast], max_drop=0.1) is fast
    assert choose_auto([fp32, bf16, fast], max_drop=0.01) is bf16
    # Hardly faster is not worth its loss.
    hardly = row("int8", "int8", ms=49, drop=0.05)
    assert choose_auto([fp32, bf16, hardly], max_drop=0.1) is bf16
    failed = row("int8", "int8", ms=1, drop=None, error="no")
    assert choose_auto([fp32, failed], max_drop=0.1) is fp32
    assert choose_auto([failed], max_drop=0.1) is None


def verdict(*rows: Measured, max_drop: float = 0.1) -> str:
    return GateReport(model="m", origin="o", size=SIZE, measured=rows, max_drop=max_drop).verdict


def test_verdicts() -> None:
    fp32 = row("ort fp32", "fp32", ms=100)
    assert verdict(fp32) == "auto takes ort fp32"
    slow = verdict(fp32, row("ort int8", "int8", ms=120, drop=0.05))
    assert "int8 is not faster than ort fp32 here" in slow
    assert "auto will not choose it; auto takes ort fp32" in slow
    assert "only 1.02 times as fast" in verdict(fp32, row("i", "int8", ms=98, drop=0.05))
    bad = verdict(fp32, row("ort int8", "int8", ms=20, drop=0.3))
    assert "int8 loses 0.300 dB, 0.1 are allowed: auto will not choose it" in bad
    good = verdict(fp32, row("ort int8", "int8", ms=20, drop=0.05))
    assert "int8 (ort int8) is 5.00 times as fast as ort fp32, for 0.050 dB" in good
    gone = row("ort int8", "int8", ms=20, drop=None, error="no VNNI")
    assert verdict(fp32, gone) == "int8 could not be run here: auto takes ort fp32"
    assert "none of these" in verdict(gone)


def test_the_report(tmp_path: Path) -> None:
    log = Log(
        flavour="ort", max_drop=0.1, truth=True, pairs=8, before=1.0, drop=0.05, method="minmax",
        keep_float=("conv",),
        steps=(Step(what="conv in float", before=1.0, after=0.05, kept=True),),
    )  # fmt: skip
    report = GateReport(
        model="m", origin="o", size=(360, 640), repairs=(log,), pairs={HELD_OUT: 8},
        measured=(
            row("ort fp32", "fp32", ms=100),
            row("ort int8", "int8", ms=20, drop=0.3, sets={HELD_OUT: (0.3, 0.01)}, ssim_drop=0.01),
        ),
        calibration={"frames": 32},
    )  # fmt: skip
    lines = report.lines()
    assert "m at 640x360 on " in lines[0]
    assert any("ort int8" in line and "past the budget" in line for line in lines)
    assert any("conv in float" in line for line in lines)
    assert lines[-1] == report.verdict
    path = report.write(tmp_path / "m-int8.onnx")
    assert path.name == "m-int8.onnx.report.json"
    kept = json.loads(path.read_text())
    assert kept == json.loads(json.dumps(report.to_dict()))
    assert kept["schema"] == 1
    assert kept["calibration"] == {"frames": 32}
    assert kept["auto"] == "ort fp32"
    assert [c["within"] for c in kept["candidates"]] == [True, False]
    assert [log["steps"][0]["kept"] for log in kept["repairs"]] == [True]
    assert kept["machine"]["cores"] >= 1
    assert "onnxruntime" in kept["versions"]


def test_speeds_are_kept_for_auto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "net.onnx"
    path.write_bytes(model().read_bytes())

    def at(name: str, m: Measured) -> Measured:
        return dataclasses.replace(
            m, candidate=dataclasses.replace(m.candidate, path=tmp_path / name)
        )

    def kept(*rows: Measured) -> dict[str, float]:
        report = GateReport(model="m", origin="o", size=SIZE, measured=rows)
        assert keep_speeds(report, path) is not None
        return recall(path)

    eight = load_file(model()).spec.replace(precision="int8")
    for name in ("net-int8.onnx", "net-int8-extra.onnx"):
        graph = onnx.load(model())
        onnx.helper.set_model_props(graph, {METADATA_KEY: eight.to_json()})
        onnx.save(graph, tmp_path / name)
    fp32 = at("net.onnx", row("a", "fp32", ms=100))
    other = at("elsewhere.onnx", row("b", "bf16", ms=1))
    assert kept(fp32, other) == {"ort fp32": 100.0}
    good = at("net-int8.onnx", row("c", "int8", ms=20, drop=0.05))
    assert kept(fp32, good) == {"ort fp32": 100.0, "ort int8": 20.0}
    unseen = at("net-int8-extra.onnx", row("d", "int8", ms=10, drop=0.05))  # no runtime takes it
    assert kept(fp32, good, unseen) == {"ort fp32": 100.0, "ort int8": 20.0}
    bad = at("net-int8.onnx", row("c", "int8", ms=20, drop=0.5))
    assert kept(fp32, bad) == {"ort fp32": 100.0}
    slow = at("net-int8.onnx", row("c", "int8", ms=99, drop=0.05))
    assert kept(fp32, slow) == {"ort fp32": 100.0}
    empty = GateReport(model="m", origin="o", size=SIZE, measured=(bad,))
    assert keep_speeds(empty, path) is None


def test_facts_of_a_file_with_a_sidecar(tmp_path: Path) -> None:
    spec = ModelSpec(name="m-x2", network="espcn", scale=2, colour="y", halo=4)
    (tmp_path / "m.json").write_text(spec.to_json())
    (tmp_path / "m.xml").write_text("<net/>")
    (tmp_path / "m.bin").write_bytes(b"\0")
    assert facts_of(tmp_path / "m.xml") == spec
    with pytest.raises(ModelError, match=r"other\.xml is not complete"):
        facts_of(tmp_path / "other.xml")


def test_likely_drop_is_what_independent_errors_cost() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((400, 400)) * 255
    ours = truth + rng.normal(0, 255 * 10 ** (-quality.ASSUMED_DB / 20), truth.shape)
    worse = ours + rng.normal(0, 255 * 10 ** (-50 / 20), truth.shape)
    lost = psnr(ours, truth) - psnr(worse, truth)
    assert quality.likely_drop(50) == pytest.approx(lost, abs=0.02)


def test_rgb_is_scored_by_its_luma() -> None:
    hr = draw_photo(1, height=40, width=40)
    truth = hr.transpose(2, 0, 1)[None].astype(np.float32) / 255
    found = quality.scores([truth * 0.83], [truth], scale=2)
    darker = np.round(hr * np.float32(0.83))
    expected = psnr(crop_border(rgb_to_y(darker), border=2), crop_border(rgb_to_y(hr), border=2))
    assert found.psnr_y == pytest.approx(expected, abs=0.02)
