"""A timer of an event loop that is finer than the loop's own, which count in whole milliseconds.

An arrival that is sent up to a millisecond late would show as a millisecond of the server's. Linux has timers that are
files, ready to be read when they go off, in nanoseconds; elsewhere the loop's own timer must do.
"""

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable

_CLOCK_MONOTONIC = 1  # what time.monotonic_ns reads
_ABSOLUTE = 1


class Alarm:
    """Calls `ring` on the running loop at a time set before, once for each time set."""

    def __init__(self, ring: Callable[[], None], fine: bool = sys.platform == "linux") -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        if fine:
            self._library = ctypes.CDLL(None, use_errno=True)
            # The flags of files are those of timers, by the manual page timerfd_create(2).
            self._file = self._checked(self._library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
            self._loop.add_reader(self._file, self._read)

    def set(self, at_ns: int) -> None:
        """Ring at this time of time.monotonic_ns, or at once if that is past."""
        if self._file < 0:
            self._handle = self._loop.call_later(max(0, at_ns - time.monotonic_ns()) / 1e9, self._ring)
            return
        times = (ctypes.c_long * 4)(0, 0, *divmod(max(1, at_ns), 10**9))  # not repeated; seconds and nanoseconds
        self._checked(self._library.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(times), None))

    def close(self) -> None:
        """Ring no more."""
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _read(self) -> None:
        os.read(self._file, 8)
        self._ring()

    def _checked(self, result: int) -> int:
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result
