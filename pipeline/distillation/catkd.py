"""CAT-KD: see the evidence for each class at the same places as the teacher does.

    Z   = W A                                       (B, K, H, W) class maps: Z_k = sum_c W_kc A_c, signed
    a   = AAP(Z_s), b = AAP(Z_t)                    (B, K, R, R); where `normalize`, each class's map of an image is
                                                    divided by its Euclidean norm
    L   = ce_weight * CE + kl_weight * KL_T + attention_weight * mean over B, K, R, R of (a - b)^2

A   (B, C, H, W) `act` tap of the last stage, of student and teacher; W (K, C) the weights of the classifier that reads
    its average, so that the average of Z over H and W and a bias are the logits. Both need the same classes.
R   `map_px`; AAP adaptive average pooling to R x R. A smaller map is not refused: its places are counted several times.
Nothing is trained beside the student, and nothing is dropped. The student's own W learns from the term too.

Guo, Yan, Li, Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023, arXiv:2304.12777. There is one
difference: the source trains and tests networks whose classifiers have no bias. Here they keep it. It is part of the
logits, and in the class maps, where it would be a constant, it is left out.

The source chooses attention_weight for each pair, so that the term lies between 1 and 50 after the first epoch. With
maps of 2 x 2 that are not normalised: 15 for ResNet-32x4 to -8x4 (the default here), 12 for WRN-40-2 to WRN-16-2, 4.5
for VGG-13 to VGG-8, 1.8 for ResNet-110 to -32, 1.5 for WRN-40-2 to WRN-40-1, 0.7 for ResNet-56 to -20. Normalised,
with maps of 4 x 4, 80 for WRN-40-2 to ShuffleNetV1 and 600 for ResNet-32x4 to ShuffleNetV1. Students whose classifier
reads an average behind one more convolution, as MobileNetV2 and ShuffleNetV2 do, are refused: the source takes the map
behind that convolution, which is no tap here. Not offered are the source's studies with a binarised teacher and with
some of the classes. Its study of the term alone is ce_weight 0, normalize true and attention_weight 50.
"""

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, einsum
from torch.nn import functional

from pipeline.data.card import DataCard
from pipeline.distillation import base
from pipeline.distillation.base import Weight
from pipeline.distillation.batch import Batch
from pipeline.distillation.blocks import check_reads_average
from pipeline.models.base import Classifier, Features


class Config(base.Config):
    """Settings of the official code for ResNet-32x4 to ResNet-8x4."""

    attention_weight: Weight = 15.0
    """Weight of the squared distance between class maps."""
    map_px: Annotated[int, Field(ge=1)] = 2
    """R, the height and width to which class maps are averaged before they are compared."""
    normalize: bool = False
    """Whether each class's map of an image is divided by its norm, so that its places alone count, not its size."""

    def head_weights(self) -> dict[str, float]:
        """And of class maps, which hold the classifier's weights."""
        return super().head_weights() | {"attention_weight": self.attention_weight}


class Method(base.Method):
    """Class maps of the last stage."""

    compares_logits: ClassVar[bool] = True

    def __init__(self, config: Config, student: Classifier, teacher: base.Teacher | None, card: DataCard) -> None:
        super().__init__(config, student, teacher, card)
        for role, network in (("student", student), ("teacher", self.teacher)):
            use = f"catkd weighs the channels of the {role}'s last map as its classifier weighs their averages"
            check_reads_average(role, network, use)

    def terms(self, s: Features, t: Features, batch: Batch) -> dict[str, Tensor]:
        """ "ce", "kl" and "attention"."""
        c = self.config
        pairs = ((s, self.student), (t, self.teacher))
        maps_s, maps_t = (class_maps(f.stages[-1].act, network.fc.weight, c.map_px) for f, network in pairs)
        distance = map_distance(maps_s, maps_t, c.normalize)
        return super().terms(s, t, batch) | {"attention": c.attention_weight * distance}


def class_maps(maps: Tensor, weight: Tensor, map_px: int) -> Tensor:
    """Averaged class maps (B, K, R, R), in float32, of maps (B, C, H, W) and a classifier's weights (K, C)."""
    # Averaging and weighing are both linear: averaged first, K maps of H x W are never made.
    return einsum("kc,bchw->bkhw", weight, functional.adaptive_avg_pool2d(maps.float(), map_px))


def map_distance(a: Tensor, b: Tensor, normalize: bool) -> Tensor:
    """Mean squared difference of class maps (B, K, R, R); a scalar."""
    if normalize:
        a, b = (functional.normalize(x.flatten(2), dim=2) for x in (a, b))
    return functional.mse_loss(a, b)
