"""MLKD: predictions for two views of an image are matched at five temperatures, and how they correlate over the batch.

    P_T     = softmax(z / T)                                             (B, K)
    K_T     = T^2 * KL(P_T of the teacher || P_T of the student)         (B,)
    C_T     = sum over columns of (P_t' P_t - P_s' P_s)^2                (K,), classes over the batch
    D_T     = sum over columns of (P_t P_t' - P_s P_s')^2                (B,), images of the batch
    p       = softmax(z_t^w)
    m_b     = [max_k p_bk <= its median over images]                     (B,)
    m_k     = [sum_b p_bk <= its median over classes]                    (K,)
    kl      = mean(m_b) * mean_b sum over {T, 3, 5, 2, 6} of K(w)
              + mean_b (K_T(s) + K_3(s) + K_5(s) + K_2(w) + K_6(w))
    classes = mean(m_k) * mean_k sum over {T, 3, 5, 2, 6} of C(w)
    images  = mean(m_b) * mean_b sum over {T, 3, 5, 2, 6} of D(w)
    L       = ce_weight * (CE(y, z_s^w) + CE(y, z_s^s)) + kl_weight * (kl + classes + images)

T             `temperature`.
z_s^w, z_s^s  (B, K) logits of the student, of the weak and the strong view of each image; z_t^w, z_t^s of the teacher.
              Both need the same classes. K(w), C(w) and D(w) are of weak views, K(s) of strong ones.

Each view has a crop and a flip of its own, and `pipeline/data/strong.py` says what makes one strong. Both networks see
the views in two passes, so that the student's BN has statistics of each. Nothing is trained beside the student and
nothing is dropped. The weak view's logits are deployed.

Jin, Wang, Lin, "Multi-Level Logit Distillation", CVPR 2023. These formulas are what the official code executes, and
the published numbers come from them. Something else seems to be meant: the images and classes of which the teacher is
less sure are to be selected, but only their share enters, mean(m), about 1/2; two temperatures of the strong views read
the weak ones; and the other terms of the strong views are computed but not added. `form: repaired` puts m_b and m_k
inside the means, reads K_2(s) and K_6(s), and adds C(s) and D(s), of all classes and images. No published number is of
that form.

With `standardize: true`, which needs three classes, the divergences alone read z~ = (z - mean z) / (1e-7 + std z), std
with K - 1, as in Sun, Ren, Li, Wang, Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024,
arXiv:2403.01427. There temperature is 2 and kl_weight 9 (6 for VGG-13 to VGG-8 or MobileNetV2 and for ResNet-32x4 to
ShuffleNetV2), and the learning rate is that of presets/published/mlkd.yaml, but 0.01 for VGG-13 to VGG-8 and 0.005 for
WRN-40-2 to MobileNetV2. The published numbers of both are those of the best of 480 epochs (960 for ShuffleNets) on the
test split.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from pipeline.data.card import DataCard
from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch, Both, cross_entropy
from pipeline.distillation.blocks import divergences, standardize
from pipeline.models.base import Classifier


class Config(base.Config):
    """Settings of the official CIFAR-100 code."""

    ce_weight: Weight = 0.1
    kl_weight: Weight = 0.9
    """Weight of the divergences, and of both terms of correlations."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """The first of the five temperatures. The others are 3, 5, 2 and 6."""
    standardize: bool = False
    """Whether the divergences read standardised logits, as in MLKD with logit standardisation (MLKD+LS)."""
    form: Literal["executed", "repaired"] = "executed"
    """`executed` computes what the official code computes, `repaired` what it seems to mean."""


class Method(base.Method):
    """Divergences and correlations of predictions, of two views."""

    views: ClassVar[Literal[1, 2]] = 2
    compares_logits: ClassVar[bool] = True

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        if config.standardize:
            self.fewest_classes = 3
        super().__init__(config, student, teacher, card)

    def terms(self, s: Both, t: Both, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "classes" and "images". "kl" replaces that of base.Method."""
        c = self.config
        temperatures, repaired = (c.temperature, 3, 5, 2, 6), c.form == "repaired"
        weak, strong = ([distributed.gather(of.logits) for of in view] for view in zip(s, t, strict=True))
        p = weak[1].softmax(1)
        images, classes = (_up_to_median(x) for x in (p.amax(1), p.sum(0)))
        if not repaired:
            images, classes = images.mean(), classes.mean()
        kl = images * self._divergences(weak, temperatures) + self._divergences(strong, temperatures[:3])
        kl = kl + self._divergences(strong if repaired else weak, temperatures[3:])
        of_classes, of_images = _correlations(weak, temperatures)
        total_classes, total_images = (classes * of_classes).mean(), (images * of_images).mean()
        if repaired:
            of_classes, of_images = _correlations(strong, temperatures)
            total_classes, total_images = total_classes + of_classes.mean(), total_images + of_images.mean()
        return {
            "ce": c.ce_weight * (cross_entropy(s.weak.logits, batch) + cross_entropy(s.strong.logits, batch)),
            "kl": c.kl_weight * kl.mean(),
            "classes": c.kl_weight * total_classes,
            "images": c.kl_weight * total_images,
        }

    def _divergences(self, logits: list[Tensor], temperatures: tuple[float, ...]) -> Tensor:
        """sum_T K_T of logits of student and teacher (B, K): (B,)."""
        z_s, z_t = map(standardize, logits) if self.config.standardize else logits
        of_each = [T**2 * divergences((z_s / T).log_softmax(1), (z_t / T).log_softmax(1)) for T in temperatures]
        return sum(of_each[1:], start=of_each[0])


def _up_to_median(x: Tensor) -> Tensor:
    """Which of (N,) numbers are at most their median, the mean of the middle two where N is even: 0 or 1, (N,)."""
    ordered = x.sort().values
    return (x <= (ordered[(len(x) - 1) // 2] + ordered[len(x) // 2]) / 2).to(x.dtype)


def _correlations(logits: list[Tensor], temperatures: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """sum_T C_T (K,) and sum_T D_T (B,) of logits of student and teacher (B, K)."""
    of_classes, of_images = [], []
    for T in temperatures:
        p_s, p_t = ((z / T).softmax(1) for z in logits)
        of_classes.append((p_t.T @ p_t - p_s.T @ p_s).square().sum(1))
        of_images.append((p_t @ p_t.T - p_s @ p_s.T).square().sum(1))
    return sum(of_classes[1:], start=of_classes[0]), sum(of_images[1:], start=of_images[0])
