"""Pieces that several methods share; every formula here is quoted in the methods that use it.

Maps arrive in the networks' precision (bf16 under autocast); whatever is summed or compared becomes float32 here.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def soft_kl(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    """T^2 * mean_b KL(softmax(z_t / T) || softmax(z_s / T)) of logits (B, K); a scalar.

    The mean is over the batch alone. T^2 keeps the gradient's size as T grows (Hinton et al. 2015).
    """
    log_p_s = functional.log_softmax(z_s / temperature, 1)
    log_p_t = functional.log_softmax(z_t / temperature, 1)
    return temperature**2 * functional.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)


def energy(maps: Tensor) -> Tensor:
    """mean_c F^2 of maps (B, C, H, W), in float32: (B, H, W)."""
    return maps.float().square().mean(1)


def unit(x: Tensor) -> Tensor:
    """x / max(||x||_2, 1e-12) per sample, all other axes flattened: (B, D)."""
    return functional.normalize(x.flatten(1), dim=1)


def connector(channels_in: int, channels_out: int) -> nn.Sequential:
    """BN(conv1x1(F)) without bias, conv ~ N(0, sqrt(2 / C_out)): lifts student maps to the teacher's channels."""
    conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / channels_out))
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def in_map_precision(module: nn.Module, maps: Tensor) -> Tensor:
    """Run a convolutional projector in the precision that its input came in."""
    with torch.autocast(maps.device.type, dtype=torch.bfloat16, enabled=maps.dtype is torch.bfloat16):
        out: Tensor = module(maps)
    return out
