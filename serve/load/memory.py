"""Resident memory of a server and its workers while it is under load."""

import math
from statistics import median

import psutil

from serve.errors import ServeError

PARTS = 5  # growth is from the first of so many equal parts of the run to the last


class Memory:
    """Samples of the resident memory of a process and all its descendants.

    Pages that processes share, such as libraries, count for each of them. Raises ServeError if there is no process.
    """

    def __init__(self, pid: int) -> None:
        self._samples: list[tuple[float, int]] = []
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess as error:
            raise ServeError(
                f"There is no process {pid} on this machine; --pid takes the process id of the server."
            ) from error

    def sample(self, elapsed_s: float) -> None:
        """Take a sample; none once the process has ended."""
        try:
            family = [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        if total := sum(map(_resident_bytes, family)):
            self._samples.append((elapsed_s, total))

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data: what it was at first, at last and at most, and how much it grew (None: too few samples)."""
        sizes = [size for _, size in self._samples]
        part = len(sizes) // PARTS
        # A hundred points say as much as the thousands of a long run.
        step = math.ceil(len(sizes) / 100) or 1
        return {
            "pid": self._process.pid,
            "first_bytes": sizes[0] if sizes else None,
            "last_bytes": sizes[-1] if sizes else None,
            "max_bytes": max(sizes, default=None),
            "growth_bytes": int(median(sizes[-part:]) - median(sizes[:part])) if part else None,
            "samples": [[round(elapsed_s, 1), size] for elapsed_s, size in self._samples[::step]],
        }


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it has ended meanwhile
        return 0
