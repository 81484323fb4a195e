"""What a person sees of a benchmark, which takes minutes: what is being measured, and how far that has come."""

import sys
import time
from collections.abc import Callable

_EVERY_S = 10.0


def say(text: str) -> None:
    """A line on standard error, at once."""
    print(text, file=sys.stderr, flush=True)


def rounds(what: str, clock: Callable[[], float] = time.monotonic) -> Callable[[int, int], None]:
    """To be told how many rounds are done, and of how many; says so every ten seconds, with the time that is left."""
    started = said = clock()

    def told(done: int, number: int) -> None:
        nonlocal said
        now = clock()
        if now - said >= _EVERY_S and done < number:
            said = now
            say(f"{what}: {done} of {number} rounds, {(now - started) / done * (number - done):.0f} s left")

    return told
