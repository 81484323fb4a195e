"""Where a network is right and wrong: by class, by confidence, beside its teacher; and its surest mistakes."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.evaluation import metrics
from pipeline.evaluation.comparison import wilson

MAX_MATRIX = 1000
"""Classes above which the matrix of confusions is left out: it would have millions of entries."""
_CONFUSIONS = 20
_IMAGES = 24


def analyse(logits: Tensor, labels: Tensor, names: Sequence[str], teacher: Tensor | None = None) -> dict[str, Any]:
    """All there is to say of logits (N, K) on labels (N,), of classes called `names`; `teacher`: its logits (N, K).

    Shares are in percent, confidences in [0, 1]; what cannot be known, such as the accuracy on a class without images,
    is None. `positions` count the images of the split from 0.
    """
    predicted, confidence = metrics.answers(logits)
    right = predicted == labels
    wrong = _surest(~right, confidence)
    return {
        "classes": _classes(predicted, labels, names, teacher),
        "confusion": _confusion(predicted, labels, len(names)) if len(names) <= MAX_MATRIX else None,
        "largest_confusions": _largest(predicted, labels, names),
        "reliability": _reliability(right, confidence),
        "against_teacher": None if teacher is None else _against(right, confidence, labels, teacher),
        "mistakes": [
            {
                "position": position,
                "true": names[int(labels[position])],
                "predicted": names[int(predicted[position])],
                "confidence": confidence[position].item(),
            }
            for position in wrong
        ],
    }


def tables(
    analysis: dict[str, Any], logits: Tensor, labels: Tensor, names: Sequence[str]
) -> Iterator[tuple[str, list[tuple[object, ...]]]]:
    """What DVC plots, by name: rows of a table, the first one the names of its columns."""
    pairs = zip(labels.tolist(), logits.argmax(1).tolist(), strict=True)
    yield "confusion", [("actual", "predicted"), *((names[true], names[said]) for true, said in pairs)]
    seen = [part for part in analysis["classes"] if part["images"]]
    yield "classes", [("label", "top1"), *((part["label"], part["top1"]) for part in seen)]
    bins = [part for part in analysis["reliability"] if part["images"]]
    yield "reliability", [("confidence", "accuracy"), *((part["confidence"], part["accuracy"]) for part in bins)]


def _classes(predicted: Tensor, labels: Tensor, names: Sequence[str], teacher: Tensor | None) -> list[dict[str, Any]]:
    def count(chosen: Tensor) -> list[int]:
        counts: list[int] = labels[chosen].bincount(minlength=len(names)).tolist()
        return counts

    def share(part: int | None, images: int) -> float | None:
        return 100 * part / images if images and part is not None else None

    right = count(predicted == labels)
    taught: Sequence[int | None] = [None] * len(names)
    agreed = taught
    if teacher is not None:
        said = teacher.argmax(1)
        taught, agreed = count(said == labels), count(said == predicted)
    whole = count(torch.ones_like(labels, dtype=torch.bool))
    return [
        {
            "label": name,
            "images": images,
            "top1": share(right[k], images),
            "interval": wilson(right[k], images),
            "teacher_top1": share(taught[k], images),
            "agreement": share(agreed[k], images),
        }
        for k, (name, images) in enumerate(zip(names, whole, strict=True))
    ]


def _confusion(predicted: Tensor, labels: Tensor, classes: int) -> list[list[int]]:
    matrix: list[list[int]] = (labels * classes + predicted).bincount(minlength=classes**2).view(classes, -1).tolist()
    return matrix


def _largest(predicted: Tensor, labels: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    wrong = predicted != labels
    pairs = (labels * len(names) + predicted)[wrong]
    kinds, counts = torch.unique(pairs, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:_CONFUSIONS]
    of_class = labels.bincount(minlength=len(names))
    found = []
    for kind, images in zip(kinds[order].tolist(), counts[order].tolist(), strict=True):
        true, said = divmod(kind, len(names))
        share = 100 * images / int(of_class[true])
        found.append({"true": names[true], "predicted": names[said], "images": images, "share": share})
    return found


def _reliability(right: Tensor, confidence: Tensor) -> list[dict[str, Any]]:
    index = metrics.confidence_bins(confidence)
    bins = []
    for k in range(metrics.ECE_BINS):
        inside = index == k
        images = int(inside.sum())
        bins.append(
            {
                "low": k / metrics.ECE_BINS,
                "high": (k + 1) / metrics.ECE_BINS,
                "images": images,
                "confidence": confidence[inside].mean().item() if images else None,
                "accuracy": right[inside].double().mean().item() if images else None,
            }
        )
    return bins


def _against(right: Tensor, confidence: Tensor, labels: Tensor, teacher: Tensor) -> dict[str, Any]:
    said, teacher_confidence = metrics.answers(teacher)
    teacher_right = said == labels
    only_student, only_teacher = right & ~teacher_right, teacher_right & ~right
    return {
        "both": int((right & teacher_right).sum()),
        "only_student": int(only_student.sum()),
        "only_teacher": int(only_teacher.sum()),
        "neither": int((~right & ~teacher_right).sum()),
        "only_student_positions": _surest(only_student, confidence),
        "only_teacher_positions": _surest(only_teacher, teacher_confidence),
    }


def _surest(chosen: Tensor, confidence: Tensor) -> list[int]:
    """The chosen images with the highest confidence, the highest first; the earlier one of equals."""
    positions = chosen.nonzero().squeeze(1)
    order = confidence[positions].argsort(descending=True, stable=True)[:_IMAGES]
    first: list[int] = positions[order].tolist()
    return first
