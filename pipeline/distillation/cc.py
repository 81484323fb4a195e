"""CC: let no dimension of the embedding differ from the teacher's in two images that follow each other in the batch.

    d_b = |W_s h_s,b + c_s - W_t h_t,b - c_t|           (N) element by element, b = 1 .. B the place in the batch
    L   = ce_weight * CE + kl_weight * KL_T
        + congruence_weight * sum over b = 1 .. B - 1 of <d_b, d_b+1> / (B - 1)

h_s, h_t  (B, D_s) and (B, D_t) pooled features; N is `embedding_dim`.
W_s, W_t  (N, D_s) and (N, D_t) weights of two linear layers, with biases c_s and c_t (N).
Neighbours in the batch alone are compared, so the value depends on the order of the batch, which is drawn anew in each
epoch. At least two images are needed.
Trained beside the student: both linear layers, of the teacher's features too. Both are dropped afterwards. Because the
teacher's is trained, the term can also fall by both embeddings shrinking towards 0.

Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang, "Correlation Congruence for Knowledge Distillation", ICCV 2019,
arXiv:1904.01802. This is not the loss of the paper, which compares two B x B matrices of a kernel. It is the loss, with
the weight, that the CRD benchmark (Tian et al., ICLR 2020) runs under this name, and to which the published figures of
CC belong. The paper's own form is not offered, because no published figure of these pairs belongs to it.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from pipeline.data.card import DataCard
from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.models.base import Classifier, Features


class Config(base.Config):
    """Settings of the CRD benchmark."""

    congruence_weight: Weight = 0.02
    """Weight of what the differences of neighbouring images have in common."""
    embedding_dim: Annotated[int, Field(ge=1)] = 128
    """N, the dimension in which student and teacher are compared."""


class Method(base.Method):
    """Differences to the teacher, of neighbours in the batch."""

    smallest_batch: ClassVar[int] = 2
    reads = ("logits", "pooled")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        self.embed_s = nn.Linear(s.pooled, config.embedding_dim)
        self.embed_t = nn.Linear(t.pooled, config.embedding_dim)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "congruence"."""
        h_s, h_t = (distributed.gather(f.pooled) for f in (s, t))
        common = neighbours_product(self.embed_s(h_s), self.embed_t(h_t))
        return super().terms(s, t, batch) | {"congruence": self.config.congruence_weight * common}


def neighbours_product(e_s: Tensor, e_t: Tensor) -> Tensor:
    """Mean of <d_b, d_b+1> of embeddings (B, N) and (B, N); a scalar, 0 for one image."""
    d = (e_s - e_t).abs()
    return (d[:-1] * d[1:]).sum() / max(len(d) - 1, 1)
