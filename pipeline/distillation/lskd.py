"""LSKD: the KD term on standardised logits, so that the student need not copy the size of the teacher's.

    z~ = (z - mean_k z) / (1e-7 + std_k z)                       (B, K), std with K - 1
    L  = ce_weight * CE(y, z_s) + kl_weight * T^2 * KL(softmax(z~_t / T) || softmax(z~_s / T))

z_s, z_t  logits (B, K) of student and teacher; both need the same classes. T the temperature; KL is summed over
classes, averaged over the batch. The cross-entropy sees the raw logits. Nothing is trained beside the student and
nothing is dropped. `kl_weight` weighs this term in place of the plain one, which is not added. Two standardised logits
can only change their signs, and have no gradient: three classes are needed.

Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024, arXiv:2403.01427. Defaults are
those of its KD + LSKD on CIFAR-100. The authors tune T in {2, 3, 4} and the weight in {3 .. 18} for each pair
(ResNet-110 to -20: 4 and 12; VGG-13 to VGG-8: T = 3). The loss is the same.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch, cross_entropy
from pipeline.distillation.blocks import soft_kl, standardize
from pipeline.models.base import Features


class Config(base.Config):
    """Settings of the official CIFAR-100 code."""

    ce_weight: Weight = 0.1
    kl_weight: Weight = 9.0
    """Weight of the divergence between the softened predictions, from standardised logits."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """Temperature by which both predictions are softened after their logits were standardised."""


class Method(base.Method):
    """Cross-entropy and the divergence of standardised logits."""

    compares_logits: ClassVar[bool] = True
    fewest_classes = 3
    reads = ("logits",)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce" and "kl". These replace the terms of base.Method, whose "kl" is the plain one."""
        c = self.config
        return {
            "ce": c.ce_weight * cross_entropy(s.logits, batch),
            "kl": c.kl_weight * soft_kl(standardize(s.logits), standardize(t.logits), c.temperature),
        }
