"""NST: let the student's channels look at the same places as the teacher's, in whatever order and number.

    x_c = unit(F[c])                            (B, C, N) pattern of each channel, of F_s and of F_t; N = H * W
    k   = (x_c . x_d)^2                         alikeness of two channels' patterns of one image, in [0, 1]
    l_i = mean over B of (mean_cd k(s_c, s_d) + mean_cd k(t_c, t_d) - 2 * mean_cd k(s_c, t_d))
    L   = ce_weight * CE + kl_weight * KL_T + selectivity_weight * sum_i l_i

F_s, F_t  `raw` taps (B, C, H, W) of stage i: post-ReLU maps of a ResNet, residual sums of a WRN. The channels may
          differ; where H and W do, the larger map is first pooled to the smaller.
unit(.)   flattened per image and channel and divided by its Euclidean norm; a channel that is 0 everywhere stays 0.
s_c, t_c  x_c of the student and of the teacher; c and d run over all channels, a pair of a channel with itself counts.
i         1 .. n, n being the number of stages of the network that has fewer: stages are paired in order, and a deeper
          network's last ones are left out, with a warning.
l_i is the squared maximum mean discrepancy between two sets of patterns under a polynomial kernel (degree 2, no
constant), in [0, 2]: blind to the order of channels, to how often all are repeated, and to the scale and sign of each.
Nothing is trained beside the student.

Huang, Wang, "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", arXiv:1707.01219. Of the paper's
kernels this is the polynomial one. The paper halves its weight. That all stages take part, the weight and the absent
KL are those of the CRD benchmark (Tian et al., ICLR 2020).
"""

from torch import Tensor
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import pool_larger, say_where_stages_are_left_out
from pipeline.models.base import Classifier, Features


class Config(base.Config):
    """Weights of the CRD benchmark."""

    selectivity_weight: Weight = 50.0
    """Weight of the squared discrepancy between the channels' patterns, summed over stages."""


class Method(base.Method):
    """Patterns of all channels, stage by stage."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        say_where_stages_are_left_out("nst", student, self.teacher)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "selectivity", the sum over stages."""
        discrepancies = [discrepancy(a.raw, b.raw) for a, b in zip(s.stages, t.stages, strict=False)]
        total = sum(discrepancies, start=s.logits.new_zeros(()))
        return super().terms(s, t, batch) | {"selectivity": self.config.selectivity_weight * total}


def discrepancy(maps_s: Tensor, maps_t: Tensor) -> Tensor:
    """l_i of one stage's maps (B, C_s, H_s, W_s) and (B, C_t, H_t, W_t); a scalar in [0, 2], but for rounding."""
    s, t = (patterns(maps) for maps in pool_larger(maps_s.float(), maps_t.float()))
    (_, c_s, n), c_t = s.shape, t.shape[1]
    if n * (c_s + c_t) < c_s**2 + c_t**2 + c_s * c_t:
        # sum_cd (s_c . t_d)^2 is the inner product of two (N, N) matrices, sum_c s_c s_c^T and sum_d t_d t_d^T, so that
        # l_i is a squared distance of theirs. Cheaper than pairs of channels where these are many and the map small.
        distance = s.transpose(1, 2) @ s / c_s - t.transpose(1, 2) @ t / c_t
        return distance.square().sum((1, 2)).mean()
    return mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t)


def patterns(maps: Tensor) -> Tensor:
    """Maps (B, C, H, W) -> x (B, C, H * W), in the precision of the maps."""
    return functional.normalize(maps.flatten(2), dim=2)


def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """mean over B of mean_cd k of patterns (B, C, N) and (B, D, N); a scalar in [0, 1]."""
    return (x @ y.transpose(1, 2)).square().mean()
