"""WTTM: match a power of the teacher's probabilities, above all where the teacher is unsure; TTM is a setting of it.

    p    = softmax(z_t)                                     (B, K)
    U    = sum_k p_k^g                                      (B) from 1 (sure of one class, or g = 1) to K^(1 - g)
    q    = p^g / U                                          (B, K) = softmax(g * z_t)
    d    = sum_k q_k * log(q_k / softmax(z_s)_k)            (B)
    L    = ce_weight * CE + kl_weight * KL_T + matching_weight * mean_b (U * d)
           TTM (weighted: false): mean_b d

z_s, z_t  logits (B, K) of student and teacher; both need the same classes. g the power, which is a temperature of 1 / g
          for the teacher alone: the student has none, and no factor T^2 stands before the term.
Nothing is trained beside the student and nothing is dropped.

Zheng, Yang, "Knowledge Distillation Based on Transformed Teacher Matching", ICLR 2024, arXiv:2402.11148. The loss is
the same. The official README gives weights for VGG-13 to VGG-8 alone: TTM has power 0.1 and weight 45. The defaults
here, power 0.2 and weight 4, are those of WTTM beside CRD, the only ones of WTTM that it gives. The paper tunes both
for each pair; try powers from 0.1 to 0.5. U can be as large as 39.8 (K = 100, g = 0.2), so the weight of WTTM is far
below that of TTM. There is one difference: everything is computed from logarithms. A probability that float32 rounds
to 0 would stay 0 under a power, though e^-200 to the power 0.1 is e^-20.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import divergences
from pipeline.models.base import Features


class Config(base.Config):
    """Settings of WTTM in the official example of WTTM beside CRD."""

    matching_weight: Weight = 4.0
    """Weight of the divergence from the transformed teacher."""
    power: Annotated[float, Field(gt=0, le=1)] = 0.2
    """g, to which the teacher's probabilities are raised."""
    weighted: bool = True
    """Whether an image counts the more the less sure the teacher is of it (WTTM) or all count alike (TTM)."""

    def head_weights(self) -> dict[str, float]:
        """And of the matching term."""
        return super().head_weights() | {"matching_weight": self.matching_weight}


class Method(base.Method):
    """Divergence from the transformed teacher."""

    compares_logits: ClassVar[bool] = True
    reads = ("logits",)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "matching"."""
        c = self.config
        distances = power_divergences(s.logits, t.logits, c.power)
        if c.weighted:
            distances = power_sums(t.logits, c.power) * distances
        return super().terms(s, t, batch) | {"matching": c.matching_weight * distances.mean()}


def power_divergences(z_s: Tensor, z_t: Tensor, power: float) -> Tensor:
    """d of logits (B, K) and (B, K): (B,)."""
    return divergences(z_s.log_softmax(1), (power * z_t).log_softmax(1))


def power_sums(z_t: Tensor, power: float) -> Tensor:
    """U of logits (B, K): (B,)."""
    return (power * z_t.log_softmax(1)).logsumexp(1).exp()
