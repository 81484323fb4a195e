"""Files and folders that a command writes, whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serve.errors import ServeError


def write_text(path: Path, text: str) -> None:
    """Write aside, then rename. Raises OSError.

    Only files are replaced: a device or a pipe is written to as it is, and a link leads to the same file as before.
    """
    if path.exists() and not path.is_file():  # a folder refuses by itself
        path.write_text(text, encoding="utf-8")
        return
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Put a copy of a file in place of `target`, whole or not at all. Raises ServeError."""
    try:
        with _replacing(target) as aside:
            shutil.copyfile(source, aside)
    except OSError as error:
        raise ServeError(f"{target} could not be written ({error.strerror}); it is as it was.") from error


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place when the block ends without an error."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        with aside.open("rb") as file:
            os.fsync(file.fileno())  # or a power cut can leave an empty file in place of a whole one
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends without an error. Other users can read it.

    Raises ServeError for a folder that holds something already, and for what cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ServeError(f"{folder} exists already and is not an empty folder; name a new one.")
    try:
        folder = Path(os.path.realpath(folder))  # a link to an empty folder stays one
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            yield aside
            aside.chmod(0o755)  # mkdtemp keeps others out, and servers run as another user
            aside.replace(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise ServeError(f"{folder} could not be written ({error.strerror}); nothing was left there.") from error
