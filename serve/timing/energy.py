"""Energy by the machine's own counters: RAPL for the processor, NVML for the GPU. Where there is none, no number.

A counter counts the whole package or board, with whatever else runs on it. Nothing is estimated and nothing subtracted.
"""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

Read = Callable[[], float]
"""Joules since some moment."""


def meter(device: str, root: Path = Path("/")) -> tuple[str, Read] | None:
    """("rapl" or "nvml", its counter) for "cpu" or "cuda"; None where the counter cannot be read."""
    if device == "cpu":
        read = _rapl(root)
        return None if read is None else ("rapl", read)
    read = _nvml()
    return None if read is None else ("nvml", read)


def per_image(
    call: Callable[[], object],
    batch_size: int,
    read: Read,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, float]:
    """joules_per_image and watts over calls that last `seconds`, and idle_watts over as long without any."""
    idle, start = read(), clock()
    sleep(seconds)
    idle_watts = (read() - idle) / (clock() - start)
    calls, joules, start = 0, read(), clock()
    while clock() - start < seconds:
        call()
        calls += 1
    joules, elapsed = read() - joules, clock() - start
    return {
        "joules_per_image": joules / (calls * batch_size),
        "watts": joules / elapsed,
        "idle_watts": idle_watts,
    }


def _rapl(root: Path) -> Read | None:
    """The sum over packages; readable by root alone on most systems, and absent in most virtual machines."""
    counters = []
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):  # also AMD's
        try:
            # Others count parts of a package, or the whole machine ("psys"), which has the packages in it.
            if (zone / "name").read_text().startswith("package"):
                counters.append(_Wrapping(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
        except (OSError, ValueError):
            return None
    return (lambda: sum(counter.joules() for counter in counters)) if counters else None


class _Wrapping:
    """A counter of microjoules that starts again at 0 past its range, within minutes under load."""

    def __init__(self, path: Path, range_uj: int) -> None:
        self._path, self._range_uj = path, range_uj
        self._last_uj, self._turns = int(path.read_text()), 0

    def joules(self) -> float:
        now_uj = int(self._path.read_text())
        self._turns += now_uj < self._last_uj
        self._last_uj = now_uj
        return (now_uj + self._turns * self._range_uj) / 1e6


def _nvml() -> Read | None:
    """The one GPU's counter. With several, NVML's order need not be CUDA's, and the wrong one might be read."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    count, handle, first = ctypes.c_uint(0), ctypes.c_void_p(), ctypes.c_ulonglong(0)
    succeeded = (
        library.nvmlInit_v2() == 0
        and library.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0
        and count.value == 1
        and library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)) == 0
        and library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(first)) == 0
    )

    def read() -> float:
        millijoules = ctypes.c_ulonglong(0)
        status = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
        if status != 0:
            raise OSError(f"NVML no longer tells the GPU's energy (status {status})")
        return millijoules.value / 1000

    return read if succeeded else None
