"""Distillation in eight bits: the simulated file learns from a float network, as any student does.

    L = ce_weight * CE(y, z_8) + kl_weight * T^2 * KL(softmax(z_t / T) || softmax(z_8 / T))

z_8 (B, K) logits of the simulated file, z_t (B, K) of the teacher, or of the student itself in float32. Trained are the
file's weights, biases and ranges, which were found without training. Its BNs are part of its weights, by their running
statistics: those of a batch would train against another network than the one that ships.

Mishra and Marr, "Apprentice", ICLR 2018; Polino et al., "Model compression via distillation and quantization", ICLR
2018. Both train longer, and in fewer bits.
"""

import torch
from torch import Tensor

from pipeline.data.card import DataCard
from pipeline.deployment.simulated import Simulated
from pipeline.distillation import base
from pipeline.distillation.base import Teacher
from pipeline.distillation.batch import Batch, Output
from pipeline.models.base import Classifier
from pipeline.settings.data import Normalization
from pipeline.settings.deployment import TrainInt8
from pipeline.system.errors import ParamsError

_WHITE = 255


class OnImages(Classifier):
    """The simulated file as a network of normalised images: images (B, 3, H, W) -> logits (B, K), and no maps."""

    mean: Tensor
    std: Tensor

    def __init__(self, simulated: Simulated, normalization: Normalization, arch: str) -> None:
        super().__init__()
        self.spec = {"arch": arch}
        self.simulated = simulated
        for name in ("mean", "std"):
            values = torch.tensor(getattr(normalization, name)).view(1, 3, 1, 1)
            self.register_buffer(name, _WHITE * values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The pixels that were normalised, whole numbers again, and what the file says of them."""
        pixels = (images * self.std + self.mean).round().clamp(0, _WHITE)
        logits: Tensor = self.simulated(pixels.permute(0, 2, 3, 1))
        return logits


class Method(base.Method):
    """The two terms of `base.Method`, of logits alone.

    Args:
        settings: weights and temperature.
        student: the simulated file.
        teacher: whom it learns from; it sees images of its own image_px.
        card: of the data as the student sees it.

    Raises ParamsError for a teacher of other classes.
    """

    def __init__(self, settings: TrainInt8, student: OnImages, teacher: Teacher, card: DataCard) -> None:
        classes = teacher.model.fc.out_features
        if settings.kl_weight and classes != card.num_classes:
            raise ParamsError(
                f"quantize.train.teacher is {settings.teacher}, but the teacher knows {classes} classes and the data "
                f"set has {card.num_classes}: their predictions cannot be compared. Set it to student, whose float32 "
                "network then teaches its int8 file, or set quantize.train.kl_weight to 0."
            )
        weights = settings.model_dump(include={"ce_weight", "kl_weight", "temperature"})
        super().__init__(base.Config(**weights), student, teacher, card)

    def forward(self, batch: Batch) -> Output:
        """As any method, but for the features that the student has none of."""
        seen = self.seen(batch.images)
        logits: Tensor = self.student(seen)
        taught = None
        if self.config.kl_weight:
            # The student itself in float32 sees what the student sees.
            taught = self.teach(seen if self.teacher_px == self.image_px else batch.images).logits
        return Output(logits, self.logit_terms(logits, taught, batch))
