"""All networks at once: published counts, the committed facts, ONNX against torch."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from small_networks import SMALL

from edgesr.networks import NETWORKS, build, deployed
from edgesr.networks.discriminators import DISCRIMINATORS
from edgesr.networks.facts import count_parameters, measure_halo
from edgesr.networks.table import facts_of
from edgesr.zoo import networks

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"

# Deployed form, counted by others on the official modules.
PUBLISHED = {
    ("espcn", 2): 21_284,
    ("espcn", 3): 22_729,
    ("espcn", 4): 24_752,
    ("espcn-rgb", 2): 26_796,
    ("espcn-rgb", 3): 31_131,
    ("espcn-rgb", 4): 37_200,
    ("ecbsr-m4c8", 2): 2_748,
    ("ecbsr-m4c8", 4): 3_624,
    ("ecbsr-m4c16", 2): 10_100,
    ("ecbsr-m4c16", 4): 11_840,
    ("ecbsr-m10c16", 2): 24_116,
    ("ecbsr-m10c16", 4): 25_856,
    ("ecbsr-m10c32", 2): 94_308,
    ("ecbsr-m10c32", 4): 97_776,
    ("ecbsr-m16c64", 2): 594_884,
    ("ecbsr-m16c64", 4): 601_808,
    ("srcnn", 2): 57_281,
    ("srcnn", 3): 57_281,
    ("srcnn", 4): 57_281,
    ("srcnn-915", 2): 8_129,
    ("srcnn-915", 3): 8_129,
    ("srcnn-915", 4): 8_129,
    ("fsrcnn", 2): 12_809,
    ("fsrcnn", 3): 12_809,
    ("fsrcnn", 4): 12_809,
    ("fsrcnn-pisr", 2): 12_644,
    ("fsrcnn-pisr", 3): 12_644,
    ("fsrcnn-pisr", 4): 12_644,
    ("vdsr", 2): 665_921,
    ("vdsr", 3): 665_921,
    ("vdsr", 4): 665_921,
    ("drcn", 2): 1_775_121,
    ("drcn", 3): 1_775_121,
    ("drcn", 4): 1_775_121,
    ("mslapsrn", 2): 222_801,
    ("mslapsrn", 3): 222_801,
    ("mslapsrn", 4): 222_801,
    ("mslapsrn", 8): 222_801,
    ("srdensenet", 4): 2_659_585,
    ("rdn", 2): 22_123_395,
    ("rdn", 3): 22_308_035,
    ("rdn", 4): 22_271_107,
    ("edsr-baseline", 2): 1_369_859,
    ("edsr-baseline", 3): 1_554_499,
    ("edsr-baseline", 4): 1_517_571,
    ("edsr", 4): 43_089_923,
    ("srresnet", 4): 1_547_350,
    ("msrresnet", 2): 1_369_859,
    ("msrresnet", 3): 1_554_499,
    ("msrresnet", 4): 1_517_571,
    ("rrdb", 2): 16_703_171,
    ("rrdb", 4): 16_697_987,
    ("rrdb-6b", 4): 4_467_779,
    ("spsr", 4): 24_796_248,
    ("srvgg-16", 4): 621_424,
    ("srvgg-32", 4): 1_213_296,
    ("bsrn", 2): 331_628,
    ("bsrn", 3): 340_283,
    ("bsrn", 4): 352_400,
    ("bsrn-s", 4): 156_288,
    ("rlfn", 2): 526_856,
    ("rlfn", 4): 543_740,
    ("rlfn-s", 2): 454_620,
    ("rlfn-s", 4): 470_208,
    ("rlfn-ntire", 4): 317_218,
    ("span", 2): 481_324,
    ("span", 4): 498_208,
    ("span-s", 2): 410_700,
    ("span-s", 4): 426_288,
    ("span-28", 4): 150_688,
    ("span-26", 4): 130_828,
    ("sesr-m3", 2): 8_912,
    ("sesr-m5", 2): 13_520,
    ("sesr-m5", 4): 18_320,
    ("sesr-m7", 2): 18_128,
    ("sesr-m11", 2): 27_344,
    ("sesr-xl", 2): 105_376,
    ("sesr-m3-rgb", 2): 12_988,
    ("sesr-m5-rgb", 2): 17_628,
    ("sesr-m7-rgb", 2): 22_268,
    ("sesr-m11-rgb", 2): 31_548,
    ("sesr-xl-rgb", 2): 113_772,
    ("quicksrnet-small", 2): 22_860,
    ("quicksrnet-small", 3): 27_195,
    ("quicksrnet-small", 4): 33_264,
    ("quicksrnet-medium", 2): 50_604,
    ("quicksrnet-medium", 3): 54_939,
    ("quicksrnet-medium", 4): 61_008,
    ("quicksrnet-large", 2): 414_972,
    ("quicksrnet-large", 3): 423_687,
    ("quicksrnet-large", 4): 435_888,
    ("xlsr", 2): 17_612,
    ("xlsr", 3): 21_947,
    ("xlsr", 4): 28_016,
    ("abpn", 3): 43_035,
    ("bicubicpp", 3): 50_400,
    ("pisr-teacher", 2): 86_084 + 12_644,  # encoder, decoder
    ("pisr-teacher", 3): 86_084 + 12_644,
    ("pisr-teacher", 4): 86_084 + 12_644,
    ("basicvsr", 4): 6_291_311,
    ("basicvsr-15", 4): 4_075_631,
}

TRAINING = {
    ("ecbsr-m4c8", 2): 10_804,
    ("ecbsr-m4c16", 2): 39_956,
    ("ecbsr-m10c16", 2): 90_452,
    ("ecbsr-m10c32", 2): 353_620,
    ("ecbsr-m16c64", 2): 2_190_932,
}

JUDGES = {"srgan-96": 23_563_649, "vgg-128": 14_499_401, "unet-sn": 4_376_897}

# What those who counted left out or put in: slopes of PReLU (ARM on SESR), fixed masks (SPSR).
NOT_COUNTED = {
    **dict.fromkeys((n for n in NETWORKS if n.startswith("sesr") and "rgb" not in n), "slopes"),
}
FIXED = {"spsr": 18}

OFFERED = [(name, scale) for name, builder in NETWORKS.items() for scale in builder.scales]


def counted_as_published(name: str, scale: int) -> int:
    with torch.device("meta"):
        model = build(name, scale)
    model = deployed(model)
    count = count_parameters(model) + FIXED.get(name, 0)
    if NOT_COUNTED.get(name) == "slopes":
        count -= sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.PReLU))
    return count


def test_counts_are_the_published_ones(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(*key, counted_as_published(*key), figure) for key, figure in PUBLISHED.items()]
    with torch.device("meta"):
        for (name, scale), figure in TRAINING.items():
            rows.append((f"{name}, training", scale, count_parameters(build(name, scale)), figure))
        for name, figure in JUDGES.items():
            rows.append((f"{name}, judge", 1, count_parameters(DISCRIMINATORS[name]()), figure))
    with capsys.disabled():
        print(f"\n{'network':25s} scale {'ours':>12s} {'published':>12s}")
        for name, scale, ours, figure in rows:
            mark = "" if ours == figure else "  DIFFERENT"
            print(f"{name:25s} x{scale:<4d} {ours:12,} {figure:12,}{mark}")
    assert [row for row in rows if row[2] != row[3]] == []


def test_committed_facts_are_those_of_the_networks() -> None:
    """`edgesr/zoo.json`, all but the halo, which takes real weights: python -m
    edgesr.networks.table writes it anew."""
    committed = {(row.name, row.scale): row for row in networks()}
    assert list(committed) == OFFERED
    for name, scale in OFFERED:
        if scale == NETWORKS[name].scales[0]:
            row = committed[name, scale].to_dict()
            now = facts_of(name, scale, measured=False).to_dict()
            assert row | {"halo": None} == now


@pytest.mark.parametrize(
    ("name", "scale"),
    [(n, s) for n, s in OFFERED if s == 2 and n.startswith(("espcn", "ecbsr-m4", "sesr", "abpn"))],
)
def test_committed_halos_are_measured(name: str, scale: int) -> None:
    row = next(row for row in networks() if (row.name, row.scale) == (name, scale))
    channels = 1 if row.colour == "y" else 3
    assert row.halo == measure_halo(build(name, scale), scale=scale, channels=channels)


def test_halo_by_hand() -> None:
    """5x5 + 3x3 + 3x3 reach 2 + 1 + 1 pixels; M + 2 convolutions 3x3 reach M + 2."""
    halos = {(row.name, row.scale): row.halo for row in networks()}
    assert halos["espcn", 2] == 4
    assert halos["ecbsr-m4c16", 2] == 6
    assert halos["ecbsr-m10c16", 4] == 12
    assert halos["srvgg-16", 4] == 18
    assert halos["rcan", 2] is None  # global pooling


def test_halo_of_a_network_that_pools_the_whole_picture_is_none() -> None:
    class Pooled(torch.nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x.mean(dim=(2, 3), keepdim=True))

    class Resized(torch.nn.Module):
        """Looks local, but where its coarse pixels lie depends on the size of the picture."""

        def forward(self, x):
            coarse = torch.nn.functional.max_pool2d(x, 7, 3)
            return x * torch.nn.functional.interpolate(coarse, x.shape[2:], mode="bilinear")

    assert measure_halo(Pooled(), scale=1) is None
    assert measure_halo(Resized(), scale=1, min_size=16) is None


# ------------------------------------------------------------------------------------------------
# ONNX. The full sizes are run by benchmarks/export_grid.py.

GRID = [
    (name, scale)
    for name in SMALL
    for scale in NETWORKS[name].scales
    if NETWORKS[name].kind == "picture"
]


@pytest.mark.parametrize(("name", "scale"), GRID, ids=lambda value: str(value))
def test_onnx_runtime_computes_what_torch_does(
    name: str, scale: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At three sizes, one of them odd where the network takes odd ones."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from export_grid import check

    torch.manual_seed(0)
    checks = check(name, SMALL[name](scale), folder=tmp_path)
    assert [found for found in checks if not found.passed] == []
    assert len(checks) >= 3 or NETWORKS[name].make(scale).fixed_size


def test_every_architecture_has_a_small_form() -> None:
    def kinds(builders):
        with torch.device("meta"):
            return {type(make()) for make in builders}

    every = kinds(lambda b=b: b.make(b.scales[0]) for b in NETWORKS.values())
    small = kinds(lambda n=n: SMALL[n](NETWORKS[n].scales[0]) for n in SMALL)
    assert every == small


def test_small_forms_are_small() -> None:
    for name, make in SMALL.items():
        assert count_parameters(make(NETWORKS[name].scales[0])) < 100_000, name
