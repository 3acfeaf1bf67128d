"""The end of luma networks on the host gives the same bits as in the graph."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("openvino")

from edgesr.models import resolve, shipped
from edgesr.runtime.backends import open_session, openvino
from edgesr.runtime.backends.subpixel import Ending, cut, shuffled


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_shuffled_is_the_pixel_shuffle(scale: int) -> None:
    torch = pytest.importorskip("torch")
    planes = np.random.default_rng(0).integers(0, 256, (2, scale * scale, 5, 7), np.uint8)
    expected = torch.nn.functional.pixel_shuffle(torch.from_numpy(planes), scale).numpy()
    np.testing.assert_array_equal(shuffled(planes, scale=scale), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["ecbsr-m4c16-x2", "ecbsr-m10c16-x3", "espcn-x4"])
def test_frames_are_the_same_to_the_bit(
    name: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "bf16" and not openvino.has_bf16():
        pytest.skip("this CPU has no bf16")
    model = resolve(name)
    frame = np.random.default_rng(1).integers(0, 256, (1, 1, 33, 47), np.uint8)
    frame[..., :8] = 255

    def result() -> np.ndarray:
        with closing(
            open_session(
                model.path,
                spec=model.spec,
                backend="openvino",
                precision=precision,
                io="uint8",
                size=(33, 47),
            )
        ) as session:
            return session(frame)

    ended = result()
    monkeypatch.setattr(openvino, "cut", lambda graph: None)
    np.testing.assert_array_equal(ended, result())


def test_every_shipped_ecbsr_is_cut() -> None:
    for model in shipped():
        if model.spec.network.startswith("ecbsr"):
            _, ending = cut(openvino.core().read_model(model.onnx)) or (None, None)
            assert ending == Ending(scale=model.spec.scale, skip=True), model.name


def test_other_endings_stay() -> None:
    import openvino as ov
    from openvino import opset13

    x = opset13.parameter([1, 12, 8, 8], np.float32)
    assert cut(ov.Model([opset13.relu(x)], [x])) is None
    of_three_channels = opset13.depth_to_space(x, "depth_first", 2)
    assert cut(ov.Model([of_three_channels], [x])) is None
