"""SIGHUP has two meanings: a person asks that files be read again, or the terminal of the server has closed."""

import os
import signal

_TERMINAL = "/dev/tty"


class Terminal:
    """The terminal that this process was started in, if any; under `nohup` its end means nothing."""

    def __init__(self) -> None:
        self._matters = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _is_there()

    def has_closed(self) -> bool:
        """Whether there was one, and it is gone."""
        return self._matters and not _is_there()


def _is_there() -> bool:
    try:
        os.close(os.open(_TERMINAL, os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
