"""Images in one folder for each class, inside a folder for each split or not: which file is of which split and class.

    train/cat/1.jpg    test/cat/9.jpg        cat/1.jpg    dog/2.jpg

A split is a folder at the top. Below it, the folder that comes next is the class, and whatever lies deeper belongs to
it: the name of a split means nothing in the name of a class or of a file.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.preparation.divide import listed
from pipeline.preparation.image_files import SUFFIXES, ImageFiles, is_image
from pipeline.preparation.source import LeftOut
from pipeline.preparation.tree import Tree, printable
from pipeline.system.errors import DataError

EXPECTED = "a folder with one folder of images for each class (cat/1.jpg), or train and test with such folders in each"
Classes = dict[str, list[str]]
"""Files of each class."""


@dataclass(frozen=True)
class Layout:
    """What lies where."""

    splits: dict[str, Classes]
    """By split; train alone where classes lie at the top."""
    tops: dict[str, str]
    """The folder of each split; empty where there are none."""

    def records(self, folder: Path, split: str, names: Sequence[str]) -> ImageFiles:
        """The images of one split, class by class in the order of `names`."""
        files = [self.splits[split].get(name, []) for name in names]
        labels = np.repeat(np.arange(len(names), dtype=np.int64), [len(found) for found in files])
        return ImageFiles(folder, tuple(file for found in files for file in found), labels)


def layout(folder: Path, tree: Tree, known: Mapping[str, Sequence[str]]) -> Layout:
    """Find splits, by the names that folders of them may have in small letters, and classes; no image is opened.

    Raises DataError where a split has two folders, or a class has a name of bytes or in two spellings.
    """
    images = [name for name in tree.files if is_image(name)]
    tops = _split_folders(folder, tree.folders, images, known)
    splits = {split: _by_class(tree.folders, images, f"{top}/") for split, top in tops.items()}
    if not tops:
        splits = {"train": _by_class(tree.folders, images, "")}
    return Layout(splits, tops)


def check(folder: Path, found: Layout) -> None:
    """Raise DataError where class folders are missing or without images."""
    for split, classes in found.splits.items():
        place = folder / found.tops.get(split, "")
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


def left_out(tree: Tree, taken: set[str], why: str = "images lie in no class folder") -> tuple[LeftOut, ...]:
    """What of a folder of images is not used, given what is."""
    images = {name for name in tree.files if is_image(name)}
    others = sorted(set(tree.files) - images - taken)
    # What stands beside an image and has its name describes it: 1.txt, 1.jpg.json.
    described = {Path(name).with_suffix("").as_posix() for name in images} | images
    beside = [name for name in others if Path(name).with_suffix("").as_posix() in described]
    groups = (
        LeftOut("files are hidden or were put there by a system", _all(tree.clutter)),
        LeftOut("files have the name of an image, but not the ending", _all(beside)),
        LeftOut("files have no image's ending", _all(sorted(set(others) - set(beside))), meant=True),
        LeftOut(why, _all(sorted(images - taken)), meant=True),
    )
    return tuple(group for group in groups if group.names)


def _all(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(printable(name) for name in names)


def _split_folders(
    folder: Path, folders: tuple[str, ...], images: list[str], known: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Which folder holds which split; empty if classes lie at the top."""
    tops = [name for name in folders if "/" not in name]
    named = {split: [name for name in tops if name.lower() in names] for split, names in known.items()}
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
    return {split: found[0] for split, found in named.items()}


def _by_class(folders: tuple[str, ...], images: list[str], prefix: str) -> Classes:
    """Images of each class folder that lies directly behind `prefix`, by class name."""
    inside = [name[len(prefix) :] for name in folders if name.startswith(prefix)]
    classes: Classes = {name: [] for name in inside if "/" not in name}
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
            f"{len(twice + foreign)} class folders have names that are written in two ways, are not UTF-8 or have more "
            f"than one line: {listed(twice + foreign)}. Rename them."
        )
    return {unicodedata.normalize("NFC", name): files for name, files in classes.items()}
