"""Write aside, then rename: a reader sees the old file or the whole new one, never a half."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import PupilError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a scratch path beside `path`; on success it takes the name `path`, on failure it goes and `path` stays.

    Raises PupilError saying what could not be written and how much room is left, when the disk refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        free = os.statvfs(path.parent).f_bavail * os.statvfs(path.parent).f_frsize
        raise PupilError(
            f"{path} could not be written: {error.strerror or error} ({free / 2**20:.0f} MiB free there). "
            "What stood there before is untouched; make room and run again."
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write plain data as indented JSON, whole or not at all. NaN and infinity are refused: JSON has no such number."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
