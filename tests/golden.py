"""The inputs of the golden values: a generator that anyone can write again in any language.

G(shape, c, s) = s * sin(0.37 * k + c), k = 0, 1, 2, ... in row-major order, computed in float64, then float32.
Weights of convolutions and linear layers are G(shape, 0.1, 0.1), biases 0; BN has gamma 1, beta 0, in train mode.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def G(shape: Sequence[int], c: float, s: float = 1.0) -> Tensor:
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (s * torch.sin(0.37 * k + c)).float().reshape(tuple(shape))


def fill(module: M) -> M:
    """Put the generator's numbers into every convolution and linear layer."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                part.weight.copy_(G(part.weight.shape, 0.1, 0.1))
                if part.bias is not None:
                    part.bias.zero_()
    return module


LABELS = torch.tensor([1, 3, 5, 7])
SIZES = ((16, 32), (32, 16), (64, 8))
"""(channels, height) of the student's three stages; the teacher has twice the channels."""


def logits() -> tuple[Tensor, Tensor]:
    return G((4, 10), 0.5, 3), G((4, 10), 1.1, 4)


def stages_s() -> list[Tensor]:
    return [G((4, c, h, h), 0.2).relu() for c, h in SIZES]


def stages_t() -> list[Tensor]:
    return [G((4, 2 * c, h, h), 0.9).relu() for c, h in SIZES]


def pooled() -> tuple[Tensor, Tensor]:
    return G((4, 64), 0.3).relu(), G((4, 128), 0.8).relu()
