"""ONNX operators in torch that move the values of their first input about, or pick some, or average them.

They do the same to bytes as to floats, so that what they are given in steps they hand on in the same steps. `others`
are the inputs behind the first one, integers that say where to; `given` are the attributes.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Attributes = Mapping[str, Any]


def pool(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """MaxPool of maps (B, C, H, W); where opposite sides are padded alike, up to what `ceil_mode` adds."""
    pads = given.get("pads", [0, 0, 0, 0])
    alike = pads[:2] == pads[2:]
    return functional.max_pool2d(
        x if alike else functional.pad(x, [pads[1], pads[3], pads[0], pads[2]], value=-math.inf),
        given["kernel_shape"],
        given.get("strides", [1, 1]),
        pads[:2] if alike else 0,
        given.get("dilations", [1, 1]),
        bool(given.get("ceil_mode", 0)),
    )


def average(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """AveragePool of maps (B, C, H, W), padded alike on opposite sides."""
    pads, kernel = given.get("pads", [0, 0, 0, 0]), given["kernel_shape"]
    return functional.avg_pool2d(
        x,
        kernel,
        given.get("strides", [1, 1]),
        padding=pads[:2],
        ceil_mode=bool(given.get("ceil_mode", 0)),
        count_include_pad=bool(given.get("count_include_pad", 0)),
    )


def reshape(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Reshape, to a shape that may hold 0 for "as it is" and -1."""
    wanted = others[0].tolist()
    if not given.get("allowzero", 0):
        wanted = [x.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


def flatten(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Flatten to two axes."""
    return x.reshape(math.prod(x.shape[: given.get("axis", 1)]), -1)


def transpose(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Transpose."""
    return x.permute(given.get("perm", list(range(x.dim()))[::-1]))


def squeeze(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Squeeze of some axes, or of all that have one place."""
    return x.squeeze(tuple(others[0].tolist())) if others else x.squeeze()


def unsqueeze(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Unsqueeze, by axes of the outcome."""
    rank = x.dim() + others[0].numel()
    for axis in sorted(axis % rank for axis in others[0].tolist()):
        x = x.unsqueeze(axis)
    return x


def cut(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Slice, upwards."""
    starts, ends, *more = (other.tolist() for other in others)
    axes = more[0] if more else range(len(starts))
    steps = more[1] if len(more) > 1 else [1] * len(starts)
    taken = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        taken[axis] = slice(start, end, step)
    return x[tuple(taken)]


def split(x: Tensor, others: Sequence[Any], given: Attributes) -> list[Tensor]:
    """Split into parts."""
    axis = given.get("axis", 0)
    size = others[0].tolist() if others else math.ceil(x.shape[axis] / given["num_outputs"])
    return list(torch.split(x, size, axis))


def gather(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Gather along an axis."""
    index, axis = others[0].to(x.device), given.get("axis", 0) % x.dim()
    taken = x.index_select(axis, index.flatten())
    return taken.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def global_average(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """GlobalAveragePool: one mean of each map."""
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def expand(x: Tensor, others: Sequence[Any], given: Attributes) -> Tensor:
    """Expand, by the rules of broadcasting both ways."""
    return x * x.new_ones(others[0].tolist())
