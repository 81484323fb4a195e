"""RKD: keep how the teacher's embeddings of a batch lie relative to each other, whatever their size and dimension.

    d_ij   = sqrt(max(||h_i - h_j||^2, 1e-12)), 0 for i = j         (B, B) distance of two images
    psi_ij = d_ij / mean of d over all pairs i != j                 (B, B)
    e_ij   = unit(h_j - h_i)                                        (B, B, D) direction from i to j; e_ii = 0
    c_ijk  = <e_ij, e_ik>                                           (B, B, B) cosine of the angle at i
    L = ce_weight * CE + kl_weight * KL_T + distance_weight * mean_ij huber(psi_s - psi_t)
                                          + angle_weight * mean_ijk huber(c_s - c_t)

h      (B, D) `pooled` of student and teacher, each with its own D; huber(x) = x^2 / 2 below 1, |x| - 1/2 above.
The gradient flows through the student's mean distance too. Nothing is trained beside the student, nothing is dropped.
The angles take B^3 numbers (64: 1 MB, 512: 0.5 GB, several times over); angle_weight 0 leaves them out.

Park, Kim, Lu, Cho, "Relational Knowledge Distillation", CVPR 2019, arXiv:1904.05068. The weights 25 and 50 are those
of the CRD benchmark (Tian et al., ICLR 2020), with the paper's ratio of 1:2. There are two differences. If two student
embeddings coincide (closer than 1e-4 of the mean distance), the direction between them counts in the loss but gives no
gradient. The gradient of the bare formula has no bound there (1e12 for equal ones). Distances come from differences,
not from inner products, which cancel in float32. At least three images are needed: the only distance between two is
also the mean one, and there is no angle, so that both terms are 0 whatever the networks say.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features

_SMALLEST_SQUARE = 1e-12
_COINCIDENT = 1e-4


class Config(base.Config):
    """Weights of the CRD benchmark."""

    distance_weight: Weight = 25.0
    """Weight of the difference between relative distances; 0 leaves them out."""
    angle_weight: Weight = 50.0
    """Weight of the difference between angles; 0 leaves them out."""


class Method(base.Method):
    """Relative distances and angles between the embeddings of a batch."""

    smallest_batch: ClassVar[int] = 3
    reads = ("logits", "pooled")

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "distance" and "angle"."""
        terms, c = super().terms(s, t, batch), self.config
        delta_s, delta_t = (differences(distributed.gather(f.pooled)) for f in (s, t))
        if c.distance_weight:
            terms["distance"] = c.distance_weight * functional.smooth_l1_loss(distances(delta_s), distances(delta_t))
        if c.angle_weight:
            terms["angle"] = c.angle_weight * functional.smooth_l1_loss(angles(delta_s), angles(delta_t))
        return terms


def differences(embeddings: Tensor) -> Tensor:
    """(B, D) -> (B, B, D), [i, j] = h_j - h_i."""
    return embeddings.unsqueeze(0) - embeddings.unsqueeze(1)


def distances(delta: Tensor) -> Tensor:
    """Differences (B, B, D) -> psi (B, B), whose mean off the diagonal is 1."""
    batch = len(delta)
    lengths = delta.square().sum(2).clamp_min(_SMALLEST_SQUARE).sqrt()
    lengths = lengths * (1 - torch.eye(batch, device=delta.device, dtype=delta.dtype))
    mean = lengths.sum() / max(batch * (batch - 1), 1)
    return lengths / mean.clamp_min(_SMALLEST_SQUARE)


def angles(delta: Tensor) -> Tensor:
    """Differences (B, B, D) -> cosines (B, B, B)."""
    lengths = delta.detach().norm(dim=2, keepdim=True)
    apart = lengths > _COINCIDENT * lengths.mean()
    directions = functional.normalize(torch.where(apart, delta, delta.detach()), dim=2)
    return directions @ directions.transpose(1, 2)
