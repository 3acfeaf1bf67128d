"""`edgesr convert`: what is refused, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import official as big
import official_small as small
from conversions import laid_out, stored
from official import Layout
from torch import nn

from edgesr.errors import ModelError
from edgesr.networks.convert import convert


class Trap:
    """Runs a command when it is unpickled by a loader that lets it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("modern", [True, False])
def test_code_in_a_file_is_refused_and_not_run(modern: bool, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = {"state_dict": laid_out(big.srvgg).official, "hook": Trap(mark)}
    file = tmp_path / "a.pth"
    torch.save(content, file, _use_new_zipfile_serialization=modern)
    with pytest.raises(ModelError, match=r"holds pickled objects, .* runs no code"):
        convert(file)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # so the trap does work


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    file = stored({"epoch": 1, "model": nn.Conv2d(1, 1, 3)}, tmp_path / "vdsr.pth")
    with pytest.raises(ModelError, match=r"torch\.save\(model\.state_dict\(\), 'plain\.pth'\)"):
        convert(file)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(ModelError, match=message) as caught:
            convert(path)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "nowhere.pth", "nowhere.pth: no such file")
    refused(tmp_path, "is a folder, not a checkpoint")
    for name in ("a.pth", "a.safetensors"):
        file = tmp_path / name
        for content in (b"", b"hello", b"\x00" * 100, b"PK\x03\x04 cut off"):
            file.write_bytes(content)
            refused(file, "is no checkpoint that torch can read")
    for empty in ({}, {"params": {}}, {"epoch": 3}, [1, 2], {"discriminator.a": torch.zeros(1)}):
        refused(stored(empty, tmp_path / "b.pth"), "holds no tensors of a network")


def test_an_unknown_network_is_told_its_nearest(tmp_path: Path) -> None:
    state = laid_out(big.msrresnet_basicsr).official
    state["body.0.attention.weight"] = torch.zeros(3)
    state["upconv1.weight"] = torch.zeros(24, 5, 3, 3)
    del state["conv_hr.bias"]
    with pytest.raises(ModelError) as caught:
        convert(stored(state, tmp_path / "a.pth"))
    message = str(caught.value)
    assert "has its 18 tensors (conv_first.weight (6, 3, 3, 3), conv_first.bias (6,)," in message
    assert "none is near" not in message
    assert "body.0.attention.weight (3,)" in message
    assert "conv_hr.bias" in message


def test_nearest_in_the_words_of_the_file(tmp_path: Path) -> None:
    state = laid_out(big.edsr_authors).official
    state["body.1.body.0.weight"] = torch.zeros(6, 6, 5, 5)
    state["body.1.body.4.weight"] = torch.zeros(7)
    with pytest.raises(ModelError) as caught:
        convert(stored(state, tmp_path / "a.pth"))
    assert (
        "nearest is edsr-baseline as EDSR-PyTorch stores it: 19 fit, "
        "1 not in the network (body.1.body.4.weight (7,)), "
        "1 of another shape (body.1.body.0.weight (6, 6, 5, 5))"
    ) in str(caught.value)


def test_nearest_where_the_size_is_not_told(tmp_path: Path) -> None:
    """Without the layer by which its size is read off."""
    state = laid_out(small.rlfn).official
    del state["conv_1.bias"]
    with pytest.raises(ModelError, match="nearest is rlfn as bytedance/RLFN stores it") as caught:
        convert(stored(state, tmp_path / "a.pth"))
    assert "conv_1.bias" in str(caught.value)


def test_nothing_near(tmp_path: Path) -> None:
    file = stored({"fc.weight": torch.zeros(10, 4)}, tmp_path / "a.pth")
    with pytest.raises(ModelError, match=r"its 1 tensors \(fc.weight \(10, 4\)\); none is near"):
        convert(file)


def test_msrresnet_of_mmagic_is_another_function(tmp_path: Path) -> None:
    """The same tensors, but without an activation behind the pixel shuffles: not to be taken."""
    layout = Layout()
    layout.conv("generator.conv_first", 6, 3)
    layout.conv("generator.trunk_net.{0..1}.conv{1,2}", 6, 6)
    layout.conv("generator.upsample{1,2}.upsample_conv", 24, 6)
    layout.conv("generator.conv_hr", 6, 6)
    layout.conv("generator.conv_last", 3, 6)
    with pytest.raises(ModelError, match="no network that is known"):
        convert(stored({"state_dict": layout.official}, tmp_path / "a.pth"))
