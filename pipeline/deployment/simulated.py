"""The int8 file in torch: its graph, node by node, with weights and ranges that can be trained.

    weights   float Parameters; s = max|w| / L of every output channel, found anew in each step. L is 127, or 64 where
              the file keeps weights in seven bits.
    biases    float Parameters, rounded to steps of s_x s_w, as the 32-bit sums hold them.
    ranges    s of every activation that the file quantises, and where z is not 0, its lower end. Tensors that share a
              scale in the file share it here.

Pixels, and constants that stand in the file as floats or as unsigned bytes, stay as they are. Jacob et al.,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR 2018.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from pipeline.deployment.fake_quantisation import (
    Range,
    Scaled,
    bias_in_steps,
    least_step,
    plain,
    slowed,
    weight_in_steps,
)
from pipeline.deployment.operators import OPERATORS

_WHITE = 255
_LIMITS = (64, 127)
"""Largest weight in seven bits, and in eight."""
_SUFFIX = "_quantized"
_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def unknown(model: onnx.ModelProto) -> list[str]:
    """The operators before the logits that cannot be simulated, each by its name, in alphabetical order."""
    known = (*OPERATORS, *_QUANTISERS)
    return sorted({node.op_type for node in _needed(model.graph) if node.domain or node.op_type not in known})


class Simulated(nn.Module):
    """logits (B, K) of pixels (B, H, W, 3), whole numbers in [0, 255] as floats, as the quantised file has them.

    Args:
        quantized: a QDQ network with unsigned activations, of which `unknown` names nothing.
        float32: what it was made from: the weights to begin with.
    """

    def __init__(self, quantized: onnx.ModelProto, float32: onnx.ModelProto) -> None:
        super().__init__()
        self._model, self._nodes = quantized, _needed(quantized.graph)
        self._given = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in self._nodes]
        self._over = _last_readers(self._nodes)
        self._constants = _arrays(quantized)
        self._steps_of = {node.output[0]: node.input[1] for node in self._nodes if node.op_type == "DequantizeLinear"}
        self._biases_of: dict[str, list[tuple[str, str]]] = {}
        self.weights, self.biases, self.ranges = nn.ParameterDict(), nn.ParameterDict(), nn.ModuleDict()
        before = _arrays(float32)
        for node in self._nodes:
            if node.op_type == "QuantizeLinear" and _key(node.input[1]) not in self.ranges:
                scale, zero_point = (self._constants[name].item() for name in node.input[1:3])
                self.ranges[_key(node.input[1])] = Range(scale, zero_point)
            elif node.op_type == "DequantizeLinear":
                self._hold(node, before)
            elif node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
                self._tie(node)
        # Bytes as they are, and not about 1 as other inputs: their weights are 255 times smaller, so that a step of
        # training, from gradients 255 times larger, would be 255 * 255 times as large beside them.
        self._of_pixels = {
            node.input[1]
            for node in self._nodes
            if node.op_type == "Conv" and node.input[0] in self._steps_of and not self._learns(node.input[0])
        }
        for name, value in self._constants.items():
            if value.dtype in (np.float32, np.uint8):
                floats = torch.from_numpy(value.astype(np.float32))
                self.register_buffer(_buffer(name), floats, persistent=False)
        weights = [np.abs(value.astype(np.int64)).max() for value in self._constants.values() if value.dtype == np.int8]
        self._limit = next(limit for limit in _LIMITS if max(weights, default=0) <= limit)

    def forward(self, pixels: Tensor) -> Tensor:
        """Run the nodes in order; no tensor is held longer than another node needs it."""
        values: dict[str, Any] = {"pixels": pixels}
        for node, given, over in zip(self._nodes, self._given, self._over, strict=True):
            if node.op_type == "QuantizeLinear":
                made: Any = self._range(node.input[1])(values[node.input[0]])
            elif node.op_type == "DequantizeLinear":
                made = self._dequantized(node, values)
            else:
                made = OPERATORS[node.op_type]([self._read(name, values) for name in node.input], given)
            values.update(zip(node.output, made if isinstance(made, list) else [made], strict=False))
            for name in over:
                values.pop(name, None)
        return plain(values["logits"])

    def written(self) -> onnx.ModelProto:
        """The quantised network with the weights, biases, scales and zero points of now; all else as it was."""
        made = onnx.ModelProto()
        made.CopyFrom(self._model)
        tensors = {tensor.name: tensor for tensor in made.graph.initializer}

        def put(name: str, value: Tensor) -> None:
            old = self._constants[name]
            array = value.detach().cpu().numpy().astype(old.dtype).reshape(old.shape)
            tensors[name].CopyFrom(numpy_helper.from_array(array, name))

        with torch.no_grad():
            for node in self._nodes:
                if node.op_type == "QuantizeLinear":
                    for name, value in zip(node.input[1:3], self._range(node.input[1]).now(), strict=True):
                        put(name, value)
                elif node.op_type == "DequantizeLinear" and _key(node.input[0]) in self.weights:
                    weight = self._weight(node)
                    put(node.input[0], weight.whole)
                    put(node.input[1], weight.scale)
                    for bias, x_scale in self._biases_of.get(node.output[0], ()):
                        step = self._scale(x_scale) * weight.scale.flatten()
                        put(bias, bias_in_steps(self.biases[_key(bias)], step))
                        put(self._steps_of[bias.removesuffix(_SUFFIX)], step)
        return made

    def one_step(self, pixels: Tensor) -> Tensor:
        """How far each logit (K,) moves, at most, when all bytes before the last product move by one: of one image."""
        seen: list[Scaled] = []
        last = [node.input[1] for node in self._nodes if node.op_type == "QuantizeLinear"][-1]
        hook = self._range(last).register_forward_hook(lambda module, inputs, output: seen.append(output))
        with torch.enable_grad():
            logits = self(pixels[:1])
        hook.remove()
        whole = seen[-1].whole
        slopes = [torch.autograd.grad(logit, whole, retain_graph=True)[0] for logit in logits[0]]
        return torch.stack([slope.abs().sum() for slope in slopes])

    def _hold(self, node: onnx.NodeProto, before: dict[str, NDArray[Any]]) -> None:
        """Make a Parameter of the weight or the bias that a node reads, from its floats."""
        value = self._constants.get(node.input[0])
        if value is None or value.dtype == np.uint8:
            return
        held = self.weights if value.dtype == np.int8 else self.biases
        start = before[node.input[0].removesuffix(_SUFFIX)]
        held[_key(node.input[0])] = nn.Parameter(torch.from_numpy(start.astype(np.float32)))

    def _tie(self, node: onnx.NodeProto) -> None:
        """Remember what the bias of a convolution or product, where it is in integers, is counted in."""
        x, weight, bias = node.input[:3]
        held = f"{bias}{_SUFFIX}"
        if _key(held) in self.biases:
            self._biases_of.setdefault(weight, []).append((held, self._steps_of[x]))

    def _dequantized(self, node: onnx.NodeProto, values: dict[str, Any]) -> Scaled | Tensor:
        source = node.input[0]
        if _key(source) in self.weights:
            return self._weight(node)
        if _key(source) in self.biases:
            return cast(Tensor, self.biases[_key(source)])
        value = self._read(source, values)
        if isinstance(value, Scaled):
            return value
        scale, zero_point = (self.get_buffer(_buffer(name)) for name in node.input[1:3])
        return Scaled(value - zero_point, scale, zero_point)

    def _weight(self, node: onnx.NodeProto) -> Scaled:
        least = [
            least_step(self.biases[_key(bias)], self._scale(x_scale))
            for bias, x_scale in self._biases_of.get(node.output[0], ())
        ]
        weight, scales = self.weights[_key(node.input[0])], self._constants[node.input[1]]
        if node.output[0] in self._of_pixels:
            weight = slowed(weight, _WHITE**-2)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scales.size > 1 else None
        return weight_in_steps(weight, axis, self._limit, torch.stack(least).amax(0) if least else None)

    def _learns(self, x: str) -> bool:
        """Whether a tensor that is counted in steps is so by a range that is learned."""
        return _key(self._steps_of[x]) in self.ranges

    def _range(self, name: str) -> Range:
        return cast(Range, self.ranges[_key(name)])

    def _scale(self, name: str) -> Tensor:
        """Of a range that is learned, or of the pixels."""
        if _key(name) in self.ranges:
            return self._range(name).now()[0]
        return self.get_buffer(_buffer(name))

    def _read(self, name: str, values: dict[str, Any]) -> Any:
        if name in values:
            return values[name]
        if not name:
            return None  # an optional input that is not given
        value = self._constants[name]
        return self.get_buffer(_buffer(name)) if value.dtype in (np.float32, np.uint8) else torch.from_numpy(value)


def _needed(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that the logits come from, in order."""
    wanted, nodes = {"logits"}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            wanted.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _last_readers(nodes: Sequence[onnx.NodeProto]) -> list[list[str]]:
    """For every node, what no later one reads."""
    seen = {"logits"}
    over = []
    for node in reversed(nodes):
        names = {*node.input, *node.output} - seen
        seen |= names
        over.append(sorted(names))
    return over[::-1]


def _arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}


def _key(name: str) -> str:
    """A name as modules hold parameters: without dots."""
    return name.replace(".", "/")


def _buffer(name: str) -> str:
    return f"constant {_key(name)}"
