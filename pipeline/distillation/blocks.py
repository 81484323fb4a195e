"""Pieces that several methods share; every formula here is quoted in the methods that use it.

Maps arrive in the networks' precision (bf16 under autocast); whatever is summed or compared becomes float32 here.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.base import Classifier, MapShape, Shapes, pool, title
from pipeline.system.errors import ParamsError

Place = TypeVar("Place")
"""A tap, or its shape."""

_MOST_BLOCKS = 27


@dataclass(frozen=True)
class Kept:
    """Stands in a tap for a teacher's map (B, C, H, W) of which a cache kept some numbers (pipeline/teaching).

    `energy`, `energy_and_average` and `average` read it as they read the map; all else fails.
    """

    sizes: MapShape
    numbers: Mapping[str, Tensor]
    """By the names of `teaching.kept.NUMBERS`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H, W) of the map."""
        return len(next(iter(self.numbers.values()))), *self.sizes

    def float(self) -> "Kept":
        """What was kept of the map in float32."""
        return Kept(self.sizes, {**self.numbers, "norms": self.numbers["float_norms"]})


def soft_kl(z_s: Tensor, z_t: Tensor, temperature: float) -> Tensor:
    """T^2 * mean_b KL(softmax(z_t / T) || softmax(z_s / T)) of logits (B, K); a scalar.

    The mean is over the batch alone. T^2 keeps the gradient's size as T grows (Hinton et al. 2015).
    """
    log_p_s = functional.log_softmax(z_s / temperature, 1)
    log_p_t = functional.log_softmax(z_t / temperature, 1)
    return temperature**2 * functional.kl_div(log_p_s, log_p_t, reduction="batchmean", log_target=True)


def divergences(log_p_s: Tensor, log_p_t: Tensor) -> Tensor:
    """KL(p_t || p_s) of each row of log-probabilities (R, K): (R,)."""
    return functional.kl_div(log_p_s, log_p_t, reduction="none", log_target=True).sum(1)


def decouple(z_s: Tensor, z_t: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Target and non-target divergence of DKD, times T^2: two of (R,), from logits (R, K) and labels (R,)."""
    z_s, z_t = z_s / temperature, z_t / temperature
    target = divergences(_binary(z_s, labels), _binary(z_t, labels))
    nontarget = divergences(others(z_s, labels).log_softmax(1), others(z_t, labels).log_softmax(1))
    return temperature**2 * target, temperature**2 * nontarget


def others(z: Tensor, labels: Tensor) -> Tensor:
    """Columns of (R, K) without the labelled one, in order: (R, K - 1)."""
    # By index, not by a mask: a mask's result has a size that an accelerator would have to be asked for.
    columns = torch.arange(z.shape[1] - 1, device=z.device).expand(len(z), -1)
    return z.gather(1, columns + (columns >= labels.unsqueeze(1)))


def _binary(z: Tensor, labels: Tensor) -> Tensor:
    # log (p_y, 1 - p_y). The rest is summed over the other classes: 1 - p_y would be 0, and its log -inf, for a sure
    # network.
    log_p = z.log_softmax(1)
    return torch.cat([log_p.gather(1, labels.unsqueeze(1)), others(log_p, labels).logsumexp(1, keepdim=True)], 1)


def standardize(z: Tensor) -> Tensor:
    """Logits (B, K) with mean 0 and standard deviation 1 in every row; a row without spread becomes 0."""
    standard: Tensor = (z - z.mean(1, keepdim=True)) / (1e-7 + z.std(1, keepdim=True))
    return standard


def energy(maps: Tensor | Kept) -> Tensor:
    """mean_c F^2 of maps (B, C, H, W), in float32: (B, H, W)."""
    if isinstance(maps, Kept):
        return _mean_square(maps.numbers["norms"], maps.sizes.channels)
    result: Tensor = _Energy.apply(maps)  # type: ignore[no-untyped-call]
    return result


