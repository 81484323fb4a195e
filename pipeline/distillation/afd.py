"""AFD: every teacher block attends to the student blocks, and pulls at those it attends to.

    q_t = BN(Linear(GAP(F_t)))                                  (B, d) query of each teacher block t
    k_s = ReLU(BN(Linear(GAP(F_s))))                            (B, d) key of each student block s
    b   = BN(Linear(k_s))                                       (B, S, T, d), Linear d -> T * d for all s; never made
    a   = softmax over s of (<b[s, t], q_t> + <p_t, p_s>) / sqrt(d)      p: learned positions
    v_t = unit(mean_c F_t^2)                                    (B, H * W)
    v_s = unit(AAP(mean_c F_s^2))                               resized to the teacher block's size
    L   = ce_weight * CE + kl_weight * KL_T + attention_weight * sum_t mean_b sum_s a * mean_hw (v_s - v_t)^2

F_s, F_t  `act` taps of all residual blocks; of nets with more than 27 blocks every second one (ResNet-110 gives 27).
d         `query_dim`; AAP adaptive average pooling, after the squares; unit(.) divides by the Euclidean norm.
Trained beside the student: Linears, BNs and positions. The gradient flows into `a` too. All are dropped afterwards.

Ji, Heo, Park, "Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching", AAAI 2021,
arXiv:2102.02973. attention_weight 200 is the official setting for WRN-40-2 to WRN-16-2, and is used for all pairs
here. The mean over H * W makes the term small for large maps (at most 2 / (H * W) each). So raise the weight if all
maps are large, like those of a wide ResNet at 224 pixels. docs/large-images.md has numbers.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import (
    energy_and_average,
    mean_squared_distances,
    say_where_blocks_are_stages,
    thin,
    tiled_average,
)
from pipeline.models.base import Classifier, Features, MapShape


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    kl_weight: Weight = 0.9
    attention_weight: Weight = 200.0
    """Weight of the attended distance between energy maps."""
    query_dim: Annotated[int, Field(ge=1)] = 128
    """d, the dimension of queries and keys."""


class Method(base.Method):
    """Attention over all pairs of teacher and student blocks."""

    smallest_batch: ClassVar[int] = 2  # the queries pass a BN over the batch
    reads = ("logits", "blocks.act.norms", "blocks.act.tiled_average")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        say_where_blocks_are_stages("afd", student, self.teacher)
        s, t = self.shapes(card)
        self.attention = Attention(thin(s.blocks), thin(t.blocks), config.query_dim)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "attention"."""
        maps_s, maps_t = ([tap.act for tap in thin(f.blocks)] for f in (s, t))
        distance = self.attention(maps_s, maps_t)
        return super().terms(s, t, batch) | {"attention": self.config.attention_weight * distance}

    def observe(self, batches: Iterable[Tensor], images: int) -> dict[str, Any]:
        """ "attention": mean over the images of a, rows by teacher block, columns by student block, rows summing to 1.

        The sample counts as one batch. The teacher runs here even where a cache answers for it in training, because
        no cache holds validation images.
        """
        parts = [_pooled(self.student.features(self.seen(x))) + _pooled(self.teach(x)) for x in batches]
        pooled = [distributed.whole_split(torch.cat(part), images) for part in zip(*parts, strict=True)]
        names_s, names_t = (list(thin(network.block_names())) for network in (self.student, self.teacher))
        with torch.autocast(pooled[0].device.type, enabled=False):
            weights = self.attention.weights(pooled[: len(names_s)], pooled[len(names_s) :])
        mean = weights.double().mean(0).cpu().tolist()
        rounded = [[round(weight, 6) for weight in row] for row in mean]
        return {"attention": {"rows": names_t, "columns": names_s, "weights": rounded, "images": images}}


