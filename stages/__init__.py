"""One thin file per DVC stage: paths from the command line, numbers from params.yaml, work from the library.

Outside of its environment a stage says so in one sentence; this file is run before it imports anything.
"""

import sys
from types import TracebackType


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Name the way out where a package that is not ours is missing; anything else is shown as Python shows it."""
    package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in ("", "pipeline", "serve", "stages"):
        sys.__excepthook__(kind, error, trace)
    else:
        print(
            f"error: {sys.executable} has no package '{package}'; run `make repro`, which installs what is missing, or "
            "activate the environment that it made with `. .venv/bin/activate`.",
            file=sys.stderr,
        )


sys.excepthook = _say
