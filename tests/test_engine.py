"""Engines on disk: a wrong one is never loaded, whatever is wrong with it."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from onnx_models import nearest
from trt_fakes import PLAN, Cuda, Trt10

from edgesr.errors import BackendError, ModelError, UsageError
from edgesr.models import load_file
from edgesr.runtime.backends import engine_prune
from edgesr.runtime.backends.engine import (
    EngineKey,
    StaleEngine,
    cache_folder,
    load_engine,
    locked,
    make_key,
    read_sidecar,
    save_engine,
)
from edgesr.runtime.backends.engine_options import EngineOptions, engine_options
from edgesr.runtime.backends.tensorrt_build import build_or_load, open_plan
from edgesr.spec import ModelSpec


class Case:
    """A model, a device and a cache in a folder; `build` tells what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cache"
        self.onnx = nearest(folder / "net.onnx")
        self.spec = load_file(self.onnx).spec
        self.options = engine_options(self.spec)
        self.trt, self.cuda = Trt10("10.3.0"), Cuda()
        self.notes: list[str] = []

    def build(self, **changes) -> bytes:
        values = {"options": self.options, "trt": self.trt, "cuda": self.cuda, **changes}
        self.notes = []
        return build_or_load(
            changes.pop("onnx", self.onnx),
            spec=self.spec,
            on_note=self.notes.append,
            folder=self.folder,
            **{name: value for name, value in values.items() if name != "onnx"},
        )

    @property
    def plan(self) -> Path:
        (plan,) = self.folder.glob("*.plan")
        return plan

    def rebuilt(self) -> str | None:
        """The line that says why, if one does."""
        lines = [line for line in self.notes if "is built again: " in line]
        assert len(lines) <= 1
        return lines[0].partition("is built again: ")[2] if lines else None


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_a_second_time_comes_from_the_cache(case: Case) -> None:
    first = case.build()
    assert first == PLAN + case.onnx.read_bytes()
    assert case.notes == ["building the fp32 engine of nearest-x2 for Orin, once"]
    assert case.build() == first
    assert case.notes == []
    assert case.trt.builds == 1
    sidecar = read_sidecar(case.plan)
    assert sidecar.spec == case.spec
    assert sidecar.key == make_key(case.onnx, options=case.options, trt=case.trt, cuda=case.cuda)
    assert sidecar.built["flags"] == ["STRONGLY_TYPED", "no TF32"]
    assert sidecar.built["warnings"] == ["a layer was slow"]


def other_model(case: Case) -> dict:
    """Another model under the same name: trained on, say."""
    return {"onnx": nearest(case.onnx.with_name("again.onnx"), gain=0.5)}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (lambda case: {"cuda": Cuda("RTX 4090")}, "built for GPU Orin, this is RTX 4090"),
        (lambda case: {"cuda": Cuda(cc=(8, 9))}, "capability 8.7, this is 8.9"),
        (lambda case: {"cuda": Cuda(driver="550.1")}, "driver 540.4, this is 550.1"),
        (
            lambda case: {"trt": Trt10("10.13.3")},
            "TensorRT tensorrt 10.3.0, this is tensorrt 10.13",
        ),
        (other_model, "it was built from another model"),
    ],
    ids=["gpu", "capability", "driver", "tensorrt", "model"],
)
def test_another_machine_or_model_builds_anew(case: Case, changes, why: str) -> None:
    """The first engine stays for the one it was built for; the second is its own."""
    case.build()
    other = changes(case)
    assert case.build(**other).startswith(PLAN)
    assert why in (case.rebuilt() or "")
    assert len(list(case.folder.glob("*.plan"))) == 2
    case.build()
    assert case.notes == []


@pytest.mark.parametrize(
    "options",
    [{"size": (64, 64)}, {"batch": 4}, {"most": (2160, 3840)}, {"level": 5}, {"workspace": 256}],
    ids=str,
)
def test_other_options_are_another_engine(case: Case, options: dict) -> None:
    """Nothing was wrong with the first one, so there is no word about it."""
    case.build()
    case.build(options=engine_options(case.spec, **options))
    assert case.rebuilt() is None
    assert len(list(case.folder.glob("*.plan"))) == 2


