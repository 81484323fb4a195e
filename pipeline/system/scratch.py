"""A folder that is there whole or not at all: written aside, then renamed. What `files.replacing` is for a file."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.system.files import cannot_write, left_behind, linked, scratch_beside


@contextmanager
def replacing_folder(out: Path) -> Iterator[Path]:
    """Give an empty folder beside `out`; on success it takes the name `out`, on failure it goes and `out` stays.

    Leftovers of killed runs go first. An OSError inside the block counts as the disk refusing: PupilError says what
    could not be written and how much room is left.
    """
    out = linked(out)
    scratch, replaced = scratch_beside(out), scratch_beside(out, "replaced")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(out)
        scratch.mkdir()
        yield scratch
        for path in [*scratch.rglob("*"), scratch]:
            _sync(path)
        # A folder cannot be renamed over a full one: for an instant `out` is gone. _clear_leftovers mends a kill there.
        if out.exists():
            out.rename(replaced)
        scratch.rename(out)
        _sync(out.parent)
    except OSError as error:
        raise cannot_write(str(out), out, error) from error
    finally:
        _retire(replaced, out)
        shutil.rmtree(scratch, ignore_errors=True)


def _clear_leftovers(out: Path) -> None:
    """Remove what killed runs left beside `out`. Those of living processes stay: another run may be writing there."""
    for folder, kind in left_behind(out):
        if kind == "replaced":
            _retire(folder, out)
        else:
            shutil.rmtree(folder)


def _retire(replaced: Path, out: Path) -> None:
    """Remove the folder that stood at `out` before; put it back if nothing took its place."""
    if replaced.exists() and not out.exists():
        replaced.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _sync(path: Path) -> None:
    """Put a file's bytes, or a folder's entries, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
