"""Every file below a folder, links followed and circles found; and a fingerprint that changes when any of them does."""

import hashlib
import json
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from pipeline.settings.data import Data
from pipeline.system.errors import DataError, ParamsError

# What systems put beside a person's files. Names with a leading dot (.DS_Store, ._photo.jpg, .git) are hidden too.
CLUTTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Tree:
    """What lies below a folder, as paths from it with "/" between the parts, sorted; hidden names are left out."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    """Links that lead nowhere are among them: somebody meant a file. Pipes, sockets and devices are not."""
    circles: tuple[str, ...]
    """Links, not followed, to a folder that is walked by another way: one above, or one with two names."""
    closed: tuple[str, ...]
    """Folders that may not be read, each with the reason."""


def walk(folder: Path) -> Tree:
    """List a folder; 100,000 files take well under a second, as none is opened. Raises nothing: see `Tree.closed`."""
    folders: list[str] = []
    files: list[str] = []
    circles: list[str] = []
    closed: list[str] = []
    walked: set[tuple[int, int]] = set()
    # Links wait until all real folders are done, so that of two ways to one folder the link is the circle.
    waiting = deque([""])
    while waiting:
        place = waiting.popleft()
        try:
            status = os.stat(folder / place)
            if (status.st_dev, status.st_ino) in walked:
                circles.append(place)
                continue
            walked.add((status.st_dev, status.st_ino))
            with os.scandir(folder / place) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in CLUTTER:
                        continue
                    name = f"{place}/{entry.name}" if place else entry.name
                    if _is_folder(entry):
                        (waiting.append if entry.is_symlink() else waiting.appendleft)(name)
                    elif entry.is_symlink() or entry.is_file():
                        files.append(name)
        except OSError as error:
            closed.append(f"{printable(place) or '.'} ({error.strerror})")
        if place:
            folders.append(place)
    return Tree(tuple(sorted(folders)), tuple(sorted(files)), tuple(sorted(circles)), tuple(sorted(closed)))


def fingerprint(folder: Path) -> tuple[int, str]:
    """How many files lie below a folder, and a digest of their names, sizes and modification times, as make sees them.

    Hashing what a large data set holds would take minutes. A mere copy changes the times. What cannot be looked at
    counts by its name alone.
    """
    tree = walk(folder)
    listing: list[tuple[str, int | None, int | None]] = []
    for name in tree.files:
        try:
            status = os.stat(folder / name)
            listing.append((name, status.st_size, status.st_mtime_ns))
        except OSError:
            listing.append((name, None, None))
    return len(listing), hashlib.sha256(json.dumps([listing, tree.circles, tree.closed]).encode()).hexdigest()


def data_folder(data: Data, expected: str) -> Path:
    """The folder that data.path names; `expected` says what should be in it.

    Raises ParamsError where data.path is null, DataError where there is no such folder.
    """
    if data.path is None:
        raise ParamsError(
            f"params.yaml: data.path is null, but the source {data.source} needs a path there: {expected}."
        )
    folder = Path(data.path)
    if not folder.is_dir():
        what = "is a file" if folder.is_file() else "does not exist"
        raise DataError(f"data.path {folder} {what} ({folder.absolute()}); expected {expected}.")
    return folder


def printable(name: str) -> str:
    """A file's name as text; bytes that are no UTF-8, which Linux allows, as backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False
