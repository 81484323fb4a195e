"""Records of a source whose images are files of their own."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.preparation import decode
from pipeline.preparation.formats import EXTENSIONS
from pipeline.preparation.tree import printable

SUFFIXES = frozenset(EXTENSIONS)
"""What people call images that can be read, by the end of the name in lower case."""


def is_image(name: str) -> bool:
    """Whether a file's name ends as that of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


@dataclass(frozen=True)
class ImageFiles:
    """One split: files and the class of each."""

    folder: Path
    files: tuple[str, ...]
    """N paths, from `folder`."""
    labels: NDArray[np.int64]
    """(N,) class numbers."""

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of one file, as `decode.rgb` makes them. Raises BadImageError naming it."""
        return decode.rgb(self.path(index), self.name(index))

    def name(self, index: int) -> str:
        """The file's path below data.path."""
        return printable(self.files[index])

    def path(self, index: int) -> Path:
        """The file itself."""
        return self.folder / self.files[index]

    def chosen(self, order: NDArray[np.int64]) -> "ImageFiles":
        """The records with these numbers, in this order."""
        return ImageFiles(self.folder, tuple(self.files[index] for index in order.tolist()), self.labels[order])
