"""The four scenarios of MLPerf Inference for one candidate, and the search for the highest rate of the Server scenario.

`run` is to be called by `serve.timing.apart.call`: LoadGen needs a process of its own.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from serve.model.classifier import Pixels
from serve.timing import apart
from serve.timing.candidates import Call
from serve.timing.latency import minimum_samples
from serve.timing.loadgen import OFFICIAL_SECONDS, PERCENT, SAMPLES_PER_QUERY, Bench, Record, record

_OFFICIAL_OFFLINE_SAMPLES = 24_576
_PROBES = 6
_PROBE_SECONDS = 5.0
_OF_PROBES = ("valid", "reasons", "queries", "late", "p50_ms", "p99_ms")
_LONGEST_SECONDS = 60.0
"""What a run may take where so many queries are needed, unless it was given more."""


def run(
    make: str,
    path: str,
    threads: int,
    device: str,
    images: str,
    seconds: float,
    server_p99_ms: float,
    offline_batch: int,
    warmup: int,
    seed: int,
) -> list[Record]:
    """All four scenarios of one candidate, each of `seconds`; records as `record` makes them.

    images          an .npy file of pixels (M, H, W, 3); all of them are LoadGen's loaded samples
    server_p99_ms   bound of the Server scenario, whose highest VALID rate is searched for
    offline_batch   how many samples are computed at once in Offline
    """
    call, library = apart.resolve(make)(Path(path), threads, device), np.load(images)
    bench = Bench(call, library, seconds, seed)
    one, eight, many = (_fastest_ns(call, library, size, warmup) for size in (1, SAMPLES_PER_QUERY, offline_batch))
    # Half, as in multi_stream.
    single = bench.test("SingleStream", bench.answer, single_stream_expected_latency_ns=max(1, one // 2))
    multi = multi_stream(bench, eight)
    offline = bench.test(
        "Offline",
        lambda samples: bench.answer_in_batches(samples, offline_batch),
        # Half as much again as computed in the fastest call, so that the one big query fills the time.
        offline_expected_qps=1.5e9 * offline_batch / many,
        min_query_count=_OFFICIAL_OFFLINE_SAMPLES if seconds >= OFFICIAL_SECONDS else 1,
    )
    return [single, multi, search(bench, server_p99_ms, one), offline]


def multi_stream(bench: Bench, eight_ns: int) -> Record:
    """Queries of 8 images, one after the other; valid is False, with the reason, where they would take minutes."""
    num = minimum_samples(PERCENT["MultiStream"])
    if num * eight_ns / 1e9 > max(bench.seconds, _LONGEST_SECONDS):
        reason = (
            f"not run: p{PERCENT['MultiStream']} needs {num} queries of {SAMPLES_PER_QUERY} images, which take at "
            f"least {num * eight_ns / 1e9:.0f} s; give it that many seconds"
        )
        return record("MultiStream", bench.seconds, {"result_validity": "INVALID", "result_invalid_reason": reason})
    return bench.test(
        "MultiStream",
        bench.answer,
        # An expected latency above the real one makes LoadGen run out of queries; half of the fastest call never is.
        multi_stream_expected_latency_ns=max(1, eight_ns // 2),
        multi_stream_samples_per_query=SAMPLES_PER_QUERY,
    )


def search(bench: Bench, p99_ms: float, one_ns: int) -> Record:
    """The highest VALID rate of the Server scenario, by bisection between 0 and one call after the other.

    The record is that of the best run, with `rate_per_s` and all `probes`; valid is False where no rate was VALID. A
    probe is short; a rate that held is then run for the whole time, a tenth slower each time that fails. `probes` keep
    LoadGen's reasons, and where no rate was VALID, the record has those of the last one.
    """
    probes: list[Record] = []
    best: Record | None = None

    def probe(rate: float, seconds: float) -> Record:
        with bench.queue() as issue:
            came = bench.test(
                "Server",
                issue,
                seconds,
                server_target_qps=rate,
                server_target_latency_ns=round(1e6 * p99_ms),
                server_target_latency_percentile=PERCENT["Server"] / 100,
            )
        probes.append({"rate_per_s": rate, **{key: came[key] for key in _OF_PROBES}})
        return {**came, "rate_per_s": rate}

    low, high = 0.0, 1e9 / one_ns
    short = min(bench.seconds, _PROBE_SECONDS)
    longest = max(short, _LONGEST_SECONDS)
    # No rate helps where one call alone, at its fastest, takes longer than the bound.
    for _ in range(_PROBES if one_ns < 1e6 * p99_ms else 0):
        rate = (low + high) / 2
        if minimum_samples(PERCENT["Server"]) / rate > longest:
            break
        came = probe(rate, short)
        if came["valid"]:
            low, best = rate, came
        else:
            high = rate
    if best is not None and short < bench.seconds:
        rates = (best["rate_per_s"] * 0.9**attempt for attempt in range(4))
        best = next((run for run in (probe(rate, bench.seconds) for rate in rates) if run["valid"]), None)
    if best is None:
        best = record("Server", bench.seconds, {"result_validity": "INVALID"})
        best |= {"rate_per_s": None, "reasons": _why_none(probes, p99_ms, one_ns, longest)}
    return {**best, "p99_limit_ms": p99_ms, "probes": probes}


def _why_none(probes: Sequence[Record], p99_ms: float, one_ns: int, longest: float) -> list[str]:
    """Why no rate was VALID: what kept the search from trying one, or what LoadGen said of the last one."""
    if one_ns >= 1e6 * p99_ms:
        return [f"no rate has a p99 of at most {p99_ms} ms: one call takes at least {one_ns / 1e6:.3f} ms"]
    if not probes:
        num = minimum_samples(PERCENT["Server"])
        return [f"no rate was tried: at half of the fastest, {num} queries take more than {longest:g} s"]
    last = probes[-1]
    late, p99 = (f"{last[key]}" if last[key] is not None else "?" for key in ("late", "p99_ms"))
    return [
        f"no rate was VALID. The last, {last['rate_per_s']:.3g} queries/s, had a p99 of {p99} ms, and {late} of "
        f"{last['queries']} queries took longer than {p99_ms} ms. LoadGen says of it:",
        *last["reasons"],
    ]


def _fastest_ns(call: Call, library: Pixels, batch_size: int, warmup: int) -> int:
    """The fastest of several calls, after as many that do not count."""
    times = []
    for turn in range(2 * max(5, warmup)):
        pixels = library[np.arange(turn, turn + batch_size) % len(library)]
        start = time.perf_counter_ns()
        call(pixels)
        times.append(time.perf_counter_ns() - start)
    return max(1, min(times[len(times) // 2 :]))
