"""Resident memory of a server and its workers while it is under load, from /proc."""

import math
from pathlib import Path
from statistics import median

from serve.errors import ServeError

PARTS = 5  # growth is from the first of so many equal parts of the run to the last


class Memory:
    """Samples of the resident memory of a process and all its descendants.

    Pages that processes share, such as libraries, count for each of them. Raises ServeError if there is no process.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._pid, self._proc = pid, proc
        self._samples: list[tuple[float, int]] = []
        if not (proc / str(pid) / "status").is_file():
            raise ServeError(
                f"There is no process {pid} on this machine; --pid takes the server's process id, and works on Linux "
                "only."
            )

    def sample(self, elapsed_s: float) -> None:
        """Take a sample; none once the process has ended."""
        if total := sum(self._resident_bytes(pid) for pid in self._family(self._pid)):
            self._samples.append((elapsed_s, total))

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data: what it was at first, at last and at most, and how much it grew (None: too few samples)."""
        sizes = [size for _, size in self._samples]
        part = len(sizes) // PARTS
        # A hundred points say as much as the thousands of a long run.
        step = math.ceil(len(sizes) / 100) or 1
        return {
            "pid": self._pid,
            "first_bytes": sizes[0] if sizes else None,
            "last_bytes": sizes[-1] if sizes else None,
            "max_bytes": max(sizes, default=None),
            "growth_bytes": int(median(sizes[-part:]) - median(sizes[:part])) if part else None,
            "samples": [[round(elapsed_s, 1), size] for elapsed_s, size in self._samples[::step]],
        }

    def _family(self, pid: int) -> list[int]:
        family = [pid]
        for children in (self._proc / str(pid) / "task").glob("*/children"):
            for child in _read(children).split():
                family += self._family(int(child))
        return family

    def _resident_bytes(self, pid: int) -> int:
        for line in _read(self._proc / str(pid) / "status").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""
