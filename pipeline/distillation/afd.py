"""AFD: every teacher block attends to the student blocks, and pulls at those it attends to.

    q_t = BN(Linear(GAP(F_t)))                                  (B, d) query of each teacher block t
    k_s = ReLU(BN(Linear(GAP(F_s))))                            (B, d) key of each student block s
    b   = BN(Linear(k_s))                                       (B, S, T, d), one Linear d -> T * d for all s
    a   = softmax over s of (<b[s, t], q_t> + <p_t, p_s>) / sqrt(d)      p: learned positions
    v_t = unit(mean_c F_t^2)                                    (B, H * W)
    v_s = unit(AAP(mean_c F_s^2))                               resized to the teacher block's size
    L   = ce_weight * CE + kl_weight * KL_T + attention_weight * sum_t mean_b sum_s a * mean_hw (v_s - v_t)^2

F_s, F_t  `act` taps of all residual blocks; of nets with more than 27 blocks every second one (ResNet-110 gives 27).
d         `query_dim`; AAP adaptive average pooling, after the squares; unit(.) divides by the Euclidean norm.
Trained beside the student: Linears, BNs and positions. The gradient flows into `a` too. All are dropped afterwards.

Ji, Heo, Park, "Show, Attend and Distill: Knowledge Distillation via Attention-based Feature Matching", AAAI 2021,
arXiv:2102.02973. attention_weight 200 is the official setting for WRN-40-2 to WRN-16-2, used for all pairs here.
The mean over H * W makes the term small for large maps (at most 2 / (H * W) each): raise the weight for 224-pixel data.
"""

from itertools import groupby
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Batch, Weight
from pipeline.distillation.blocks import (
    embedding,
    energy,
    mean_squared_distances,
    say_where_blocks_are_stages,
    thin,
)
from pipeline.models.base import Classifier, Features, MapShape, pool


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    kl_weight: Weight = 0.9
    attention_weight: Weight = 200.0
    """Of the attended distance between energy maps."""
    query_dim: Annotated[int, Field(ge=1)] = 128
    """d, size of queries and keys."""


class Method(base.Method):
    """Attention over all pairs of teacher and student blocks."""

    smallest_batch: ClassVar[int] = 2  # the queries pass a BN over the batch

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


class Attention(nn.Module):
    """The meta-network: maps of all student and teacher blocks -> the attended distance, a scalar."""

    def __init__(self, student: tuple[MapShape, ...], teacher: tuple[MapShape, ...], query_dim: int) -> None:
        super().__init__()
        self.queries = nn.ModuleList(embedding(shape.channels, query_dim) for shape in teacher)
        self.keys = nn.ModuleList(embedding(shape.channels, query_dim) for shape in student)
        self.bilinear = embedding(query_dim, query_dim * len(teacher))
        self.position_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher), query_dim)))
        self.position_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student), query_dim)))

    def forward(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
        """Lists of maps (B, C, H, W), one per block."""
        attention = self.weights([pool(x) for x in maps_s], [pool(x) for x in maps_t])
        energies_s = [energy(x) for x in maps_s]
        distances = []
        for size, group in groupby(map(energy, maps_t), key=lambda e: (e.shape[1], e.shape[2])):
            v_s = _stack_units([functional.adaptive_avg_pool2d(e, size) for e in energies_s])
            distances.append(mean_squared_distances(_stack_units(list(group)), v_s))
        attended: Tensor = (attention * torch.cat(distances, 1)).sum((1, 2)).mean()
        return attended

    def weights(self, pooled_s: list[Tensor], pooled_t: list[Tensor]) -> Tensor:
        """a (B, T, S), each row summing to 1, from pooled maps (B, C)."""
        query = torch.stack([embed(x) for embed, x in zip(self.queries, pooled_t, strict=True)], 1)
        key = torch.stack([embed(x).relu() for embed, x in zip(self.keys, pooled_s, strict=True)], 1)
        batch, num_t, dim = query.shape
        bilinear = self.bilinear(key.flatten(0, 1)).view(batch, -1, num_t, dim)
        logits = torch.einsum("bstd,btd->bts", bilinear, query) + self.position_t @ self.position_s.T
        weights: Tensor = (logits / dim**0.5).softmax(2)
        return weights


def _stack_units(energies: list[Tensor]) -> Tensor:
    return functional.normalize(torch.stack(energies, 1).flatten(2), dim=2)
