"""The probe for sums of bytes that overflow: it is what onnx makes of its description, and it tells."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.deployment import quantize
from serve.model import overflow


def test_the_probe_is_made_as_it_says_and_tells_what_the_quantiser_is_told() -> None:
    weights = numpy_helper.from_array(np.full((64, 16), 127, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["bytes", "weights"], ["sums"])],
        "largest sums",
        [helper.make_tensor_value_info("bytes", TensorProto.UINT8, (1, 64))],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, (1, 16))],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    assert onnx.load(overflow.PROBE) == model
    assert overflow.overflows() == quantize.overflows()


def test_sums_that_are_cut_off_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Session:
        """As on a processor that keeps to 16 bits."""

        def __init__(self, *arguments: object, **options: object) -> None: ...

        def run(self, *arguments: object) -> list[np.ndarray]:
            return [np.full((1, 16), 32 * 32767, np.int32)]

    monkeypatch.setattr(overflow.onnxruntime, "InferenceSession", Session)
    assert overflow.overflows.__wrapped__()
