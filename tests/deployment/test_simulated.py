"""The simulated int8 network computes what ONNX Runtime computes, before training and after it."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline.deployment import export, onnx_file, quantize
from pipeline.deployment.simulated import Simulated, unknown
from pipeline.deployment.simulation_check import check_simulation
from pipeline.models.base import build
from pipeline.system.errors import ParityError
from tests import tiny

pytestmark = pytest.mark.slow

SIZES = {
    "resnet8": 32,
    "wrn_10_1": 32,
    "mobilenet_v2_half": 32,
    "timm/mobilenetv3_small_050": 64,
}


Made = tuple[onnx.ModelProto, dict[bool, quantize.Quantizer], NDArray[np.uint8]]


@pytest.fixture(scope="module", params=SIZES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A network as exported, quantisers of it by whether weights get seven bits, and images to compare on."""
    px = SIZES[request.param]
    torch.manual_seed(0)
    model = build({"arch": request.param, "num_classes": 10})
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.3)
            module.momentum = 0.5
    seen = tiny.split(16, px).images
    with torch.no_grad():
        for _ in range(4):
            model.train()(tiny.normalized(torch.from_numpy(seen)))
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    export.write_onnx(export.Servable(model, tiny.NORMALIZATION), {"image_px": px}, path, 20)
    exported = onnx_file.read(path)[0]
    by_bits = {seven: quantize.Quantizer(exported, [seen], reduce_range=seven) for seven in (True, False)}
    return exported, by_bits, tiny.split(24, px, seed=5).images


def deployed(model: onnx.ModelProto, pixels: NDArray[np.uint8]) -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    # Where sums of 8-bit products overflow, ONNX Runtime has another, slower way.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"pixels": pixels})[0])


@torch.no_grad()
def answers(simulated: Simulated, pixels: NDArray[np.uint8]) -> torch.Tensor:
    return simulated(torch.from_numpy(pixels).float())


def arrays(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("seven_bits", [True, False])
def test_the_simulation_computes_what_is_deployed_in_seven_bits_and_in_eight(made: Made, seven_bits: bool) -> None:
    model, quantizers, pixels = made
    file = quantizers[seven_bits].model()
    simulated = Simulated(file, quantizers[seven_bits].float32)
    expected, float32 = deployed(file, pixels), deployed(model, pixels)
    came = answers(simulated, pixels)
    record = check_simulation(came, expected, simulated.one_step(torch.from_numpy(pixels).float()))
    assert record["identical_percent"] > 90
    # What ties cost is little beside what eight bits cost.
    assert (came - expected).square().mean().sqrt() < (float32 - expected).square().mean().sqrt() / 4
    # Without training, what is written is the file, number by number.
    written = simulated.written()
    assert list(written.graph.node) == list(file.graph.node)
    numbers, kept = arrays(file), arrays(written)
    assert kept.keys() == numbers.keys()
    for name, array in numbers.items():
        assert kept[name].dtype == array.dtype, name
        np.testing.assert_array_equal(kept[name], array, err_msg=name)


def test_after_training_the_written_file_still_computes_what_the_simulation_does(made: Made) -> None:
    model, quantizers, pixels = made
    file = quantizers[True].model()
    simulated, images = Simulated(file, quantizers[True].float32), torch.from_numpy(pixels).float()
    wanted = deployed(model, pixels).softmax(1)
    optimizer = torch.optim.SGD(simulated.parameters(), lr=0.02, momentum=0.9)
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(simulated(images[:8]), wanted[:8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, parameter in simulated.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    written = simulated.written()
    onnx.checker.check_model(written, full_check=True)
    before, after = arrays(file), arrays(written)
    changed = {name for name, array in after.items() if not np.array_equal(array, before[name])}
    assert {before[name].dtype.name for name in changed} >= {"int8", "int32", "float32"}
    assert all(after[name] == 0 for name, array in before.items() if array.dtype == np.uint8 and not array.any())
    record = check_simulation(answers(simulated, pixels), deployed(written, pixels), simulated.one_step(images))
    assert record["identical_percent"] > 90


def test_a_logit_that_is_further_off_than_a_step_is_refused() -> None:
    expected, allowed = torch.randn(6, 4), torch.full((4,), 0.1)
    within = expected + 0.09
    assert check_simulation(within, expected, allowed)["of_allowed"] == pytest.approx(0.9, rel=1e-5)
    assert check_simulation(expected, expected, allowed)["identical_percent"] == 100
    off = expected.clone()
    off[2, 1] += 0.11
    with pytest.raises(ParityError, match=r"by up to 0.11, 1.1 times what one step .* set it to null or true"):
        check_simulation(off, expected, allowed)
    off[2, 1] = torch.nan
    with pytest.raises(ParityError):
        check_simulation(off, expected, allowed)


def test_an_operator_that_cannot_be_simulated_is_named_where_the_logits_need_it() -> None:
    nodes = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Det", ["floats"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
        helper.make_node("Hardmax", ["logits"], ["unused"]),
    ]
    graph = helper.make_graph(nodes, "strange", [], [])
    assert unknown(helper.make_model(graph)) == ["Det"]
