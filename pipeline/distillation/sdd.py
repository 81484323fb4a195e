"""SDD: compare the predictions of every region of the image, and most of all where the teacher's differ from the whole.

    A_n  = average of A over region n                       (B, C) n = 1 .. N; region 1 is the whole map
    z_n  = fc(A_n)                                          (B, K), of the student and of the teacher; z_1 the logits
    w_n  = 2 if exactly one of z_t,n and z_t,1 is right (largest for the labelled class y), 1 if both or none   (B)
    X    = per image and region, from z_s,n, z_t,n and y, by `kind`:
           kd   T^2 * KL(p_t || p_s), p = softmax(z / T)
           dkd  target_weight * tckd + nontarget_weight * nckd, T^2 in both: see dkd
           nkd  target_weight * -q_t,y log q_s,y + nontarget_weight * T^2 * -sum_k p_t,k log p_s,k, q = softmax(z)
    e(m) = min((m + 1) / warmup_epochs, 1)                  m the epoch, counted from 0
    L    = ce_weight * CE + kl_weight * KL_T + region_weight * e(m) * mean over B, N of w_n * X

T    `temperature`.
A    (B, C, H, W) `act` tap of the last stage, cut into 1 x 1, 2 x 2, ... regions by adaptive averaging, num_scales
     times: N = 1, 5, 21. Each map must be at least as high and wide as it has regions in a row.
fc   each network's own classifier, with its bias; both need the same classes.
Nothing is trained beside the student and nothing is dropped.

Wei, Luo, Luo, "Scale Decoupled Distillation", CVPR 2024, arXiv:2403.13512. The loss is the same. Because the mean is
over regions too, the whole image counts 1 / N. In nkd, as in the official code, the second part is a cross-entropy of
all classes: it is large, and never 0. (In its own paper NKD leaves the labelled class out there.) The defaults are
those of SD-DKD from ResNet-32x4 to -8x4. Of the source's other settings, num_scales is 3 for networks of two families,
and nontarget_weight of dkd and nkd is 6 for WRN-40-2 and VGG-13 as teachers (8 for WRN-40-2's students ShuffleNetV1 and
VGG-8), 2 for ResNet-56 and -110, else 8. SD-KD is kind kd with ce_weight 0.1, region_weight 0.9 and warmup_epochs 0.
The warm-up counts whole epochs, so shorten it for a run that is not much longer. Networks whose classifier reads an
average behind one more convolution, as MobileNetV2 and ShuffleNetV2 do, are refused, though the source has figures of
such students: it takes the map behind that convolution, which is no tap here.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import check_reads_average, decouple, divergences, warm
from pipeline.models.base import Classifier, Features
from pipeline.system.errors import ParamsError


class Config(base.Config):
    """Settings of the official code for SD-DKD, ResNet-32x4 to ResNet-8x4."""

    kind: Literal["kd", "dkd", "nkd"] = "dkd"
    """How the predictions of a region are compared."""
    region_weight: Weight = 1.0
    """Weight of the comparison, whatever its kind."""
    num_scales: Annotated[int, Field(ge=1)] = 2
    """How often the map is cut: 1 is the whole alone, 2 adds 2 x 2 regions, 3 adds 4 x 4."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature by which predictions are softened, in the KD term too; the first part of nkd has none."""
    target_weight: Weight = 1.0
    """Weight of the part of dkd or nkd that is about the labelled class; kd has no parts."""
    nontarget_weight: Weight = 8.0
    """Weight of the other part of dkd or nkd."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 20
    """Number of epochs over which region_weight grows linearly; 0 starts with the full weight."""

    def head_weights(self) -> dict[str, float]:
        """And of what is compared by region."""
        if self.kind == "kd":
            return super().head_weights() | {"region_weight": self.region_weight}
        parts = self.region_weight * (self.target_weight + self.nontarget_weight)
        return super().head_weights() | {"region_weight * (target_weight + nontarget_weight)": parts}


class Method(base.Method):
    """Predictions of regions."""

    compares_logits: ClassVar[bool] = True
    takes_mixed: ClassVar[bool] = False

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        finest = 2 ** (config.num_scales - 1)
        for role, network, sizes in zip(
            ("student", "teacher"), (student, self.teacher), self.shapes(card), strict=True
        ):
            use = f"sdd lets the {role}'s classifier read the averages of regions of its last map"
            check_reads_average(role, network, use)
            height, width = sizes.stages[-1][1:]
            if min(height, width) < finest:
                raise ParamsError(
                    f"sdd cuts the last maps into {finest} x {finest} regions (num_scales {config.num_scales}), but "
                    f"the {role}'s map is {height} x {width}. Lower distill.methods.sdd.num_scales, or give larger "
                    "images."
                )

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "regions"."""
        c = self.config
        grown = warm(batch.epoch, c.warmup_epochs)
        pairs = ((s, self.student), (t, self.teacher))
        z_s, z_t = (region_logits(f.stages[-1].act, network.fc, c.num_scales) for f, network in pairs)
        return super().terms(s, t, batch) | {"regions": c.region_weight * grown * compare(z_s, z_t, batch.labels, c)}


def region_logits(maps: Tensor, fc: nn.Linear, num_scales: int) -> Tensor:
    """z (B, N, K) of maps (B, C, H, W): of the whole, then of the regions of each scale, row by row."""
    scales = [functional.adaptive_avg_pool2d(maps.float(), 2**scale).flatten(2) for scale in range(num_scales)]
    logits: Tensor = fc(torch.cat(scales, 2).transpose(1, 2))
    return logits


def compare(z_s: Tensor, z_t: Tensor, labels: Tensor, config: Config) -> Tensor:
    """mean of w_n * X, from logits (B, N, K) of regions and labels (B,); a scalar."""
    weights = region_weights(z_t, labels).flatten()
    labels = labels.unsqueeze(1).expand(z_t.shape[:2]).flatten()
    return (weights * distances(z_s.flatten(0, 1), z_t.flatten(0, 1), labels, config)).mean()


def region_weights(z_t: Tensor, labels: Tensor) -> Tensor:
    """w (B, N), from the teacher's logits (B, N, K) and labels (B,)."""
    right = z_t.argmax(2) == labels.unsqueeze(1)
    return 1.0 + (right != right[:, :1])


def distances(z_s: Tensor, z_t: Tensor, labels: Tensor, config: Config) -> Tensor:
    """X of each row of logits (R, K) and labels (R,): (R,)."""
    c, t = config, config.temperature
    if c.kind == "dkd":
        target, nontarget = decouple(z_s, z_t, labels, t)
        return c.target_weight * target + c.nontarget_weight * nontarget
    log_s, log_t = (z_s / t).log_softmax(1), (z_t / t).log_softmax(1)
    if c.kind == "kd":
        return t**2 * divergences(log_s, log_t)
    own = functional.nll_loss(z_s.log_softmax(1), labels, reduction="none")
    own = z_t.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1) * own
    return c.target_weight * own - c.nontarget_weight * t**2 * (log_t.exp() * log_s).sum(1)
