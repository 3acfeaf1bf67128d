"""`edgesr convert`: what is the same function in 0..1 as the source's was in 0..255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import official as big
import official_small as small
import torch.nn.functional as F
from conversions import by_hand, ecbsr_as_published, laid_out, output, picture, stored
from tolerances import assert_close

from edgesr.errors import ModelError, UsageError
from edgesr.networks import deployed
from edgesr.networks.convert import convert
from edgesr.networks.ecbsr import EcbsrConfig
from edgesr.networks.edsr import Edsr, EdsrConfig
from edgesr.networks.rdn import Rdn, RdnConfig
from edgesr.networks.rlfn import Rlfn, RlfnConfig
from edgesr.networks.span import SpanConfig


def test_official_ecbsr_from_0_255(tmp_path: Path) -> None:
    """A bare file is the authors': luma in 0..255. Nothing but the unit of pixels may change."""
    layout = laid_out(small.ecbsr)
    found = convert(stored(layout.official, tmp_path / "model.pt"))
    assert "xindongzhang/ECBSR" in str(found)
    assert "range 0..255 (else --range 1)" in str(found)
    assert found.model.config == EcbsrConfig(blocks=2, width=4, scale=2)
    x = picture(found.model, height=9, width=13)
    published = ecbsr_as_published(layout.official, 255 * x, scale=2) / 255
    assert_close(output(found.model, x), published, dtype="float32")
    assert_close(output(deployed(found.model), x), published, dtype="float32")
    other = ecbsr_as_published(layout.official, x, scale=2)
    assert (other - published).abs().max() > 0.1  # the range matters here


@pytest.mark.parametrize(
    ("wrapper", "white", "said"),
    [
        ("params", None, "range 0..1 (else --range 255)"),
        ("params_ema", None, "range 0..1 (else --range 255)"),
        ("params", 255, None),
        (None, 1, None),
    ],
)
def test_ecbsr_of_basicsr_or_as_told(
    wrapper: str | None, white: int | None, said: str | None, tmp_path: Path
) -> None:
    """BasicSR's files are RGB in 0..1, told by their wrapper; --range has the last word."""
    layout = laid_out(small.ecbsr_rgb)
    content = {wrapper: layout.official} if wrapper else layout.official
    found = convert(stored(content, tmp_path / "a.pth"), white=white)
    assert found.spec.colour == "rgb"
    assert found.assumed.get("range") == (said.removeprefix("range ") if said else None)
    x = picture(found.model, height=9, width=13)
    top = white or 1
    published = ecbsr_as_published(layout.official, top * x, scale=3) / top
    assert_close(output(found.model, x), published, dtype="float32")


@pytest.mark.parametrize(("fill", "scale"), [(big.rdn_edsr, 4), (big.rdn_edsr_x3, 3)])
def test_rdn_of_edsr_pytorch_from_0_255(fill: Any, scale: int, tmp_path: Path) -> None:
    layout = laid_out(fill)
    found = convert(stored(layout.official, tmp_path / "a.pt"))
    config = RdnConfig(scale=scale, blocks=2, layers=3, growth=4, width=4)
    assert found.model.config == config
    x = picture(found.model)
    published = output(by_hand(layout, Rdn, config), 255 * x) / 255
    assert_close(output(found.model, x), published, dtype="float32")


def test_rlfn_from_0_255(tmp_path: Path) -> None:
    layout = laid_out(small.rlfn)
    file = stored(layout.official, tmp_path / "a.pth")
    found = convert(file)
    assert "rgb 0..1 (0..255 inside)" in str(found)
    assert "range 0..255 (else --range 1)" in str(found)
    plain = RlfnConfig(scale=2, features=6, inner=7, blocks=3, attention=4)
    x = picture(found.model)
    reference = by_hand(layout, Rlfn, plain)
    assert_close(output(found.model, x), output(reference, 255 * x) / 255, dtype="float32")
    assert torch.equal(output(convert(file, white=1).model, x), output(reference, x))


def test_edsr_with_its_mean_shift(tmp_path: Path) -> None:
    """The two 1x1 convolutions around it, which are not kept, do what the network does."""
    layout = laid_out(big.edsr_authors)
    found = convert(stored(layout.official, tmp_path / "a.pt"))
    state = layout.official
    x = picture(found.model)
    y = F.conv2d(255 * x, state["sub_mean.weight"], state["sub_mean.bias"])
    inner = by_hand(layout, Edsr, EdsrConfig(scale=3, blocks=3, width=6, pixel_range=1.0))
    with torch.no_grad():
        shifted = inner(y + inner.mean) - inner.mean  # type: ignore[operator]
    y = F.conv2d(shifted, state["add_mean.weight"], state["add_mean.bias"]) / 255
    assert_close(output(found.model, x), y, dtype="float32")
    assert "sub_mean.weight" in found.left_out
    assert "res_scale 1.0" in str(found)


def test_another_mean_shift_is_not_taken(tmp_path: Path) -> None:
    state = laid_out(big.edsr_authors).official
    state["sub_mean.bias"] = state["sub_mean.bias"] * 0.9
    with pytest.raises(ModelError, match="no network that is known"):
        convert(stored(state, tmp_path / "a.pt"))


def test_span_without_its_mean(tmp_path: Path) -> None:
    """Later trainers leave mean and range out, and a mark in the file."""
    layout = laid_out(small.span)
    layout.official["no_norm"] = torch.zeros(1)
    found = convert(stored({"params": layout.official}, tmp_path / "a.pth"))
    config = SpanConfig(scale=2, features=6, blocks=3, pixel_range=1.0, mean=(0.0, 0.0, 0.0))
    assert found.model.config == config
    assert found.assumed == {}


def test_leftthomas_ends_with_a_sigmoid(tmp_path: Path) -> None:
    layout = laid_out(big.espcn_leftthomas)
    found = convert(stored(layout.official, tmp_path / "epoch_4_100.pt"))
    assert found.assumed == {"activation": "tanh", "output": "sigmoid"}
    assert "taken as published: activation tanh, output sigmoid" in str(found)
    y = x = picture(found.model)
    for i, padding in ((1, 2), (2, 1), (3, 1)):
        weight, bias = (layout.official[f"conv{i}.{part}"] for part in ("weight", "bias"))
        y = F.conv2d(y, weight, bias, padding=padding)
        y = y.tanh() if i < 3 else F.pixel_shuffle(y, 4).sigmoid()
    assert_close(output(found.model, x), y, dtype="float32")


def test_range_must_be_possible(tmp_path: Path) -> None:
    file = stored(laid_out(big.espcn_yjn870).official, tmp_path / "a.pth")
    with pytest.raises(UsageError, match=r"knows 0\.\.1 only: leave --range out"):
        convert(file, white=255)
    with pytest.raises(UsageError, match="--range 2: 1 or 255"):
        convert(file, white=2)
    assert convert(file, white=1)
