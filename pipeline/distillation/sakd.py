"""SAKD: match energy maps that were refined by self-attention between their own rows.

    u   = BN(conv1x1(F_s))                       student map lifted to the teacher's channels
    G   = mean_c F^2                             (B, H, W), of u and of F_t; H = W
    A   = G G^T                                  (B, H, H) affinity of rows
    P1  = softmax over rows i, P2 = softmax over columns j of A
    R   = G + (P1 * G + P2 * G) / sqrt(W)        * is element by element
    l_i = mean over B, H, W of (unit(R_s) - unit(R_t))^2
    L   = ce_weight * CE + kl_weight * KL_T + sad_weight * sum_i l_i / 2^(n - i)

F_s, F_t  `raw` taps of the n stages: post-ReLU maps of a ResNet, residual sums of a WRN.
unit(.)   flattened per image and divided by its Euclidean norm.
Trained beside the student: the connectors u. They are dropped afterwards.

Source: the code of github.com/CRGuan/SAKD (2024), which names no paper. Its attention has no parameters, and nothing
in it is sparse. As there, the teacher normalises by the statistics of the batch (`teacher_bn: eval` for the running
ones). The official code also builds a new optimiser, without momentum, at every milestone (see presets/published).
"""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import connector, energy, in_map_precision, unit, weigh_stages
from pipeline.models.base import Classifier, Features
from pipeline.system.errors import ParamsError


class Config(base.Config):
    """Weights of the official CIFAR-100 code."""

    kl_weight: Weight = 0.9
    # The official code never calls eval() on its teacher.
    teacher_bn: Literal["eval", "batch"] = "batch"
    sad_weight: Weight = 200.0
    """Weight of the distance between refined energy maps."""
    connect_equal: bool = True
    """Whether a stage gets a connector even where student and teacher have the same number of channels, as in the
    official CIFAR-100 code. Its ImageNet code has none there."""


class Method(base.Method):
    """Self-attention refined energy maps, stage by stage."""

    reads = ("logits", "stages.raw.norms")

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = self.shapes(card)
        sizes = [(a, b) for a, b in zip(s.stages, t.stages, strict=False)]
        if len(s.stages) != len(t.stages) or any(a[1:] != b[1:] or a.height != a.width for a, b in sizes):
            raise ParamsError(
                f"sakd compares square stage maps of equal size one by one. The student has {_text(s.stages)}, the "
                f"teacher {_text(t.stages)}. Choose networks with the same stages, for images of the same size."
            )
        self.connectors = nn.ModuleList(
            connector(a.channels, b.channels) if config.connect_equal or a.channels != b.channels else nn.Identity()
            for a, b in sizes
        )

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "sad", the sum over stages."""
        distances = [
            functional.mse_loss(
                unit(refine(energy(in_map_precision(lift, tap_s.raw)))), unit(refine(energy(tap_t.raw)))
            )
            for lift, tap_s, tap_t in zip(self.connectors, s.stages, t.stages, strict=True)
        ]
        return super().terms(s, t, batch) | {"sad": self.config.sad_weight * weigh_stages(distances)}


def refine(g: Tensor) -> Tensor:
    """Energy maps (B, H, H) -> self-attended maps (B, H, H), the R above."""
    affinity = g @ g.transpose(1, 2)
    refined: Tensor = g + (affinity.softmax(1) * g + affinity.softmax(2) * g) / g.shape[2] ** 0.5
    return refined


def _text(stages: Any) -> str:
    return ", ".join(f"{shape.channels}x{shape.height}x{shape.width}" for shape in stages)
