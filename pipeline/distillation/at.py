"""AT: look where the teacher looks, stage by stage.

    Q   = unit(mean_c F^2)                      (B, H * W) attention map, of F_s and of F_t
    l_i = mean over B, H * W of (Q_s - Q_t)^2
    L   = ce_weight * CE + kl_weight * KL_T + attention_weight * sum_i l_i

F_s, F_t  `raw` taps (B, C, H, W) of stage i: post-ReLU maps of a ResNet, residual sums of a WRN. The channels may
          differ; where H and W do, the larger map is first pooled to the smaller (averaged, then squared).
unit(.)   flattened per image and divided by its Euclidean norm.
i         1 .. n, n being the number of stages of the network that has fewer: stages are paired in order, and a deeper
          network's last ones are left out, with a warning.
Nothing is trained beside the student.

Zagoruyko, Komodakis, "Paying More Attention to Attention: Improving the Performance of Convolutional Neural Networks
via Attention Transfer", ICLR 2017, arXiv:1612.03928. As in the official code, the distance is the mean square. The
paper writes half the weight and an L2 norm. Weights are those of the CRD benchmark (Tian et al., ICLR 2020), which has
no KL. The mean over H * W makes the term small for large maps (at most 2 / (H * W) each). So raise the weight if all
maps are large, like those of a wide ResNet at 224 pixels. docs/large-images.md has numbers.
"""

from torch import Tensor
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import energy, pool_larger, say_where_stages_are_left_out, unit
from pipeline.models.base import Classifier, Features


class Config(base.Config):
    """Weights of the CRD benchmark."""

    attention_weight: Weight = 1000.0
    """Weight of the squared distance between attention maps, summed over stages."""


class Method(base.Method):
    """Attention maps of all stages."""

    reads: tuple[str, ...] | None = ("logits", "stages.raw.float_norms")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        say_where_stages_are_left_out("at", student, self.teacher)
        s, t = (shapes.stages for shapes in self.shapes(card))
        if any(b.height > a.height or b.width > a.width for a, b in zip(s, t, strict=False)):
            # Pooled to the student's size before the squares: what the teacher's own map gives is not enough.
            self.reads = None

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "attention", the sum over stages."""
        distances = [distance(a.raw, b.raw) for a, b in zip(s.stages, t.stages, strict=False)]
        total = sum(distances, start=s.logits.new_zeros(()))
        return super().terms(s, t, batch) | {"attention": self.config.attention_weight * total}


def distance(maps_s: Tensor, maps_t: Tensor) -> Tensor:
    """l_i of one stage's maps (B, C_s, H_s, W_s) and (B, C_t, H_t, W_t); a scalar."""
    q_s, q_t = (unit(energy(maps)) for maps in pool_larger(maps_s.float(), maps_t.float()))
    return functional.mse_loss(q_s, q_t)
