"""`edgesr convert`: wrappers, prefixes and number formats of files; names and scales."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import conversions
import official as big
import official_small as small
from conversions import by_hand, ecbsr_as_published, laid_out, output, picture, stored
from safetensors.torch import save_file
from tolerances import assert_close
from torch import nn

from edgesr.errors import UsageError
from edgesr.networks.convert import convert
from edgesr.networks.ecbsr import Ecbsr, EcbsrConfig
from edgesr.networks.foreign_file import scale_in_name
from edgesr.networks.fsrcnn import Fsrcnn, FsrcnnConfig
from edgesr.networks.rlfn import Rlfn, RlfnConfig
from edgesr.networks.srcnn import Srcnn, SrcnnConfig
from edgesr.networks.srvgg import Srvgg, SrvggConfig

unmeasured = conversions.unmeasured


def same_as_bare(content: object, path: Path) -> bool:
    layout = laid_out(big.srvgg)
    found = convert(stored(content, path))
    reference = by_hand(layout, Srvgg, SrvggConfig(scale=2, width=6, convs=3))
    x = picture(reference)
    return torch.equal(output(found.model, x), output(reference, x))


@pytest.mark.parametrize(
    "prefix", ["module.", "generator.", "netG.", "module._orig_mod.", "model."]
)
@pytest.mark.parametrize("wrapper", [None, "params", "state_dict", "model_state_dict"])
def test_wrappers_and_prefixes(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    state = {prefix + name: t for name, t in laid_out(big.srvgg).official.items()}
    content = {wrapper: state, "epoch": 3, "optimizer": {"lr": 0.1}} if wrapper else state
    assert same_as_bare(content, tmp_path / "a.pth")


def test_averaged_weights_are_preferred(tmp_path: Path) -> None:
    state = laid_out(big.srvgg).official
    raw = {name: torch.zeros_like(t) for name, t in state.items()}
    assert same_as_bare({"params": raw, "params_ema": state}, tmp_path / "a.pth")
    ema = {f"module.{name}": t for name, t in state.items()} | {"n_averaged": torch.tensor(3)}
    assert same_as_bare({"state_dict": raw, "ema_state_dict": ema}, tmp_path / "b.pth")
    gan = {f"generator.{name}": t for name, t in raw.items()}
    gan |= {f"generator_ema.{name}": t for name, t in state.items()}
    gan |= {"discriminator.conv.weight": torch.zeros(3, 3), "step_counter": torch.zeros(1)}
    assert same_as_bare({"meta": {"epoch": 1}, "state_dict": gan}, tmp_path / "c.pth")


def test_old_names_that_look_like_a_prefix(tmp_path: Path) -> None:
    state = {f"module.{name}": t for name, t in laid_out(big.rrdb_old).official.items()}
    assert convert(stored(state, tmp_path / "a.pth")).form.source == "the old ESRGAN"


def test_half_precision_and_safetensors(tmp_path: Path) -> None:
    state = laid_out(small.ecbsr).official
    halves = {name: t.half() for name, t in state.items()}
    found = convert(stored(halves, tmp_path / "a.pth"))
    assert all(t.dtype == torch.float32 for t in found.model.state_dict().values())
    rounded = {name: t.float() for name, t in halves.items()}
    x = picture(found.model)
    published = ecbsr_as_published(rounded, 255 * x, scale=2) / 255
    assert_close(output(found.model, x), published, dtype="float32")
    save_file(halves, tmp_path / "b.safetensors")
    again = convert(tmp_path / "b.safetensors")
    assert torch.equal(output(again.model, x), output(found.model, x))


@pytest.mark.usefixtures("unmeasured")
def test_known_sizes_have_their_names(tmp_path: Path) -> None:
    def name_of(model: nn.Module, file: str) -> str:
        return convert(stored(model.state_dict(), tmp_path / file)).spec.name

    assert name_of(Ecbsr(EcbsrConfig(blocks=4, width=8, scale=3)), "a.pth") == "ecbsr-m4c8-x3"
    assert name_of(Srvgg(SrvggConfig(convs=32)), "a.pth") == "srvgg-32-x4"
    assert name_of(Fsrcnn(FsrcnnConfig(scale=3)), "fsrcnn_x3.pth") == "fsrcnn-x3"
    assert name_of(Srcnn(SrcnnConfig(scale=4, kernels=(9, 1, 5))), "x4.pth") == "srcnn-915-x4"
    assert name_of(Rlfn(RlfnConfig(scale=4, features=48)), "a.pth") == "rlfn-s-x4"  # 0..255
    assert name_of(Ecbsr(EcbsrConfig(blocks=3, width=5, scale=2)), "a.pth") == "ecbsr-custom-x2"


@pytest.mark.parametrize(
    ("stem", "scale"),
    [
        ("fsrcnn_x2", 2),
        ("FSRCNN-X3-91", 3),
        ("4x_model", 4),
        ("RealESRGAN_x2plus", 2),
        ("net", None),
        ("x2_to_x4", None),
        ("x264_test", None),
        ("best2x", None),
    ],
)
def test_scale_in_a_file_name(stem: str, scale: int | None) -> None:
    assert scale_in_name(stem) == scale


def test_scale_that_no_tensor_tells(tmp_path: Path) -> None:
    layout = laid_out(big.fsrcnn_yjn870)
    file = stored(layout.official, tmp_path / "best.pth")
    with pytest.raises(UsageError, match="fsrcnn, whose tensors do not tell its scale: add --sca"):
        convert(file)
    assert convert(file, scale=4).spec.scale == 4
    named = stored(layout.official, tmp_path / "best_x2.pth")
    assert convert(named).spec.scale == 2
    assert convert(named, scale=3).spec.scale == 3
    with pytest.raises(UsageError, match="not offered at scale 7: 2, 3, 4"):
        convert(file, scale=7)


def test_scale_that_the_tensors_contradict(tmp_path: Path) -> None:
    file = stored(laid_out(big.srvgg).official, tmp_path / "srvgg_x4.pth")
    assert convert(file).spec.scale == 2  # whatever the name says
    with pytest.raises(UsageError, match="upscales 2 times, not 3: leave --scale out"):
        convert(file, scale=3)
