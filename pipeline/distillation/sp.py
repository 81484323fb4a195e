"""SP: images that are similar for the teacher shall be similar for the student.

    X = flatten(F)                              (B, C * H * W), of F_s and of F_t
    G = X X^T, each row divided by its norm     (B, B) similarity of the batch's images
    L = ce_weight * CE + kl_weight * KL_T + similarity_weight * sum over B, B of (G_s - G_t)^2 / B^2

F_s, F_t  `raw` taps (B, C, H, W) of the last stage: post-ReLU maps of a ResNet, residual sums of a WRN. Only the
          B x B similarities are compared, so channels and sizes may differ.
Norms are Euclidean. Nothing is trained beside the student. At least two images are needed: one is only like itself.

Tung, Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, arXiv:1907.09682. The paper allows several pairs
of layers. That only the last stage takes part, the weight and the absent KL are those of the CRD benchmark (Tian et
al., ICLR 2020).
"""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import unit
from pipeline.models.base import Features


class Config(base.Config):
    """Weights of the CRD benchmark."""

    similarity_weight: Weight = 3000.0
    """Weight of the squared distance between the similarities."""


class Method(base.Method):
    """Similarities within the batch, at the last stage."""

    smallest_batch: ClassVar[int] = 2

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "similarity"."""
        g_s, g_t = (similarities(distributed.gather(f.stages[-1].raw)) for f in (s, t))
        distance = functional.mse_loss(g_s, g_t)
        return super().terms(s, t, batch) | {"similarity": self.config.similarity_weight * distance}


def similarities(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> G (B, B), in float32."""
    x = maps.flatten(1).float()
    return unit(x @ x.T)
