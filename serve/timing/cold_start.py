"""How long a new process takes to its first answer, and how much memory it takes: by its own account.

No import beyond the standard library at the top: what a runtime costs to import is part of the answer.
"""

import resource
import sys
import time
from pathlib import Path

from serve.timing import apart


def cold_start(
    make: str, path: str, threads: int, device: str, images: str, batch_sizes: list[int]
) -> dict[str, object]:
    """Import, load, call once; to be called in a fresh process. `images` is an .npy file of pixels (M, H, W, 3).

    import_ms         of the runtime, with all that it imports
    open_ms           from the file to something that can be called
    first_call_ms     at batch 1
    memory            for each batch size, smallest first: peak_bytes of the whole process after a call of it
    """
    start = time.perf_counter()
    opener = apart.resolve(make)
    imported = time.perf_counter()
    import numpy as np

    library = np.load(images)
    before = time.perf_counter()
    call = opener(Path(path), threads, device)
    opened = time.perf_counter()
    call(library[:1])
    answered = time.perf_counter()
    memory = []
    for batch_size in sorted(batch_sizes):
        call(np.resize(library, (batch_size, *library.shape[1:])))
        memory.append({"batch_size": batch_size, "peak_bytes": peak_bytes()})
    return {
        "import_ms": 1000 * (imported - start),
        "open_ms": 1000 * (opened - before),
        "first_call_ms": 1000 * (answered - opened),
        "memory": memory,
    }


def peak_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Largest resident set of this process so far.

    Linux lets a new process inherit getrusage's figure from the one that started it, and tells the right one in /proc.
    """
    try:
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key == "VmHWM":
            return int(value.split()[0]) * 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
