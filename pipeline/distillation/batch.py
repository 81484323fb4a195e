"""What a step of training hands to a method, and what a method computes on it."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.models.base import Features


class Mixed(NamedTuple):
    """What else the images of a batch show."""

    labels: Tensor
    """(B,) int64, of the second image in each."""
    share: Tensor
    """(B,) float32 in [0, 1], of the first image, which `Batch.labels` names; the second has the rest."""


@dataclass(frozen=True)
class Batch:
    """One step's data."""

    images: Tensor
    """(B, 3, H, W) float, normalised for the student. Of the teacher's size, where the student sees smaller images."""
    labels: Tensor
    """(L,) int64, of the first L images. The others have none; L is B where train.unlabelled_share is 0."""
    positions: Tensor
    """(L,) int64, index of each labelled image in the training set."""
    progress: float
    """Share of training that is done, in [0, 1)."""
    epoch: int
    """Counted from 0."""
    mixed: Mixed | None = None
    """None where each image shows one alone."""
    label_smoothing: float = 0.0
    """Share of each label that the cross-entropy spreads evenly over all classes, in [0, 1)."""
    strong: Tensor | None = None
    """(B, 3, H, W), the strong view of each of `images`, for a method of two `views`."""

    def main_labels(self) -> Tensor:
        """(L,) int64, of what each labelled image shows most of."""
        if self.mixed is None:
            return self.labels
        return torch.where(self.mixed.share < 0.5, self.mixed.labels, self.labels)


class Both(NamedTuple):
    """What a network computes on the two views of the images of a batch."""

    weak: Features
    strong: Features


class Output(NamedTuple):
    """What a method computes on a batch."""

    logits: Tensor
    """(B, K) of what will be deployed."""
    terms: dict[str, Tensor]
    """Named, already weighted scalars whose sum is the loss."""


def cross_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Of logits (B, K) with the labels, smoothed and shared as the batch says: a mean over labelled images."""
    logits = logits[: len(batch.labels)]
    if batch.mixed is None:
        return functional.cross_entropy(logits, batch.labels, label_smoothing=batch.label_smoothing)
    first, second = (
        functional.cross_entropy(logits, labels, reduction="none", label_smoothing=batch.label_smoothing)
        for labels in (batch.labels, batch.mixed.labels)
    )
    share = batch.mixed.share
    return (share * first + (1 - share) * second).mean()
