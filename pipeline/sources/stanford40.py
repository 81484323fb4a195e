"""Stanford 40 Actions, as its two archives unpack: 4,000 train and 5,532 test photographs of 40 actions.

    JPEGImages/applauding_001.jpg        ImageSplits/applauding_train.txt        ImageSplits/applauding_test.txt

A list holds one file name a line. Classes are called as the lists are, so that "throwing_frisby" keeps its spelling,
and numbered in their alphabetical order. XMLAnnotations, the boxes of the persons, are not read: networks see the whole
photograph. Neither is ImageSplits/actions.txt, a table of the same names.

B. Yao, X. Jiang, A. Khosla, A. L. Lin, L. Guibas, L. Fei-Fei, "Human Action Recognition by Learning Bases of Action
Attributes and Parts", ICCV 2011.
"""

from pathlib import Path

import numpy as np

from pipeline.preparation import tree
from pipeline.preparation.class_folders import left_out
from pipeline.preparation.divide import listed
from pipeline.preparation.image_files import ImageFiles
from pipeline.preparation.source import Source
from pipeline.preparation.tree import data_folder
from pipeline.settings.data import Data
from pipeline.settings.section import Section
from pipeline.system.errors import DataError

IMAGES, LISTS = "JPEGImages", "ImageSplits"
ANNOTATIONS = ("XMLAnnotations/", "MatlabAnnotations/")
EXPECTED = f"the folder that holds {IMAGES} and {LISTS} of Stanford 40"


class Config(Section):
    """There is nothing to set, because the lists of the data set say all that is needed."""


def open_source(config: Config, data: Data) -> Source:
    """Read the lists; no image is opened yet, and one that is missing fails when it is read.

    Raises ParamsError if data.path is not given; DataError if a folder or a list is missing, unreadable or empty, or if
    a file is listed twice, be it in two classes or in both splits.
    """
    folder = data_folder(data, EXPECTED)
    for name in (IMAGES, LISTS):
        if not (folder / name).is_dir():
            raise DataError(f"data.path {folder} has no folder {name}; expected {EXPECTED}.")
    names = _classes(folder / LISTS)
    listed_in: dict[str, str] = {}
    twice: list[str] = []
    splits = {}
    for split in ("train", "test"):
        files: list[str] = []
        labels: list[int] = []
        for number, name in enumerate(names):
            list_name = f"{name}_{split}.txt"
            for image in _lines(folder / LISTS / list_name):
                if image in listed_in:
                    twice.append(f"{image} in {listed_in[image]} and {list_name}")
                listed_in[image] = list_name
                files.append(f"{IMAGES}/{image}")
                labels.append(number)
        splits[split] = ImageFiles(folder, tuple(files), np.array(labels, dtype=np.int64))
    if twice:
        raise DataError(f"{len(twice)} images are listed twice: {listed(twice, '; ')}. Remove one line of each.")
    taken = {file for records in splits.values() for file in records.files}
    walked = tree.open_walk(folder)
    # What the data set itself puts beside its images: its lists, and boxes in XML or for Matlab.
    own = {name for name in walked.files if name.startswith((f"{LISTS}/", *ANNOTATIONS))}
    return Source(names, splits, None, left_out(walked, taken | own, "images are in no list"))


def fingerprint(config: Config, data: Data) -> tuple[int, str]:
    """Of the images and the lists."""
    folder = data_folder(data, EXPECTED)
    return tree.fingerprint(folder, lambda name: name.startswith((f"{IMAGES}/", f"{LISTS}/")))


def _classes(lists: Path) -> tuple[str, ...]:
    """Class names, sorted, from the names of the lists."""
    found = {
        split: {path.name.removesuffix(f"_{split}.txt") for path in lists.glob(f"[!.]*_{split}.txt")}
        for split in ("train", "test")
    }
    for split, other in (("train", "test"), ("test", "train")):
        missing = sorted(f"{name}_{other}.txt" for name in found[split] - found[other])
        if missing:
            raise DataError(f"{lists} lacks {listed(missing)}; expected two lists for each class.")
    if not found["train"]:
        raise DataError(f"{lists} holds no list; expected CLASS_train.txt and CLASS_test.txt for each class.")
    return tuple(sorted(found["train"]))


def _lines(path: Path) -> list[str]:
    """The file names of one list."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of file names: {error}.") from error
    images = [line for line in lines if line]
    if not images:
        raise DataError(f"{path} names no image; expected one file name per line.")
    return images
