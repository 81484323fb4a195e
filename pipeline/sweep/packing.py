"""A folder as plain data, to be sent from machine to machine and put down there."""

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.system.files import replacing

Files = dict[str, NDArray[np.uint8]]
"""Path within a folder -> bytes."""


def pack(folder: Path) -> Files:
    """Every file below `folder`."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): np.fromfile(path, np.uint8) for path in paths}


def unpack(files: Files, folder: Path) -> Path:
    """Write all files below `folder`, each whole or not at all; other files there stay. Returns `folder`."""
    for name, content in files.items():
        with replacing(folder / name) as scratch:
            content.tofile(scratch)
    return folder


def pack_and_remove(folder: Path) -> Files:
    """As `pack`, and the folder is gone afterwards."""
    files = pack(folder)
    shutil.rmtree(folder)
    return files
