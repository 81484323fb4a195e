"""The last layer alone is trained, on what a finished network makes of the images.

    L = ce_weight * CE(y, W h(x) + b)

h(x)  (B, D) pooled features of the network, whose weights and BN statistics stay as they are
W, b  (K, D) and (K,), its last layer, which is trained
"""

from typing import Self

from pipeline.data.card import DataCard
from pipeline.distillation import vanilla
from pipeline.models.base import Classifier


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
