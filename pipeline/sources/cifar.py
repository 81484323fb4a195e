"""CIFAR-10 and CIFAR-100 as their author packed them, read by torchvision: 50,000 train and 10,000 test images, 32 px.

data.path is the folder that holds `cifar-10-batches-py` or `cifar-100-python`. With `download: true` they are fetched
into it, once, where they are missing. The files are Python pickles, which could run code; torchvision reads none whose
MD5 sum is not that of the original. Both splits are held in memory: 0.2 GB.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.preparation.source import Source
from pipeline.preparation.tree import data_folder
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import DataError


class Config(Section):
    """Which of the two data sets is used, and whether it may be downloaded."""

    classes: Literal[10, 100] = 100
    """`10` is CIFAR-10, `100` is CIFAR-100 with its fine labels."""
    download: bool = False
    """Whether to download the data set if it is not in data.path: 170 MB from the author's page."""


@dataclass(frozen=True)
class Pixels:
    """One split."""

    split: str
    images: NDArray[np.uint8]
    """(N, 32, 32, 3)"""
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels (32, 32, 3) of one image."""
        return np.ascontiguousarray(self.images[index])

    def path(self, index: int) -> None:
        """None: thousands of images share a file."""

    def name(self, index: int) -> str:
        """Split, and the place in it."""
        return f"{self.split} image {index}"


def open_source(config: Config, data: Data) -> Source:
    """Read the files, fetched where they are missing and may be. Class names are those of the data set.

    Raises ParamsError if data.path is not given; DataError if a file is missing, not the original, or cannot be had.
    """
    kind, files = _files(config)
    expected = f"the folder that holds {kind.base_folder}, or with data.sources.cifar.download: true shall receive it"
    if config.download and data.path is not None:
        loaded = _fetched(kind, Path(data.path))
    else:
        loaded = _found(kind, files, data_folder(data, expected))
    splits = {split: Pixels(split, part.data, np.array(part.targets)) for split, part in loaded.items()}
    return Source(tuple(loaded["train"].classes), splits, None)


def fingerprint(config: Config, data: Data) -> tuple[int, str]:
    """The same for all files that are read: their MD5 sums are the author's."""
    if config.download and data.path is not None:
        return 0, "fetched where missing"
    kind, files = _files(config)
    _check_there(kind, files, data_folder(data, f"the folder that holds {kind.base_folder}"))
    return len(files), "as the author packed them"


def _files(config: Config) -> tuple[Any, list[list[str]]]:
    """torchvision's class, and name and MD5 sum of each file that it reads."""
    from torchvision import datasets  # seconds to import

    kind: Any = datasets.CIFAR100 if config.classes == 100 else datasets.CIFAR10
    return kind, [*kind.train_list, *kind.test_list, [kind.meta["filename"], kind.meta["md5"]]]


def _check_there(kind: Any, files: list[list[str]], folder: Path) -> None:
    for name, _ in files:
        if not (folder / kind.base_folder / name).is_file():
            raise DataError(
                f"{folder / kind.base_folder / name} is missing. Unpack {kind.url} in data.path {folder}, or set "
                "data.sources.cifar.download: true."
            )


def _found(kind: Any, files: list[list[str]], folder: Path) -> dict[str, Any]:
    """Both splits from files that are there; `kind` is torchvision's class."""
    from torchvision.datasets.utils import check_integrity

    _check_there(kind, files, folder)
    for name, md5 in files:
        path = folder / kind.base_folder / name
        if not check_integrity(path, md5):
            raise DataError(
                f"{path} is not the original: its MD5 sum is not {md5}. Remove {folder / kind.base_folder}; then "
                f"unpack {kind.url} again, or set data.sources.cifar.download: true."
            )
    return _loaded(kind, folder, download=False)


def _fetched(kind: Any, folder: Path) -> dict[str, Any]:
    try:
        return _loaded(kind, folder, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{kind.base_folder} is not in data.path {folder} and could not be fetched from {kind.url}: {error}. If "
            f"this machine has no access to the network, put {kind.filename} or its content into {folder}."
        ) from error


def _loaded(kind: Any, folder: Path, download: bool) -> dict[str, Any]:
    return {split: kind(folder, train=split == "train", download=download) for split in ("train", "test")}
