"""Which records of a source make which prepared split, and whether a classifier can be trained and tested on them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import params
from pipeline.data.source import Records, Source
from pipeline.errors import DataError

NAMED_AT_MOST = 20


@dataclass(frozen=True)
class Part:
    """Which records of the source make one prepared split, in which order."""

    records: Records
    order: NDArray[np.int64]
    """(N,) record numbers."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class numbers."""
        return self.records.labels[self.order]


def check(source: Source) -> None:
    """Raise DataError, in one paragraph, for a source that no classifier can be trained and tested on.

    That is: an empty split, a class number that has no name, one class only, a class that is tested but not trained,
    a class without any image in train (a gap in the numbers).
    """
    num_classes = len(source.labels)
    for name, records in source.splits.items():
        if len(records) == 0:
            raise DataError(f"The {name} split of the source holds no image; expected at least one.")
        if records.labels.min() < 0 or records.labels.max() >= num_classes:
            raise DataError(
                f"The {name} split of the source has class numbers from {records.labels.min()} to "
                f"{records.labels.max()}; with {num_classes} class names, expected 0 to {num_classes - 1}."
            )
    train = class_counts(source.splits["train"].labels, source)
    if np.count_nonzero(train) < 2:
        only = source.labels[int(train.argmax())]
        raise DataError(
            f"All {train.sum()} train images are of one class, '{only}'; a classifier needs at least two. "
            "Is the right column or folder taken as the label?"
        )
    for name, records in source.splits.items():
        untrained = _class_names((train == 0) & (class_counts(records.labels, source) > 0), source)
        if untrained:
            raise DataError(
                f"{len(untrained)} classes stand in {name} but not in train, so nothing could learn them: "
                f"{listed(untrained)}. Remove them from {name} or add images of them to train."
            )
    missing = _class_names(train == 0, source)
    if missing:
        raise DataError(
            f"{len(missing)} of {num_classes} classes have no image in train: {listed(missing)}. Class numbers must "
            "run from 0 without a gap; remove these names from the source or add images."
        )


def divide(source: Source, data: params.Data) -> dict[str, Part]:
    """Train, val and test as records of the source; val is the source's own, else held out from train."""
    train, test = source.splits["train"], source.splits["test"]
    if "val" in source.splits:
        val = source.splits["val"]
        chosen = {"train": Part(train, np.arange(len(train))), "val": Part(val, np.arange(len(val)))}
    else:
        kept, held_out = hold_out(train.labels, data.val_fraction, data.seed)
        if len(held_out) == 0:
            raise DataError(
                "No class of train has two images, so none can be set aside for validation; expected at least one "
                "class with two, or a source with a validation split of its own."
            )
        chosen = {"train": Part(train, kept), "val": Part(train, held_out)}
    return {**chosen, "test": Part(test, np.arange(len(test)))}


def hold_out(labels: NDArray[np.int64], fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Record numbers that stay in train and those set aside for validation, both ascending, drawn class by class.

    A class of n >= 2 images gives round(fraction * n) of them, at least 1 and at most n - 1; a class of 1 gives none.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) >= 2:
            num = min(max(round(fraction * len(members)), 1), len(members) - 1)
            # A generator of its own for each class: more images of one class do not redraw the others.
            held_out[np.random.default_rng([seed, int(label)]).permutation(members)[:num]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def class_counts(labels: NDArray[np.int64], source: Source) -> NDArray[np.int64]:
    """(K,) images of each class."""
    return np.bincount(labels, minlength=len(source.labels))


def _class_names(chosen: NDArray[np.bool_], source: Source) -> list[str]:
    """Names of the classes where `chosen` (K,) holds."""
    return [source.labels[k] for k in np.flatnonzero(chosen)]


def listed(names: list[str], separator: str = ", ") -> str:
    """The first names, and how many more there are."""
    more = len(names) - NAMED_AT_MOST
    return separator.join(names[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
