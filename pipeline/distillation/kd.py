"""KD: match the teacher's softened class probabilities.

    L = ce_weight * CE(y, z_s) + kl_weight * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

z_s, z_t  (B, K) logits of student and teacher; T the temperature; KL is summed over classes, averaged over the batch.
Nothing is trained beside the student. Both terms are those of base.Method; the weights make them KD.

Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531. The weights 0.1 / 0.9 and T = 4
are those of the CRD benchmark (Tian et al., ICLR 2020), which later tables follow.
"""

from pipeline.distillation import base
from pipeline.distillation.base import Weight


class Config(base.Config):
    """Weights of the CRD benchmark."""

    ce_weight: Weight = 0.1
    kl_weight: Weight = 0.9


class Method(base.Method):
    """Cross-entropy and softened divergence."""

    reads = ("logits",)
