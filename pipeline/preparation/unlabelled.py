"""The folder data.unlabelled: images without labels, at any depth, which are read and audited with the others."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.unlabelled import NO_LABEL, UNLABELLED
from pipeline.preparation import tree
from pipeline.preparation.class_folders import left_out
from pipeline.preparation.image_files import SUFFIXES, ImageFiles, is_image
from pipeline.preparation.source import LeftOut, Source
from pipeline.settings.data import Data
from pipeline.system.errors import DataError

KEY = "data.unlabelled"


def joined(source: Source, data: Data) -> Source:
    """The source with these images as one more split, where `data` names a folder of them.

    Raises DataError where there is no such folder, it may not be read or is linked in a circle, or it has no image.
    """
    if data.unlabelled is None:
        return source
    folder = _folder(data.unlabelled)
    walked = tree.open_walk(folder, KEY)
    files = tuple(name for name in walked.files if is_image(name))
    _check(folder, len(files))
    images = ImageFiles(folder, files, np.full(len(files), NO_LABEL, np.int64))
    others = tuple(replace(group, why=f"{group.why} (in {KEY})") for group in left_out(walked, set(files)))
    return replace(
        source,
        splits={**source.splits, UNLABELLED: images},
        left_out=(*_not_below(source.left_out, folder, data.path), *others),
    )


def fingerprint(path: str) -> tuple[int, str]:
    """Of the images in that folder, as `tree.fingerprint` makes it. Raises DataError where there is none."""
    folder = _folder(path)
    files, digest = tree.fingerprint(folder, is_image)
    _check(folder, files)
    return files, digest


def _folder(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"{KEY} {folder} {what} ({folder.absolute()}); expected a folder of images, at any depth.")
    return folder


def _check(folder: Path, images: int) -> None:
    if not images:
        raise DataError(
            f"{KEY} {folder} holds no image; expected files that end in {' '.join(sorted(SUFFIXES))}, at any depth."
        )


def _not_below(groups: tuple[LeftOut, ...], folder: Path, path: str | None) -> tuple[LeftOut, ...]:
    """What a source leaves out of data.path, without what is read from a folder in it."""
    if path is None or not folder.resolve().is_relative_to(Path(path).resolve()):
        return groups
    inside = tree.printable(folder.resolve().relative_to(Path(path).resolve()).as_posix()) + "/"
    rest = (replace(group, names=tuple(n for n in group.names if not n.startswith(inside))) for group in groups)
    return tuple(group for group in rest if group.names)
