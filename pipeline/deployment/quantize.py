"""An exported network in 8-bit integers (static QDQ, by ONNX Runtime), or in half precision.

    x ~ scale * (q - zero_point)     of activations q is a byte in [0, 255] with the range that calibration images show,
                                     of weights a signed byte with zero_point 0 and a scale for every output channel

Unsigned activations and signed weights are what VNNI multiplies. TensorRT wants both signed and symmetric, and its own
file. Nagel et al., "A White Paper on Neural Network Quantization", arXiv:2106.08295, explains what is done here.
"""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.transformers.float16 import convert_float_to_float16  # type: ignore[import-untyped]

from pipeline.data.arrays import Split
from pipeline.deployment import integer_graph, onnx_file
from pipeline.settings.deployment import Quantize
from pipeline.system.errors import PupilError

INT8 = "student.int8.onnx"
_CALIBRATION_BATCH = 32
_COMPUTES = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul")
# Those that pass on bytes as well as floats: in float they would stand between two that do not.
_PASSES_ON = ("AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Relu", "Reshape", "Squeeze")
WAYS: dict[str, tuple[quantization.CalibrationMethod, dict[str, Any]]] = {
    "minmax": (quantization.CalibrationMethod.MinMax, {}),
    "entropy": (quantization.CalibrationMethod.Entropy, {}),
    "percentile": (quantization.CalibrationMethod.Percentile, {"percentile": 99.99}),
    "percentile_99.9": (quantization.CalibrationMethod.Percentile, {"percentile": 99.9}),
    "percentile_99.999": (quantization.CalibrationMethod.Percentile, {"percentile": 99.999}),
}
"""How ranges are read from the calibration images: quantize.method, and what `auto` tries, in this order."""


def calibration(train: Split, settings: Quantize) -> list[NDArray[np.uint8]]:
    """Images of train to calibrate on, drawn by the settings' seed, a few at a time: uint8 (B, H, W, 3)."""
    generator = np.random.default_rng(settings.seed)
    positions = generator.choice(len(train), min(settings.images, len(train)), replace=False)
    read = train.central_reader()
    starts = range(0, len(positions), _CALIBRATION_BATCH)
    return [read(np.sort(positions[start : start + _CALIBRATION_BATCH])) for start in starts]


@cache
def overflows() -> bool:
    """Whether sums of 8-bit products overflow here: without VNNI, x86 adds pairs of them up in 16 bits."""
    bytes_, weights = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["bytes", "weights"], ["sums"])],
        "largest sums",
        [onnx.helper.make_tensor_value_info("bytes", onnx.TensorProto.UINT8, bytes_.shape)],
        [onnx.helper.make_tensor_value_info("sums", onnx.TensorProto.INT32, (1, 16))],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (sums,) = session.run(None, {"bytes": bytes_})
    return bool((sums != bytes_.astype(np.int32) @ weights.astype(np.int32)).any())


