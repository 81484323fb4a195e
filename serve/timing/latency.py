"""Honest latency of several candidates on one machine.

Candidates take turns in short blocks of calls, in a new random order every round, so that whatever else the machine
does hits them alike; they are compared round by round. A call that follows another candidate's finds its caches
emptied, so the first calls of a block are left out: what remains is a candidate that answers one call after the other
(serve.timing.pause measures the other end). Percentiles that n samples cannot carry are not reported. The sample
counts and the bounds are those of MLPerf Inference's early stopping, with tolerance 0 and confidence 0.99.
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

Samples = npt.NDArray[np.int64]
"""(n,) nanoseconds, or (rounds, kept calls of each) of `measure`."""

CONFIDENCE = 0.99

_WARM_NS = 10_000_000
"""What a block spends on calls that are left out. Behind another network's call, small ones were within 1 % of their
pace after 3 to 7 ms; calls that take longer than this hardly feel it (0.7 % at 16 ms), and none of theirs is lost."""
_BLOCK_NS = 100_000_000
"""About the longest that the kept calls of a block take, so that a round is over before the machine is another."""
_ROUNDS = 35
"""Fewest rounds where there are calls enough: what the bootstrap of a ratio draws from."""
_FASTEST_NS = 10_000
"""About a session's fastest call; bounds how many are left out of a block."""


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
    samples: int,
    warmup: int = 20,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
    on_round: Callable[[int, int], None] = lambda done, rounds: None,
) -> dict[str, Samples]:
    """Time at least `samples` calls of each candidate, in blocks that take turns; (rounds, kept calls) of each.

    Every candidate is called `warmup` times first, at least once, which also says how long its calls take. All keep
    equally many calls of a block; how many, and how many before them are left out, follows from that. A candidate that
    computes elsewhere (a GPU) must wait for its result before it returns. `clock` gives nanoseconds. Row i of every
    candidate comes from round i, which is what `paired_ratio` relies on. `on_round` is told, between two rounds, how
    many are done, and of how many.
    """
    if not candidates or samples < 1 or warmup < 1:
        raise ValueError(f"nothing to measure: {len(candidates)} candidates, {samples} samples, {warmup} warm-up calls")
    call_ns = warm_up(candidates, warmup, clock)
    left_out = {name: _WARM_NS // max(took, _FASTEST_NS) for name, took in call_ns.items()}
    kept = max(1, min(samples // _ROUNDS, _BLOCK_NS // max(*call_ns.values(), _FASTEST_NS)))
    rounds = math.ceil(samples / kept)
    taken = {name: np.zeros((rounds, kept), dtype=np.int64) for name in candidates}
    order = list(candidates)
    shuffle = random.Random(seed).shuffle
    for round_ in range(rounds):
        shuffle(order)
        for name in order:
            call, block = candidates[name], taken[name][round_]
            for _ in range(left_out[name]):
                call()
            for position in range(kept):
                start = clock()
                call()
                block[position] = clock() - start
        on_round(round_ + 1, rounds)
    return taken


def warm_up(candidates: Mapping[str, Callable[[], object]], times: int, clock: Callable[[], int]) -> dict[str, int]:
    """Call every candidate so many times; the fastest of the later half of its calls, in nanoseconds.

    On a busy machine a median would be that of the waiting: blocks would keep fewer calls, so that there would be more
    blocks, each with calls that are left out.
    """
    fastest = {}
    for name, call in candidates.items():
        taken = []
        for _ in range(times):
            start = clock()
            call()
            taken.append(clock() - start)
        fastest[name] = min(taken[times // 2 :])
    return fastest


def summary(samples: Samples) -> Summary:
    """Nanoseconds of n calls -> mean, extremes and the percentiles that n can carry, in milliseconds."""
    ordered = np.sort(samples, axis=None) / 1e6
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
    """Nanoseconds of n calls -> p1, p2, ... p99 in milliseconds, None for those that n samples do not carry."""
    ordered = np.sort(samples, axis=None) / 1e6
    return [_percentile(ordered, p) if len(ordered) >= minimum_samples(p) else None for p in range(1, 100)]


def paired_ratio(a: Samples, b: Samples, seed: int = 0, resamples: int = 2000) -> Ratio:
    """Median over rounds of a / b, each the median of its block. Rounds are resampled whole.

    What slowed both at once cancels out; and what hit single calls of a block, such as an interrupt, counts no more
    than it does in a p50.
    """
    if len(a) != len(b) or len(a) == 0 or not (b > 0).all():
        raise ValueError(f"{len(a)} rounds against {len(b)}: they must pair up, and outlast a clock tick")
    ratios = _block_medians(a) / _block_medians(b)
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


def _block_medians(samples: Samples) -> npt.NDArray[np.float64]:
    """(rounds,) -> the same; (rounds, kept calls) -> (rounds,)."""
    medians: npt.NDArray[np.float64] = np.median(samples.reshape(len(samples), -1), axis=1)
    return medians


def _percentile(ordered: npt.NDArray[np.float64], percent: int) -> float:
    """Nearest rank: a latency that did occur, never one between two."""
    return float(ordered[math.ceil(percent * len(ordered) / 100) - 1])


def _bound(ordered: npt.NDArray[np.float64], percent: int) -> float | None:
    """The largest sample once the t - 1 largest are dropped, t as tolerated."""
    t = tolerated(len(ordered), percent)
    return float(ordered[-t]) if t >= 1 else None