def energy_and_average(maps: Tensor | Kept) -> tuple[Tensor, Tensor]:
    """mean_c F^2 (B, H, W) and mean_hw F (B, C) of maps (B, C, H, W), in float32; the average of bf16 maps to 1e-3."""
    if isinstance(maps, Kept):
        return energy(maps), maps.numbers["tiled_average"]
    result: tuple[Tensor, Tensor] = _EnergyAndAverage.apply(maps)  # type: ignore[no-untyped-call]
    return result


def average(maps: Tensor | Kept) -> Tensor:
    """mean_hw F (B, C) of maps (B, C, H, W), in float32."""
    return maps.numbers["average"] if isinstance(maps, Kept) else pool(maps)


class _Energy(torch.autograd.Function):
    # Reads the maps where and as they lie: a float32 copy of them, here and for the gradient, is half of the time of an
    # attention loss otherwise.
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.save_for_backward(maps)
        return _energy(maps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        scaled: Tensor = _per_pixel(grad, maps) * maps
        return scaled.to(maps.dtype)


class _EnergyAndAverage(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(maps)
        return _energy(maps), tiled_average(maps)

    @staticmethod
    def backward(ctx: Any, grad_energy: Tensor, grad_average: Tensor) -> Tensor:
        (maps,) = ctx.saved_tensors
        scale = _per_pixel(grad_energy, maps)
        shift = (grad_average / (maps.shape[2] * maps.shape[3])).to(scale.dtype).unsqueeze(2).unsqueeze(3)
        return torch.addcmul(shift, scale, maps).to(maps.dtype)


def norms(maps: Tensor) -> Tensor:
    """Euclidean norms over the channels of maps (B, C, H, W), in the maps' precision: (B, H, W)."""
    # Over the innermost axis of the channels_last layout. A norm of bf16 maps is summed in float32 and rounded to bf16
    # once, as the maps themselves are.
    result: Tensor = torch.linalg.vector_norm(maps.permute(0, 2, 3, 1), dim=3)
    return result


def tiled_average(maps: Tensor) -> Tensor:
    """The average of `energy_and_average`: (B, C)."""
    height, width = maps.shape[2:]
    tiles = maps
    if maps.dtype is torch.bfloat16 and height % 4 == width % 4 == 0:
        # A float32 sum of a bf16 map would copy it first. The means of 16 tiles are rounded one by one.
        tiles = functional.avg_pool2d(maps, (height // 4, width // 4)).float()
    return tiles.mean((2, 3), dtype=_sum_dtype(maps))


def _energy(maps: Tensor) -> Tensor:
    return _mean_square(norms(maps), maps.shape[1])


def _mean_square(norms: Tensor, channels: int) -> Tensor:
    return norms.to(_sum_dtype(norms)).square() * (1 / channels)


def _per_pixel(grad: Tensor, maps: Tensor) -> Tensor:
    """d energy / d F divided by F, (B, 1, H, W): bf16 where a vector of bf16 fits into the channels, else float32."""
    # Below 32 channels torch's bf16 loops run number by number: six times slower, measured with 16 channels.
    slow = maps.dtype is torch.bfloat16 and maps.shape[1] < 32
    return (grad * (2 / maps.shape[1])).to(torch.float32 if slow else maps.dtype).unsqueeze(1)


def _sum_dtype(maps: Tensor) -> torch.dtype:
    return torch.float32 if maps.dtype is torch.bfloat16 else maps.dtype


def unit(x: Tensor) -> Tensor:
    """x / max(||x||_2, 1e-12) per sample, all other axes flattened: (B, D)."""
    return functional.normalize(x.flatten(1), dim=1)


def connector(channels_in: int, channels_out: int) -> nn.Sequential:
    """BN(conv1x1(F)) without bias, conv ~ N(0, sqrt(2 / C_out)): lifts student maps to the teacher's channels."""
    conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / channels_out))
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def weigh_stages(distances: list[Tensor]) -> Tensor:
    """sum_i l_i / 2^(n - i): the last stage counts whole, each earlier one half of the next."""
    return sum((d / 2**back for back, d in enumerate(reversed(distances))), start=distances[0].new_zeros(()))


def pool_larger(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, C, H, W) of two networks, the larger one brought to the other's H and W by adaptive averaging.

    Averaged in float32; each keeps its channels and the precision that it came in.
    """
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])

    def fit(maps: Tensor) -> Tensor:
        if maps.shape[2:] == size:
            return maps
        return functional.adaptive_avg_pool2d(maps.float(), size).to(maps.dtype)

    return fit(a), fit(b)


def in_map_precision(module: nn.Module, maps: Tensor) -> Tensor:
    """Run a convolutional projector in the precision that its input came in."""
    with torch.autocast(maps.device.type, dtype=torch.bfloat16, enabled=maps.dtype is torch.bfloat16):
        out: Tensor = module(maps)
    return out


def thin(blocks: tuple[Place, ...]) -> tuple[Place, ...]:
    """All blocks, or every second one (2, 4, ...) where there are more than 27."""
    return blocks if len(blocks) <= _MOST_BLOCKS else blocks[1::2]


def say_where_blocks_are_stages(method: str, *networks: Classifier) -> None:
    """Say so, for a method that compares residual blocks, where a network shows its stages alone."""
    archs = dict.fromkeys(title(network.spec) for network in networks if not network.has_block_taps)
    if archs:
        print(
            f"{method} compares residual blocks, but only the stages of {' and '.join(archs)} can be seen, so they "
            "take the blocks' place.",
            file=sys.stderr,
        )


def say_where_stages_are_left_out(method: str, student: Classifier, teacher: Classifier) -> None:
    """Warn, for a method that pairs the networks' stages in order, where one network has stages that stay alone."""
    stages_s, stages_t = len(student.stage_ends), len(teacher.stage_ends)
    if stages_s != stages_t:
        print(
            f"warning: {method} pairs stages in order, but the student has {stages_s} and the teacher {stages_t}, so "
            f"only the first {min(stages_s, stages_t)} of each are compared.",
            file=sys.stderr,
        )


def check_same_stages(method: str, student: Shapes, teacher: Shapes) -> None:
    """Refuse, for a method that compares the networks stage by stage, a pair with different numbers of stages."""
    if len(student.stages) != len(teacher.stages):
        raise ParamsError(
            f"{method} compares the networks stage by stage, but the student has {len(student.stages)} stages and the "
            f"teacher {len(teacher.stages)}. Choose networks with the same number of stages."
        )


def check_reads_average(role: str, network: Classifier, use: str) -> None:
    """Refuse a network whose classifier reads no plain average of the last map, and say what the method's `use` is."""
    if not network.fc_reads_average:
        raise ParamsError(
            f"{use}, but in {title(network.spec)} more than an average lies between the last map and the classifier. "
            f"Choose another {role}, such as a ResNet (of timm for large images), or another method."
        )


def warm(epoch: int, warmup_epochs: int) -> float:
    """Share of a weight that grows linearly to its whole in so many epochs: in the first epoch one of them is over."""
    return min((epoch + 1) / warmup_epochs, 1.0) if warmup_epochs else 1.0


def embedding(inputs: int, outputs: int) -> nn.Sequential:
    """BN(Linear(h)) of pooled features (B, inputs): queries and keys (B, outputs) of an attention."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs))


def mean_squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """mean_n (a_i - b_j)^2 of all pairs of unit vectors (B, I, N) and (B, J, N): (B, I, J)."""
    # As |a|^2 + |b|^2 - 2ab one matrix product serves all pairs; with unit vectors the cancellation costs 1e-7 at most,
    # far below the noise of a batch.
    squares = a.square().sum(2).unsqueeze(2) + b.square().sum(2).unsqueeze(1)
    return (squares - 2 * a @ b.transpose(1, 2)) / a.shape[2]
