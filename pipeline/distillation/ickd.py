"""ICKD: let the student's channels be as like each other, image by image, as the teacher's are.

    u   = BN(conv1x1(F_s))                          (B, C, H_s, W_s) student map lifted to the teacher's C channels
    G   = X X^T, each row divided by its norm       (B, C, C), of X = u and of X = F_t, as (B, C, H * W)
    L   = ce_weight * CE + kl_weight * KL_T + correlation_weight * mean_b (sum over C, C of (G_s - G_t)^2) / C

F_s, F_t  `act` taps of the last stage, (B, C_s, H_s, W_s) and (B, C, H_t, W_t): behind the last ReLU. Only the C x C
          likenesses are compared, so the sizes may differ.
Norms are Euclidean; the row of a channel that is 0 everywhere is 0. The likeness is blind to the scale of an image's
whole map and to the order of its places, but not to the scale of one channel.
Trained beside the student: convolution (no bias) and BN, always there. They are dropped afterwards.

Liu, Huang, Lin, Xie, Wang, Chang, Liang, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
Distillation", ICCV 2021, arXiv:2202.03680. This is its ICKD-C, with the weight of the official CIFAR-100 code, whose
scripts add no KD term or one of weight 1 (`kl_weight`). There are two differences. The convolution starts as those of
other methods here do. The official code's second embedding, of the teacher, is left out: it is trained but never used.
"""

from torch import Tensor
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import connector, in_map_precision
from pipeline.models.base import Classifier, Features


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    correlation_weight: Weight = 2.5
    """Weight of the squared distance between the likenesses of channels."""


class Method(base.Method):
    """Likenesses of channels, at the last stage."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = (shapes.stages[-1] for shapes in self.shapes(card))
        self.connector = connector(s.channels, t.channels)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "correlation"."""
        u = in_map_precision(self.connector, s.stages[-1].act)
        distance = (likenesses(u) - likenesses(t.stages[-1].act)).square().sum(2).mean()
        return super().terms(s, t, batch) | {"correlation": self.config.correlation_weight * distance}


def likenesses(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> G (B, C, C), in float32."""
    x = maps.flatten(2).float()
    return functional.normalize(x @ x.transpose(1, 2), dim=2)
