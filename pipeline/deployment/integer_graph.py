"""A float network written another way, so that ONNX Runtime computes all of it in integers once it is quantised.

Three rewritings, each exact but for rounding, and each only where its pattern stands; anything else stays as it is.

    pixels    (p * scale + shift) * W  =  [p, 255] * [W scale, W shift / 255]    bytes go into the first convolution as
              they are. The border is right too: what is padded is the normalised image, so the added channel, whose
              weight carries the shift, must be 0 there like the others.
    norm      BN(x) = x * g + b, g = gamma / sqrt(var + eps), of a sum          a 1x1 convolution of each channel alone,
              which has an integer kernel, as a BN has not; the ReLU behind it becomes the limit of its bytes.
    average   the mean over height and width                                    GlobalAveragePool, which has one too.
"""

from collections import Counter
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PIXELS = "pixels_as_float"
"""The tensor that holds whole numbers in [0, 255], where the first rewriting applied."""

_ONES = 255  # as large as a byte goes, so that the weight beside it is as small as those of the pixels


def rewritten(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` (pixels uint8 (B, H, W, 3) in) that computes the same by other operators. Nodes keep names."""
    graph = _Graph(model)
    _take_pixels(graph)
    for node in list(graph.nodes):
        if node.op_type == "BatchNormalization" and graph.rank(node.input[0]) == 4:
            _norm_as_convolution(graph, node)
        elif node.op_type == "ReduceMean" and graph.rank(node.input[0]) == 4:
            _mean_as_pooling(graph, node)
    return graph.model()


def takes_pixels(model: onnx.ModelProto) -> bool:
    """Whether the first rewriting applied."""
    return any(PIXELS in node.output for node in model.graph.node)


class _Graph:
    """Nodes in order, and the constants they read."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = onnx.shape_inference.infer_shapes(model)
        self.nodes = list(self._model.graph.node)
        self._initializers = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._shapes = {value.name: value.type.tensor_type.shape for value in self._model.graph.value_info}

    def constant(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self._initializers[name])

    def is_constant(self, name: str) -> bool:
        return name in self._initializers

    def rank(self, name: str) -> int | None:
        return len(self._shapes[name].dim) if name in self._shapes else None

    def add(self, name: str, value: NDArray[Any]) -> str:
        self._initializers[name] = numpy_helper.from_array(value, name)
        return name

    def readers(self, name: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if name in node.input]

    def replace(self, old: list[onnx.NodeProto], new: list[onnx.NodeProto]) -> None:
        gone = {id(node) for node in old}
        at = next(index for index, node in enumerate(self.nodes) if id(node) in gone)
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        self.nodes[at:at] = new

    def model(self) -> onnx.ModelProto:
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        del made.graph.node[:], made.graph.initializer[:], made.graph.value_info[:]
        made.graph.node.extend(self.nodes)
        read = Counter(name for node in self.nodes for name in node.input)
        made.graph.initializer.extend(tensor for name, tensor in self._initializers.items() if name in read)
        onnx.checker.check_model(made, full_check=True)
        return made


def normalisation(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Transpose, Cast, Mul and Add that make normalised images of the pixels; empty where they are others."""
    chain: list[onnx.NodeProto] = []
    name = "pixels"
    for op_type in ("Transpose", "Cast", "Mul", "Add"):
        readers = [node for node in nodes if name in node.input]
        if len(readers) != 1 or readers[0].op_type != op_type:
            return []
        chain.append(readers[0])
        name = readers[0].output[0]
    return chain


def _take_pixels(graph: _Graph) -> None:
    """The normalisation and the convolutions behind it -> a channel more, and convolutions of it."""
    chain = normalisation(graph.nodes)
    if not chain or not all(graph.is_constant(node.input[1]) for node in chain[2:]):
        return
    name = chain[-1].output[0]
    convolutions = graph.readers(name)
    if not convolutions or not all(_reads_plainly(graph, node, name) for node in convolutions):
        return
    scale, shift = (graph.constant(node.input[1]).reshape(1, 3, 1, 1) for node in chain[2:])
    for node in convolutions:
        weight = graph.constant(node.input[1])
        ones = (weight * shift).sum(1, keepdims=True) / _ONES
        node.input[0] = PIXELS
        node.input[1] = graph.add(f"{node.name}_of_pixels", np.concatenate([weight * scale, ones], 1))
    size = graph.add("pixels_size", np.array([*_size(graph), 1], np.int64))
    value = helper.make_tensor("value", TensorProto.UINT8, [1], [_ONES])
    graph.replace(
        chain,
        [
            # Not Pad: at this axis it copies image point by image point, four times as slowly.
            helper.make_node("Shape", ["pixels"], ["pixels_batch"], "pixels_batch", start=0, end=1),
            helper.make_node("Concat", ["pixels_batch", size], ["pixels_ones_shape"], "pixels_ones_shape", axis=0),
            helper.make_node("ConstantOfShape", ["pixels_ones_shape"], ["pixels_ones"], "pixels_ones", value=value),
            helper.make_node("Concat", ["pixels", "pixels_ones"], ["pixels_and_ones"], "pixels_and_ones", axis=3),
            helper.make_node("Transpose", ["pixels_and_ones"], ["pixels_planes"], "pixels_planes", perm=[0, 3, 1, 2]),
            helper.make_node("Cast", ["pixels_planes"], [PIXELS], PIXELS, to=TensorProto.FLOAT),
        ],
    )


def _size(graph: _Graph) -> list[int]:
    """Height and width of the pixels."""
    shape = graph._model.graph.input[0].type.tensor_type.shape
    return [dimension.dim_value for dimension in shape.dim[1:3]]


def _reads_plainly(graph: _Graph, node: onnx.NodeProto, name: str) -> bool:
    """Whether a node is a convolution over all three channels of `name` with constant weights."""
    is_convolution = node.op_type == "Conv" and list(node.input).count(name) == 1 and node.input[0] == name
    return is_convolution and graph.is_constant(node.input[1]) and graph.constant(node.input[1]).shape[1] == 3


def _norm_as_convolution(graph: _Graph, node: onnx.NodeProto) -> None:
    if not all(map(graph.is_constant, node.input[1:5])):
        return
    epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
    gamma, beta, mean, var = (graph.constant(name).astype(np.float64) for name in node.input[1:5])
    gain = gamma / np.sqrt(var + epsilon)
    weight = graph.add(f"{node.name}_gain", gain.astype(np.float32).reshape(-1, 1, 1, 1))
    bias = graph.add(f"{node.name}_offset", (beta - mean * gain).astype(np.float32))
    inputs, outputs = [node.input[0], weight, bias], [node.output[0]]
    made = helper.make_node("Conv", inputs, outputs, node.name, kernel_shape=[1, 1], group=len(gain))
    graph.replace([node], [made])


def _mean_as_pooling(graph: _Graph, node: onnx.NodeProto) -> None:
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if len(node.input) < 2 or not graph.is_constant(node.input[1]):
        return
    if sorted(axis % 4 for axis in graph.constant(node.input[1]).tolist()) != [2, 3]:
        return
    if attributes.get("keepdims", 1):
        new = [helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), node.name)]
    else:
        inner = f"{node.output[0]}_of_each_map"
        new = [
            helper.make_node("GlobalAveragePool", [node.input[0]], [inner], node.name),
            helper.make_node("Flatten", [inner], list(node.output), f"{node.name}_flat"),
        ]
    graph.replace([node], new)
