"""Fine-tuning with fake quantisation: it gains, it is repeatable, its grid is the exported one."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from onnx import numpy_helper
from planted import drawn, plant, source_of

from edgesr.errors import UsageError
from edgesr.export.calibrate import Calibration
from edgesr.export.qat import (
    InputGrid,
    WeightGrid,
    check_source,
    fine_tuned,
    fine_tuned_network,
    on_grid,
)
from edgesr.export.quality import by_graph, distance
from edgesr.export.quantize import Scheme, quantize
from edgesr.export.source import Source
from edgesr.networks import checkpoint
from edgesr.networks.espcn import Espcn, EspcnConfig

SCHEME = Scheme(flavour="trt8", rounding="nearest")


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return drawn(pairs=2)


@pytest.fixture(scope="module")
def source() -> Source:
    """A small ESPCN, bicubic with noise, with one channel too large."""
    torch.manual_seed(0)
    network = Espcn(EspcnConfig(scale=2, widths=(12, 8))).eval()
    with torch.no_grad():
        for layer in (network.conv1, network.conv2):
            layer.weight.add_(0.05 * torch.randn_like(layer.weight))
            assert layer.bias is not None
            layer.bias.add_(0.1)
    plant(network, at=1, channel=6, factor=30.0)
    for parameter in network.parameters():
        parameter.requires_grad_(False)  # as a deployed network may come
    return source_of(network, checkpoint.spec_of("espcn", network))


def psnr_int8(
    graph: onnx.ModelProto, source: Source, calibration: Calibration, scheme: Scheme = SCHEME
) -> float:
    """dB of the quantised graph to the float32 network, on pictures that no step has seen."""
    run = by_graph(quantize(graph, source.spec, calibration, scheme))
    expected = by_graph(source.graph)
    lows = [lr for lr, _ in calibration.held_out]
    return distance([run(lr) for lr in lows], [expected(lr) for lr in lows]).psnr


def test_it_gains(source: Source, calibration: Calibration) -> None:
    notes: list[str] = []
    before = max(
        psnr_int8(source.graph, source, calibration, dataclasses.replace(SCHEME, rounding=how))
        for how in ("nearest", "seen")
    )
    tuned = fine_tuned(source, calibration, scheme=SCHEME, steps=200, on_note=notes.append)
    after = psnr_int8(tuned, source, calibration)
    print(f"{before:.2f} -> {after:.2f} dB to float32")
    assert after > before + 3.0
    assert any("step 100 of 200" in note for note in notes)
    assert onnx.checker.check_model(tuned, full_check=True) is None
    # The same graph with other numbers: the same nodes, in the same order.
    assert [(n.name, n.op_type) for n in tuned.graph.node] == [
        (n.name, n.op_type) for n in source.graph.graph.node
    ]


def test_equal_seeds_give_equal_weights(source: Source, calibration: Calibration) -> None:
    first, again, other = (
        fine_tuned_network(source, calibration, scheme=SCHEME, steps=3, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert set(first) == set(source.module.state_dict())


def test_the_source_stays_as_it_was(source: Source, calibration: Calibration) -> None:
    before = {name: t.clone() for name, t in source.module.state_dict().items()}
    fine_tuned_network(source, calibration, scheme=SCHEME, steps=2)
    after = source.module.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not source.module.training


def test_weights_lie_on_the_exported_grid(source: Source, calibration: Calibration) -> None:
    """The grid of the training against the one that onnxruntime.quantization writes."""
    graph = quantize(source.graph, source.spec, calibration, SCHEME)
    held = {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}
    made_by = {name: node for node in graph.graph.node for name in node.output}
    convolution = next(n for n in graph.graph.node if n.op_type == "Conv")
    weight = made_by[convolution.input[1]]
    numbers, scales = held[weight.input[0]], held[weight.input[1]]
    theirs = numbers.astype(np.float32) * scales.reshape(-1, 1, 1, 1)
    ours = WeightGrid(0)(source.module.conv1.weight.detach()).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_input_grids() -> None:
    x = torch.tensor([[-0.5, 0.0, 0.26, 1.5]])
    (signed,) = InputGrid(symmetric=True, share=1.0)(torch.nn.Identity(), (x,))
    (unsigned,) = InputGrid(symmetric=False, share=1.0)(torch.nn.Identity(), (x,))
    step = 1.5 / 127
    torch.testing.assert_close(signed, torch.round(x / step) * step)
    step = 2.0 / 255
    zero = round(0.5 / step)
    torch.testing.assert_close(unsigned, (torch.round(x / step + zero) - zero) * step)
    assert unsigned[0, 1] == 0.0  # zero stays zero: padding
    # A share leaves the largest out.
    wide = torch.cat([torch.linspace(0, 1, 999), torch.tensor([100.0])])
    (cut,) = InputGrid(symmetric=False, share=0.99)(torch.nn.Identity(), (wide,))
    assert cut.max() < 1.01


def test_the_gradient_goes_through() -> None:
    x = torch.tensor([0.1, 0.4, 3.0], requires_grad=True)
    on_grid(x, torch.tensor(0.1), torch.tensor(0.0), low=0.0, high=10.0).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([1.0, 1.0, 0.0])  # what is cut off learns nothing


def test_no_network(source: Source) -> None:
    with pytest.raises(UsageError, match="give the checkpoint"):
        check_source(dataclasses.replace(source, module=None))
    with pytest.raises(UsageError, match="no convolution"):
        check_source(dataclasses.replace(source, module=torch.nn.ReLU()))


def test_repair_comes_to_it_last(
    source: Source, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no float layer brings under the budget is fine-tuned: all in int8 first, then as it is.

    The budget cannot be met, so that both are tried, and both stand in the table.
    """
    from edgesr.export import qat
    from edgesr.export.repair import ExportRefused, repaired

    short = functools.partial(qat.fine_tuned, steps=100)
    monkeypatch.setattr(qat, "fine_tuned", short)
    with pytest.raises(ExportRefused) as caught:
        repaired(source, calibration, flavour="trt8", max_drop=-5.0, qat=True)
    steps = caught.value.log.steps
    print("\n".join(caught.value.log.lines()))
    tuned = [step for step in steps if step.what.startswith("fine-tuned")]
    assert tuned == list(steps[-len(tuned) :])
    assert tuned[0].what == "fine-tuned, all in int8"
    assert tuned[0].after < 0.9 * steps[0].after  # of plain min/max
    assert "--qat" not in str(caught.value).splitlines()[0]  # it was asked for already
