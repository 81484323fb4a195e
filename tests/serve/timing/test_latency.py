"""serve.timing.latency under a clock that a test turns by hand."""

import json
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from serve.timing import benchmark, pause, progress
from serve.timing.latency import Summary, measure, minimum_samples, paired_ratio, quantiles, summary, tolerated

MS = 1_000_000


class Clock:
    """Stands still until somebody works."""

    def __init__(self) -> None:
        self.now_ns = 10**15

    def __call__(self) -> int:
        return self.now_ns

    def work(self, *durations_ms: float) -> Callable[[], None]:
        """A candidate whose successive calls take these times, over and over."""
        pending: list[float] = []

        def call() -> None:
            if not pending:
                pending.extend(durations_ms)
            self.now_ns += round(pending.pop(0) * MS)

        return call


def milliseconds(*values: float) -> np.ndarray:
    return np.array([round(value * MS) for value in values], dtype=np.int64)


class Machine(Clock):
    """One whose caches hold a single network: the first calls of another take longer, until it has run for 3 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.slowness = 1.0
        self._owner = ""
        self._warm_at_ns = 0
        self.calls: list[str] = []

    def network(self, name: str, warm_ms: float, cold_ms: float) -> Callable[[], None]:
        def call() -> None:
            self.calls.append(name)
            if self._owner != name:
                self._owner, self._warm_at_ns = name, self.now_ns + 3 * MS
            took_ms = cold_ms if self.now_ns < self._warm_at_ns else warm_ms
            self.now_ns += round(took_ms * self.slowness * MS)

        return call

    def sleep(self, seconds: float) -> None:
        """Somebody else has the caches."""
        self.calls.append("sleep")
        self.now_ns += round(seconds * 1e9)
        self._owner = ""


def test_each_candidate_gets_its_own_samples_in_the_order_of_rounds() -> None:
    clock = Clock()
    # Calls of 20 ms and more are warm at once: nothing is left out. One that slow allows one call a block.
    samples = measure({"a": clock.work(100, 20, 30), "b": clock.work(20, 200)}, 6, warmup=1, clock=clock)
    np.testing.assert_array_equal(samples["a"], milliseconds(20, 30, 100, 20, 30, 100)[:, None])
    np.testing.assert_array_equal(samples["b"], milliseconds(200, 20, 200, 20, 200, 20)[:, None])


def test_warmup_calls_everyone_and_is_not_timed() -> None:
    clock = Clock()
    # The first two calls are slow, as first calls are.
    samples = measure({"a": clock.work(500, 500, 100, 100, 100, 100)}, 2, warmup=4, clock=clock)
    np.testing.assert_array_equal(samples["a"], milliseconds(100, 100)[:, None])
    machine = Machine()
    measure({name: machine.network(name, 20, 20) for name in "ab"}, 1, warmup=5, clock=machine)
    assert sorted(machine.calls[:10]) == ["a"] * 5 + ["b"] * 5
    assert len(machine.calls) == 12


def test_a_block_is_warm_where_single_calls_would_not_be() -> None:
    machine = Machine()
    networks = {"small": machine.network("small", 0.25, 1), "large": machine.network("large", 5, 6)}
    samples = measure(networks, 700, clock=machine)
    assert {name: set(taken.ravel() // 1000) for name, taken in samples.items()} == {"small": {250}, "large": {5000}}
    ratio = paired_ratio(samples["large"], samples["small"])
    assert (ratio.median, ratio.low, ratio.high) == (20, 20, 20)


@pytest.mark.parametrize(
    ("call_ms", "asked", "rounds", "kept", "left_out"),
    [
        (0.05, 700, 35, 20, 200),
        (0.05, 70_000, 35, 2000, 200),
        (8, 700, 59, 12, 1),
        (11, 700, 78, 9, 0),
        (500, 70, 70, 1, 0),
        (0.001, 2, 2, 1, 1000),
        (1, 36, 36, 1, 10),
    ],
)
def test_blocks_fit_the_calls(call_ms: float, asked: int, rounds: int, kept: int, left_out: int) -> None:
    machine = Machine()
    (samples,) = measure({"a": machine.network("a", call_ms, call_ms)}, asked, 4, clock=machine).values()
    assert samples.shape == (rounds, kept)
    assert samples.size >= asked
    assert len(machine.calls) == 4 + rounds * (left_out + kept)


def test_drift_cancels() -> None:
    machine = Machine()
    networks = {name: machine.network(name, ms, ms) for name, ms in (("a", 6), ("b", 2))}

    def slower(done: int, rounds: int) -> None:
        machine.slowness = 1 + 4 * done / rounds

    samples = measure(networks, 350, clock=machine, on_round=slower)
    assert samples["b"].max() > 4.5 * samples["b"].min()
    ratio = paired_ratio(samples["a"], samples["b"])
    assert ratio.low == pytest.approx(3)
    assert ratio.high == pytest.approx(3)


def test_the_first_call_after_a_pause_is_cold() -> None:
    machine = Machine()
    networks = {"small": machine.network("small", 0.25, 1), "large": machine.network("large", 5, 6)}
    found = pause.first_calls(networks, 700, clock=machine, sleep=machine.sleep)
    assert found == {"pause_ms": 10, "n": 70, "p50_ms": {"small": 1.0, "large": 6.0}}
    # Every call has its pause, and the two take turns in an order that is drawn.
    assert machine.calls[::2] == ["sleep"] * 140
    turns = list(zip(machine.calls[1::4], machine.calls[3::4], strict=True))
    assert set(turns) == {("small", "large"), ("large", "small")}
    assert pause.first_calls(networks, 3, clock=machine, sleep=machine.sleep)["n"] == 3


def order_of_calls(seed: int, rounds: int = 600) -> list[tuple[str, ...]]:
    machine = Machine()
    measure({name: machine.network(name, 100, 100) for name in "abc"}, rounds, warmup=1, seed=seed, clock=machine)
    return [tuple(machine.calls[start : start + 3]) for start in range(3, len(machine.calls), 3)]


def test_rounds_are_interleaved_at_random_and_repeat_with_the_seed() -> None:
    rounds = order_of_calls(seed=0)
    assert len(rounds) == 600
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    # 600 rounds over 6 orders: 100 each, with a standard deviation of 9.1.
    assert len(Counter(rounds)) == 6
    assert all(55 < count < 145 for count in Counter(rounds).values())
    assert rounds == order_of_calls(seed=0)
    assert rounds != order_of_calls(seed=1)


@pytest.mark.parametrize(("candidates", "samples", "warmup"), [({}, 1, 1), ({"a": int}, 0, 1), ({"a": int}, 1, 0)])
def test_nothing_to_measure(candidates: dict[str, Callable[[], object]], samples: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="nothing to measure"):
        measure(candidates, samples, warmup)


def test_real_clock_sees_real_time() -> None:
    samples = measure({"sum": lambda: sum(range(20_000)), "nothing": lambda: None}, 30)
    assert summary(samples["sum"]).p50_ms > 10 * summary(samples["nothing"]).p50_ms > 0


@pytest.mark.parametrize(("percent", "n"), [(90, 64), (99, 662), (99.9, 6636)])
def test_minimum_samples_are_those_of_mlperf(percent: float, n: int) -> None:
    assert minimum_samples(percent) == n
    slow = 1 - percent / 100
    # At most one slow sample among n - 1 could still be luck, among n it could not.
    for size, is_rare in ((n - 1, False), (n, True)):
        chance = (1 - slow) ** size + size * slow * (1 - slow) ** (size - 1)
        assert (chance <= 0.01) == is_rare


def test_tolerated_agrees_with_exact_sums() -> None:
    slow = Fraction(1, 10)
    for n in (10, 44, 64, 100, 300):
        exact, below = -1, Fraction(0)
        for t in range(n):
            below += comb(n, t) * slow**t * (1 - slow) ** (n - t)
            if below > Fraction(1, 100):
                break
            exact = t
        assert tolerated(n, 90) == exact


def test_tolerated_survives_many_samples() -> None:
    # 1e5 samples: 0.9 ** 1e5 is no float. Normal approximation: 10,000 - 2.326 * sqrt(9000) = 9779.
    assert abs(tolerated(100_000, 90) - 9779) <= 3


def test_summary_by_hand() -> None:
    shuffled = np.random.default_rng(0).permutation(milliseconds(*range(1, 101)))
    assert summary(shuffled) == Summary(
        n=100,
        mean_ms=50.5,
        min_ms=1,
        max_ms=100,
        p50_ms=50,
        p90_ms=90,
        p99_ms=None,
        # Of 100 samples 3 may be slower, so the two slowest are dropped.
        p90_bound_ms=98,
        p99_bound_ms=None,
    )


@pytest.mark.parametrize(("n", "has_p90", "has_p99"), [(1, 0, 0), (63, 0, 0), (64, 1, 0), (661, 1, 0), (662, 1, 1)])
def test_percentiles_wait_for_their_samples(n: int, has_p90: bool, has_p99: bool) -> None:
    result = summary(milliseconds(*range(1, n + 1)))
    assert result.p50_ms == (n + 1) // 2
    assert (result.p90_ms is not None) == (result.p90_bound_ms is not None) == has_p90
    assert (result.p99_ms is not None) == (result.p99_bound_ms is not None) == has_p99
    if has_p99:
        assert result.p99_ms == 656  # ceil(0.99 * 662)
        assert result.p99_bound_ms == 662  # nothing dropped: one may be slower
    if has_p90 and n == 64:
        assert (result.p90_ms, result.p90_bound_ms) == (58, 64)


def test_quantiles_by_hand() -> None:
    found = quantiles(np.random.default_rng(0).permutation(milliseconds(*range(1, 101))))
    # 100 samples carry p93, which takes 93 (0.93 ** n + n * 0.07 * 0.93 ** (n - 1) <= 0.01), and no more.
    assert found == [*range(1, 94), *[None] * 6]
    assert quantiles(milliseconds(*range(1, 663)))[98] == 656


def test_bound_holds_the_percentile_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    true_p90 = -np.log(0.1)  # of an exponential of mean 1
    runs = [summary((generator.exponential(size=200) * MS).astype(np.int64)) for _ in range(1000)]
    held = sum(run.p90_bound_ms is not None and run.p90_bound_ms >= true_p90 for run in runs)
    assert held >= 980


def test_ratio_pairs_rounds() -> None:
    # A machine that is 1 to 50 times slower from round to round; a takes 3 times as long as b in each.
    load = np.random.default_rng(0).integers(1, 50, 200) * MS
    ratio = paired_ratio(3 * load, load)
    assert (ratio.median, ratio.low, ratio.high) == (3, 3, 3)


def test_ratio_is_of_the_medians_of_blocks() -> None:
    # An interrupt hits one call of a block of three; rounds are 2, 4 and 6 to 1.
    a = milliseconds(2, 50, 2, 4, 4, 4, 6, 6, 6).reshape(3, 3)
    b = milliseconds(1, 1, 1, 1, 90, 1, 1, 1, 1).reshape(3, 3)
    assert paired_ratio(a, b).median == 4
    assert summary(a).n == 9
    assert summary(a).p50_ms == 4
    assert quantiles(a) == quantiles(a.ravel())


def test_ratio_interval_is_seeded_and_holds_the_truth() -> None:
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        b = np.full(101, MS)
        a = (MS * 2 * np.exp(generator.normal(0, 0.2, 101))).astype(np.int64)
        ratio = paired_ratio(a, b, seed=seed, resamples=300)
        assert ratio.low <= ratio.median <= ratio.high
        assert ratio == paired_ratio(a, b, seed=seed, resamples=300)
        covered += ratio.low <= 2 <= ratio.high
    assert 88 <= covered <= 99  # 95 of 100 expected; an interval that always covers is too wide


@pytest.mark.parametrize(("a", "b"), [((1, 2), (1,)), ((), ()), ((1, 2), (1, 0))])
def test_ratio_needs_pairs(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="must pair up"):
        paired_ratio(milliseconds(*a), milliseconds(*b))


def test_results_are_plain_json() -> None:
    few = summary(milliseconds(1, 2, 4))
    assert json.loads(json.dumps(few.to_dict(), allow_nan=False))["p50_ms"] == 2
    assert json.loads(json.dumps(few.to_dict()))["p90_ms"] is None
    ratio = paired_ratio(milliseconds(2, 2), milliseconds(1, 1))
    assert json.loads(json.dumps(ratio.to_dict())) == {"median": 2, "low": 2, "high": 2}


def test_a_long_measurement_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 4.0, 10.0, 12.0, 21.0])
    told = progress.rounds("timing a, batch 1", clock=lambda: next(now))
    measure({"a": lambda: None}, 4, on_round=told)
    # Not more often than every ten seconds, and not behind the last round.
    assert capsys.readouterr().err == "timing a, batch 1: 2 of 4 rounds, 10 s left\n"


def test_the_headline_is_of_the_smallest_batch_and_names_every_file() -> None:
    def batch(size: int) -> dict[str, object]:
        names = ("teacher_onnx", "student_onnx", "student_int8_onnx", "student_torch")
        ratios = {"teacher_onnx / student_onnx": 2.0, "teacher_onnx / student_int8_onnx": 5.0}
        return {
            "batch_size": size,
            "candidates": {name: {"p50_ms": float(size)} for name in names},
            "ratios": {name: {"median": size * ratio, "low": 0.0, "high": 9.0} for name, ratio in ratios.items()},
        }

    assert benchmark.headline([batch(32), batch(1)]) == {
        "batch_size": 1,
        "p50_ms": {"teacher": 1.0, "student": 1.0, "student_int8": 1.0},
        "times_as_fast": {"student": 2.0, "student_int8": 5.0},
    }
