"""Whether a network names the classes in another order than the data: near chance as it stands, good if renamed.

Accuracy is balanced here: the mean over the classes of the share of their images that are right. Whoever guesses gets
1 / K, however many images a class has, with a standard error of

    sqrt(sum over classes of p (1 - p) / n_k) / K,   p = 1 / K, n_k images of class k

The best renaming is found on every other image of each class, and measured on those between them, so that luck does
not count. Good is what lies nearer to always right than to chance.
"""

from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from torch import Tensor

_ERRORS = 3
"""Standard errors by which an accuracy is told from chance."""
_SHOWN = 3


class Doubt(NamedTuple):
    """What speaks against a network's answers."""

    text: str
    is_certain: bool
    """Whether another order of the labels explains it."""


def doubt(logits: Tensor, labels: Tensor, names: tuple[str, ...]) -> Doubt | None:
    """None where logits (N, K) answer the labels (N,) better than chance, of classes with these K names."""
    confusion = _confusion(logits, labels)
    chance, error = _chance(confusion)
    accuracy = _balanced(confusion.diagonal(), confusion)
    if len(names) == 1 or accuracy > min(chance + _ERRORS * error, (1 + chance) / 2):
        return None
    by_class = labels.argsort(stable=True)
    found, told = (_confusion(logits[half], labels[half]) for half in (by_class[::2], by_class[1::2]))
    shares = found / found.sum(1, keepdim=True).clamp(min=1)
    meant, said = map(torch.from_numpy, linear_sum_assignment(shares.numpy(), maximize=True))
    renamed = _balanced(told[meant, said], told)
    text = (
        f"on average the teacher is right on {100 * accuracy:.1f} % of a class in the validation split, and chance is "
        f"{100 * chance:.1f} %"
    )
    by_chance, error = _chance(told)
    # Any network whose answers depend on the images at all, even an untrained one, gains by a renaming.
    if renamed < max(by_chance + _ERRORS * error, (1 + by_chance) / 2):
        return Doubt(
            f"{text}. Check that its classes stand in the data's order (data/prepared/card.json), that "
            "teacher.normalization is what it was trained with, and that it was trained on images like these.",
            False,
        )
    moved = [(int(y), int(z)) for y, z in zip(meant, said, strict=True) if y != z]
    pairs = [f"its class {z} is '{names[y]}', which is class {y} here" for y, z in moved]
    listed = ", ".join([*pairs[:_SHOWN], *["and so on"] * (len(pairs) > _SHOWN)])
    return Doubt(
        f"{text}; with its classes in another order it is {100 * renamed:.1f} %: {listed}. Save the rows of its last "
        "layer in the order of the labels in data/prepared/card.json, or set teacher.head to retrain.",
        True,
    )


def _confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, K) float64: images of each class (rows) by the class that is answered (columns)."""
    classes = logits.shape[1]
    pairs = torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2)
    return pairs.view(classes, classes).double()


def _balanced(right: Tensor, confusion: Tensor) -> float:
    """Mean share of right ones over the classes that have images."""
    images = confusion.sum(1)
    return float((right[images > 0] / images[images > 0]).mean())


def _chance(confusion: Tensor) -> tuple[float, float]:
    """Balanced accuracy of guessing, and its standard error."""
    p, images = 1 / len(confusion), confusion.sum(1)
    present = images[images > 0]
    return p, float((p * (1 - p) / present).sum().sqrt()) / len(present)
