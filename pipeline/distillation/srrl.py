"""SRRL: learn features that the teacher's own classifier reads as it reads the teacher's.

    g   = ReLU(BN(conv1x1(F_s)))                     (B, D, H, W) student map lifted to the teacher's channels
    h   = GAP(g)                                     (B, D)
    L   = ce_weight * CE + kl_weight * KL_T
          + feature_weight * mean over B, D of (h - h_t)^2
          + regression_weight * mean over B, K_t of (fc_t(h) - z_t)^2

F_s       `act` tap of the student's last stage (B, C, H, W); GAP the average over H and W.
h_t, z_t  (B, D) pooled features and (B, K_t) logits of the teacher; fc_t its frozen classifier, which the gradient
          passes on its way to the student. No label meets K_t: this loss would take a teacher of other classes.
Trained beside the student: the connector g (always there). It is dropped; the student keeps its own classifier.

Yang, Martinez, Bulat, Tzimiropoulos, "Knowledge distillation via softmax regression representation learning", ICLR
2021. Weights are those of the official ImageNet code, which lifts the map before pooling, as here. The toolbox behind
many CIFAR-100 tables pools first and adds the KD term with weight 1 (`kl_weight: 1.0` does the same). The two orders
agree on maps of 1 x 1. Elsewhere they differ in the BN's statistics and in what the ReLU cuts.
"""

from torch import Tensor
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import check_reads_average, connector, in_map_precision
from pipeline.models.base import Classifier, Features, pool


class Config(base.Config):
    """Weights of the official ImageNet code."""

    feature_weight: Weight = 1.0
    """Weight of the distance between pooled features."""
    regression_weight: Weight = 1.0
    """Weight of the distance between what the teacher's classifier says of the two networks' features."""


class Method(base.Method):
    """Feature matching, and regression through the teacher's classifier."""

    reads = ("logits", "pooled")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        use = "srrl lets the teacher's classifier read the average of a map made by the student"
        check_reads_average("teacher", self.teacher, use)
        s, t = self.shapes(card)
        self.connector = connector(s.stages[-1].channels, t.pooled)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl", "feature" and "regression"."""
        c = self.config
        h = pool(in_map_precision(self.connector, s.stages[-1].act).relu())
        return super().terms(s, t, batch) | {
            "feature": c.feature_weight * functional.mse_loss(h, t.pooled),
            "regression": c.regression_weight * functional.mse_loss(self.teacher.fc(h), t.logits),
        }
