"""SemCKD: every student stage learns from all teacher stages, and most from those that see the batch as it does.

    X_s X_s^T, X_t X_t^T                                       (B, B) similarities of the images, of each stage
    q_i = unit(MLP_i(X_s X_s^T)), k_j = unit(MLP_j(X_t X_t^T)) (B, m) rows; MLP = Linear(B, 2m), ReLU, Linear(2m, m)
    a_ij = softmax over j of <q_i, k_j>                        (B, S, T) attention of each image
    v_ij = project_ij(F_s^i)                                   (B, C_t, H, W) for each pair of stages
    L = ce_weight * CE + kl_weight * KL_T
      + semantic_weight * 1 / (B * S) * sum_b sum_i sum_j a_ij * mean_chw (v_ij - F_t^j)^2

F_s, F_t  `raw` taps of the S and T stages; X (B, C * H * W) the same, flattened. The larger of two maps is pooled.
project   conv1x1(C_s, 2 C_t), BN, ReLU, conv3x3(2 C_t, 2 C_t), BN, ReLU, conv1x1(2 C_t, C_t), without biases.
m         B // 4. The MLPs read rows of length B: training works on batches of `batch_size` alone.
Trained beside the student: MLPs and projectors. The gradient flows into `a` too. All are dropped afterwards.

Chen, Mei, Zhang, Wang, Feng, Chen, "Cross-Layer Distillation with Semantic Calibration", AAAI 2021, arXiv:2012.03236.
semantic_weight 400 is the official value for CIFAR-100, and 50 for ImageNet. With a learning rate of 0.05, 400 is at
the edge of what SGD with momentum can follow. ResNet-20 to ResNet-8 diverges with it, but not with 100
(docs/lab-notes.md). There is one difference: another batch size is refused, while the official code may mix images. In
eval mode such a batch has no "semantic" term, and the other terms are as usual.
"""

from itertools import product
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.devices import distributed
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import in_map_precision, pool_larger
from pipeline.models.base import Classifier, Features, MapShape
from pipeline.settings.training import Train
from pipeline.system.errors import ParamsError


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    kl_weight: Weight = 1.0
    semantic_weight: Weight = 400.0
    """Weight of the attended distance between projected student maps and teacher maps."""
    batch_size: Annotated[int, Field(ge=8)] = 64
    """Number of images in every batch, including the last one. It must equal distill.train.batch_size, and
    distill.train.drop_last must be true. Below 8, queries and keys would be single numbers, of which only the sign is
    left."""


class Method(base.Method):
    """Projections between all pairs of stages, weighed by attention."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        self.calibration = Calibration(s.stages, t.stages, config.batch_size)

    def check_recipe(self, settings: Train) -> None:
        """Refuse batches of every size but the configured one, whatever the number of images."""
        super().check_recipe(settings)
        size = self.config.batch_size
        if settings.batch_size != size or not settings.drop_last:
            raise ParamsError(
                f"semckd compares the images of a batch by networks that are made for {size} images "
                "(distill.methods.semckd.batch_size), so that every batch must have as many. Set "
                "distill.train.batch_size and distill.methods.semckd.batch_size to the same number (now "
                f"{settings.batch_size} and {size}) and distill.train.drop_last to true (now "
                f"{str(settings.drop_last).lower()})."
            )

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "semantic"; the last is left out in eval mode on a batch of another size."""
        terms = super().terms(s, t, batch)
        if self.training or len(batch.images) * distributed.world() == self.config.batch_size:
            distance = self.calibration([tap.raw for tap in s.stages], [tap.raw for tap in t.stages])
            terms["semantic"] = self.config.semantic_weight * distance
        return terms


class Calibration(nn.Module):
    """Maps of all student and teacher stages -> the attended distance, a scalar.

    Args:
        student: sizes of the S stages.
        teacher: sizes of the T stages.
        batch_size: B, of every batch that comes.
    """

    def __init__(self, student: tuple[MapShape, ...], teacher: tuple[MapShape, ...], batch_size: int) -> None:
        super().__init__()
        self.queries = nn.ModuleList(_embed(batch_size) for _ in student)
        self.keys = nn.ModuleList(_embed(batch_size) for _ in teacher)
        self.projectors = nn.ModuleList(_projector(s.channels, t.channels) for s, t in product(student, teacher))

    def forward(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
        """Lists of maps (B, C, H, W), one per stage."""
        attention = self.attention(maps_s, maps_t)
        pairs = zip(self.projectors, product(maps_s, maps_t), strict=True)
        distances = torch.stack([_distance(project, *pair) for project, pair in pairs], 1).view_as(attention)
        attended: Tensor = (attention * distances).sum(2).mean()
        return attended

    def attention(self, maps_s: list[Tensor], maps_t: list[Tensor]) -> Tensor:
        """a (B, S, T), each row summing to 1; of several processes, that of each process's images."""
        queries, keys = (
            torch.stack([functional.normalize(embed(_similarities(m)), dim=1) for embed, m in pairs], 1)
            for pairs in (zip(self.queries, maps_s, strict=True), zip(self.keys, maps_t, strict=True))
        )
        return distributed.own_rows((queries @ keys.transpose(1, 2)).softmax(2))


def _similarities(maps: Tensor) -> Tensor:
    rows = distributed.gather(maps).flatten(1).float()
    return rows @ rows.T


def _distance(project: nn.Module, map_s: Tensor, map_t: Tensor) -> Tensor:
    """Mean squared difference of each image (B,), at the smaller of the two sizes."""
    smaller_s, smaller_t = pool_larger(map_s, map_t.float())
    return (in_map_precision(project, smaller_s).float() - smaller_t).square().mean((1, 2, 3))


def _embed(batch_size: int) -> nn.Sequential:
    dim = batch_size // 4
    return nn.Sequential(nn.Linear(batch_size, 2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))


def _projector(channels_s: int, channels_t: int) -> nn.Sequential:
    inner = 2 * channels_t
    return nn.Sequential(
        nn.Conv2d(channels_s, inner, 1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, inner, 3, padding=1, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU(inplace=True),
        nn.Conv2d(inner, channels_t, 1, bias=False),
    )
