"""Honest latency of several candidates on one machine.

Candidates are called in turn, in a new random order every round, so that whatever else the machine does hits them
alike; they are compared round by round. Percentiles that n samples cannot carry are not reported. The sample counts
and the bounds are those of MLPerf Inference's early stopping, with tolerance 0 and confidence 0.99.
"""

import functools
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int64]  # (n,) nanoseconds, one per round

CONFIDENCE = 0.99


@dataclass(frozen=True)
class Summary:
    """Latency of one candidate. None stands where n samples are too few for the number."""

    n: int
    mean_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p90_bound_ms: float | None  # the true p90 lies below this with confidence 0.99: MLPerf's early-stopping estimate
    p99_bound_ms: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one candidate took as another, round by round, with a 95 % bootstrap interval.

    The interval covers chance alone. What lasts the whole run, such as where a model's weights lie in memory, is not in
    it: two copies of one model have been seen 0.6 % apart at 8 us a call.
    """

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Plain JSON data."""
        return asdict(self)


def measure(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int,
    warmup: int = 20,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[str, Samples]:
    """Call every candidate `warmup` times untimed, then once per round in random order; (rounds,) samples of each.

    A candidate that computes elsewhere (a GPU) must wait for its result before it returns. `clock` gives nanoseconds.
    Sample i of every candidate comes from round i, which is what `paired_ratio` relies on. `on_round` is told, between
    two rounds, how many are done.
    """
    if not candidates or rounds < 1:
        raise ValueError(f"nothing to measure: {len(candidates)} candidates, {rounds} rounds")
    for call in candidates.values():
        for _ in range(warmup):
            call()
    samples = {name: np.zeros(rounds, dtype=np.int64) for name in candidates}
    order = list(candidates)
    shuffle = random.Random(seed).shuffle
    for round_ in range(rounds):
        shuffle(order)
        for name in order:
            call = candidates[name]
            start = clock()
            call()
            samples[name][round_] = clock() - start
        on_round(round_ + 1)
    return samples


def summary(samples: Samples) -> Summary:
    """(n,) nanoseconds -> mean, extremes and the percentiles that n can carry, in milliseconds."""
    ordered = np.sort(samples) / 1e6
    return Summary(
        n=len(ordered),
        mean_ms=float(ordered.mean()),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        p50_ms=_percentile(ordered, 50),
        p90_ms=_percentile(ordered, 90) if len(ordered) >= minimum_samples(90) else None,
        p99_ms=_percentile(ordered, 99) if len(ordered) >= minimum_samples(99) else None,
        p90_bound_ms=_bound(ordered, 90),
        p99_bound_ms=_bound(ordered, 99),
    )


def quantiles(samples: Samples) -> list[float | None]:
    """(n,) nanoseconds -> p1, p2, ... p99 in milliseconds, None for those that n samples do not carry."""
    ordered = np.sort(samples) / 1e6
    return [_percentile(ordered, p) if len(ordered) >= minimum_samples(p) else None for p in range(1, 100)]


def paired_ratio(a: Samples, b: Samples, seed: int = 0, resamples: int = 2000) -> Ratio:
    """Median over rounds of a / b. Rounds are resampled whole, so what slowed both at once cancels out."""
    if len(a) != len(b) or len(a) == 0 or not (b > 0).all():
        raise ValueError(f"{len(a)} samples against {len(b)}: rounds must pair up, and last longer than a clock tick")
    ratios = a / b
    generator = np.random.default_rng(seed)
    # One resample at a time: a matrix of all would take resamples x n numbers.
    medians = [np.median(generator.choice(ratios, len(ratios))) for _ in range(resamples)]
    low, high = np.quantile(medians, [0.025, 0.975])
    return Ratio(median=float(np.median(ratios)), low=float(low), high=float(high))


@functools.cache
def minimum_samples(percent: float) -> int:
    """Fewest samples that carry a percentile: 64 for p90, 662 for p99, 6636 for p99.9."""
    return next(n for n in itertools.count(1) if tolerated(n, percent) >= 1)


def tolerated(n: int, percent: float) -> int:
    """Largest t with P(Binomial(n, 1 - percent / 100) <= t) <= 1 - CONFIDENCE; -1 if there is none.

    Were a limit below the percentile, more than t of n samples would exceed it, but for one accident in a hundred. So
    where t or fewer exceed it, the limit holds.
    """
    slow = (100 - percent) / 100
    below = 0.0
    for t in range(n):
        # In logarithms: the chance of 0 slow samples among many thousands is below the smallest float.
        log_ways = math.lgamma(n + 1) - math.lgamma(t + 1) - math.lgamma(n - t + 1)
        below += math.exp(log_ways + t * math.log(slow) + (n - t) * math.log1p(-slow))
        if below > 1 - CONFIDENCE:
            return t - 1
    return n - 1


def _percentile(ordered: npt.NDArray[np.float64], percent: int) -> float:
    """Nearest rank: a latency that did occur, never one between two."""
    return float(ordered[math.ceil(percent * len(ordered) / 100) - 1])


def _bound(ordered: npt.NDArray[np.float64], percent: int) -> float | None:
    """The largest sample once the t - 1 largest are dropped, t as tolerated."""
    t = tolerated(len(ordered), percent)
    return float(ordered[-t]) if t >= 1 else None
