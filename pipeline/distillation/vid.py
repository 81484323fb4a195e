"""VID: keep what says most about the teacher's maps, by predicting them under a learned Gaussian.

    m   = conv3(ReLU(conv2(ReLU(conv1(F_s)))))  (B, C_t, H, W) predicted mean
    v   = softplus(r) + 1e-5                    (C_t) predicted variance of each channel, 5 at the start
    l_i = mean over B, C, H, W of ((m - F_t)^2 / v + log v) / 2
    L   = ce_weight * CE + kl_weight * KL_T + information_weight * sum_i l_i

F_s, F_t  `raw` taps (B, C, H, W) of stage i: post-ReLU maps of a ResNet, residual sums of a WRN. Where H and W differ,
          the larger map is first pooled to the smaller.
conv      1x1 without bias: C_s -> C_t -> C_t -> C_t.
i         1 .. n, n being the number of stages of the network that has fewer: stages are paired in order, and a deeper
          network's last ones are left out, with a warning.
l_i is a negative log-likelihood without its constant: it bounds the mutual information from below, and may be negative.
Trained beside the student: the convolutions and r, on which weight decay acts too. All are dropped afterwards.

Ahn, Hu, Damianou, Lawrence, Dai, "Variational Information Distillation for Knowledge Transfer", CVPR 2019,
arXiv:1904.05835. The form of m and the weights are those of the CRD benchmark (Tian et al., ICLR 2020), which has no
KL.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import in_map_precision, pool_larger, say_where_stages_are_left_out
from pipeline.models.base import Classifier, Features

_FIRST_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5


class Config(base.Config):
    """Weights of the CRD benchmark."""

    information_weight: Weight = 1.0
    """Weight of the negative log-likelihood of the teacher's maps, summed over stages."""


class Method(base.Method):
    """One Gaussian for each stage."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        say_where_stages_are_left_out("vid", student, self.teacher)
        s, t = (shapes.stages for shapes in self.shapes(card))
        self.gaussians = nn.ModuleList(Gaussian(a.channels, b.channels) for a, b in zip(s, t, strict=False))

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "information", the sum over stages."""
        pairs = zip(self.gaussians, s.stages, t.stages, strict=False)
        total = sum((gaussian(a.raw, b.raw) for gaussian, a, b in pairs), start=s.logits.new_zeros(()))
        return super().terms(s, t, batch) | {"information": self.config.information_weight * total}


class Gaussian(nn.Module):
    """Student maps and teacher maps of one stage -> l_i, a scalar."""

    def __init__(self, channels_s: int, channels_t: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels_s, channels_t, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels_t, channels_t, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels_t, channels_t, 1, bias=False),
        )
        start = math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE))  # softplus backwards
        self.r = nn.Parameter(torch.full((channels_t,), start))

    def forward(self, maps_s: Tensor, maps_t: Tensor) -> Tensor:
        """Maps (B, C_s, H_s, W_s) and (B, C_t, H_t, W_t)."""
        maps_s, target = pool_larger(maps_s, maps_t.float())
        mean = in_map_precision(self.mean, maps_s).float()
        variance = self.variance().view(1, -1, 1, 1)
        return ((mean - target).square() / variance + variance.log()).mean() / 2

    def variance(self) -> Tensor:
        """v (C_t)."""
        return functional.softplus(self.r) + _LEAST_VARIANCE
