"""Fake quantisers against values that were computed by hand, in numpy, and with ONNX Runtime."""

import math

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pipeline.deployment.fake_quantisation import (
    Range,
    Scaled,
    bias_in_steps,
    least_step,
    plain,
    steps,
    weight_in_steps,
)
from pipeline.deployment.operators import OPERATORS

X = torch.tensor(
    [-3, -1.3, -1.25, -0.26, -0.25, -0.2, -0.05, 0, 0.05, 0.05000001, 0.125, 0.375, 0.74, 1, 5, 40], dtype=torch.float32
)


def fake(x: torch.Tensor, s: torch.Tensor, z: torch.Tensor, low: int = 0, high: int = 255) -> torch.Tensor:
    return steps(x / s, z, low, high) * s


@pytest.mark.parametrize(
    ("s", "z", "expected", "stopped"),
    [
        (0.1, 13, [-1.3, -1.3, -1.2, -0.3, -0.2, -0.2, 0, 0, 0, 0.1, 0.1, 0.4, 0.7, 1, 5, 24.2], [0, 15]),
        (0.5, 3, [-1.5, -1.5, -1, -0.5, 0, 0, 0, 0, 0, 0, 0, 0.5, 0.5, 1, 5, 40], [0]),
    ],
)
def test_activations_take_the_bytes_of_the_table_and_pass_gradients_within(
    s: float, z: int, expected: list[float], stopped: list[int]
) -> None:
    x = X.clone().requires_grad_()
    y = fake(x, torch.tensor(s), torch.tensor(float(z)))
    torch.testing.assert_close(y, torch.tensor(expected))
    y.sum().backward()
    passed = torch.ones(16)
    passed[stopped] = 0
    assert x.grad is not None
    torch.testing.assert_close(x.grad, passed)


def test_weights_with_given_scales_take_the_values_and_gradients_of_the_table() -> None:
    rows = [[1.275, -1.275, -1.29, 0.005], [0.01, 0.03, 0.05, -0.01], [0.0125, 0.0075, -0.0125, 0.7]]
    w, s = torch.tensor(rows, requires_grad=True), torch.tensor([[0.01], [0.02], [0.005]], requires_grad=True)
    y = fake(w, s, torch.zeros(()), -127, 127)
    table = [[1.27, -1.27, -1.27, 0], [0, 0.04, 0.04, 0], [0.01, 0.01, -0.01, 0.635]]
    torch.testing.assert_close(y, torch.tensor(table))
    y.backward(torch.arange(1.0, 13).view(3, 4))
    assert w.grad is not None
    assert s.grad is not None
    torch.testing.assert_close(w.grad, torch.tensor([[0.0, 0, 0, 4], [5, 6, 7, 8], [9, 10, 11, 0]]))
    torch.testing.assert_close(s.grad.flatten(), torch.tensor([-510.0, 1, 1530]), rtol=1e-4, atol=1e-3)


def test_a_weight_finds_its_own_scale_and_passes_it_no_gradient() -> None:
    rows = [[0.1, -0.2, 0.35, -1.27], [2.54, 0.03, -0.01, 0.005], [0.001, -0.004, 0, 0.0033]]
    weight = torch.tensor(rows, requires_grad=True)
    made = weight_in_steps(weight, 0, 127, None)
    torch.testing.assert_close(made.scale.flatten(), torch.tensor([0.01, 0.02, 3.149606e-5]))
    assert made.whole.tolist() == [[10, -20, 35, -127], [127, 2, 0, 0], [32, -127, 0, 105]]
    plain(made).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad, torch.ones(3, 4))
    seven = weight_in_steps(weight, 0, 64, None)
    assert seven.whole.abs().amax(1).tolist() == [64, 64, 64]
    along = weight_in_steps(weight.T, 1, 127, None)
    assert torch.equal(along.whole.T, made.whole)
    whole = weight_in_steps(weight, None, 127, None)
    assert whole.scale.numel() == 1


@pytest.mark.parametrize(("s", "z", "ds", "dz"), [(0.1, 13, 1917.9, -0.9), (0.5, 3, -9.42, -0.5)])
def test_gradients_of_scale_and_zero_point_are_those_of_lsq(s: float, z: int, ds: float, dz: float) -> None:
    x = torch.tensor([-3, -1.3, -0.26, 0, 0.13, 0.74, 5, 40])
    scale, zero_point = torch.tensor(s, requires_grad=True), torch.tensor(float(z), requires_grad=True)
    fake(x, scale, zero_point).backward(torch.arange(1.0, 9))
    assert scale.grad is not None
    assert zero_point.grad is not None
    assert scale.grad.item() == pytest.approx(ds, abs=0.02)
    assert zero_point.grad.item() == pytest.approx(dz)


def test_a_range_begins_with_the_numbers_of_the_file_to_the_last_bit() -> None:
    generator = np.random.default_rng(0)
    for scale in np.exp(generator.normal(-4, 2, 200)).astype(np.float32):
        zero_point = int(generator.integers(0, 256))
        came = Range(scale.item(), zero_point).now()
        assert (came[0].item(), came[1].item()) == (scale.item(), zero_point)


