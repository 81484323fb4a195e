"""The last layer alone is trained, on what a finished network makes of the images.

    L = ce_weight * CE(y, W h(x) + b)

h(x)  (B, D) pooled features of the network, whose weights and BN statistics stay as they are
W, b  (K, D) and (K,), its last layer, which is trained
"""

from pathlib import Path
from typing import Any, Self

from pipeline.data.card import DataCard
from pipeline.distillation import vanilla
from pipeline.models.base import Classifier, build_to_train, pretrained_normalization, spec_of
from pipeline.settings.data import Normalization
from pipeline.settings.networks import Teacher
from pipeline.weights import foreign_weights, weight_files


class LastLayer(vanilla.Method):
    """Cross-entropy with the labels, by which `fc` of the network learns and nothing else of it changes."""

    def __init__(self, network: Classifier, card: DataCard) -> None:
        super().__init__(vanilla.Config(), network, None, card)
        network.requires_grad_(False)
        network.fc.requires_grad_(True)

    def train(self, mode: bool = True) -> Self:
        """As ever, but that the network stays in eval mode: a BN in train mode would change its statistics."""
        super().train(mode)
        self.student.eval()
        return self


def begin(teacher: Teacher, card: DataCard) -> tuple[Classifier, Normalization, dict[str, Any], tuple[str, ...]]:
    """A network with a fresh last layer for the card's classes below which all is trained, by teacher.head: retrain.

    With it the normalisation of its images, what else than `teacher` decided this, and lines that say how it was found.

    Raises CheckpointError where the weights do not fit or cannot be had.
    """
    if teacher.weights is not None:
        path = Path(teacher.weights)
        network, normalization, said = foreign_weights.teacher(path, teacher.arch, teacher.normalization, card, True)
        decided = {"weights": weight_files.sha256(path)}
    else:
        spec = spec_of(teacher.arch, card.num_classes, card.image_px)
        network, decided = build_to_train(spec, True, "teacher"), {}
        known = teacher.normalization or pretrained_normalization(teacher.arch)
        normalization = known or card.normalization
        source = "teacher.normalization" if teacher.normalization else f"the configuration of {teacher.arch}"
        said = (foreign_weights.in_words(normalization, source if known else "the data"),)
    return network, normalization, {**decided, "seen_by": normalization.model_dump()}, said