class Quantizer:
    """One network, calibrated once, to be quantised with this or that node left in float32.

    Args:
        model: pixels uint8 (B, H, W, 3) in, float32 probabilities and logits out.
        batches: calibration images, uint8 (B, H, W, 3) each.
        way: how ranges are read from them, one of `WAYS`.
        reduce_range: whether weights get 7 bits instead of 8; None: where this processor needs it.
        signed: for TensorRT: signed symmetric activations too, of the inputs of convolutions, products and sums alone.

    Attributes:
        float32: what is quantised: `model`, rewritten for integers.
        nodes: those that are quantised, by name: their weight's name, or their operator.

    Raises PupilError where a tensor is not finite.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        batches: Iterable[NDArray[np.uint8]],
        way: str = "minmax",
        reduce_range: bool | None = None,
        signed: bool = False,
    ) -> None:
        self.float32 = model if signed else integer_graph.rewritten(model)
        self.way, self._signed = way, signed
        self._reduce_range = overflows() if reduce_range is None else reduce_range
        self._operators = [*_COMPUTES, *([] if signed else _PASSES_ON)]
        nodes = list(self.float32.graph.node)
        # Eight bits of the normalised pixels would be fewer than eight bits of the pixels.
        self._normalisation = [node.name for node in integer_graph.normalisation(nodes)]
        weights = {node.name: name for node in model.graph.node for name in node.input[1:2] if "weight" in name}
        self.nodes = {
            node.name: weights.get(node.name, node.op_type)
            for node in nodes
            if node.op_type in _COMPUTES and node.name not in self._normalisation
        }
        self._ranges = self._calibrate(batches)

    def model(self, only: str | None = None, in_float32: Collection[str] = ()) -> onnx.ModelProto:
        """The quantised network, but for the nodes `in_float32`.

        With `only`, one in float32 but for that node and the activation behind it.
        """
        copy = onnx.ModelProto()
        copy.CopyFrom(self.float32)
        quantizer = quantization.QDQQuantizer(
            copy,
            per_channel=True,
            reduce_range=self._reduce_range,
            weight_qType=quantization.QuantType.QInt8,
            activation_qType=quantization.QuantType.QInt8 if self._signed else quantization.QuantType.QUInt8,
            tensors_range=self._ranges,
            nodes_to_quantize=[] if only is None else self._with_activation(only),
            nodes_to_exclude=[*self._normalisation, *in_float32],
            op_types_to_quantize=self._operators,
            extra_options=self._options(),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        made: onnx.ModelProto = quantizer.model.model
        _feed_bytes(made.graph)
        return made

    def _with_activation(self, name: str) -> list[str]:
        nodes = self.float32.graph.node
        outputs = {output for node in nodes if node.name == name for output in node.output}
        behind = [node.name for node in nodes if node.op_type in ("Relu", "Clip") and node.input[0] in outputs]
        return [name, *behind]

    def _options(self) -> dict[str, Any]:
        if self._signed:
            return {
                "ActivationSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": True,
                "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": list(_COMPUTES),
            }
        whole = [{"scale": np.array(1, np.float32), "zero_point": np.array(0, np.uint8)}]
        return {
            # Logits as they come out of the sums, in 32 bits.
            "OpTypesToExcludeOutputQuantization": ["Gemm"],
            "TensorQuantOverrides": {integer_graph.PIXELS: whole} if integer_graph.takes_pixels(self.float32) else {},
        }

    def _calibrate(self, batches: Iterable[NDArray[np.uint8]]) -> Any:
        """The range of every tensor that is to be quantised."""
        method, of_method = WAYS[self.way]
        options = of_method if self.way == "minmax" else {"symmetric": self._signed, **of_method}
        # Its histograms announce themselves on standard output.
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(),
        ):
            # Said below, with the tensor's name.
            warnings.filterwarnings("ignore", message="All-NaN", category=RuntimeWarning)
            path = Path(folder) / "model.onnx"
            onnx.save(self.float32, path)
            calibrator = quantization.create_calibrator(
                path,
                self._operators,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=method,
                providers=["CPUExecutionProvider"],
                extra_options=options,
            )
            try:
                for batch in batches:
                    # Batch by batch: the histograms hold every tensor of all that is handed over at once.
                    calibrator.collect_data(OneBatch(batch))
                ranges = calibrator.compute_data()
            except ValueError as error:  # what numpy says of a histogram without ends
                if "not finite" not in str(error):
                    raise
                raise _not_finite("a tensor") from error
        for name, found in ranges.items():
            if not np.isfinite(found.range_value).all():
                raise _not_finite(f"tensor {name}")
        return ranges


def _not_finite(what: str) -> PupilError:
    return PupilError(
        f"{what} of student.onnx is not finite for some calibration images, so that no range of bytes holds it. The "
        "student's own answers are broken there: look at its scores, and train it with a lower distill.train.lr."
    )


def weight_bits(model: onnx.ModelProto) -> int | None:
    """7 where 7 bits hold every weight in whole numbers, else 8; None where a network has no such weights."""
    signed = (it for it in model.graph.initializer if it.data_type == onnx.TensorProto.INT8 and len(it.dims) > 1)
    largest = [np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() for tensor in signed]
    return None if not largest else 7 if max(largest) <= 64 else 8


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network in float16; pixels, logits and probabilities as before, the softmax in float32.

    Sums of more than 65,504 overflow: whether the network keeps below is measured, not assumed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    softmax, probabilities = graph.node[-1], graph.output[0]
    assert (softmax.op_type, softmax.output[0]) == ("Softmax", probabilities.name), "export ends in its softmax"
    graph.node.remove(softmax)
    graph.output.remove(probabilities)
    made: onnx.ModelProto = convert_float_to_float16(copy, keep_io_types=True)
    _drop_repeated(made.graph)
    made.graph.node.append(softmax)
    made.graph.output.insert(0, probabilities)
    return made


def _drop_repeated(graph: onnx.GraphProto) -> None:
    """Leave one of equal nodes: the converter writes the same cast once for every reader, which is no valid graph."""
    once = {node.SerializeToString(deterministic=True): node for node in graph.node}
    del graph.node[:]
    graph.node.extend(once.values())


def distilled(folder: Path | None) -> onnx.ModelProto | None:
    """The int8 student that stage distill_int8 left in its folder; None where it left none."""
    return onnx_file.read(folder / INT8)[0] if folder is not None and (folder / INT8).exists() else None


class OneBatch(quantization.CalibrationDataReader):  # type: ignore[misc]
    """One batch, as calibration asks for it."""

    def __init__(self, batch: NDArray[np.uint8]) -> None:
        self._feeds: Iterator[dict[str, NDArray[np.uint8]]] = iter([{"pixels": batch}])

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The batch, then None."""
        return next(self._feeds, None)


def _feed_bytes(graph: onnx.GraphProto) -> None:
    """Bytes made floats and bytes again are the same bytes: drop both steps."""
    for cast in [node for node in graph.node if node.op_type == "Cast" and node.output[0] == integer_graph.PIXELS]:
        readers = [node for node in graph.node if cast.output[0] in node.input]
        quantizers = [node for node in readers if node.op_type == "QuantizeLinear"]
        bytes_again = {node.output[0] for node in quantizers}
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name in bytes_again:
                    node.input[index] = cast.input[0]
        for node in quantizers if len(quantizers) < len(readers) else [*quantizers, cast]:
            graph.node.remove(node)
