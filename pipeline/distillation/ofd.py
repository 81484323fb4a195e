"""OFD: pull features towards the teacher's before their ReLU, only where that can change what passes the ReLU.

    m   = mu - s * phi(mu / s) / Phi(-mu / s)        (C_t,) margin = E[x | x < 0] for x ~ N(mu, s);
          -3 * s where Phi(-mu / s) <= 0.001
    u   = BN(conv1x1(F_s))                           (B, C_t, H, W) student map lifted to the teacher's channels
    v   = max(F_t, m)                                (B, C_t, H, W) teacher map, negatives cut at the margin
    d_i = sum over B, C, H, W of (u - v)^2 * [u > v or v > 0]
    L   = ce_weight * CE + kl_weight * KL_T + margin_weight * sum_i d_i / 2^(n - i) / B

F_s, F_t  `pre` taps of the n stages (B, C, H, W): the maps before their ReLU. F_t is average-pooled to the size of F_s
          where the two differ.
mu, s     bias and |weight| of the BN before each of the teacher's taps; phi, Phi normal density and distribution.
[.]       1 where true: a student below a negative target is left alone, since the ReLU hides the difference.
Trained beside the student: the connectors u (always there, even where channels agree). They are dropped afterwards.

Heo, Kim, Yun, Park, Kwak, Choi, "A Comprehensive Overhaul of Feature Distillation", ICCV 2019, arXiv:1904.01866. As
there, the teacher normalises by the statistics of the batch (`teacher_bn: eval` for the running ones). Also as there,
the margins of a ResNet are those of a stage's last BN, although the tapped sum also holds the shortcut. There is one
difference: the official code lets the teacher's running statistics drift, and here they stay. The distance is a sum,
so it grows with C * H * W. Lower margin_weight for 224-pixel data.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import check_same_stages, connector, in_map_precision, weigh_stages
from pipeline.models.base import Classifier, Features
from pipeline.system.errors import ParamsError


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    teacher_bn: Literal["eval", "batch"] = "batch"
    """Whether the teacher's batch normalisation uses its running statistics (`eval`) or those of the batch (`batch`),
    as the official code does."""
    margin_weight: Weight = 1e-3
    """Weight of the distance between features before their ReLU, summed over a map and averaged over the batch."""


class Method(base.Method):
    """Partial distance to the margin-cut teacher map, stage by stage."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        check_same_stages("ofd", s, t)
        try:
            norms = self.teacher.stage_norms()
        except NotImplementedError:
            raise ParamsError(
                "ofd takes its margins from the batch normalisation behind each stage of the teacher, but "
                f"{self.teacher.spec['arch']} names none. Choose one of this project's own networks as teacher, such "
                "as resnet34 or wrn_40_2."
            ) from None
        self.stages = nn.ModuleList(Stage(a.channels, norm) for a, norm in zip(s.stages, norms, strict=True))

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "margin", the sum over stages."""
        distances = [
            stage(tap_s.pre, tap_t.pre) for stage, tap_s, tap_t in zip(self.stages, s.stages, t.stages, strict=True)
        ]
        total = weigh_stages(distances) / len(s.logits)
        return super().terms(s, t, batch) | {"margin": self.config.margin_weight * total}


class Stage(nn.Module):
    """Connector and margins of one stage: maps (B, C_s, H, W) and (B, C_t, H', W') -> d_i, a scalar."""

    margin: Tensor

    def __init__(self, channels: int, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.connector = connector(channels, norm.num_features)
        # Not saved: it follows from the teacher, which is no part of the method.
        self.register_buffer("margin", margins(norm).view(-1, 1, 1), persistent=False)

    def forward(self, f_s: Tensor, f_t: Tensor) -> Tensor:
        """The `pre` taps of student and teacher, in any precision."""
        u, v = in_map_precision(self.connector, f_s).float(), f_t.float()
        if u.shape[2:] != v.shape[2:]:
            v = functional.adaptive_avg_pool2d(v, (u.shape[2], u.shape[3]))
        return partial_distance(u, torch.maximum(v, self.margin))


@torch.no_grad()
def margins(norm: nn.BatchNorm2d) -> Tensor:
    """What a channel of this BN's output is on average where it is negative: m (C,), never above 0."""
    # A channel that was pruned to weight 0 is a constant; the tiny floor makes the formula say so without 0 / 0.
    mean, std = norm.bias.double(), norm.weight.double().abs().clamp(min=1e-12)
    density = torch.exp(-((mean / std) ** 2) / 2) / math.sqrt(2 * math.pi)
    negative = torch.special.ndtr(-mean / std)
    return torch.where(negative > 0.001, mean - std * density / negative, -3 * std).float()


def partial_distance(u: Tensor, v: Tensor) -> Tensor:
    """sum (u - v)^2 * [u > v or v > 0] over all elements of two maps of equal shape."""
    return ((u - v).square() * ((u > v) | (v > 0))).sum()
