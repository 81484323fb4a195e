"""Write aside, then rename: a reader sees the old file or the whole new one, never a half."""

import csv
import hashlib
import json
import os
import re
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
    """`replacing` for several files that belong together: all take their names, or none does.

    Only files are replaced: a device or a pipe is its own scratch, written to as it is, and of a link, what it leads to
    takes the new content.
    """
    renames = {path: scratch_beside(linked(path)) for path in paths if path.is_file() or not path.exists()}
    scratches = [renames.get(path, path) for path in paths]
    try:
        for path, scratch in renames.items():
            scratch.parent.mkdir(parents=True, exist_ok=True)
            for left, _ in left_behind(linked(path)):
                left.unlink(missing_ok=True)
        yield scratches
        for scratch in renames.values():
            with scratch.open("rb") as file:
                os.fsync(file.fileno())
        for path, scratch in renames.items():
            scratch.replace(linked(path))
    except OSError as error:
        raise cannot_write(" and ".join(map(str, paths)), paths[0], error) from error
    finally:
        for scratch in renames.values():
            with suppress(OSError):
                scratch.unlink()


def linked(path: Path) -> Path:
    """What a link leads to, so that a rename leaves the link; but a link to what is write-protected is itself replaced.

    DVC protects what it keeps, and may put such links where the outputs of stages are.
    """
    target = Path(os.path.realpath(path))
    return path if target.is_file() and target.stat().st_mode & 0o222 == 0 else target


def scratch_beside(path: Path, kind: str = "partial") -> Path:
    """Where to write what is to be renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


def left_behind(path: Path) -> list[tuple[Path, str]]:
    """What killed processes left beside `path`, with its kind; living ones may be writing there still."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.(partial|replaced)")
    found = ((each, pattern.fullmatch(each.name)) for each in path.parent.iterdir())
    return [(each, match[2]) for each, match in found if match is not None and not _is_another_process(int(match[1]))]


def _is_another_process(pid: int) -> bool:
    """Whether `pid` lives and is not this process, which may have been given the number of a killed one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
