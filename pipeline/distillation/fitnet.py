"""FitNet: regress a middle layer of the teacher, the hint, from the same layer of the student.

    u = ReLU(BN(conv(F_s)))                     (B, C_t, H, W) the regressor
    L = ce_weight * CE + kl_weight * KL_T + hint_weight * mean over B, C, H, W of (u - F_t)^2

F_s, F_t  (B, C_s, H_s, H_s) and (B, C_t, H_t, H_t), `raw` taps of stage `hint_stage`: post-ReLU maps of a ResNet,
          residual sums of a WRN, whose negative values a regressor that ends in a ReLU cannot reach.
conv      with bias, chosen by the sizes of the two maps:
              H_s = H_t           1x1
              H_s = 2 * H_t       3x3, stride 2, padding 1
              2 * H_s = H_t       transposed, 4x4, stride 2, padding 1
              H_s > H_t else      kernel 1 + H_s - H_t, no padding; it grows with the gap, and so do its weights
              H_s < H_t else      3x3, padding 1; F_t is pooled to H_s
Trained beside the student: the regressor. It is dropped afterwards.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv:1412.6550. The paper first trains the student up
to the hint and then distils logits. This is instead the joint form of the CRD benchmark (Tian et al., ICLR 2020),
whose weights these are. That benchmark has no rule for the last size above; the 3x3 is that of the SimKD benchmark.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import in_map_precision, pool_larger
from pipeline.models.base import Classifier, Features, MapShape
from pipeline.system.errors import ParamsError


class Config(base.Config):
    """Weights of the CRD benchmark."""

    hint_weight: Weight = 100.0
    """Weight of the squared distance between regressed and teacher map."""
    hint_stage: Annotated[int, Field(ge=1)] = 2
    """The stage of both networks that is compared; 1 is the first."""


class Method(base.Method):
    """One stage of the teacher, regressed."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        last = min(len(s.stages), len(t.stages))
        if config.hint_stage > last:
            raise ParamsError(
                f"fitnet's hint_stage is {config.hint_stage}, but the student has {len(s.stages)} stages and the "
                f"teacher {len(t.stages)}. Set hint_stage to {last} or less."
            )
        self.regressor = regressor(s.stages[config.hint_stage - 1], t.stages[config.hint_stage - 1])

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "hint"."""
        maps_s, maps_t = (f.stages[self.config.hint_stage - 1].raw for f in (s, t))
        u, target = pool_larger(in_map_precision(self.regressor, maps_s).float(), maps_t.float())
        return super().terms(s, t, batch) | {"hint": self.config.hint_weight * functional.mse_loss(u, target)}


def regressor(s: MapShape, t: MapShape) -> nn.Sequential:
    """ReLU(BN(conv)): student maps (B, C_s, H_s, H_s) -> (B, C_t, H, H), H being H_t wherever the sizes allow."""
    return nn.Sequential(_convolution(s, t), nn.BatchNorm2d(t.channels), nn.ReLU())


def _convolution(s: MapShape, t: MapShape) -> nn.Module:
    if s.height == t.height:
        return nn.Conv2d(s.channels, t.channels, 1)
    if s.height == 2 * t.height:
        return nn.Conv2d(s.channels, t.channels, 3, stride=2, padding=1)
    if 2 * s.height == t.height:
        return nn.ConvTranspose2d(s.channels, t.channels, 4, stride=2, padding=1)
    if s.height > t.height:
        return nn.Conv2d(s.channels, t.channels, 1 + s.height - t.height)
    return nn.Conv2d(s.channels, t.channels, 3, padding=1)
