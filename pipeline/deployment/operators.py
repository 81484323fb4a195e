"""ONNX operators in torch, by their names: what a quantised network is made of beside its quantisers.

Products stay integers (products.py), what moves values about keeps their steps (moves.py), and all else computes
floats. Definitions: the ONNX operator documentation, opsets 18 to 23.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from pipeline.deployment import moves, products
from pipeline.deployment.fake_quantisation import Scaled, Sum, Value, plain
from pipeline.deployment.moves import Attributes


def _moving(move: Callable[[Tensor, Sequence[Any], Attributes], Any]) -> Callable[[Sequence[Any], Attributes], Any]:
    """An operator that moves values of its first input about, whatever they count."""

    def operator(inputs: Sequence[Any], given: Attributes) -> Any:
        x, *others = inputs
        if not isinstance(x, Scaled) or x.scale.numel() > 1:
            return move(plain(x), others, given)
        made = move(x.whole, others, given)
        return [x._replace(whole=part) for part in made] if isinstance(made, list) else x._replace(whole=made)

    return operator


def _floating(compute: Callable[..., Any]) -> Callable[[Sequence[Any], Attributes], Any]:
    """An operator on floats: compute(*inputs, given)."""
    return lambda inputs, given: compute(*[None if value is None else plain(value) for value in inputs], given)


def _concat(inputs: Sequence[Any], given: Attributes) -> Value:
    """Of floats; whole numbers take the type and the place of floats beside them."""
    if all(isinstance(x, Scaled) and x.scale is inputs[0].scale for x in inputs):
        whole = torch.cat([x.whole for x in inputs], given["axis"])
        return Scaled(whole, inputs[0].scale, inputs[0].zero)
    parts = [plain(x) for x in inputs]
    like = next((part for part in parts if part.is_floating_point()), parts[0])
    return torch.cat([part.to(like) for part in parts], given["axis"])


def _add(inputs: Sequence[Any], given: Attributes) -> Value:
    """Of bytes, what waits for its quantiser; else of floats."""
    a, b = inputs
    if isinstance(a, Scaled) and isinstance(b, Scaled) and a.zero is not None and b.zero is not None:
        return Sum((a.whole, b.whole), (a.scale, b.scale), (a.zero, b.zero))
    return plain(a) + plain(b)


def _shape(x: Tensor, given: Attributes) -> Tensor:
    return torch.tensor(x.shape[given.get("start", 0) : given.get("end")], dtype=torch.int64)


def _constant_of_shape(size: Tensor, given: Attributes) -> Tensor:
    value = given.get("value")
    filler = torch.zeros(1) if value is None else torch.from_numpy(numpy_helper.to_array(value).copy())
    return filler.expand(size.tolist())


def _cast(x: Tensor, given: Attributes) -> Tensor:
    # Bytes stand in floats here, and a cast of them to floats changes nothing.
    return x.to(torch.from_numpy(helper.tensor_dtype_to_np_dtype(given["to"]).type([0])).dtype)


def _clip(x: Tensor, *rest: Any) -> Tensor:
    low, high = (*rest[:-1], None, None)[:2]
    return x.clamp(None if low is None else low.to(x), None if high is None else high.to(x))


def _norm(x: Tensor, scale: Tensor, *rest: Any) -> Tensor:
    bias, given = (rest[0], rest[1]) if len(rest) > 1 else (None, rest[0])
    axis = given.get("axis", -1) % x.dim()
    return functional.layer_norm(x, x.shape[axis:], scale, bias, given.get("epsilon", 1e-5))


def _over_axes(reduce: Callable[..., Any]) -> Callable[[Sequence[Any], Attributes], Any]:
    def operator(x: Tensor, *rest: Any) -> Tensor:
        axes, given = (rest[0].tolist(), rest[1]) if len(rest) > 1 else (range(x.dim()), rest[0])
        made: Tensor = reduce(x, dim=tuple(axes), keepdim=bool(given.get("keepdims", 1)))
        return made

    return _floating(operator)


def _hard_sigmoid(x: Tensor, given: Attributes) -> Tensor:
    slope: float = given.get("alpha", 0.2)
    shift: float = given.get("beta", 0.5)
    return (x * slope + shift).clamp(0, 1)


def _pad(x: Tensor, pads: Tensor, *rest: Any) -> Tensor:
    value, given = (rest[0], rest[-1]) if len(rest) > 1 else (None, rest[0])
    sides = pads.tolist()
    pairs = zip(sides[: x.dim()][::-1], sides[x.dim() :][::-1], strict=True)
    mode = given.get("mode", b"constant").decode()
    return functional.pad(x, [side for pair in pairs for side in pair], mode, 0 if value is None else value.item())


OPERATORS: Mapping[str, Callable[[Sequence[Any], Attributes], Any]] = {
    "Conv": products.conv,
    "Gemm": products.gemm,
    "MatMul": products.matmul,
    "Mul": products.mul,
    "Add": _add,
    "Sub": _floating(lambda a, b, _: a - b),
    "Div": _floating(lambda a, b, _: a / b),
    "Pow": _floating(lambda a, b, _: a**b),
    "Sqrt": _floating(lambda x, _: x.sqrt()),
    "Erf": _floating(lambda x, _: x.erf()),
    "Exp": _floating(lambda x, _: x.exp()),
    "Sin": _floating(lambda x, _: x.sin()),
    "Cos": _floating(lambda x, _: x.cos()),
    "Tanh": _floating(lambda x, _: x.tanh()),
    "Not": _floating(lambda x, _: ~x),
    "Relu": _moving(lambda x, others, given: x.relu()),
    "Clip": _floating(_clip),
    "Sigmoid": _floating(lambda x, _: x.sigmoid()),
    "HardSigmoid": _floating(_hard_sigmoid),
    "HardSwish": _floating(lambda x, _: x * (x / 6 + 0.5).clamp(0, 1)),
    "Gelu": _floating(lambda x, given: functional.gelu(x, approximate=given.get("approximate", b"none").decode())),
    "Softmax": _floating(lambda x, given: x.softmax(given.get("axis", -1))),
    "LayerNormalization": _floating(_norm),
    "ReduceMean": _over_axes(torch.mean),
    "ReduceSum": _over_axes(torch.sum),
    "ReduceL2": _over_axes(torch.linalg.vector_norm),
    "MaxPool": _moving(moves.pool),
    "AveragePool": _moving(moves.average),
    "GlobalAveragePool": _moving(moves.global_average),
    "Reshape": _moving(moves.reshape),
    "Flatten": _moving(moves.flatten),
    "Transpose": _moving(moves.transpose),
    "Squeeze": _moving(moves.squeeze),
    "Unsqueeze": _moving(moves.unsqueeze),
    "Slice": _moving(moves.cut),
    "Split": _moving(moves.split),
    "Gather": _moving(moves.gather),
    "Pad": _floating(_pad),
    "Identity": _moving(lambda x, others, given: x),
    "Expand": _moving(moves.expand),
    "Concat": _concat,
    "Shape": _floating(_shape),
    "ConstantOfShape": _floating(_constant_of_shape),
    "Cast": _floating(_cast),
    "Range": _floating(lambda start, end, step, _: torch.arange(start.item(), end.item(), step.item())),
    "CumSum": _floating(lambda x, axis, _: x.cumsum(int(axis))),
}
"""By ONNX name: inputs and attributes -> the output, or a list of several."""
