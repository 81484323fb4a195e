"""Every file below a folder, links followed and circles found; and a fingerprint that changes when any of them does.

Folders are walked name by name, never by a pattern: brackets, stars and question marks in a name are letters.
"""

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.preparation.divide import listed
from pipeline.settings.data import Data
from pipeline.system.errors import DataError, ParamsError

# What systems, file servers and tools put beside a person's files, by whole names in small letters. Names with a
# leading dot (.DS_Store, ._photo.jpg, .Trashes, .ipynb_checkpoints) count as theirs too.
CLUTTER = frozenset(
    {"$recycle.bin", "system volume information", "lost+found", "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"}
    | {"@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "network trash folder"}
    | {"temporary items", "found.000", "__pycache__"}
)


# What prepare itself writes, which may lie below data.path: a folder that holds all of these, and the audit of images
# that were refused. Were they walked, each run would change what the next one finds.
PREPARED = frozenset({"audit.json", "card.json"})
REFUSED = ".audit.json"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True)
class Tree:
    """What lies below a folder, as paths from it with "/" between the parts, sorted."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    """Links that lead nowhere are among them: somebody meant a file. Pipes, sockets and devices are not."""
    clutter: tuple[str, ...]
    """Files of systems and hidden ones, and all files in such folders; not among `files`."""
    circles: tuple[str, ...]
    """Links, not followed, to a folder that is walked by another way: one above, or one with two names."""
    closed: tuple[str, ...]
    """Folders that may not be read, each with the reason."""


def walk(folder: Path) -> Tree:
    """List a folder; 100,000 files take well under a second, as none is opened. Raises nothing: see `Tree.closed`."""
    folders: list[str] = []
    files: list[str] = []
    clutter: list[str] = []
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
            with os.scandir(folder / place) as listing:
                entries = list(listing)
            if {entry.name for entry in entries} >= PREPARED:
                continue
            for entry in entries:
                if not entry.name.endswith(REFUSED):
                    name = f"{place}/{entry.name}" if place else entry.name
                    if entry.name.startswith(".") or entry.name.lower() in CLUTTER:
                        inside = entry.is_dir(follow_symlinks=False)
                        clutter += _all_below(folder, name) if inside else [name]
                    elif _is_folder(entry):
                        (waiting.append if entry.is_symlink() else waiting.appendleft)(name)
                    elif entry.is_symlink() or entry.is_file():
                        files.append(name)
        except OSError as error:
            closed.append(f"{printable(place) or '.'} ({error.strerror})")
        if place:
            folders.append(place)
    return Tree(*(tuple(sorted(names)) for names in (folders, files, clutter, circles, closed)))


def open_walk(folder: Path, key: str = "data.path") -> Tree:
    """`walk`, for a source; `key` of params.yaml names the folder.

    Raises DataError where something may not be read, or would be read twice.
    """
    tree = walk(folder)
    if tree.closed:
        raise DataError(
            f"Not all of {key} {folder} may be read: {listed(list(tree.closed))}. Give permission to read it."
        )
    if tree.circles:
        links = [f"{printable(link)} -> {printable(str((folder / link).resolve()))}" for link in tree.circles]
        raise DataError(
            f"In {key} {folder}, links lead to folders that are also read in another way: {listed(links)}. Their "
            "images would count twice; remove the links."
        )
    return tree


def fingerprint(folder: Path, decides: Callable[[str], bool] = lambda name: True) -> tuple[int, str]:
    """How many files lie below a folder, and a digest of their names, sizes and modification times, as make sees them.

    Only those count that decide what a source reads, by their names.

    Hashing what a large data set holds would take minutes. A mere copy changes the times. What cannot be looked at
    counts by its name alone.
    """
    tree = walk(folder)
    listing: list[tuple[str, int | None, int | None]] = []
    for name in filter(decides, tree.files):
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
    """A file's name as text of one line; bytes that are no UTF-8, line ends and the like as backslash escapes."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _all_below(folder: Path, name: str) -> list[str]:
    """The files below a folder that the system left there, as far as they may be seen; links are not followed."""
    places = ((os.path.relpath(place, folder), files) for place, _, files in os.walk(folder / name))
    return [f"{place}/{file}" for place, files in places for file in files]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a folder that may not be read
        return False
