"""Several processes are one training: the same weights, one voice, one end. Real processes."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import trainings
from photos import write_photos
from safetensors.torch import load_file

from edgesr.distill import parallel
from edgesr.distill.cache import load_photos
from edgesr.distill.feed import batches
from edgesr.distill.folder import open_together
from edgesr.distill.parallel import Team, joined, own_share, require_device, require_slices
from edgesr.distill.recipe import Recipe
from edgesr.errors import EdgesrError, UsageError

HERE = Path(__file__).resolve().parent
CASES = ["plain", "teacher", "kept", "pisr", "gan", "parts"]
SMALL = ["-m", "edgesr", "distill", "--student", "ecbsr-m4c8", "--data", "photos"]
SMALL += ["--device", "cpu", "--set", "steps=6", "--set", "batch=4", "--set", "patch=16"]

THREADS_LEFT = """
from pathlib import Path
import torch
from edgesr.distill.parallel import joined
with joined("cpu"):
    torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])
names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
print(f"left: {[name for name in names if 'gloo' in name]}\\n", end="")
"""

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no distributed"
)


def environment(folder: Path) -> dict[str, str]:
    given = {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return os.environ | given | {"PYTHONPATH": str(HERE)}


def launch(*arguments: str, launcher: list[str] | None = None) -> list[str]:
    """Two processes that run `arguments`: a module after -m, or a script."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*(launcher or torchrun), *arguments]


