"""VGG features against OpenCV and torchvision's published layout; the losses made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tolerances import assert_close

from edgesr.distill.perceptual import PERCEPTUAL, Vgg, load_vgg, perceptual, random_vgg
from edgesr.errors import ModelError, UsageError

Array = np.ndarray[Any, Any]

LAYOUT = {  # torchvision's features: index of each convolution, and its filters
    16: dict(
        zip(
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            (64, 64, 128, 128, *[256] * 3, *[512] * 6),
            strict=True,
        )
    ),
    19: dict(
        zip(
            (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
            (64, 64, 128, 128, *[256] * 4, *[512] * 8),
            strict=True,
        )
    ),
}
COUNTS = {16: 14_714_688, 19: 20_024_384}


def published(depth: Any) -> dict[str, torch.Tensor]:
    """A state_dict in torchvision's layout, without memory behind its tensors."""
    tensors, c_in = {}, 3
    for index, c in LAYOUT[depth].items():
        tensors[f"features.{index}.weight"] = torch.zeros(1).expand(c, c_in, 3, 3)
        tensors[f"features.{index}.bias"] = torch.zeros(1).expand(c)
        c_in = c
    return tensors | {"classifier.0.weight": torch.zeros(1).expand(4096, 25088)}


@pytest.mark.parametrize("depth", [16, 19])
def test_parameters_are_those_of_torchvision(depth: Any) -> None:
    with torch.device("meta"):
        vgg = Vgg(depth=depth)
    shapes = {name: t.shape for name, t in vgg.state_dict().items()}
    theirs = {n: t.shape for n, t in published(depth).items() if n.startswith("features")}
    assert shapes == theirs
    assert sum(p.numel() for p in vgg.parameters()) == COUNTS[depth]
    assert not any(p.requires_grad for p in vgg.parameters())


@pytest.mark.parametrize(
    ("depth", "name", "index"),
    [(19, "relu5_4", 35), (19, "conv5_4", 34), (19, "conv3_4", 16), (16, "conv4_3", 21)],
)
def test_layers_have_the_numbers_of_the_recipes(depth: Any, name: str, index: int) -> None:
    with torch.device("meta"):
        assert Vgg(depth=depth).names[index] == name


def test_features_by_hand() -> None:
    """Normalised, convolved by OpenCV with black borders, ReLU, halved by the largest of four."""
    vgg = random_vgg(depth=19, width=4)
    torch.nn.init.normal_(vgg.features[0].bias)
    picture = np.random.default_rng(6).random((8, 12, 3)).astype(np.float32)
    y = (picture - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    got = vgg(torch.from_numpy(picture).permute(2, 0, 1)[None], ["conv1_2", "relu1_2", "conv2_1"])
    y = np.maximum(convolved(y, vgg.features[0]), 0)
    y = convolved(y, vgg.features[2])
    assert y.min() < 0
    assert_close(got["conv1_2"][0], y.transpose(2, 0, 1), dtype="float32")
    y = np.maximum(y, 0)
    assert_close(got["relu1_2"][0], y.transpose(2, 0, 1), dtype="float32")
    y = y.reshape(4, 2, 6, 2, -1).max(axis=(1, 3))
    y = convolved(y, vgg.features[5])
    assert_close(got["conv2_1"][0], y.transpose(2, 0, 1), dtype="float32")


def convolved(x: Array, conv: Any) -> Array:
    kernels = conv.weight.detach().double().numpy()
    planes = [
        sum(
            cv2.filter2D(np.ascontiguousarray(x[:, :, i]), -1, k, borderType=cv2.BORDER_CONSTANT)
            for i, k in enumerate(kernel)
        )
        + bias
        for kernel, bias in zip(kernels, conv.bias.detach().double().numpy(), strict=True)
    ]
    return np.dstack(planes)


def test_nothing_behind_the_last_layer_is_computed() -> None:
    vgg = random_vgg(depth=19, width=4)
    for layer in vgg.features[3:]:
        layer.forward = None  # would raise
    assert list(vgg(torch.rand(1, 3, 8, 8), ["conv1_2"])) == ["conv1_2"]


def test_gray_is_three_equal_channels() -> None:
    vgg = random_vgg(depth=16, width=4)
    gray = torch.rand(1, 1, 8, 8)
    one, three = vgg(gray, ["conv1_2"]), vgg(gray.expand(1, 3, 8, 8), ["conv1_2"])
    assert torch.equal(one["conv1_2"], three["conv1_2"])


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_perceptual_loss_by_hand(name: str) -> None:
    setting = PERCEPTUAL[name]
    vgg = random_vgg(depth=setting.depth, width=4)
    output, truth = torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    names = [layer for layer, _ in setting.layers]
    first, second = (2 * output - 1, 2 * truth - 1) if setting.signed else (output, truth)
    expected = 0.0
    with torch.no_grad():
        a, b = vgg(first, names), vgg(second, names)
    for layer, weight in setting.layers:
        d = (a[layer] - b[layer]).double().numpy()
        expected += weight * float(np.abs(d).mean() if setting.distance == "l1" else (d**2).mean())
    loss = perceptual(output, truth, vgg=vgg, setting=setting)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    assert torch.isfinite(output.grad).all()
    assert output.grad.abs().max() > 0
    assert float(perceptual(truth, truth, vgg=vgg, setting=setting)) == 0


def test_random_weights_are_the_same_for_a_seed_and_keep_the_size_of_features() -> None:
    a, b = random_vgg(depth=19, width=8), random_vgg(depth=19, width=8)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    found = a(torch.rand(1, 3, 64, 64), ["conv1_1", "conv5_4"])
    assert 0.05 < float(found["conv5_4"].std() / found["conv1_1"].std()) < 20


def test_published_file_is_found_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = published(19)
    tensors["features.34.bias"] = torch.arange(512.0)
    path = tmp_path / "edgesr" / "vgg19.pth"
    path.parent.mkdir()
    torch.save(tensors, path)  # expanded tensors stay small in the file
    monkeypatch.delenv("EDGESR_VGG19", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert torch.equal(load_vgg(depth=19).features[34].bias, torch.arange(512.0))
    moved = path.rename(tmp_path / "elsewhere.pth")
    monkeypatch.setenv("EDGESR_VGG19", str(moved))
    assert load_vgg(depth=19).depth == 19
    with pytest.raises(
        ModelError, match=r"is not VGG16: features\.16\.weight|features\.17\.weight"
    ):
        load_vgg(moved, depth=16)


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGESR_VGG19", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(
        ModelError, match=r"edgesr/vgg19\.pth is missing: put .*vgg19-dcbb9e9d\.pth"
    ):
        load_vgg(depth=19)
    for content in (b"", b"no weights at all"):
        bad = tmp_path / "bad.pth"
        bad.write_bytes(content)
        with pytest.raises(ModelError, match=r"bad\.pth"):
            load_vgg(bad, depth=19)
    torch.save([1, 2], bad)
    with pytest.raises(ModelError, match=r"features\.0\.weight is missing"):
        load_vgg(bad, depth=19)


def test_wrong_layers_and_depths_are_refused() -> None:
    vgg = random_vgg(depth=16, width=4)
    with pytest.raises(UsageError, match="VGG16 has no layer conv5_4"):
        vgg(torch.rand(1, 3, 8, 8), ["conv5_4"])
    with pytest.raises(UsageError, match="wants VGG19, not VGG16"):
        perceptual(
            torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8), vgg=vgg, setting=PERCEPTUAL["esrgan"]
        )