def test_a_range_divides_as_onnx_defines_it() -> None:
    x, range_ = torch.linspace(-3, 3, 1001), Range(0.023529412, 40)
    expected = np.clip(np.rint(x.numpy() / np.float32(0.023529412)) + 40, 0, 255) - 40
    np.testing.assert_array_equal(range_(x.view(1, -1)).whole.detach().numpy()[0], expected)


def test_a_range_moves_its_ends_towards_what_is_cut_off() -> None:
    images = torch.tensor([[-4.0, 0.5, 3.0, 0.1]])
    signed, rectified = Range(0.01, 100), Range(0.01, 0)
    for range_ in (signed, rectified):
        (plain(range_(images)) - images).square().sum().backward()
    assert signed.low is not None
    assert rectified.low is None
    assert signed.low.grad is not None
    assert signed.step.grad is not None
    assert signed.low.grad > 0  # downhill, the lower end falls ...
    assert signed.step.grad < 0  # ... and the range grows
    # Of one image with N = 4 values: 2 (y - x) (high - z) within the sum, times 1 / sqrt(255 N).
    above = 2 * (2.55 - 3.0) * 255
    within = sum(2 * (0.01 * round(x / 0.01) - x) * (round(x / 0.01) - x / 0.01) for x in (0.5, 0.1))
    assert rectified.step.grad is not None
    assert rectified.step.grad.item() == pytest.approx((above + within) / math.sqrt(255 * 4), rel=1e-4)


def test_bytes_that_are_counted_again_in_their_own_steps_stay() -> None:
    range_ = Range(0.013, 7)
    once = range_(torch.randn(2, 50))
    assert torch.equal(range_(once).whole, once.whole)
    assert torch.equal(range_(Scaled(once.whole * 2, once.scale / 2)).whole, once.whole)


def test_a_bias_is_counted_in_32_bits_and_its_weight_makes_room_for_it() -> None:
    bias, x_scale = torch.tensor([0.3, 400.0, -0.07]), torch.tensor(0.05)
    weight = torch.tensor([[0.5], [1e-9], [0.0]])
    made = weight_in_steps(weight, 0, 127, least_step(bias, x_scale))
    assert made.scale[0].item() == pytest.approx(0.5 / 127)
    assert made.scale[2].item() == 1
    whole = bias_in_steps(bias, x_scale * made.scale.flatten())
    assert 2**30 < whole[1].item() <= 2**31 - 1
    torch.testing.assert_close(whole * x_scale * made.scale.flatten(), bias, rtol=0, atol=0.03)
    leaf = bias.clone().requires_grad_()
    bias_in_steps(leaf, torch.tensor(0.01)).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, torch.full((3,), 100.0))


@pytest.mark.parametrize("operator", ["Add", "Mul"])
def test_sums_and_products_of_bytes_are_rounded_as_onnx_runtime_rounds_them(operator: str) -> None:
    generator = np.random.default_rng(0)
    a, b = (x.reshape(1, -1).astype(np.uint8) for x in np.meshgrid(np.arange(256), np.arange(256)))
    wrong = 0
    for number in range(10):
        # Powers of two make ties, of which an odd zero point sends each the other way.
        powers, any_scale = 2.0 ** generator.integers(-7, -4, 3), generator.uniform(0.01, 0.03, 3)
        *scales, of_outcome = (powers if number % 2 else any_scale).astype(np.float32)
        zeros = generator.integers(0, 128, 3) * 2 + 1
        if number == 0:  # of a trained WRN-16-2, where the order of the two products decides
            *scales, of_outcome = np.float32([0.07259303331375122, 0.10037566721439362, 0.1440950334072113])
            zeros = np.array([120, 119, 121])
        file = in_bytes(operator, [*scales, of_outcome], zeros)
        (expected,) = onnxruntime.InferenceSession(file).run(None, {"a": a, "b": b})
        inputs = [
            Scaled(torch.from_numpy(x).float() - zero, torch.tensor(scale), torch.tensor(float(zero)))
            for x, scale, zero in zip((a, b), scales, zeros, strict=False)
        ]
        came = Range(float(of_outcome), int(zeros[2]))(OPERATORS[operator](inputs, {}))
        wrong += (came.whole.detach().numpy() + zeros[2] != expected).sum()
    assert wrong <= 2, "of 655,360"


def in_bytes(operator: str, scales: list[np.float32], zeros: NDArray[np.int64]) -> bytes:
    """a, b (1, N) -> outcome, all in bytes, with a scale and a zero point for each."""
    names = ("a", "b", "outcome")
    numbers = [
        numpy_helper.from_array(value, f"{name}_{what}")
        for name, scale, zero in zip(names, scales, zeros, strict=True)
        for what, value in (("scale", np.array(scale, np.float32)), ("zero", np.array(zero, np.uint8)))
    ]
    nodes = [
        *[helper.make_node("DequantizeLinear", [x, f"{x}_scale", f"{x}_zero"], [f"{x}_float"]) for x in ("a", "b")],
        helper.make_node(operator, ["a_float", "b_float"], ["float"]),
        helper.make_node("QuantizeLinear", ["float", "outcome_scale", "outcome_zero"], ["outcome"]),
    ]
    *inputs, outcome = (helper.make_tensor_value_info(x, TensorProto.UINT8, [1, None]) for x in names)
    graph = helper.make_graph(nodes, "bytes", inputs, [outcome], numbers)
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    ).SerializeToString()
    return made
