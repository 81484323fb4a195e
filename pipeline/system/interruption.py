"""Stop at the next safe point when asked to, instead of anywhere; and with whoever waits for it."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Requests to stop: by a system, by Ctrl-C, and by a terminal that closes."""
PARENT = "PUPIL_PARENT"
"""Environment variable: the process id of a parent without which the work is for nobody."""
_OF_DVC = "DVC_STAGE"
"""Environment variable that DVC gives to what it starts."""
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
    """Within the block, the first of SIGNALS only sets `received`; a second one acts at once, as it always does.

    In a child of multiprocessing a second one does nothing: the parent passes on what the whole group may have heard.
    What is ignored already stays so (nohup, a script's background job). Python takes signals in the main thread alone:
    in any other nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}
    is_child = multiprocessing.parent_process() is not None

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if is_child and request.received else handler)

    def note(number: int, frame: Any) -> None:
        request.received = signal.Signals(number)
        # Linux signals the end of each of the parent's threads in turn: the next one would act as a second request.
        if sys.platform.startswith("linux"):
            _at_the_end_of_the_parent(0)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()


def stop_with_parent() -> None:
    """Let the system send SIGTERM when the process that waits for this one ends, even by SIGKILL.

    That is the one that PARENT names, or DVC; without either nothing is changed. Otherwise this one would go on, and
    write where a second attempt writes.
    """
    parent = os.environ.pop(PARENT, None) or (os.getppid() if _OF_DVC in os.environ else None)
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
