"""What a source of images hands over: labelled, still undecoded records, split by split.

A source is one file of `pipeline/sources` with three names:

    Config                                   its settings, a params.Section
    open_source(config, data) -> Source      finds the records without decoding them
    fingerprint(config, data)                (number, digest) of the files that decide what is read, None where none
                                             does; quick, and raises DataError where data.path leads nowhere

Reading an image happens in `Records.read`, one at a time, so that prepare can do it in any order and name the one that
fails.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Records(Protocol):
    """One split of a source: images that can be read by number."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) class of each record, in [0, K)."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of one record, RGB, any size. Raises decode.BadImageError naming the record if it cannot."""
        ...

    def path(self, index: int) -> Path | None:
        """The image file of its own that the record is read from; None where it is drawn, or a row of a larger file."""
        ...

    def name(self, index: int) -> str:
        """What a person would call this record: a path, or shard and row."""
        ...


@dataclass(frozen=True)
class LeftOut:
    """Files below data.path that the source does not read, for one reason."""

    why: str
    """What they are, as the rest of a sentence that begins with their number."""
    names: tuple[str, ...]
    """From data.path, printable."""
    meant: bool = False
    """Whether they look like images of this data set. Where half of them are left out so, prepare refuses."""


@dataclass(frozen=True)
class Source:
    """A data set before preparation."""

    labels: tuple[str, ...]
    """Class names; their order is the class numbers."""
    splits: Mapping[str, Records]
    """"train" and "test", and "val" where the source has one of its own; "unlabelled" is added, never its own."""
    licence: str | None
    """Licence of the images, where the source states it."""
    left_out: tuple[LeftOut, ...] = ()
    """Every file below data.path that no record is read from: nothing vanishes without a count in the audit."""
