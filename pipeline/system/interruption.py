"""Stop at the next safe point when asked to (Ctrl-C, SIGTERM), instead of anywhere; and with whoever waits for it."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
PARENT = "PUPIL_PARENT"
"""Environment variable: the process id of a parent without which the work is for nobody."""
LOOK_S = 1.0
"""Between two looks at the parent, where the system does not tell of its end."""
# The number of PR_SET_PDEATHSIG in Linux's prctl.h.
_SET_PARENT_DEATH_SIGNAL = 1


@dataclass
class StopRequest:
    """Whether somebody asked to stop."""

    received: signal.Signals | None = None


@contextmanager
def listen() -> Iterator[StopRequest]:
    """Within the block, the first SIGTERM or SIGINT only sets `received`; a second one acts at once, as it always does.

    Python takes signals in the main thread alone: in any other nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        request.received = signal.Signals(number)
        # Linux signals the end of each of the parent's threads in turn: the next one would act as a second request.
        if sys.platform.startswith("linux"):
            _at_the_end_of_the_parent(0)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()


def stop_with_parent() -> None:
    """Let the system send SIGTERM when the process that PARENT names ends, even by SIGKILL; nothing where none is.

    Otherwise this one would go on, and write where a second attempt writes.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is not None:
        follow(int(parent), signal.SIGTERM)


def follow(parent: int, number: signal.Signals) -> None:
    """Send `number` to this process when `parent`, which started it, ends: Linux does so, elsewhere a thread looks."""
    if not sys.platform.startswith("linux"):
        threading.Thread(target=_watch, args=(parent, number), name="follow", daemon=True).start()
        return
    _at_the_end_of_the_parent(int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def _at_the_end_of_the_parent(number: int) -> None:
    """Have Linux send `number` to this process then, or nothing for 0."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, number)


def _watch(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), number)
