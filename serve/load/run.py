"""Load on a server as users make it: arrivals at random moments that do not wait for each other's answers.

Arrivals are Poisson from a seed and fixed before the run. Latency counts from the moment an arrival was due, not from
when there was time to send it: a server that stalls is charged with every request that came due meanwhile, none is left
out by coordination with the server. What the generator itself is late by is measured apart, and a run in which it was
late is not valid: its latencies are partly the generator's.

Gil Tene, "How NOT to Measure Latency", 2015; the Server scenario of MLPerf Inference.
"""

import asyncio
import time
from collections.abc import Callable

import numpy as np

from serve.load.open_loop import Limits, OpenLoop, Progress
from serve.load.outcome import Outcome
from serve.load.target import Target
from serve.timing.latency import Samples, minimum_samples

WARMUP_S = 1.0  # arrivals of the first second count as errors if they fail, but not in the latencies


def arrivals(rate: float, duration_s: float, seed: int) -> Samples:
    """(n,) increasing nanoseconds in [0, duration_s): a Poisson process of `rate` arrivals/s."""
    generator = np.random.default_rng(seed)
    expected = rate * duration_s
    # Six deviations beyond the mean: that too few were drawn will not happen.
    gaps = generator.exponential(1 / rate, int(expected + 6 * expected**0.5 + 36))
    times = np.cumsum(gaps)
    return (times[times < duration_s] * 1e9).astype(np.int64)


def duration_for(rate: float, least_s: float) -> float:
    """Seconds a run at this rate must last to carry a p99, and `least_s` at least, warm-up included."""
    return WARMUP_S + max(least_s, 1.2 * minimum_samples(99) / rate)


async def run(
    target: Target,
    rate: float,
    duration_s: float,
    seed: int,
    limits: Limits | None = None,
    observe: Callable[[Progress], None] = lambda progress: None,
    to_first_failure: bool = False,
) -> Outcome:
    """Send `rate` arrivals/s for `duration_s` seconds, and wait for the last answer. Cancelled, it ends early.

    observe           called about once a second
    to_first_failure  end early once an arrival has failed
    """
    limits = limits or Limits()
    due = arrivals(rate, duration_s, seed)
    generator = OpenLoop(target, due, limits)
    interrupted, cpu, began = False, time.process_time(), time.monotonic()
    try:
        await generator.whole(observe, to_first_failure)
    except asyncio.CancelledError:
        interrupted = True
    share = (time.process_time() - cpu) / (time.monotonic() - began)
    sent, answered_at, elapsed_s = generator.measured()
    due = due[: len(sent)]
    is_answered, is_warm = answered_at > 0, due >= min(WARMUP_S, duration_s / 2) * 1e9
    counted = is_answered & is_warm
    return Outcome(
        rate=rate,
        seed=seed,
        elapsed_s=elapsed_s,
        due=len(due),
        answered=int(is_answered.sum()),
        latencies=(answered_at - due)[counted],
        since_sent=(answered_at - sent)[counted],
        lags=(sent - due)[is_warm],
        errors=dict(generator.errors),
        generator_cpu=share,
        interrupted=interrupted,
        bound_ms=limits.bound_ms,
    )
