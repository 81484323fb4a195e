"""Stop at the next safe point when asked to (Ctrl-C, SIGTERM), instead of anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
