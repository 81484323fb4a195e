"""Batch normalisation by the statistics of the whole batch, of which each process holds a part.

Within `synced()` every BN that uses the statistics of its batch (of whatever class, as long as it calls torch's
`batch_norm`) uses those of all processes. torch.nn.SyncBatchNorm does this on GPUs alone, and only for modules that it
may replace; networks of timm have BNs of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pipeline.devices import distributed

_Backward = tuple[Tensor, Tensor, Tensor, None, None, None]


@contextmanager
def synced(enabled: bool) -> Iterator[None]:
    """Statistics of the whole batch within the block, where it is trained by more than one process."""
    if not enabled or distributed.world() == 1:
        yield
        return
    with _Synced():
        yield


class _Synced(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        call = _batch_norm if func is functional.batch_norm else func
        return call(*args, **(kwargs or {}))


def _batch_norm(
    maps: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """torch's own signature."""
    if not training:
        return functional.batch_norm(maps, running_mean, running_var, weight, bias, False, momentum, eps)
    ones, zeros = (torch.full((maps.shape[1],), value, device=maps.device) for value in (1.0, 0.0))
    normed: Tensor
    normed, mean, var = _Norm.apply(  # type: ignore[no-untyped-call]
        maps, ones if weight is None else weight, zeros if bias is None else bias, eps
    )
    if running_mean is not None and running_var is not None:
        images = _per_channel(maps) * distributed.world()
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(var * (images / max(images - 1, 1)), momentum)
    return normed


def _per_channel(maps: Tensor) -> int:
    return maps.numel() // maps.shape[1]


class _Norm(torch.autograd.Function):
    """Maps (B, C, ...), weight and bias (C,) -> normalised maps, and the mean and variance that all agreed on.

    With them given, normalising is what BN does in eval mode, and so is most of its gradient. What comes on top goes
    through mean and variance, to the maps of every process:
        d mean = - sum(weight * grad) / std         d var = - 1/2 * sum(weight * grad * normed) / std^2
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        unused = torch.zeros(2, maps.shape[1], device=maps.device)
        mean, var = torch.batch_norm_update_stats(maps, unused[0], unused[1], 0.0)
        # The variance of the whole is the mean of the variances and the variance of the means.
        parts = distributed.gather(torch.stack([mean.float(), var.float()]).unsqueeze(0))
        mean = parts[:, 0].mean(0)
        var = parts[:, 1].mean(0) + parts[:, 0].var(0, correction=0)
        ctx.save_for_backward(maps, weight, mean, var)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return functional.batch_norm(maps, mean, var, weight, bias, False, 0.0, eps), mean, var

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        maps, weight, mean, var = ctx.saved_tensors
        inverse_std = (var + ctx.eps).rsqrt()
        # The CPU reads mean and variance, CUDA mean and inverse deviation.
        through, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, maps, weight, mean, var, mean, inverse_std, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([grad_bias * weight * inverse_std, grad_weight * weight * inverse_std.square()])
        dist.all_reduce(sums)
        images = _per_channel(maps) * distributed.world()
        # maps * scale + shift, per channel: - d var * (maps - mean) * 2 / images - d mean / images
        scale = -sums[1] / images
        shift = -sums[0] / images - scale * mean
        shape = (1, -1, *[1] * (maps.dim() - 2))
        return through + (maps * scale.view(shape) + shift.view(shape)).to(maps.dtype), grad_weight, grad_bias, None
