"""DIST: match how predictions correlate, over the classes of an image and over the images of a class.

    P      = softmax(z / T)                                                     (B, K)
    r(a,b) = <a - mean a, b - mean b> / (||a - mean a|| * ||b - mean b|| + 1e-8)
    inter  = T^2 * (1 - mean over images b of r(P_s[b, :], P_t[b, :]))
    intra  = T^2 * (1 - mean over classes k of r(P_s[:, k], P_t[:, k]))
    L      = ce_weight * CE + kl_weight * KL_T + dist_weight * (inter_weight * inter + intra_weight * intra)

z_s, z_t  logits (B, K) of student and teacher; both need the same classes. Nothing is trained beside the student and
nothing is dropped. A correlation leaves scale and offset free, which a strong teacher's exact values are not worth. At
least three images are needed: over two, a correlation is 1 or -1 and has no gradient. So is inter with two classes.

Huang, You, Wang, Qian, Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022, arXiv:2205.10536. T = 4 and
dist_weight 2 are the official CIFAR-100 strategy. For ImageNet it has T = 1. The loss is the same; kl_weight is an
extra.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Features

_EPSILON = 1e-8


class Config(base.Config):
    """Settings of the official CIFAR-100 strategy."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature by which both predictions are softened, in both terms and in the KD term."""
    dist_weight: Weight = 2.0
    """Weight of both terms."""
    inter_weight: Weight = 1.0
    """Weight of the correlation over classes, image by image; beta in the paper."""
    intra_weight: Weight = 1.0
    """Weight of the correlation over the batch, class by class; gamma in the paper."""

    def head_weights(self) -> dict[str, float]:
        """And of both correlations."""
        parts = self.inter_weight + self.intra_weight
        return super().head_weights() | {"dist_weight * (inter_weight + intra_weight)": self.dist_weight * parts}


class Method(base.Method):
    """Correlation of predictions along both axes."""

    compares_logits: ClassVar[bool] = True
    reads = ("logits",)
    smallest_batch: ClassVar[int] = 3

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "inter" and "intra"."""
        c = self.config
        p_s, p_t = ((distributed.gather(f.logits) / c.temperature).softmax(1) for f in (s, t))
        weight = c.dist_weight * c.temperature**2
        return super().terms(s, t, batch) | {
            "inter": weight * c.inter_weight * (1 - pearson(p_s, p_t).mean()),
            "intra": weight * c.intra_weight * (1 - pearson(p_s.T, p_t.T).mean()),
        }


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the rows of (M, N) and (M, N): (M,) in [-1, 1]; 0 for a row without spread."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    correlation: Tensor = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + _EPSILON)
    return correlation
