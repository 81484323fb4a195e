"""Which records of a source make which prepared split, and whether a classifier can be trained and tested on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.unlabelled import UNLABELLED
from pipeline.preparation.source import Records, Source
from pipeline.settings.data import Data
from pipeline.system.errors import DataError

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


def trained(labels: dict[str, NDArray[np.int64]], data: Data) -> dict[str, NDArray[np.int64]]:
    """Class numbers (N,) by split, where train has those of val behind its own if it is trained on too."""
    if not data.train_includes_val or not all(len(labels.get(name, ())) for name in ("train", "val")):
        return labels
    return labels | {"train": np.concatenate([labels["train"], labels["val"]])}


def check(labels: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> None:
    """Raise DataError, one paragraph of all that is wrong, for splits that no classifier can learn and be tested on.

    That is: an empty split, a class number that has no name, one class only, a class that is tested but not trained,
    a class without any image in train (a gap in the numbers).

    Args:
        labels: (N,) class numbers by split; those of images without labels are not looked at.
        names: of the K classes.
    """
    labels = {split: numbers for split, numbers in labels.items() if split != UNLABELLED}
    problems = []
    for split, numbers in labels.items():
        if len(numbers) == 0:
            problems.append(f"The {split} split holds no image; expected at least one.")
        elif numbers.min() < 0 or numbers.max() >= len(names):
            problems.append(
                f"The {split} split has class numbers from {numbers.min()} to {numbers.max()}; with {len(names)} "
                f"class names, expected 0 to {len(names) - 1}."
            )
    if not problems:
        problems = _class_problems(
            {split: class_counts(numbers, len(names)) for split, numbers in labels.items()}, names
        )
    if problems:
        raise DataError(" ".join(problems))


def _class_problems(counts: Mapping[str, NDArray[np.int64]], names: Sequence[str]) -> list[str]:
    """What is wrong with the images (K,) of each class by split."""
    train = counts["train"]
    if np.count_nonzero(train) < 2:
        return [
            f"All {train.sum()} train images are of one class, '{names[int(train.argmax())]}'; a classifier needs at "
            "least two. Is the right column or folder taken as the label?"
        ]
    problems = []
    missing = train == 0
    for split, of_split in counts.items():
        untrained = [names[k] for k in np.flatnonzero((train == 0) & (of_split > 0)).tolist()]
        missing &= of_split == 0
        if untrained:
            problems.append(
                f"{len(untrained)} classes occur in {split} but not in train, so that no network could learn them: "
                f"{listed(untrained)}. Remove them from {split} or add images of them to train."
            )
    gaps = [names[k] for k in np.flatnonzero(missing).tolist()]
    if gaps:
        problems.append(
            f"{len(gaps)} of {len(names)} classes have no image in train: {listed(gaps)}. Class numbers must run from "
            "0 without a gap; remove these names from the source or add images."
        )
    return problems


def divide(source: Source, data: Data) -> dict[str, Part]:
    """Train, val and test as records of the source; val is the source's own, else held out from train.

    Images without labels come behind them.
    """
    train = source.splits["train"]
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
    rest = {name: source.splits[name] for name in ("test", UNLABELLED) if name in source.splits}
    return chosen | {name: Part(records, np.arange(len(records))) for name, records in rest.items()}


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


def class_counts(labels: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """(K,) images of each class."""
    return np.bincount(labels, minlength=num_classes)


def listed(names: list[str], separator: str = ", ", at_most: int = NAMED_AT_MOST) -> str:
    """The first names, and how many more there are."""
    more = len(names) - at_most
    return separator.join(names[:at_most]) + (f" and {more} more" if more > 0 else "")
