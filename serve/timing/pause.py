"""The first call after a pause: what a user of a server that is rarely called sees.

Nothing is left out here and nothing repeated: the caches hold what others left there, and the core has gone to sleep.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from serve.timing import latency

PAUSE_MS = 10
"""Longer than a core waits before its deepest sleep (below 1 ms) and than the kernel's tick, at which a governor lowers
the clock (4 or 10 ms); short enough that a hundred pauses take a second."""
_CALLS = 70


def first_calls(
    candidates: Mapping[str, Callable[[], object]],
    samples: int,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """All candidates in turns, in random order: a pause, then one call. They must have been called before.

    pause_ms    before each call
    n           calls of each: 70, or `samples` if those are fewer
    p50_ms      by name
    """
    rounds, order = min(_CALLS, samples), list(candidates)
    taken = {name: np.zeros(rounds, dtype=np.int64) for name in candidates}
    shuffle = random.Random(seed).shuffle
    for round_ in range(rounds):
        shuffle(order)
        for name in order:
            sleep(PAUSE_MS / 1000)
            start = clock()
            candidates[name]()
            taken[name][round_] = clock() - start
    p50_ms = {name: latency.summary(values).p50_ms for name, values in taken.items()}
    return {"pause_ms": PAUSE_MS, "n": rounds, "p50_ms": p50_ms}
