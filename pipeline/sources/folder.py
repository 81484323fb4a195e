"""Your own images, in one folder for each class. The folders' names are the class names, sorted.

Either with splits, or without them, and then a share of each class is drawn for test:

    photos/train/cat/1.jpg    photos/test/cat/9.jpg    photos/val/cat/5.jpg (may be missing, and is drawn from train)
    photos/cat/1.jpg          photos/dog/2.jpg

Names of splits: train or training; test or testing; val, valid or validation; in any case of letters. Folders inside a
class folder belong to the class. Links are followed. Hidden files are not looked at, and what has no image's ending
(`image_files.SUFFIXES`) is left out with a note; neither hangs on what is in a file, which prepare finds out.
"""

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.preparation.divide import hold_out, listed
from pipeline.preparation.image_files import SUFFIXES, ImageFiles
from pipeline.preparation.source import Source
from pipeline.preparation.tree import Tree, data_folder, printable, walk
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import DataError

SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
EXPECTED = "a folder with one folder of images for each class (cat/1.jpg), or train and test with such folders in each"


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
    tree = walk(folder)
    if tree.closed:
        raise DataError(
            f"Not all of data.path {folder} may be read: {listed(list(tree.closed))}. Give permission to read it."
        )
    if tree.circles:
        links = [f"{printable(link)} -> {(folder / link).resolve()}" for link in tree.circles]
        raise DataError(
            f"In data.path {folder}, links lead to folders that are also read in another way: {listed(links)}. Their "
            "images would count twice; remove the links."
        )
    images = [name for name in tree.files if Path(name).suffix.lower() in SUFFIXES]
    tops = _split_folders(folder, tree.folders, images)
    found = {split: _by_class(tree.folders, images, f"{top}/") for split, top in tops.items()}
    if not tops:
        found = {"all": _by_class(tree.folders, images, "")}
    _check(folder, found, tops)
    names = tuple(sorted(next(iter(found.values()))))
    splits = {split: _records(folder, names, classes) for split, classes in found.items()}
    if not tops:
        train, test = hold_out(splits["all"].labels, config.test_fraction, data.seed)
        splits = {"train": splits["all"].chosen(train), "test": splits["all"].chosen(test)}
    taken = {file for split in splits.values() for file in split.files}
    return Source(names, splits, None, _notes(tree, images, taken))


def _split_folders(folder: Path, folders: tuple[str, ...], images: list[str]) -> dict[str, str]:
    """Which folder holds which split; empty if classes lie in data.path itself."""
    tops = [name for name in folders if "/" not in name]
    named = {split: [name for name in tops if name.lower() in known] for split, known in SPLITS.items()}
    named = {split: found for split, found in named.items() if found}
    # A class may be called train: it stands alone, and has images of its own.
    own = {name.split("/")[0] for name in images if name.count("/") == 1}
    listed_tops = [top for found in named.values() for top in found]
    if len(named) < 2 and own.issuperset(listed_tops):
        return {}
    if len(listed_tops) > len(named):
        raise DataError(
            f"data.path {folder} has two folders for one split: {', '.join(listed_tops)}. Keep one of them."
        )
    for split in ("train", "test"):
        if split not in named:
            raise DataError(
                f"data.path {folder} has {', '.join(listed_tops)}, but no folder {split}. Add it, or put the class "
                "folders of all splits into one folder and give that folder: then a test split is drawn. A "
                "validation split is drawn from train where there is none."
            )
    return {split: found[0] for split, found in named.items()}


def _by_class(folders: tuple[str, ...], images: list[str], prefix: str) -> dict[str, list[str]]:
    """Images of each class folder that lies directly behind `prefix`, by class name."""
    inside = [name[len(prefix) :] for name in folders if name.startswith(prefix)]
    classes: dict[str, list[str]] = {name: [] for name in inside if "/" not in name}
    for file in images:
        name, slash, _ = file[len(prefix) :].partition("/")
        if slash and file.startswith(prefix):
            classes[name].append(file)
    # A name with accents is spelt in two ways, by macOS and by all others.
    spelt = Counter(unicodedata.normalize("NFC", name) for name in classes)
    twice = [name for name, count in spelt.items() if count > 1]
    foreign = [printable(name) for name in classes if printable(name) != name]
    if twice or foreign:
        raise DataError(
            f"{len(twice + foreign)} class folders have names that are written in two ways or are not UTF-8: "
            f"{listed(twice + foreign)}. Rename them."
        )
    return {unicodedata.normalize("NFC", name): files for name, files in classes.items()}


def _check(folder: Path, found: dict[str, dict[str, list[str]]], tops: dict[str, str]) -> None:
    """Raise DataError where class folders are missing, without images, or not the same in all splits."""
    for split, classes in found.items():
        place = folder / tops.get(split, "")
        if not classes:
            raise DataError(f"{place} has no class folders; expected {EXPECTED}.")
        if len(classes) == 1:
            only = next(iter(classes))
            raise DataError(
                f"{place} has only one folder, {only}, but a classifier needs at least two classes. If the class "
                f"folders are in {only}, give the path of that folder."
            )
        empty = sorted(name for name, files in classes.items() if not files)
        if empty:
            raise DataError(
                f"{len(empty)} of {len(classes)} class folders in {place} have no image: {listed(empty)}. Add images "
                f"({' '.join(sorted(SUFFIXES))}), or remove the folders."
            )
    for split in found:
        for one, other in ((split, "train"), ("train", split)):
            missing = sorted(found[one].keys() - found[other].keys()) if tops else []
            if missing:
                raise DataError(
                    f"{len(missing)} classes of {folder / tops[one]} have no folder in {tops[other]}: "
                    f"{listed(missing)}. All splits need the same classes; add images there, or remove the folders."
                )


def _records(folder: Path, names: tuple[str, ...], classes: dict[str, list[str]]) -> ImageFiles:
    files = [classes[name] for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(found) for found in files])
    return ImageFiles(folder, tuple(file for found in files for file in found), labels)


def _notes(tree: Tree, images: list[str], taken: set[str]) -> tuple[str, ...]:
    """What of the folder is not used, in sentences."""
    others = [printable(name) for name in sorted(set(tree.files) - set(images))]
    outside = [printable(name) for name in images if name not in taken]
    notes = {
        "files have no image's ending and are left out": others,
        "images lie in no class folder and are left out": outside,
    }
    return tuple(f"{len(names)} {what}: {listed(names)}." for what, names in notes.items() if names)