class Attention(nn.Module):
    """The meta-network: maps of all student and teacher blocks -> the attended distance, a scalar."""

    def __init__(self, student: tuple[MapShape, ...], teacher: tuple[MapShape, ...], query_dim: int) -> None:
        super().__init__()
        self.queries = Embeddings([shape.channels for shape in teacher], query_dim)
        self.keys = Embeddings([shape.channels for shape in student], query_dim)
        self.products = NormedProducts(len(teacher), query_dim)
        self.position_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher), query_dim)))
        self.position_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student), query_dim)))

    def forward(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
        """Lists of maps (B, C, H, W), one per block."""
        energies_s, pooled_s = zip(*map(energy_and_average, maps_s), strict=True)
        energies_t, pooled_t = zip(*map(energy_and_average, maps_t), strict=True)
        attention = distributed.own_rows(self.weights(_gathered(pooled_s), _gathered(pooled_t)))
        distances = []
        stacks_s = _stack_equal_sizes(energies_s)
        for e_t in _stack_equal_sizes(energies_t):
            v_s = torch.cat([_units(_resized(e_s, e_t)) for e_s in stacks_s], 1)
            distances.append(mean_squared_distances(_units(e_t), v_s))
        attended: Tensor = (attention * torch.cat(distances, 1)).sum((1, 2)).mean()
        return attended

    def weights(self, pooled_s: Sequence[Tensor], pooled_t: Sequence[Tensor]) -> Tensor:
        """a (B, T, S), each row summing to 1, from pooled maps (B, C) of the whole batch."""
        query = self.queries(pooled_t)
        logits = self.products(self.keys(pooled_s).relu(), query) + self.position_t @ self.position_s.T
        weights: Tensor = (logits / query.shape[2] ** 0.5).softmax(2)
        return weights


class Embeddings(nn.Module):
    """BN(Linear(h)) of each block's pooled features: (B, C_i) each -> (B, blocks, d).

    Blocks of equal width lie behind each other in a network and are computed as one product.
    """

    def __init__(self, channels: list[int], dim: int) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(inputs, dim) for inputs in channels)
        self.norm = nn.BatchNorm1d(len(channels) * dim)

    def forward(self, pooled: Sequence[Tensor]) -> Tensor:
        """Pooled maps, one per block, in the order of the blocks."""
        blocks = zip(pooled, (cast(nn.Linear, linear) for linear in self.linears), strict=True)
        parts = []
        for _, group in groupby(blocks, key=lambda block: block[1].in_features):
            inputs, linears = zip(*group, strict=True)
            weight = torch.stack([linear.weight for linear in linears])
            bias = torch.stack([linear.bias for linear in linears]).unsqueeze(1)
            parts.append(torch.baddbmm(bias, torch.stack(inputs), weight.transpose(1, 2)))
        embedded = torch.cat(parts).transpose(0, 1)
        normed: Tensor = self.norm(embedded.flatten(1)).view(embedded.shape)
        return normed


class NormedProducts(nn.Module):
    """<b[s, t], q_t> with b = BN(Linear(k_s)): keys (B, S, d) and queries (B, T, d) -> (B, T, S), b never made.

    With C the covariance of the keys, BN's variance is diag(W C W^T), and all else is linear in k: with
    g = weight / sqrt(variance + eps) it is <k - mean k, W_t^T (g_t * q_t)> + <bias_t, q_t>. b itself would have
    B * S * T * d numbers, 8 MB for ResNet-56 to ResNet-20 at batch 64, gone over some ten times a step.
    """

    def __init__(self, num_t: int, dim: int) -> None:
        super().__init__()
        # The published Linear has a bias too, which BN takes away again.
        self.linear = nn.Linear(dim, num_t * dim, bias=False)
        self.norm = nn.BatchNorm1d(num_t * dim, track_running_stats=False)

    def forward(self, key: Tensor, query: Tensor) -> Tensor:
        """The statistics are always those of the batch and all S keys: the attention lives in training alone."""
        by_block = query.shape[1:]
        keys = key.flatten(0, 1)
        centred = keys - keys.mean(0)
        weight = self.linear.weight
        variance = ((weight @ (centred.T @ centred / len(keys))) * weight).sum(1)
        scale = (self.norm.weight * (variance + self.norm.eps).rsqrt()).view(by_block)
        carried = torch.bmm((query * scale).transpose(0, 1), weight.view(*by_block, -1)).transpose(0, 1)
        offset = (query * self.norm.bias.view(by_block)).sum(2, keepdim=True)
        return torch.baddbmm(offset, carried, centred.view(key.shape).transpose(1, 2))


def _pooled(f: Features) -> list[Tensor]:
    return [tiled_average(tap.act) for tap in thin(f.blocks)]


def _gathered(pooled: Sequence[Tensor]) -> Sequence[Tensor]:
    """Of the whole batch, whose statistics norm queries and keys; in one message."""
    return torch.split(distributed.gather(torch.cat(tuple(pooled), 1)), [p.shape[1] for p in pooled], 1)


def _stack_equal_sizes(energies: Sequence[Tensor]) -> list[Tensor]:
    """(B, H, W) of all blocks -> one (B, blocks, H, W) for each size."""
    return [torch.stack(list(group), 1) for _, group in groupby(energies, key=lambda e: e.shape[1:])]


def _resized(energies: Tensor, like: Tensor) -> Tensor:
    """Adaptive average pooling as two small matrix products, which are three to eight times faster than torch's own."""
    for axis, (size, wanted) in enumerate(zip(energies.shape[2:], like.shape[2:], strict=True)):
        if size != wanted:
            windows = _windows(size, wanted, energies.device)
            energies = windows @ energies if axis == 0 else energies @ windows.T
    return energies


@cache
def _windows(size: int, wanted: int, device: torch.device) -> Tensor:
    """(wanted, size): row i averages the inputs from floor(i * size / wanted) up to ceil((i + 1) * size / wanted)."""
    # What is made in inference mode may never be saved for a backward pass, and this outlives the first call.
    with torch.inference_mode(False):
        matrix = torch.zeros(wanted, size)
        for i in range(wanted):
            matrix[i, i * size // wanted : -(-(i + 1) * size // wanted)] = 1
        return (matrix / matrix.sum(1, keepdim=True)).to(device)


def _units(energies: Tensor) -> Tensor:
    return functional.normalize(energies.flatten(2), dim=2)
