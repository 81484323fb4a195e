"""DKD: the softened divergence split in two, "is it the labelled class?" and "which of the others?", each weighted.

    p     = softmax(z / T)                            (B, K)
    b     = (p_y, sum_{k != y} p_k)                   (B, 2), y the label
    q     = softmax over k != y of z_k / T            (B, K - 1)
    tckd  = T^2 * mean_b KL(b_t || b_s)
    nckd  = T^2 * mean_b KL(q_t || q_s)
    w(e)  = min((e + 1) / warmup_epochs, 1)           e the epoch, counted from 0
    L     = ce_weight * CE + kl_weight * KL_T + w(e) * (target_weight * tckd + nontarget_weight * nckd)

z_s, z_t  logits (B, K) of student and teacher; both need the same classes. Nothing is trained beside the student and
nothing is dropped. With weights 1 and (1 - p_t,y), image by image, the two terms are the KD term again; DKD frees the
second from that factor, which is small just where the teacher is sure. With two classes nckd is always 0.

Zhao, Cui, Song, Qiu, Liang, "Decoupled Knowledge Distillation", CVPR 2022, arXiv:2203.08679. In its CIFAR-100 table
the target weight is 1. The nontarget weight is 8 (ResNet-32x4 to -8x4, the default here), 6 (WRN-40-2 to WRN-16-2 and
WRN-40-1, VGG-13 to VGG-8) or 2 (ResNet-56 to -20, ResNet-110 to -32). There is one difference: everything is computed
from logarithms, and the labelled class is left out instead of being pushed down by a constant. The values are the
same, and nothing is clamped. The warm-up counts whole epochs, so shorten it for a run that is not much longer.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import decouple, warm
from pipeline.models.base import Features


class Config(base.Config):
    """Settings of the paper's CIFAR-100 table."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature by which both predictions are softened, in both terms and in the KD term."""
    target_weight: Weight = 1.0
    """Weight of the divergence between "the labelled class" and "any other"; alpha in the paper."""
    nontarget_weight: Weight = 8.0
    """Weight of the divergence among the other classes; beta in the paper."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Number of epochs over which both weights grow linearly; 0 starts with the full weights."""

    def head_weights(self) -> dict[str, float]:
        """And of both parts of the divergence."""
        return super().head_weights() | {
            "target_weight": self.target_weight,
            "nontarget_weight": self.nontarget_weight,
        }


class Method(base.Method):
    """Target and non-target divergence, with a warm-up."""

    compares_logits: ClassVar[bool] = True
    takes_mixed: ClassVar[bool] = False
    reads = ("logits",)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "tckd" and "nckd"."""
        c = self.config
        grown = warm(batch.epoch, c.warmup_epochs)
        target, nontarget = decouple(s.logits, t.logits, batch.labels, c.temperature)
        return super().terms(s, t, batch) | {
            "tckd": grown * c.target_weight * target.mean(),
            "nckd": grown * c.nontarget_weight * nontarget.mean(),
        }
