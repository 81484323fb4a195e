"""Convolutions and products of the ONNX operator set in torch, of integers where their factors are counted in steps.

    (x_q - z_x) s_x * w_q s_w + b  =  ((x_q - z_x) * w_q + rne(b / (s_x s_w))) s_x s_w

The sums of integers are exact in float32 up to 2^24, and their scale is handed on beside them: as ONNX Runtime keeps
them in 32 bits, so that what is rounded behind them is the same number.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from pipeline.deployment.fake_quantisation import Product, Scaled, Value, bias_in_steps, plain
from pipeline.deployment.moves import Attributes

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d}


def conv(inputs: Sequence[Any], given: Attributes) -> Value:
    """Conv over one or two dimensions of space."""
    x, weight, bias = (*inputs, None)[:3]
    space = len(given["kernel_shape"])
    pads = given.get("pads", [0] * (2 * space))
    before, after = pads[:space], pads[space:]

    def product(images: Tensor, kernel: Tensor, offset: Tensor | None) -> Tensor:
        if before != after:
            sides = zip(before[::-1], after[::-1], strict=True)
            images = functional.pad(images, [side for pair in sides for side in pair])
        return _CONVOLUTIONS[space](
            images,
            kernel,
            offset,
            given.get("strides", [1] * space),
            before if before == after else [0] * space,
            given.get("dilations", [1] * space),
            given.get("group", 1),
        )

    return _product(product, x, weight, bias, (1, -1, *[1] * space))


def gemm(inputs: Sequence[Any], given: Attributes) -> Value:
    """Gemm whose alpha and beta are 1, as exporters write it."""
    x, weight, bias = (*inputs, None)[:3]

    def product(a: Tensor, b: Tensor, offset: Tensor | None) -> Tensor:
        made = (a.T if given.get("transA") else a) @ (b.T if given.get("transB") else b)
        return made if offset is None else made + offset

    return _product(product, x, weight, bias, (1, -1))


def matmul(inputs: Sequence[Any], given: Attributes) -> Value:
    """MatMul; of a constant, the last axis has the channels."""
    return _product(lambda a, b, _: a @ b, inputs[0], inputs[1], None, (-1,))


def mul(inputs: Sequence[Any], given: Attributes) -> Value:
    """Mul, element by element."""
    a, b = inputs
    if isinstance(a, Scaled) and isinstance(b, Scaled) and a.zero is not None and b.zero is not None:
        return Product(a.whole * b.whole, a.scale * b.scale)
    return plain(a) * plain(b)


def _product(
    product: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Value,
    weight: Value,
    bias: Tensor | None,
    channels: tuple[int, ...],
) -> Value:
    """`channels` is the shape in which a scale for every channel fits the outcome."""
    if not (isinstance(x, Scaled) and isinstance(weight, Scaled)):
        return product(plain(x), plain(weight), bias)
    scale = x.scale * weight.scale.flatten()
    offset = None if bias is None else bias_in_steps(bias, scale)
    return Scaled(product(x.whole, weight.whole, offset), scale.view(channels) if scale.numel() > 1 else scale)
