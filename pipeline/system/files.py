"""Write aside, then rename: a reader sees the old file or the whole new one, never a half."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.system.errors import PupilError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a scratch path beside `path`; on success it takes the name `path`, on failure it goes and `path` stays.

    Raises PupilError saying what could not be written and how much room is left, when the disk refuses.
    """
    with replacing_all([path]) as (scratch,):
        yield scratch


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """`replacing` for several files that belong together: all take their names, or none does."""
    scratches = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path in paths]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        yield scratches
        for scratch in scratches:
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
        for scratch, path in zip(scratches, paths, strict=True):
            scratch.replace(path)
    except OSError as error:
        raise cannot_write(" and ".join(map(str, paths)), paths[0], error) from error
    finally:
        for scratch in scratches:
            with suppress(OSError):
                scratch.unlink()


def cannot_write(what: str, path: Path, error: OSError) -> PupilError:
    """What to tell a person when the disk refuses `what`: why, and how much room there is around `path`."""
    existing = next(folder for folder in path.absolute().parents if folder.is_dir())
    disk = os.statvfs(existing)
    return PupilError(
        f"{what} could not be written: {error.strerror or error} ({disk.f_bavail * disk.f_frsize / 2**20:.0f} MiB "
        "free there). What was there before is untouched; solve this problem and run again."
    )


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write plain data as JSON, whole or not at all. NaN and infinity are refused: JSON has no such number.

    indent: spaces of each level; None puts all on one line, for much data that nobody reads as it stands.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write a table, its first row the names of its columns, whole or not at all."""
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