def run(folder: Path, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and all CASES trained by two processes in `two`, the last of which fails."""
    folder = tmp_path_factory.mktemp("parallel")
    write_photos(folder / "photos", 5)
    done = run(folder, launch(str(HERE / "trainings.py"), "photos", "two", *CASES, "fail"))
    (folder / "printed").write_text(done.stdout)
    (folder / "errors").write_text(f"{done.returncode}\n{done.stderr}")
    return folder


@pytest.fixture
def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return folder / "one"


def furthest(a: Path, b: Path) -> float:
    """Between the tensors of two runs, what they kept of the optimiser left out."""
    first, second = (load_file(run / "state.safetensors") for run in (a, b))
    assert first.keys() == second.keys()
    parts = ("model/", "average/", "rival/", "helper/")
    return max(float((first[n] - second[n]).abs().max()) for n in first if n.startswith(parts))


@pytest.mark.parametrize("case", CASES[:-1])
def test_two_processes_are_one(folder: Path, alone: Path, case: str) -> None:
    """Teachers that are trained first, their answers kept, two networks that train each other,
    a stretched share of each batch: the weights are the same within 1e-5."""
    trainings.learn(case, folder / "photos", alone)
    assert furthest(alone / case, folder / "two" / case) < 1e-5
    summary = json.loads((folder / "two" / case / "summary.json").read_text())
    same = json.loads((alone / case / "summary.json").read_text())
    assert summary["psnr_y"] == pytest.approx(same["psnr_y"], abs=2e-3)


def test_the_comparison_can_fail(folder: Path, alone: Path) -> None:
    """Half of each batch alone is another training, further away than rounding."""
    half = Recipe(**trainings.RECIPES["plain"] | {"batch": 3})
    trainings.distill(half, data=folder / "photos", out=alone / "half", device="cpu")
    assert furthest(alone / "half", folder / "two" / "plain") > 1e-4


def test_stopped_by_one_and_resumed_is_bit_for_bit_the_same(folder: Path) -> None:
    """The stop reaches the last process first; all stop after the same step."""
    two = folder / "two"
    whole, parts = (load_file(two / n / "state.safetensors") for n in ("plain", "parts"))
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name
    printed = (folder / "printed").read_text().splitlines()
    assert sorted(line[0] for line in printed if "stopped at step 5 of 12" in line) == ["0", "1"]


def test_one_that_fails_ends_all(folder: Path) -> None:
    code, *printed = (folder / "errors").read_text().splitlines()
    assert int(code) != 0
    assert any("the last process has had enough" in line for line in printed)
    assert any("another process of this training has ended" in line for line in printed)
    assert (folder / "two" / "fail" / "recipe.toml").is_file()
    assert not (folder / "two" / "fail" / "model.onnx").exists()


def test_command_line_speaks_once(folder: Path) -> None:
    """Through `accelerate launch` where that is installed, else through torchrun again."""
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    accelerate += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    accelerate += ["--dynamo_backend", "no"]  # with --cpu it would start one process
    there = importlib.util.find_spec("accelerate") is not None
    done = run(folder, launch(*SMALL, "--json", launcher=accelerate if there else None))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["steps"] == 6  # one document
    assert done.stderr.count("2 processes train together") == 1
    (made,) = (folder / "runs").iterdir()  # the name has the time: the first one's is taken
    assert (made / "report.html").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed by Linux")
def test_no_thread_of_the_group_is_left(tmp_path: Path) -> None:
    """One that still holds a tensor when Python ends aborts the process, in one run of five."""
    (tmp_path / "script.py").write_text(THREADS_LEFT)
    done = run(tmp_path, launch("script.py"))
    assert done.stdout.splitlines() == ["left: []"] * 2


def test_wrong_batch_is_told_once(folder: Path) -> None:
    done = run(folder, launch(*SMALL, "--out", "bad", "--set", "batch=5"))
    assert done.returncode != 0
    told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert told == ["error: batch 5 does not divide among 2 processes: --set batch=4 or 6"]
    assert not (folder / "bad").exists()


def test_ctrl_c_saves_once_and_ends_all(folder: Path) -> None:
    longer = ["--out", "long", "--set", "steps=100000", "--set", "validate_every=5"]
    process = subprocess.Popen(
        launch(*SMALL, *longer),
        cwd=folder,
        env=environment(folder),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not (folder / "long" / "log.csv").is_file() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # the launcher passes it on
        _, printed = process.communicate()
    finally:
        process.kill()
    told = [line for line in printed.splitlines() if line.startswith("stopped at step")]
    assert len(told) == 1, printed[-3000:]
    assert (folder / "long" / "state.safetensors").is_file()
    assert not (folder / "long" / "model.onnx").exists()


@pytest.mark.parametrize("degradation", [None, "blind"])
def test_slices_join_to_the_batch(alone: Path, folder: Path, degradation: str | None) -> None:
    recipe = Recipe(**trainings.TINY | {"steps": 3, "degradation": degradation})
    colour: Any = "rgb" if degradation else "y"
    photos = load_photos(folder / "photos", scale=2, copies=[1.0], patch=32, colour=colour)
    whole = list(batches(photos, recipe, colour="y"))
    slices = [list(batches(photos, recipe, colour="y", rank=r, size=3)) for r in range(3)]
    for number, batch in enumerate(whole):
        for part, expected in enumerate(batch):
            assert slices[0][number][part].shape[0] == 2
            for rank in range(3):
                assert torch.equal(slices[rank][number][part], expected[rank::3])


def test_shares_of_a_slice_join_to_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first round(share * batch) samples, wherever they went."""
    for size in (1, 2, 3, 6):
        for share in (0.0, 0.3, 0.5, 1.0):
            stretched = []
            for rank in range(size):
                monkeypatch.setattr(parallel, "_team", Team(rank=rank, size=size))
                mine = range(rank, 12, size)
                stretched += mine[: round(own_share(share, 12) * len(mine))]
            assert sorted(stretched) == list(range(round(share * 12)))


def test_what_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="more than 2 processes on a machine of 2 CUDA devices"):
        require_device(2, 2)
    monkeypatch.setattr(parallel, "_team", Team(size=4))
    require_slices(16)
    with pytest.raises(UsageError, match=r"batch 3 does not divide among 4 .*--set batch=4$"):
        require_slices(3)
    elsewhere = Team(rank=1, size=2)
    monkeypatch.setattr(Team, "differing", lambda self, value: None)
    photos: Any = type("Photos", (), {"digest": "d"})
    recipe = Recipe(**trainings.TINY)
    with pytest.raises(UsageError, match=r"process 1 of 2 does not see .*one folder that all"):
        open_together(tmp_path / "out", recipe, photos, elsewhere, resume=False)
    monkeypatch.setattr(Team, "differing", lambda self, value: 1)
    with pytest.raises(UsageError, match="process 1 of 2 has other pictures in --data"):
        open_together(tmp_path / "out", recipe, photos, elsewhere, resume=False)


def test_others_that_do_not_come_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    monkeypatch.setattr(parallel, "JOIN", timedelta(milliseconds=200))
    facts = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EdgesrError, match=r"process 1 of 2 cannot join .*127.0.0.1:9"), joined():
        pass
    assert parallel.team().size == 1
