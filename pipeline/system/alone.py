"""One process at a time: whoever comes second says for whom it waits, and waits."""

import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.system.files import cannot_write

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What a file system says that knows no locks, as some of clusters do not."""


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Within the block no other process of this machine is in one for the same path, which need not exist.

    The system ends the block of a process that ends, by SIGKILL even. Raises PupilError when the disk refuses.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock, path)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    except OSError as error:
        raise cannot_write(str(lock), lock, error) from error
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _locked(lock: Path, path: Path) -> IO[str]:
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            _lock(file, path)
            # Whoever had the lock before has removed its file, and a third one may hold a new file by now.
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass  # removed between the two looks
        except OSError:
            file.close()
            raise
        file.close()


def _lock(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read() or "another one"
        print(
            f"waiting for process {holder}, which works on {path} already, such as for a `dvc repro` that was killed. "
            "It goes on when that one has ended.",
            file=sys.stderr,
            flush=True,
        )
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(f"note: {path.parent} knows no locks, so nothing keeps a second run off {path}.", file=sys.stderr)
