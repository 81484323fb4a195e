"""SimKD: learn the map in front of the teacher's classifier, then ship the student with that classifier.

    u = ReLU(P(F_s))                                                    projector P: see pipeline/models/reused.py
    z = fc_t(mean over H, W of u)                                       what is deployed; fc_t is the teacher's head
    L = feature_weight * mean (u - F_t)^2 + ce_weight * CE(y, z) + kl_weight * KL_T(z, z_t)

F_s      (B, C_s, H, W) the student's last `raw` map; its own head is dropped before training.
F_t      (B, C_t, H, W) the teacher's last `act` map, the one that its head averages: not negative, as u is. (Some
         networks of timm have negatives there, which u cannot reach.)
u        (B, C_t, H, W); the mean is over all elements. Where F_s and F_t differ in size, the larger one is averaged
         down first: F_s before the projector, so that the deployed network does so too.
z, z_t   (B, K) logits.
factor   the projector works on C_t / factor channels; more is smaller and a little worse.
Trained beside the student: P. fc_t stays as the teacher has it. P and fc_t ship with the student and count as its
parameters; the teacher's body does not, and never runs when logits of the deployed network are computed.

Chen, Mei, Zhang, Wang, Feng, Chen, "Knowledge Distillation with the Reused Teacher Classifier", CVPR 2022,
arXiv:2203.14001. There is one difference: the paper's "WRN" are post-activation networks. Of a real WRN teacher, this
takes the map behind the final BN and ReLU, the only one for which its head has a meaning.
"""

import copy
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch, Output
from pipeline.distillation.blocks import check_reads_average
from pipeline.models.base import Classifier, Features
from pipeline.models.reused import Reused, projector
from pipeline.system.errors import ParamsError


class Config(base.Config):
    """Settings of the paper: the distance between the maps is the only term."""

    ce_weight: Weight = 0.0
    feature_weight: Weight = 1.0
    """Weight of the mean squared distance between projected student map and teacher map."""
    factor: Annotated[int, Field(ge=1)] = 2
    """Number of the teacher's channels divided by the number of the projector's inner channels."""

    def head_weights(self) -> dict[str, float]:
        """And of the maps: the classifier is the teacher's, and learns nothing."""
        return super().head_weights() | {"feature_weight": self.feature_weight}


class Method(base.Method):
    """The teacher's last map, and its classifier."""

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        s, t = (sizes.stages[-1] for sizes in self.shapes(card))
        classes = self.teacher.fc.out_features
        if classes != card.num_classes:
            raise ParamsError(
                f"simkd ships the teacher's classifier, which knows {classes} classes, but the data set has "
                f"{card.num_classes}. Choose a teacher trained on these classes, or another method."
            )
        use = "simkd lets the teacher's classifier read the average of a map made by the student"
        check_reads_average("teacher", self.teacher, use)
        if config.factor > t.channels:
            raise ParamsError(
                f"distill.methods.simkd.factor is {config.factor}, more than the {t.channels} channels of the "
                "teacher's last map, which are divided by it. Lower it to 2 or 4."
            )
        self.spec: dict[str, Any] = {
            "arch": "reused",
            "num_classes": classes,
            "body": dict(student.spec),
            "channels": t.channels,
            "factor": config.factor,
        }
        common = [min(s.height, t.height), min(s.width, t.width)]
        if common != [s.height, s.width]:
            self.spec["map_px"] = common
        self.student.drop_head()
        self.projector = projector(s.channels, t.channels, config.factor)

    def forward(self, batch: Batch) -> Output:
        """As every method, with the deployed network in the student's place."""
        s = self._with_head(self.teacher.fc).features(self.seen(batch.images))
        t = self.teach(batch.images)
        with torch.autocast(batch.images.device.type, enabled=False):
            return Output(s.logits, self.terms(s, t, batch))

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "feature", and "ce" and "kl" where they have a weight; `s` is of the deployed network."""
        u = s.stages[-1].act.float()
        target = t.stages[-1].act.float()
        if target.shape != u.shape:
            target = functional.adaptive_avg_pool2d(target, (u.shape[2], u.shape[3]))
        distance = functional.mse_loss(u, target)
        return super().terms(s, t, batch) | {"feature": self.config.feature_weight * distance}

    def deployed(self) -> Reused:
        """Student body, projector, and a copy of the teacher's head."""
        return self._with_head(copy.deepcopy(self.teacher.fc).requires_grad_()).train(self.training)

    def _with_head(self, fc: nn.Linear) -> Reused:
        # Put together anew each time (microseconds): as a submodule it would make the teacher's head a parameter.
        return Reused(self.spec, self.student, self.projector, fc)
