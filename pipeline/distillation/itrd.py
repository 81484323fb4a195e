"""ITRD: correlate each dimension of the embedding with the teacher's, and find the same images alike.

    e    = W h_s + b                                    (B, D) student features brought to the teacher's dimension D
    e~   = (e - mean_b e) / std_b e                     (B, D), column by column, std with B - 1; h~ of h_t alike
    c_j  = sum_b e~_bj * h~_bj / B                      (D) correlation of each dimension, below 1
    corr = log2(sum_j |c_j - 1|^(2 * alpha))
    G    = X X^T / trace, the rows of X of norm 1       (B, B), of X = e and of X = h_t
    J    = (G_s * G_t) / trace                          (B, B), * element by element
    mut  = sum over B, B of (G_s^2 - J^2)               element by element
    L    = ce_weight * CE + kl_weight * KL_T + correlation_weight * corr + mutual_weight * mut

h_s, h_t  (B, D_s) and (B, D) pooled features; W (D, D_s) and b (D) those of a linear layer; `alpha` is a setting.
G_s, G_t  G of the student, of e, and of the teacher. Where D_s = D, G_s is of h_s itself, and only corr reads e.
A column without spread (below 1e-5 of its norm, as of a feature that is 0 in the whole batch) has no direction. Its c_j
is 0, and it gets no gradient; the bare formula would give NaN. It also would where all embeddings are 0: here G is 0.
Trained beside the student: W, and b where mut reads e (corr is blind to it). Both are dropped afterwards.
corr may be negative: it is at least log2(D) - 2 * alpha * log2(B). At least three images are needed: over two, a
correlation is 1/2 or -1/2 and has no gradient.

Miles, Lopez-Rodriguez, Mikolajczyk, "Information Theoretic Representation Distillation", BMVC 2022, arXiv:2112.00459.
Weights and alpha are those with which the code of WTTM (Zheng, Yang, ICLR 2024) runs it; the example in the README of
ITRD has alpha 1.01. What has no direction, and the bias, are the only differences.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, linalg, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Classifier, Features

_CONSTANT = 1e-5


class Config(base.Config):
    """Weights that the code of WTTM gives it."""

    correlation_weight: Weight = 2.0
    """Weight of the logarithm of what the correlations lack."""
    mutual_weight: Weight = 1.0
    """Weight of what the likenesses of images do not share with the teacher's."""
    alpha: Annotated[float, Field(gt=0)] = 1.5
    """Half of the exponent of what each correlation lacks; a larger one looks at the worst dimensions."""


class Method(base.Method):
    """Correlation of dimensions, and shared likenesses of images."""

    smallest_batch: ClassVar[int] = 3
    reads = ("logits", "pooled")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        self.embed = nn.Linear(s.pooled, t.pooled, bias=s.pooled != t.pooled)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "correlation" and "mutual"."""
        c = self.config
        h_s, h_t = (distributed.gather(f.pooled) for f in (s, t))
        e = self.embed(h_s)
        return super().terms(s, t, batch) | {
            "correlation": c.correlation_weight * correlation_loss(e, h_t, c.alpha),
            "mutual": c.mutual_weight * mutual_loss(h_s if h_s.shape == h_t.shape else e, h_t),
        }


def correlation_loss(e: Tensor, h_t: Tensor, alpha: float) -> Tensor:
    """corr of embeddings (B, D) and (B, D); a scalar."""
    # The columns of e~ have the norm sqrt(B - 1).
    c = (directions(e) * directions(h_t)).sum(0) * ((len(e) - 1) / len(e))
    return (1 - c).pow(2 * alpha).sum().log2()


def directions(x: Tensor) -> Tensor:
    """Columns of (B, D), centred and of norm 1; those without spread are 0."""
    centred = x - x.mean(0)
    spread = linalg.vector_norm(centred, dim=0)
    varies = spread > _CONSTANT * linalg.vector_norm(x, dim=0)
    # Divided by 1, not by 0, where the result is not used: a gradient of 0 / 0 would spoil all others.
    return torch.where(varies, centred / torch.where(varies, spread, 1), 0)


def mutual_loss(x_s: Tensor, x_t: Tensor) -> Tensor:
    """mut of embeddings (B, D_s) and (B, D_t); a scalar, 0 for one image."""
    k_s, k_t = (y @ y.T for y in (functional.normalize(x, dim=1) for x in (x_s, x_t)))
    return _of_trace_one(k_s).square().sum() - _of_trace_one(k_s * k_t).square().sum()


def _of_trace_one(gram: Tensor) -> Tensor:
    # The trace counts the images whose embeddings are not 0, so it is 0 or some 1 and more.
    return gram / gram.trace().clamp(min=0.5)
