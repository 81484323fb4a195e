"""Your own images, in one folder for each class. The folders' names are the class names, sorted.

Either with splits, or without them, and then a share of each class is drawn for test:

    photos/train/cat/1.jpg    photos/test/cat/9.jpg    photos/val/cat/5.jpg (may be missing, and is drawn from train)
    photos/cat/1.jpg          photos/dog/2.jpg

Names of splits: train or training; test or testing; val, valid or validation; in any case of letters. Folders inside a
class folder belong to the class. Links are followed. What systems leave behind, hidden files, and what has no image's
ending (`image_files.SUFFIXES`) is left out with a note; neither hangs on what is in a file, which prepare finds out.
"""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.preparation import class_names, tree
from pipeline.preparation.class_folders import EXPECTED, Layout, check, layout, left_out
from pipeline.preparation.divide import hold_out, listed
from pipeline.preparation.image_files import is_image
from pipeline.preparation.source import Source
from pipeline.preparation.tree import data_folder, open_walk
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import DataError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


class Config(Section):
    """Settings for what the folders do not say themselves."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class that is drawn for test, by data.seed, if there is no test folder."""


def open_source(config: Config, data: Data) -> Source:
    """Find classes and files; no image is opened yet.

    Raises ParamsError if data.path is not given; DataError if there is no such folder, if one in it may not be read or
    is linked in a circle, if there are no class folders, if one has no image, or if splits have different classes.
    """
    folder = data_folder(data, EXPECTED)
    walked = open_walk(folder)
    found = layout(folder, walked, SPLITS)
    _check_splits(folder, found)
    names = tuple(sorted(next(iter(found.splits.values()))))
    class_names.check(names, f"the folders of data.path {folder}")
    splits = {split: found.records(folder, split, names) for split in found.splits}
    taken = {file for records in splits.values() for file in records.files}
    if not found.tops:
        train, test = hold_out(splits["train"].labels, config.test_fraction, data.seed)
        splits = {"train": splits["train"].chosen(train), "test": splits["train"].chosen(test)}
    return Source(names, splits, None, left_out(walked, taken))


def fingerprint(config: Config, data: Data) -> tuple[int, str]:
    """Of the images, which alone decide."""
    return tree.fingerprint(data_folder(data, EXPECTED), is_image)


def _check_splits(folder: Path, found: Layout) -> None:
    """Raise DataError where a split or a class folder is missing, or classes are not the same in all splits."""
    for split in ("train", "test"):
        if found.tops and split not in found.tops:
            raise DataError(
                f"data.path {folder} has {', '.join(found.tops.values())}, but no folder {split}. Add it, or put the "
                "class folders of all splits into one folder and give that folder: then a test split is drawn. A "
                "validation split is drawn from train where there is none."
            )
    check(folder, found)
    for split in found.tops:
        for one, other in ((split, "train"), ("train", split)):
            missing = sorted(found.splits[one].keys() - found.splits[other].keys())
            if missing:
                raise DataError(
                    f"{len(missing)} classes of {folder / found.tops[one]} have no folder in {found.tops[other]}: "
                    f"{listed(missing)}. All splits need the same classes; add images there, or remove the folders."
                )
