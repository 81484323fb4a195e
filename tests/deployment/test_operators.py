"""Each operator in torch gives what ONNX Runtime gives, of floats and of bytes in steps."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline.deployment.fake_quantisation import Scaled, plain
from pipeline.deployment.operators import OPERATORS

Array = NDArray[Any]
X = np.random.default_rng(0).normal(size=(2, 4, 6, 5)).astype(np.float32)
W = np.random.default_rng(1).normal(size=(6, 2, 3, 2)).astype(np.float32)
FLAT = X.reshape(16, 15)


def whole(*values: int) -> Array:
    return np.array(values, np.int64)


CASES: list[tuple[str, list[Array], dict[str, Any]]] = [
    ("Conv", [X, W, W[:, 0, 0, 0]], {"group": 2, "kernel_shape": [3, 2], "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("Conv", [X, W], {"group": 2, "kernel_shape": [3, 2], "pads": [0, 1, 2, 0], "dilations": [2, 1]}),
    ("Conv", [X[:, :, 0], W[:, :, 0]], {"group": 2, "kernel_shape": [2]}),
    ("Gemm", [FLAT, FLAT[:3], FLAT[0, :3]], {"transB": 1}),
    ("MatMul", [X, X[0, 0].T.copy()], {}),
    ("Mul", [X, X[0]], {}),
    ("Add", [X, X[:, :, :1]], {}),
    ("Sub", [X, X[0]], {}),
    ("Div", [X, X[0]], {}),
    ("Pow", [np.abs(X), np.array(2.5, np.float32)], {}),
    ("Sqrt", [np.abs(X)], {}),
    *((name, [X], {}) for name in ("Erf", "Exp", "Sin", "Cos", "Tanh", "Relu", "Sigmoid", "HardSwish", "Identity")),
    ("Not", [X > 0], {}),
    ("Clip", [X, np.array(-0.5, np.float32), np.array(1, np.float32)], {}),
    ("HardSigmoid", [X], {"alpha": 0.3, "beta": 0.4}),
    ("Gelu", [X], {}),
    ("Gelu", [X], {"approximate": "tanh"}),
    ("Softmax", [X], {"axis": 1}),
    ("LayerNormalization", [X, X[0, 0, 0], X[0, 0, 1]], {"axis": -1, "epsilon": 1e-6}),
    ("ReduceMean", [X, whole(2, 3)], {"keepdims": 0}),
    ("ReduceSum", [X, whole(-1)], {}),
    ("ReduceL2", [X], {}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("MaxPool", [X], {"kernel_shape": [2, 3], "pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [X], {"kernel_shape": [2, 3], "pads": [0, 0, 1, 1], "strides": [2, 2]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "count_include_pad": 1}),
    ("GlobalAveragePool", [X], {}),
    ("Reshape", [X, whole(0, -1, 3)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Flatten", [X], {"axis": 0}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Transpose", [X], {}),
    ("Squeeze", [X[:, :1, :, :1], whole(1)], {}),
    ("Squeeze", [X[:, :1, :, :1]], {}),
    ("Unsqueeze", [X, whole(-1, 0)], {}),
    ("Slice", [X, whole(1, -3), whole(4, 2**62), whole(2, 3), whole(2, 1)], {}),
    ("Slice", [X, whole(1), whole(-1)], {}),
    ("Split", [X], {"axis": 2, "num_outputs": 2}),
    ("Split", [X, whole(1, 5)], {"axis": 2}),
    ("Gather", [X, np.array([[0, 2], [3, 1]])], {"axis": 1}),
    ("Pad", [X, whole(0, 0, 1, 0, 0, 0, 2, 1)], {}),
    ("Pad", [X, whole(0, 0, 1, 0, 0, 0, 2, 1), np.array(1.5, np.float32)], {}),
    ("Expand", [X[:, :, :1], whole(2, 1, 6, 5)], {}),
    ("Concat", [X, X[:, :1]], {"axis": 1}),
    ("Shape", [X], {"start": 1, "end": 3}),
    ("ConstantOfShape", [whole(2, 3)], {"value": helper.make_tensor("value", onnx.TensorProto.UINT8, [1], [7])}),
    ("Cast", [X > 0], {"to": onnx.TensorProto.FLOAT}),
    ("Range", [np.array(1), np.array(9), np.array(3)], {}),
    ("CumSum", [X, np.array(2)], {}),
]
NAMES = [f"{name}-{index}" for index, (name, _, _) in enumerate(CASES)]


def expected(name: str, inputs: list[Array], attributes: dict[str, Any]) -> list[Array]:
    outputs = ["y0", "y1"] if name == "Split" else ["y0"]
    names = [f"x{index}" for index in range(len(inputs))]
    graph = helper.make_graph(
        [helper.make_node(name, names, outputs, **attributes)],
        name,
        [],
        [helper.make_empty_tensor_value_info(output) for output in outputs],
        [numpy_helper.from_array(np.array(array, order="C"), name) for name, array in zip(names, inputs, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {}))


def computed(name: str, inputs: list[Any], attributes: dict[str, Any]) -> list[torch.Tensor]:
    node = helper.make_node(name, [], [], **attributes)
    made = OPERATORS[name](inputs, {a.name: helper.get_attribute_value(a) for a in node.attribute})
    return [plain(value) for value in (made if isinstance(made, list) else [made])]


def test_every_operator_is_tried() -> None:
    assert {name for name, _, _ in CASES} == set(OPERATORS)


@pytest.mark.parametrize(("name", "inputs", "attributes"), CASES, ids=NAMES)
def test_floats_and_whole_numbers(name: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    came = computed(name, [torch.from_numpy(np.array(array)) for array in inputs], attributes)
    for ours, theirs in zip(came, expected(name, inputs, attributes), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=2e-6)


FLOATS = [case for case in CASES if case[1][0].dtype == np.float32 and case[0] not in ("Pow", "Sqrt", "Div")]


@pytest.mark.parametrize(
    ("name", "inputs", "attributes"), FLOATS, ids=[f"{index}-{case[0]}" for index, case in enumerate(FLOATS)]
)
def test_bytes_in_steps_stand_for_their_floats(name: str, inputs: list[Array], attributes: dict[str, Any]) -> None:
    factors = 2 if name in ("Conv", "Gemm", "MatMul", "Mul", "Add", "Sub", "Concat") else 1
    scale = np.float32(0.03)
    counts = [np.rint(array / scale) if index < factors else array for index, array in enumerate(inputs)]
    in_steps = [
        Scaled(torch.from_numpy(array), torch.tensor(scale)) if index < factors else torch.from_numpy(np.array(array))
        for index, array in enumerate(counts)
    ]
    floats = [array * scale if index < factors else array for index, array in enumerate(counts)]
    for ours, theirs in zip(computed(name, in_steps, attributes), expected(name, floats, attributes), strict=True):
        # A bias is rounded to steps of 0.03 * 0.03.
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=5e-4 if len(inputs) == 3 else 5e-6)
