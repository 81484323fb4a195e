"""ReviewKD: each student level, fused with all deeper ones, learns the teacher's map of that level.

    x_l  = BN(conv1x1(F_s^l))                              (B, M, H_l, W_l)
    a, b = sigmoid(conv1x1([x_l, up(r_{l+1})]))            (B, 1, H_l, W_l) each: two maps of attention
    r_l  = resize(a * x_l + b * up(r_{l+1}))               (B, M, H_t, W_t), at the teacher's size
           r_n = resize(x_n) at the deepest level, where there is nothing to fuse
    o_l  = BN(conv3x3(r_l))                                (B, C_t, H_t, W_t)
    HCL(o, F) = (mse(o, F) + sum_k w_k * mse(AAP_k(o), AAP_k(F))) / (1 + sum_k w_k)
           k = 4, 2, 1 as far as k < H_t; w_k = 1/2, 1/4, 1/8 in the order of use
    L    = ce_weight * CE + kl_weight * KL_T
           + review_weight * min(epoch / warmup_epochs, 1) * sum_l HCL(o_l, F_t^l)

F_s^l     `act` taps of the student's stages, and last its pooled features as a map of 1 x 1.
F_t^l     `pre` taps of the teacher's stages, and last its pooled features; the two have the same number of levels n.
M         min(512, size of the student's pooled features).
up(.), resize(.)  to the size of x_l, to the size of F_t^l; nearest neighbour.
AAP_k     adaptive average pooling to k x k; mse the mean over all elements; epoch counted from 0.
Trained beside the student: all convolutions and BNs above. All are dropped afterwards.

Chen, Liu, Zhao, Jia, "Distilling Knowledge via Knowledge Review", CVPR 2021, arXiv:2104.09044. As in the official
code, the weight is 0 in the whole first epoch, so a run of far fewer than warmup_epochs hardly uses the term. The
official review_weight depends on the pair: 0.6 for ResNet-56 to 20, 1 for ResNet-110 to 32, 5 for WRN-40-2 to WRN-16-2
or WRN-40-1 and for ResNet-32x4 to 8x4. There is one difference: the official code also lets the teacher's running
statistics drift, and here they stay.
"""

from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import check_same_stages, in_map_precision
from pipeline.models.base import Classifier, Features

_MOST_WIDTH = 512


class Config(base.Config):
    """Weights of the official CIFAR-100 code; review_weight is that of ResNet-110 to ResNet-32."""

    # The official code never calls eval() on its teacher, so its published numbers come from batch statistics.
    teacher_bn: Literal["eval", "batch"] = "batch"
    """Whether the teacher's batch normalisation uses its running statistics (`eval`) or those of the batch (`batch`),
    as the official code does."""
    review_weight: Weight = 1.0
    """Weight of the distance between fused student maps and teacher maps, summed over levels."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Number of epochs over which review_weight grows, from 0 in the first one; 0 starts with the full weight."""


class Method(base.Method):
    """Review of deep levels in shallow ones."""

    smallest_batch: ClassVar[int] = 2  # the pooled level passes a BN over the batch

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        check_same_stages("reviewkd", s, t)
        channels_s, channels_t = ([*(shape.channels for shape in x.stages), x.pooled] for x in (s, t))
        self.review = Review(channels_s, channels_t)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "review", the sum over levels."""
        c = self.config
        maps_s = [*(tap.act for tap in s.stages), s.pooled[:, :, None, None]]
        maps_t = [*(tap.pre for tap in t.stages), t.pooled[:, :, None, None]]
        reviewed = self.review(maps_s, [(m.shape[2], m.shape[3]) for m in maps_t])
        distance = torch.stack([hierarchical_distance(o, m) for o, m in zip(reviewed, maps_t, strict=True)]).sum()
        warm = min(batch.epoch / c.warmup_epochs, 1.0) if c.warmup_epochs else 1.0
        return super().terms(s, t, batch) | {"review": c.review_weight * warm * distance}


class Review(nn.Module):
    """Student maps of all levels, shallow first -> as many o_l in the teacher's channels and sizes."""

    def __init__(self, channels_s: list[int], channels_t: list[int]) -> None:
        super().__init__()
        width = min(_MOST_WIDTH, channels_s[-1])
        self.lifts = nn.ModuleList(_conv_norm(channels, width, 1) for channels in channels_s)
        self.attention = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in pairwise(channels_s))
        self.projectors = nn.ModuleList(_conv_norm(width, channels, 3) for channels in channels_t)

    def forward(self, maps: list[Tensor], sizes: list[tuple[int, int]]) -> list[Tensor]:
        """Maps (B, C_s, H, W), and the height and width of the teacher's map of each level."""
        lifted = [in_map_precision(lift, x) for lift, x in zip(self.lifts, maps, strict=True)]
        fused = [_resize(lifted[-1], sizes[-1])]
        for attend, x, size in reversed(list(zip(self.attention, lifted[:-1], sizes[:-1], strict=True))):
            deeper = _resize(fused[0], (x.shape[2], x.shape[3])).to(x.dtype)
            a, b = in_map_precision(attend, torch.cat([x, deeper], 1)).sigmoid().chunk(2, 1)
            fused.insert(0, _resize(a * x + b * deeper, size))
        return [in_map_precision(project, x) for project, x in zip(self.projectors, fused, strict=True)]


def hierarchical_distance(o: Tensor, f: Tensor) -> Tensor:
    """HCL above of two maps (B, C, H, W), in float32."""
    # Pooling is linear, so that the difference is pooled rather than each map.
    difference = o.float() - f.float()
    total, weights, weight = difference.square().mean(), 1.0, 1.0
    for size in (4, 2, 1):
        if size < difference.shape[2]:
            weight /= 2
            total = total + weight * functional.adaptive_avg_pool2d(difference, size).square().mean()
            weights += weight
    return total / weights


def _conv_norm(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out))


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return maps if maps.shape[2:] == size else functional.interpolate(maps, size, mode="nearest")
