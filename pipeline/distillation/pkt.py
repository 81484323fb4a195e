"""PKT: give every image the same likely neighbours as the teacher gives it.

    n_i = h_i / (||h_i|| + e)                   (D), of h_s and of h_t
    K   = (n n^T + 1) / 2                       (B, B) cosine similarity, brought into [0, 1]
    p   = K, each row divided by its sum        (B, B) p[i, j]: how likely i takes j for a neighbour
    L   = ce_weight * CE + kl_weight * KL_T
        + affinity_weight * mean over B, B of p_t * log((p_t + e) / (p_s + e))

h_s, h_t  (B, D_s) and (B, D_t) pooled features; only the B x B probabilities are compared, so D may differ.
e         1e-7; norms are Euclidean. Pairs of an image with itself count too.
Nothing is trained beside the student. At least two images are needed: one has no neighbour but itself.

Passalis, Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018, arXiv:1803.10837.
The mean over all pairs, the weight that compensates for it, and the absent KL are those of the CRD benchmark (Tian et
al., ICLR 2020).
"""

from typing import ClassVar

from torch import Tensor, linalg

from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features

_SMALL = 1e-7


class Config(base.Config):
    """Weights of the CRD benchmark."""

    affinity_weight: Weight = 30000.0
    """Weight of the divergence between the probabilities of being neighbours."""


class Method(base.Method):
    """Probabilities of being neighbours, by pooled features."""

    smallest_batch: ClassVar[int] = 2
    reads = ("logits", "pooled")

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "affinity"."""
        p_s, p_t = (neighbours(distributed.gather(f.pooled)) for f in (s, t))
        distance = divergence(p_s, p_t)
        return super().terms(s, t, batch) | {"affinity": self.config.affinity_weight * distance}


def neighbours(pooled: Tensor) -> Tensor:
    """Embeddings (B, D) -> p (B, B), rows summing to 1."""
    unit = pooled / (linalg.vector_norm(pooled, dim=1, keepdim=True) + _SMALL)
    kernel = (unit @ unit.T + 1) / 2
    probabilities: Tensor = kernel / kernel.sum(1, keepdim=True)
    return probabilities


def divergence(p_s: Tensor, p_t: Tensor) -> Tensor:
    """mean over B, B of p_t * log(p_t / p_s), guarded against zeros; a scalar."""
    return (p_t * ((p_t + _SMALL) / (p_s + _SMALL)).log()).mean()
