"""CRLD: predictions for two views of an image are matched with those of a sure teacher for the same and the other view.

    k(a,b) = T^2 * KL(softmax(z_t^a / T) || softmax(z_s^b / T))      (B,), of view a of the teacher and b of the student
    m_a    = [max_k softmax(z_t^a) >= threshold of view a]           (B,)
    within = mean_b m_w * (k(w,w) + k(s,s))
    across = mean_b m_s * (k(w,s) + k(s,w))
    L      = ce_weight * (CE(y, z_s^w) + CE(y, z_s^s)) + kl_weight * KL_T of the weak views
             + within_weight * within + across_weight * across

T             `temperature`.
z_s^w, z_s^s  (B, K) logits of the student, of the weak and the strong view of each image; z_t^w, z_t^s of the teacher.
              Both need the same classes.

The means divide by B, however few images are kept. Each view has a crop and a flip of its own, and
`pipeline/data/strong.py` says what makes one strong. Both networks see the views in two passes, so that the student's
BN has statistics of each. Nothing is trained beside the student and nothing is dropped. The weak view's logits are
deployed. A teacher that is nowhere as sure as the thresholds leaves only the cross-entropy.

Zhang, Liu, Cai, Ma, "Cross-View Consistency Regularisation for Knowledge Distillation", ACM MM 2024, arXiv:2412.16493.
Defaults are those of the official code, which has none for single pairs. A later re-implementation sets within_weight
to 0.5 (ResNet-56 to -20, WRN-40-2 to WRN-40-1, ResNet-32x4 to ShuffleNetV2) or 1 (ResNet-110 to -20 and -32, WRN-40-2
to ResNet-8x4). The loss is the same; kl_weight is an extra.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch, Both, cross_entropy
from pipeline.distillation.blocks import divergences


class Config(base.Config):
    """Settings of the official CIFAR-100 code."""

    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature by which predictions are softened, in both terms and in the KD term."""
    within_weight: Weight = 2.0
    """Weight of the divergences between the same views."""
    across_weight: Weight = 0.5
    """Weight of the divergences between one view and the other."""
    weak_threshold: Annotated[float, Field(ge=0)] = 0.9
    """Probability that the teacher must give its first class of the weak view for an image to count in the divergences
    between the same views. 0 counts all images, and a number above 1 none."""
    strong_threshold: Annotated[float, Field(ge=0)] = 0.2
    """The same of the strong view, for the divergences between one view and the other."""

    def head_weights(self) -> dict[str, float]:
        """And of the divergences of both kinds."""
        return super().head_weights() | {"within_weight": self.within_weight, "across_weight": self.across_weight}


class Method(base.Method):
    """Consistency within and across two views."""

    views: ClassVar[Literal[1, 2]] = 2
    compares_logits: ClassVar[bool] = True

    def terms(self, s: Both, t: Both, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "within" and "across"."""
        c = self.config
        log_s, log_t = ([(view.logits / c.temperature).log_softmax(1) for view in of] for of in (s, t))
        (weak_weak, weak_strong), (strong_weak, strong_strong) = (
            [c.temperature**2 * divergences(of_s, of_t) for of_s in log_s] for of_t in log_t
        )
        sure, sure_strong = (
            view.logits.softmax(1).amax(1) >= least
            for view, least in zip(t, (c.weak_threshold, c.strong_threshold), strict=True)
        )
        terms = super().terms(s.weak, t.weak, batch)
        if c.ce_weight:
            terms["ce"] = terms["ce"] + c.ce_weight * cross_entropy(s.strong.logits, batch)
        return terms | {
            "within": c.within_weight * (sure * (weak_weak + strong_strong)).mean(),
            "across": c.across_weight * (sure_strong * (weak_strong + strong_weak)).mean(),
        }