def cut(case: Case) -> None:
    case.plan.write_bytes(case.plan.read_bytes()[:-7])


def damage(case: Case) -> None:
    data = bytearray(case.plan.read_bytes())
    data[len(data) // 2] ^= 1
    case.plan.write_bytes(data)


def swap(case: Case) -> None:
    """The right name, the bytes and the sidecar of another model's engine."""
    plan, sidecar = case.plan, case.plan.with_suffix(".json")
    key = make_key(other_model(case)["onnx"], options=case.options, trt=case.trt, cuda=case.cuda)
    save_engine(plan, PLAN + b"other", spec=case.spec, key=key)
    assert sidecar.is_file()


def forge(case: Case) -> None:
    """A sidecar that was edited to fit."""
    sidecar = case.plan.with_suffix(".json")
    values = json.loads(sidecar.read_text())
    values["key"]["driver"] = "999"
    sidecar.write_text(json.dumps(values))


def foreign_device(case: Case) -> None:
    """The cache of another board, copied over file by file."""
    key = make_key(case.onnx, options=case.options, trt=case.trt, cuda=Cuda("Xavier", (7, 2)))
    save_engine(case.plan, PLAN + b"other", spec=case.spec, key=key)


def json_text(text: str):
    return lambda case: case.plan.with_suffix(".json").write_text(text)


WRONG = {
    "cut": (cut, "it is cut off: "),
    "longer": (lambda c: c.plan.write_bytes(c.plan.read_bytes() + b"x"), "it is damaged"),
    "damaged": (damage, "it is damaged"),
    "empty": (lambda c: c.plan.write_bytes(b""), "it is cut off: 0 of"),
    "no plan": (lambda c: c.plan.unlink(), "cannot be read: No such file"),
    "no sidecar": (lambda c: c.plan.with_suffix(".json").unlink(), ".json is missing"),
    "no json": (json_text("{"), ".json cannot be read"),
    "other json": (json_text('{"name": 1}'), "is no sidecar of an engine"),
    "list": (json_text("[1]"), "is no sidecar of an engine"),
    "forged": (forge, "its digest does not fit its key"),
    "other model": (swap, "it was built from another model"),
    "copied over": (foreign_device, "built for GPU Xavier, this is Orin"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_engine_in_the_cache_is_built_again(case: Case, name: str) -> None:
    good = case.build()
    spoil, why = WRONG[name]
    plan = case.plan
    spoil(case)
    assert case.build() == good
    assert why in (case.rebuilt() or "")
    assert case.trt.builds == 2
    assert plan.read_bytes() == good
    assert case.build() == good
    assert case.trt.builds == 2


def given(case: Case, folder: Path) -> Path:
    """The engine as a user has it: a .plan and its .json."""
    case.build()
    folder.mkdir()
    plan = folder / "mine.plan"
    plan.write_bytes(case.plan.read_bytes())
    plan.with_suffix(".json").write_bytes(case.plan.with_suffix(".json").read_bytes())
    for path in case.folder.iterdir():
        path.unlink()
    return plan


def opened(case: Case, plan: Path, **device) -> tuple[bytes, ModelSpec]:
    case.notes = []
    values = {"trt": case.trt, "cuda": case.cuda, **device}
    return open_plan(plan, on_note=case.notes.append, folder=case.folder, **values)


def test_the_users_own_plan_is_loaded(case: Case, tmp_path: Path) -> None:
    plan = given(case, tmp_path / "there")
    assert opened(case, plan) == (plan.read_bytes(), case.spec)
    assert case.notes == []
    assert case.trt.builds == 1
    opened(case, plan, cuda=Cuda(driver="550.1"))
    assert case.notes == [
        f"{plan}: it was built for driver 540.4, this is 550.1; it may run slower than one built "
        "here"
    ]


DEVICES = {
    "other GPU": ({"cuda": Cuda("RTX 4090", (8, 9))}, "built for GPU Orin, this is RTX 4090"),
    "other TensorRT": ({"trt": Trt10("10.16.1")}, "tensorrt 10.3.0, this is tensorrt 10.16.1"),
}
OF_FILES = ("cut", "longer", "damaged", "no sidecar", "no json", "other json", "forged")


@pytest.mark.parametrize("name", [*DEVICES, *OF_FILES])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "with ONNX"])
def test_a_wrong_plan_of_the_user(case: Case, tmp_path: Path, name: str, beside: bool) -> None:
    """Refused in one line; built from the ONNX file where that lies beside it."""
    plan = given(case, tmp_path / "there")
    device, why = DEVICES[name] if name in DEVICES else ({}, WRONG[name][1])
    if name in WRONG:
        case.folder = plan.parent  # what spoils an engine of the cache, spoils this one
        WRONG[name][0](case)
        case.folder = tmp_path / "cache"
    before = plan.read_bytes()
    if not beside:
        with pytest.raises(BackendError) as raised:
            opened(case, plan, **device)
        assert why in str(raised.value)
        assert "\n" not in str(raised.value)
        assert case.trt.builds == 1
        return
    onnx = plan.with_suffix(".onnx")
    onnx.write_bytes(case.onnx.read_bytes())
    data, spec = opened(case, plan, **device)
    assert data == PLAN + onnx.read_bytes()
    assert spec == case.spec
    assert why in case.notes[0]
    assert "mine.onnx beside it is built instead" in case.notes[0]
    assert plan.read_bytes() == before  # the user's file stays


def test_a_plan_of_another_model_than_its_onnx(case: Case, tmp_path: Path) -> None:
    plan = given(case, tmp_path / "there")
    onnx = nearest(plan.with_suffix(".onnx"), gain=0.25)
    assert opened(case, plan)[0] == PLAN + onnx.read_bytes()
    assert "it was built from another model" in case.notes[0]


def test_a_model_that_was_asked_for_and_is_another(case: Case, tmp_path: Path) -> None:
    plan = given(case, tmp_path / "there")
    other = case.spec.replace(name="other-x2")
    with pytest.raises(BackendError, match="it is an engine of nearest-x2, not of other-x2"):
        opened(case, plan, spec=other)


def test_told_to_build_anew(case: Case) -> None:
    case.build()
    case.build(unusable="TensorRT cannot read it")
    assert case.rebuilt() == "TensorRT cannot read it"
    assert case.trt.builds == 2


def test_what_the_key_holds(case: Case) -> None:
    key = make_key(case.onnx, options=case.options, trt=case.trt, cuda=case.cuda)
    assert EngineKey.from_dict(json.loads(json.dumps(key.to_dict()))) == key
    digests = {key.digest}
    for changes in (
        *({"model": "0"}, {"tensorrt": "x"}, {"gpu": "x"}, {"compute": "9.0"}, {"driver": "x"}),
        *({"options": dataclasses.replace(case.options, level=level)} for level in (0, 1)),
    ):
        digests.add(dataclasses.replace(key, **changes).digest)
    assert len(digests) == 8
    rtx = Trt10("10.3.0")
    rtx.__name__ = "tensorrt_rtx_bindings"
    assert make_key(case.onnx, options=case.options, trt=rtx, cuda=case.cuda) != key


def test_a_cache_that_cannot_be_written_costs_a_note(case: Case, tmp_path: Path) -> None:
    case.folder = tmp_path / "file" / "cache"
    case.folder.parent.write_text("no folder")
    assert case.build().startswith(PLAN)
    assert "cannot be used (Not a directory" in case.notes[-1]


def test_a_failed_build_leaves_nothing(case: Case) -> None:
    case.trt.refuses["build"] = "no tactic"
    with pytest.raises(BackendError, match="no tactic"):
        case.build()
    assert [path.suffix for path in case.folder.iterdir()] == [".lock"]
    case.trt.refuses.clear()
    assert case.build().startswith(PLAN)


def test_a_model_changed_meanwhile_is_refused(case: Case) -> None:
    case.trt.plan_of = lambda graph: case.onnx.write_bytes(b"other") and graph
    with pytest.raises(ModelError, match="was changed while its engine was built"):
        case.build()
    assert not list(case.folder.glob("*.plan"))


def engines(case: Case, *sizes: tuple[int, int]) -> list[Path]:
    """Engines of several sizes, built an hour apart, the first one longest ago."""
    plans: list[Path] = []
    for number, size in enumerate(sizes):
        case.build(options=engine_options(case.spec, size=size))
        (plan,) = set(case.folder.glob("*.plan")) - set(plans)
        plans.append(plan)
        then = time.time() - 3600 * (len(sizes) - number)
        os.utime(plan, (then, then))
    return plans


SIZES = ((64, 64), (80, 64), (96, 64))


def test_what_was_used_longest_ago_makes_room(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three engines and room for three, the fourth takes the place of the one not loaded."""
    plans = engines(case, *SIZES)
    case.build(options=engine_options(case.spec, size=SIZES[0]))  # a load counts as a use
    assert (case.trt.builds, case.notes) == (3, [])
    size = plans[0].stat().st_size
    monkeypatch.setattr(engine_prune, "LIMIT", 3 * size)
    case.build(options=engine_options(case.spec, size=(112, 64)))
    (line,) = (line for line in case.notes if "the engine cache held" in line)
    assert line.endswith(f"removed what was used longest ago ({plans[1].name})")
    assert [plan.exists() for plan in plans] == [True, False, True]
    assert not plans[1].with_suffix(".json").exists()
    assert plans[1].with_suffix(".lock").exists(), "another process may wait at it"
    case.build(options=engine_options(case.spec, size=SIZES[1]))  # only built again
    assert case.rebuilt() is None
    assert case.trt.builds == 5


def test_another_gpu_or_driver_is_no_reason(case: Case) -> None:
    """A cache shared by two machines, or a machine with two GPUs: both keep theirs."""
    case.build()
    case.build(cuda=Cuda("RTX 4090", (8, 9)))
    case.build(cuda=Cuda(driver="550.1"))
    assert len(list(case.folder.glob("*.plan"))) == 3
    assert not [line for line in case.notes if "removed" in line]


def test_the_new_engine_and_those_in_use_stay(case: Case) -> None:
    """Whatever the limit; the lock of an engine is held where it is built or loaded."""
    oldest, middle, newest = engines(case, *SIZES)
    with locked(oldest.with_suffix(".lock")):
        line = engine_prune.prune(case.folder, keep=newest, limit=0)
    assert line is not None
    assert line.endswith(f"({middle.name})")
    assert [plan.exists() for plan in (oldest, middle, newest)] == [True, False, True]
    assert engine_prune.prune(case.folder, keep=newest) is None, "far below the limit"


def test_a_cache_that_cannot_be_pruned_still_gives(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest, *_ = engines(case, *SIZES)

    def refused(self: Path, *, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        assert engine_prune.prune(case.folder, keep=oldest, limit=0) is None
    assert len(list(case.folder.glob("*.plan"))) == 3


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "edgesr" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "edgesr" / "engines"


def test_nothing_of_this_machine_is_in_the_sidecar(case: Case, tmp_path: Path) -> None:
    case.build()
    text = case.plan.with_suffix(".json").read_text()
    assert str(tmp_path) not in text
    assert os.environ.get("USER", "no user") not in text


def _build(folder: Path, name: str, start, seen) -> None:
    """Another process with a slow TensorRT."""
    case = Case.__new__(Case)
    case.folder, case.onnx = folder / "cache", folder / "net.onnx"
    case.spec = load_file(case.onnx).spec
    case.options, case.cuda, case.trt = engine_options(case.spec), Cuda(), Trt10("10.3.0")

    def slow(graph: bytes) -> bytes:
        (folder / "building").touch()
        time.sleep(0.5)
        return graph

    case.trt.plan_of = slow
    start.wait()
    case.build()
    seen.put((name, case.trt.builds, case.notes))


def test_two_processes_build_it_once(case: Case, tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    start, seen = spawn.Event(), spawn.Queue()
    others = [spawn.Process(target=_build, args=(tmp_path, str(i), start, seen)) for i in range(2)]
    for process in others:
        process.start()
    start.set()
    results = [seen.get() for _ in others]
    for process in others:
        process.join()
    assert sorted(builds for _, builds, _ in results) == [0, 1]
    (waited,) = (notes for _, builds, notes in results if builds == 0)
    assert waited in ([], ["another process is at the engine of nearest-x2: waiting for it"])


def test_a_lock_of_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    path, held = tmp_path / "x.lock", spawn.Event()

    def hold() -> None:
        with locked(path):
            held.set()
            time.sleep(3600)

    process = spawn.Process(target=hold)
    process.start()
    held.wait()
    process.kill()
    process.join()
    assert path.exists()
    notes: list[str] = []
    with locked(path, on_note=notes.append, what="it"):
        assert notes == []


def test_sizes() -> None:
    spec = ModelSpec(name="m-x2", network="m", scale=2, colour="y", halo=1)
    options = engine_options(spec)
    assert (options.least, options.usual, options.most) == (
        (1, 64, 64),
        (1, 360, 640),
        (1, 1088, 1920),
    )
    assert engine_options(spec, size=(20, 30)).fixed
    assert engine_options(spec, size=(20, 30)).takes((1, 20, 30))
    assert not options.takes((1, 32, 640))
    small = engine_options(spec, most=(100, 50))
    assert (small.least, small.usual, small.most) == ((1, 64, 50), (1, 100, 50), (1, 100, 50))
    large = engine_options(spec, least=(2000, 3000))
    assert (large.usual, large.most) == ((1, 2000, 3000), (1, 2000, 3000))
    assert engine_options(spec, usual=(40, 4000)).most == (1, 1088, 4000)
    many = engine_options(spec, batch=4)
    assert (many.least[0], many.usual[0], many.most[0]) == (1, 4, 4)
    even = spec.replace(multiple=4, min_size=70)
    assert engine_options(even).least == (1, 72, 72)
    assert engine_options(even).most == (1, 1088, 1920)
    fixed = spec.replace(fixed_size=(128, 96))
    assert engine_options(fixed).most == (1, 128, 96)


@pytest.mark.parametrize(
    ("facts", "options", "line"),
    [
        ({}, {"size": (0, 4)}, "width and height must be 1 or more"),
        ({}, {"size": (9, 9), "most": (9, 9)}, "give one size, or a range of sizes"),
        ({}, {"least": (200, 9), "most": (100, 100)}, "each must be as large"),
        ({}, {"batch": 0}, "a batch of 0"),
        ({}, {"level": 6}, "optimisation level 6: it must be 0 to 5"),
        ({}, {"workspace": 0}, "a workspace of 0 MiB"),
        ({}, {"dla": 0}, "fp16 and int8 only"),
        ({"precision": "fp16"}, {"dla": -1}, "DLA core -1"),
        ({"precision": "bf16"}, {}, "TensorRT takes fp32, fp16 or int8"),
        ({"multiple": 2}, {"size": (9, 10)}, "multiples of 2, not 10x9"),
        ({"fixed_size": (8, 9)}, {"size": (8, 8)}, "takes 9x8 (width x height) and no other"),
    ],
)
def test_options_that_cannot_be_meant(facts: dict, options: dict, line: str) -> None:
    spec = ModelSpec(
        **{"name": "m-x2", "network": "m", "scale": 2, "colour": "y", "halo": 1, **facts}
    )
    with pytest.raises(UsageError) as raised:
        engine_options(spec, **options)
    assert line in str(raised.value)


def test_a_sidecar_with_impossible_options(case: Case) -> None:
    case.build()
    sidecar = case.plan.with_suffix(".json")
    values = json.loads(sidecar.read_text())
    values["key"]["options"]["least"] = [1, 9999, 9999]
    sidecar.write_text(json.dumps(values))
    key = make_key(case.onnx, options=case.options, trt=case.trt, cuda=case.cuda)
    with pytest.raises(StaleEngine, match="is no sidecar of an engine"):
        load_engine(case.plan, key=key)
    assert isinstance(key.options, EngineOptions)
