"""Sessions of the TensorRT backend over the fake GPU, and ONNX Runtime's answers beside them.

A test file takes the fixtures over by name: `trt = tensorrt_sessions.trt`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTrt, make_plan
from onnx import TensorProto, helper

from edgesr.models import load_file
from edgesr.runtime.backends import Request, ort
from edgesr.runtime.backends.tensorrt_session import TensorRtSession
from edgesr.spec import IoSpec, ModelSpec

LOW, HIGH = (1, 8, 8), (4, 96, 128)  # (N, H, W) of the engines here


@pytest.fixture(autouse=True)
def quick_collection() -> Iterator[None]:
    """What other tests have left alive is not looked through again by every `gc.collect`."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    """A GPU on which nothing may be misused; what is left over each test checks for itself."""
    cuda = FakeCuda()
    yield cuda
    gc.collect()
    assert not cuda.misuses, cuda.misuses


@pytest.fixture
def trt(cuda: FakeCuda) -> FakeTrt:
    return FakeTrt(cuda)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return onnx_models.convolutions(tmp_path / "tiny.onnx")


def request_for(path: Path, spec: ModelSpec | None = None, **changes: Any) -> Request:
    spec = spec or load_file(path).spec
    values: dict[str, Any] = {
        "path": path,
        "spec": spec,
        "precision": spec.precision,
        "threads": 1,
        "parallel": 1,
        "size": None,
        "io": "float32",
        "why": "asked for",
        "device": "cuda:0",
    }
    return Request(**{**values, **changes})


def opened(
    path: Path,
    trt: FakeTrt,
    *,
    low: tuple[int, int, int] = LOW,
    high: tuple[int, int, int] = HIGH,
    static: bool = False,
    notes: list[str] | None = None,
    **changes: Any,
) -> TensorRtSession:
    request = request_for(path, **changes)
    c = request.spec.channels
    low4, high4 = ((n, c, h, w) for n, h, w in (low, high))
    plan = make_plan(path, low=low4, high=high4, static=static)
    heard = notes if notes is not None else []
    return TensorRtSession(plan, trt=trt, cuda=trt.cuda, request=request, on_note=heard.append)


def closed_clean(session: TensorRtSession, trt: FakeTrt) -> None:
    session.close()
    gc.collect()
    trt.cuda.check()
    assert (trt.contexts, trt.engines) == (0, 0)


def picture(height: int, width: int, *, channels: int = 1, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(height).random((batch, channels, height, width), np.float32)


def by_ort(path: Path, batch: np.ndarray, **changes: Any) -> np.ndarray:
    return ort.open_session(request_for(path, device="cpu", **changes))(batch)


def half_model(path: Path) -> Path:
    """Each pixel four times, float16 in and out."""
    facts = onnx_models.spec(precision="fp16", halo=0, io=IoSpec(dtype="float16"))
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"], kernel_shape=[1, 1])]
    nodes += [helper.make_node("DepthToSpace", ["h"], ["y"], blocksize=2, mode="CRD")]
    weight = {"w": np.ones((4, 1, 1, 1), np.float16)}
    return onnx_models.save(path, nodes, weight, facts, TensorProto.FLOAT16)
