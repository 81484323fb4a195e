"""SAKD, sparse: every student block attends to the teacher blocks, and some of the attention is dropped at random.

INTERPRETATION. The paper was known here by its abstract alone. Taken from the abstract: student features are queries,
teacher features keys and values; attention is made sparse by random deactivation; it re-weights the distance of each
teacher-student pair, against negative transfer. Every formula and number below is this project's own choice, and
results of this file are not results of the paper. It is another method than `sakd`.

    q_i  = BN(Linear(GAP(F_s[i])))                              (B, d) query of each student block i
    k_j  = BN(Linear(GAP(F_t[j])))                              (B, d) key of each teacher block j
    e_ij = (<q_i, k_j> + <p_i, r_j>) / sqrt(d)                  p, r: learned positions (S, d) and (T, d)
    a_i  = softmax over j of e_ij                               (B, S, T)
    a~   = scale: a_ij / (1 - drop_probability), or 0 with drop_probability
           mask:  softmax over the j that stay; of every i at least one stays
    D_ij = mean_hw (unit(AAP(mean_c F_s[i]^2)) - unit(AAP(mean_c F_t[j]^2)))^2      at the smaller of the two sizes
    L    = ce_weight * CE + kl_weight * KL_T + attention_weight * mean_b sum_i sum_j a~_ij * D_ij

F_s, F_t  `act` taps (B, C, H, W) of all residual blocks (of nets with more than 27 every second one), or of the stages.
d         `query_dim`; AAP adaptive average pooling, after the squares; unit(.) divides by the Euclidean norm.
Dropping happens in training alone, by the global random numbers of torch; with drop_probability 0 the attention is
dense. The gradient flows into `a` too. Trained beside the student: Linears, BNs and positions. All are dropped
afterwards. As in AFD the mean over H * W makes the term small for large maps: see docs/large-images.md.

Idea: Guo, Zhang, Liang, "SAKD: Sparse attention knowledge distillation", Image and Vision Computing 2024,
doi:10.1016/j.imavis.2024.105020.
"""

from itertools import groupby
from typing import Annotated, ClassVar, Literal

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
    average,
    embedding,
    energy,
    mean_squared_distances,
    say_where_blocks_are_stages,
    thin,
)
from pipeline.models.base import Classifier, Features, MapShape

Sparsify = Literal["scale", "mask"]


class Config(base.Config):
    """Settings chosen by this project; the weights are those of AFD and SAKD."""

    kl_weight: Weight = 0.9
    attention_weight: Weight = 200.0
    """Weight of the attended distance between energy maps."""
    query_dim: Annotated[int, Field(ge=1)] = 128
    """d, the dimension of queries and keys."""
    drop_probability: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Probability with which each attention value is dropped in training; 0 keeps the attention dense."""
    sparsify: Sparsify = "scale"
    """Where attention values are dropped: `scale` drops them after the softmax and scales up the rest, `mask` drops
    them before it, so that rows still sum to 1."""
    taps: Literal["blocks", "stages"] = "blocks"
    """Whether attention is between all residual blocks, or only between the last ones of each stage."""


class Method(base.Method):
    """Sparse attention over all pairs of student and teacher blocks."""

    smallest_batch: ClassVar[int] = 2  # queries and keys pass a BN over the batch
    reads: tuple[str, ...] | None = ("logits", "blocks.act.norms", "blocks.act.average")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        if config.taps == "blocks":
            say_where_blocks_are_stages("sakd_sparse", student, self.teacher)
        else:
            self.reads = None
        s, t = (thin(getattr(shapes, config.taps)) for shapes in self.shapes(card))
        self.attention = SparseAttention(s, t, config.query_dim, config.drop_probability, config.sparsify)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "attention"."""
        maps_s, maps_t = ([tap.act for tap in thin(getattr(f, self.config.taps))] for f in (s, t))
        distance = self.attention(maps_s, maps_t)
        return super().terms(s, t, batch) | {"attention": self.config.attention_weight * distance}


class SparseAttention(nn.Module):
    """The meta-network: maps of student and teacher -> the attended distance, a scalar."""

    def __init__(
        self,
        student: tuple[MapShape, ...],
        teacher: tuple[MapShape, ...],
        query_dim: int,
        drop_probability: float,
        sparsify: Sparsify,
    ) -> None:
        super().__init__()
        self.drop_probability, self.sparsify = drop_probability, sparsify
        self.queries = nn.ModuleList(embedding(shape.channels, query_dim) for shape in student)
        self.keys = nn.ModuleList(embedding(shape.channels, query_dim) for shape in teacher)
        self.position_s = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(student), query_dim)))
        self.position_t = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(teacher), query_dim)))

    def forward(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
        """Lists of maps (B, C, H, W), one per tap."""
        attention = self.weights([average(x) for x in maps_s], [average(x) for x in maps_t])
        attended: Tensor = (attention * pair_distances(maps_s, maps_t)).sum((1, 2)).mean()
        return attended

    def weights(self, pooled_s: list[Tensor], pooled_t: list[Tensor]) -> Tensor:
        """a~ (B, S, T) from pooled maps (B, C); dense in eval mode."""
        query = torch.stack([embed(x) for embed, x in zip(self.queries, pooled_s, strict=True)], 1)
        key = torch.stack([embed(x) for embed, x in zip(self.keys, pooled_t, strict=True)], 1)
        logits = query @ key.transpose(1, 2) + self.position_s @ self.position_t.T
        probability = self.drop_probability if self.training else 0.0
        # What is dropped is drawn for the whole batch, by each process alike.
        whole = distributed.gather(logits / query.shape[2] ** 0.5)
        return distributed.own_rows(sparse_softmax(whole, probability, self.sparsify))


def sparse_softmax(logits: Tensor, probability: float, sparsify: Sparsify) -> Tensor:
    """Softmax over the last axis of (B, S, T) with entries dropped at random; the plain one for probability 0."""
    if not probability:
        return logits.softmax(2)
    if sparsify == "scale":
        return functional.dropout(logits.softmax(2), probability)
    draw = torch.rand_like(logits)
    # The largest draw of a row always reaches the threshold, so that its softmax has something to share out.
    stays = draw >= draw.amax(2, keepdim=True).clamp(max=probability)
    return logits.masked_fill(~stays, -torch.inf).softmax(2)


def pair_distances(maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
    """D (B, S, T) from lists of maps (B, C, H, W)."""
    groups_t = _same_size_groups(maps_t)
    rows = [torch.cat([_distances(e_s, e_t) for e_t in groups_t], 2) for e_s in _same_size_groups(maps_s)]
    return torch.cat(rows, 1)


def _same_size_groups(maps: list[Tensor]) -> list[Tensor]:
    # Energies of neighbours of one size together (B, n, H, W): a matrix product for each pair of groups, not of maps.
    return [torch.stack(list(group), 1) for _, group in groupby(map(energy, maps), key=lambda e: e.shape[1:])]


def _distances(e_s: Tensor, e_t: Tensor) -> Tensor:
    size = (min(e_s.shape[2], e_t.shape[2]), min(e_s.shape[3], e_t.shape[3]))
    v_s, v_t = (functional.normalize(functional.adaptive_avg_pool2d(e, size).flatten(2), dim=2) for e in (e_s, e_t))
    return mean_squared_distances(v_s, v_t)
