"""Images with the same pixels: which stand twice in a split, which in two splits, and which under two labels."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.unlabelled import NO_LABEL, UNLABELLED
from pipeline.preparation.divide import Part

MOST_PROTECTED_FIRST = ("test", "val", "train", UNLABELLED)
"""Of copies in several splits the one in the first of these is the original."""


class Place(NamedTuple):
    """An image of a prepared split."""

    split: str
    position: int
    """In the order of the split, before anything is left out."""


class Twin(NamedTuple):
    """An image whose pixels another one has."""

    kind: Literal["duplicate", "leak", "conflict"]
    place: Place
    original: Place


@dataclass(frozen=True)
class Twins:
    """All of them."""

    found: list[Twin]
    """In the order of splits and positions; an image may stand here as several kinds."""
    source_leaks: int
    """Images that stand in another split of the source too, one of each group of copies not counted."""
    source_repeats: int
    """Images that stand a second time in their split of the source."""


def same_pixels(
    parts: Mapping[str, Part], digests: Mapping[str, NDArray[np.uint8]], usable: Mapping[str, NDArray[np.bool_]]
) -> Twins:
    """Compare digests (N, 16) of the `usable` (N,) images of each split."""
    splits = [name for name in MOST_PROTECTED_FIRST if name in parts]
    found: list[Twin] = []
    source_leaks = source_repeats = 0
    for group in _groups(splits, digests, usable):
        original = group[0]
        first_of_split: dict[str, Place] = {}
        for place in group:
            first = first_of_split.setdefault(place.split, place)
            if place is not first:
                found.append(Twin("duplicate", place, first))
            if place.split != original.split:
                found.append(Twin("leak", place, original))
            if NO_LABEL != _label(parts, place) != _label(parts, original):
                found.append(Twin("conflict", place, original))
        # Val may be a piece of the source's train split: the same records.
        at_home = [id(parts[place.split].records) for place in group if place.split != UNLABELLED]
        source_leaks += sum(home != at_home[0] for home in at_home)
        source_repeats += len(at_home) - len(set(at_home))
    return Twins(sorted(found, key=lambda twin: twin.place), source_leaks, source_repeats)


def _groups(
    splits: list[str], digests: Mapping[str, NDArray[np.uint8]], usable: Mapping[str, NDArray[np.bool_]]
) -> Iterator[list[Place]]:
    """Places with the same digest, two or more, in the order of `splits` and then of positions."""
    positions = {name: np.flatnonzero(usable[name]) for name in splits}
    starts = dict(zip(splits, np.cumsum([0, *(len(positions[name]) for name in splits)]).tolist(), strict=False))
    halves = np.ascontiguousarray(np.concatenate([digests[name][positions[name]] for name in splits])).view("<u8")
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: within a group the order stays
    others = (halves[order[1:]] != halves[order[:-1]]).any(1)
    starts_of_runs = np.flatnonzero(np.concatenate([[True], others])) if len(order) else order
    sizes = np.diff(np.append(starts_of_runs, len(order)))
    for start, size in zip(starts_of_runs[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield [_place(number, splits, starts, positions) for number in order[start : start + size].tolist()]


def _place(
    number: int, splits: list[str], starts: Mapping[str, int], positions: Mapping[str, NDArray[np.int64]]
) -> Place:
    split = next(name for name in reversed(splits) if starts[name] <= number)
    return Place(split, int(positions[split][number - starts[split]]))


def _label(parts: Mapping[str, Part], place: Place) -> int:
    return int(parts[place.split].records.labels[parts[place.split].order[place.position]])
