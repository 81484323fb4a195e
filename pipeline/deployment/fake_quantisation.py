"""Numbers in eight bits, simulated in floats that gradients pass.

    q = sat(rne(x / s) + z),  y = (q - z) s        rne rounds half to even; sat to [0, 255], of weights to [-L, L]

Behind the rounding, gradients go on as if nothing had been rounded. What lies beyond the range passes its own to the
end of the range: dy/ds is rne(x/s) - x/s within, and low - z or high - z beyond. x is divided by s, not multiplied by
1 / s, which rounds some ties otherwise.

Esser et al., "Learned Step Size Quantization", ICLR 2020; Bhalgat et al., "LSQ+", CVPR Workshops 2020, for z.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_BYTE = 255
_INT32 = 2**31 - 1
_MARGIN = 1.0001
"""By which ONNX Runtime's quantiser keeps biases below the largest 32-bit integer."""


class Scaled(NamedTuple):
    """A tensor counted in steps: whole * scale."""

    whole: Tensor
    """Integers q - z, in float32."""
    scale: Tensor
    """The size of a step: one number, or what broadcasts with `whole`."""
    zero: Tensor | None = None
    """z, of bytes; None for what is none, as sums of products are."""


class Sum(NamedTuple):
    """Two tensors of bytes that are added: no number yet, for the quantiser behind rounds it in an order of its own."""

    whole: tuple[Tensor, Tensor]
    scale: tuple[Tensor, Tensor]
    zero: tuple[Tensor, Tensor]

    def over(self, scale: Tensor, z: Tensor) -> Tensor:
        """The sum in whole steps of `scale` from the zero point z. The gradient passes the rounding, and no zero point.

        ONNX Runtime's kernel multiplies the bytes themselves, adds all zero points as one number, and rounds at the
        end. That differs in the last bits from a sum of floats, and one of 100,000 sums lies so near to a tie that it
        is rounded otherwise; of some scales and zero points, far more.
        """
        a, b = (step / scale for step in self.scale)
        t = self.whole[0] * a + self.whole[1] * b
        with torch.no_grad():
            # Processors multiply and add in one instruction, without rounding between.
            shift = z - _multiplied_and_added(self.zero[0], a, b * self.zero[1])
            inner = _multiplied_and_added(self.whole[1] + self.zero[1], b, shift)
            made = _multiplied_and_added(self.whole[0] + self.zero[0], a, inner).round() - z
        return t + (made - t).detach()


class Product(NamedTuple):
    """Two tensors of bytes that are multiplied with each other: whole * scale."""

    whole: Tensor
    scale: Tensor

    def over(self, scale: Tensor, z: Tensor) -> Tensor:
        """As `Sum.over`. ONNX Runtime's kernel adds z before it rounds: if z is odd, a tie goes to the odd step."""
        return _rounded(self.whole * (self.scale / scale) + z) - z


Value = Tensor | Scaled | Sum | Product


def plain(value: Value) -> Tensor:
    """The floats that a value stands for."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Sum):
        a, b = (whole * scale for whole, scale in zip(value.whole, value.scale, strict=True))
        return a + b
    return value.whole * value.scale


def _multiplied_and_added(x: Tensor, factor: Tensor, term: Tensor) -> Tensor:
    """x * factor + term, rounded once."""
    return (x.double() * factor + term).float()


def _rounded(t: Tensor) -> Tensor:
    """To whole numbers, a tie to the even one; gradients go on as if nothing had been rounded."""
    return t + (t.round() - t).detach()


class _Rounding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor, z: Tensor, low: int, high: int) -> Tensor:
        raw = t.round().add_(z)
        ctx.save_for_backward((raw >= low) & (raw <= high))
        return raw.clamp_(low, high).sub_(z)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,), (inside,) = gradients, ctx.saved_tensors
        within = gradient * inside
        return within, within.sum() - gradient.sum() if ctx.needs_input_grad[1] else None, None, None


def steps(t: Tensor, z: Tensor, low: int = 0, high: int = _BYTE) -> Tensor:
    """q - z of t = x / s: whole steps from the zero point z, a scalar tensor, within the bytes [low, high]."""
    made: Tensor = _Rounding.apply(t, z, low, high)  # type: ignore[no-untyped-call]
    return made


class Range(nn.Module):
    """Scale and zero point of one tensor's bytes, learned.

    A zero point of 0 stays: it is what is left of a ReLU, which a quantised network has no longer. Otherwise the lower
    end of the range is learned too. Gradients are those of LSQ, times 1 / sqrt(255 N) for N values of one image.
    """

    def __init__(self, scale: float, zero_point: int) -> None:
        super().__init__()
        self.step = nn.Parameter(torch.tensor(scale, dtype=torch.float32))
        # In the unit of the step, so that both ends of a range move alike.
        low = torch.tensor(-zero_point * scale / _BYTE, dtype=torch.float32)
        self.low = nn.Parameter(low) if zero_point else None

    def now(self, slower: float = 1.0) -> tuple[Tensor, Tensor]:
        """The scale, above 0, and the zero point, a whole number in [0, 255]; gradients arrive times `slower`."""
        scale = slowed(self.step, slower).abs()
        if self.low is None:
            return scale, torch.zeros_like(scale)
        z = (-_BYTE * slowed(self.low, slower) / scale).clamp(0, _BYTE)
        return scale, _rounded(z)

    def forward(self, value: Value) -> Scaled:
        """In bytes, counted from the zero point."""
        scale, z = self.now(1 / math.sqrt(_BYTE * _per_image(value)))
        if isinstance(value, Sum | Product):
            t = value.over(scale, z.detach())
        elif isinstance(value, Scaled):
            # One product of integers and a number: what the integer kernels round.
            t = value.whole * (value.scale / scale)
        else:
            t = value / scale
        return Scaled(steps(t, z), scale, z.detach())


def _per_image(value: Value) -> int:
    """How many numbers each image has."""
    if isinstance(value, Sum):
        return max(whole[0].numel() for whole in value.whole)
    return (value if isinstance(value, Tensor) else value.whole)[0].numel()


def slowed(parameter: Tensor, factor: float) -> Tensor:
    """The same number, whose gradient is multiplied on its way back."""
    if not torch.is_grad_enabled():
        return parameter
    same = parameter.view_as(parameter)
    same.register_hook(lambda gradient: gradient * factor)  # type: ignore[no-untyped-call]
    return same


def weight_in_steps(weight: Tensor, axis: int | None, limit: int, least: Tensor | None) -> Scaled:
    """A weight in [-limit, limit], by its largest value, of every channel along `axis` or (None) of all.

    `least` (C,) is the smallest step that its biases allow. No gradient passes the scale.
    """
    with torch.no_grad():
        largest = weight.abs().amax([at for at in range(weight.dim()) if at != axis], keepdim=True)
        scale = largest / limit
        scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1, scale)
        if least is not None:
            scale = torch.maximum(scale, least.view_as(scale))
    return Scaled(steps(weight / scale, torch.zeros_like(scale), -limit, limit), scale)


def least_step(bias: Tensor, x_scale: Tensor) -> Tensor:
    """The smallest step (C,) of a weight with which its bias (C,) fits into 32 bits of x_scale steps of x."""
    return (_MARGIN * bias.detach().double().abs() / _INT32 / x_scale.detach().double()).float()


def bias_in_steps(bias: Tensor, scale: Tensor) -> Tensor:
    """bias (C,) in whole steps of scale, as the integer kernel adds it; the gradient passes the rounding."""
    t = bias.double() / scale.detach().double()
    return _rounded(t).clamp(-_INT32 - 1, _INT32).float()
