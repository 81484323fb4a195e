"""A folder as plain data, to be sent from machine to machine and put down there."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.system.files import replacing

Files = dict[str, NDArray[np.uint8]]
"""Path within a folder -> bytes."""
EVALUATED = "logits.npy"
"""The last file that a step of a table leaves: with it, the step is done."""


def pack(folder: Path) -> Files:
    """Every file below `folder`, but hidden ones: what killed runs leave, and what systems put there."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def unpack(files: Files, folder: Path) -> Path:
    """Write all files below `folder`, each whole or not at all, EVALUATED last; others stay. Returns `folder`."""
    for name, content in sorted(files.items(), key=lambda file: file[0] == EVALUATED):
        with replacing(folder / name) as scratch:
            content.tofile(scratch)
    return folder


def pack_and_remove(folder: Path) -> Files:
    """As `pack`, and the folder is gone afterwards."""
    files = pack(folder)
    shutil.rmtree(folder)
    return files
