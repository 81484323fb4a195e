"""One run of MLPerf Inference's load generator over a candidate.

LoadGen decides when queries come, times them and says whether a run is VALID; nothing of that is decided here. Its
package, mlcommons-loadgen, is not among what serving needs, and is looked for only when a run starts. It keeps global
state and ends the process when a callback raises: a run belongs into a process of its own (serve.timing.apart).

Rules: https://github.com/mlcommons/inference_policies, on scenarios and on early stopping.
"""

import json
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from serve.errors import ServeError
from serve.model.classifier import Pixels
from serve.timing.candidates import Call
from serve.timing.latency import minimum_samples

OFFICIAL_SECONDS = 600
"""What MLPerf asks of every run."""
SAMPLES_PER_QUERY = 8
"""Of MultiStream."""
PERCENT = {"SingleStream": 90, "MultiStream": 99, "Server": 99}
"""The percentile that a scenario is about; Offline is about throughput."""

Record = dict[str, Any]
Issue = Callable[[list[Any]], None]


def is_installed() -> bool:
    """It has no wheel for every system."""
    return find_spec("mlperf_loadgen") is not None


def require() -> None:
    """Raise ServeError unless LoadGen is installed."""
    if not is_installed():
        raise ServeError(
            "LoadGen is not installed here. Install the package mlcommons-loadgen, or leave LoadGen out: do not give "
            "--loadgen, or set benchmark.loadgen to null."
        )


class Bench:
    """One candidate with its samples, ready to be tested."""

    def __init__(self, call: Call, library: Pixels, seconds: float, seed: int) -> None:
        import mlperf_loadgen as lg  # type: ignore[import-not-found]

        self._lg, self._call, self._library, self.seconds, self._seed = lg, call, library, seconds, seed
        # LoadGen has its samples loaded before it asks. What picks one behind a call is slow, its caches being empty:
        # indexing with a list took 11 us of a call of 350.
        self._loaded = [library[position : position + 1] for position in range(len(library))]

    def answer(self, samples: list[Any]) -> None:
        """Answer these samples at once."""
        try:
            if len(samples) == 1:
                pixels = self._loaded[samples[0].index]
            else:
                pixels = self._library[[sample.index for sample in samples]]
            rows = np.asarray(self._call(pixels))
            start, step = rows.__array_interface__["data"][0], rows.strides[0]
            # `rows` lives until LoadGen has looked at it: until the call returns.
            self._lg.QuerySamplesComplete(
                [self._lg.QuerySampleResponse(sample.id, start + n * step, step) for n, sample in enumerate(samples)]
            )
        except BaseException:
            # LoadGen's threads take no exception, and would wait for this answer for ever.
            traceback.print_exc()
            os._exit(1)

    def answer_in_batches(self, samples: list[Any], batch_size: int) -> None:
        """Answer these samples, so many at once."""
        for start in range(0, len(samples), batch_size):
            self.answer(samples[start : start + batch_size])

    @contextmanager
    def queue(self) -> Iterator[Issue]:
        """One worker that answers query after query, in the order they came, without batching."""
        waiting: SimpleQueue[list[Any] | None] = SimpleQueue()

        def work() -> None:
            while (samples := waiting.get()) is not None:
                self.answer(samples)

        worker = Thread(target=work)
        worker.start()
        try:
            yield waiting.put
        finally:
            waiting.put(None)
            worker.join()

    def test(self, scenario: str, issue: Issue, seconds: float | None = None, **fields: object) -> Record:
        """One run of LoadGen; `fields` are those of its TestSettings."""
        lg = self._lg
        settings = lg.TestSettings()
        settings.scenario, settings.mode = getattr(lg.TestScenario, scenario), lg.TestMode.PerformanceOnly
        seconds = self.seconds if seconds is None else seconds
        # LoadGen's own seeds are 0 whatever the run.
        seeds = {"qsl_rng_seed": 1, "sample_index_rng_seed": 2, "schedule_rng_seed": 3}
        fields = {name: self._seed + number for name, number in seeds.items()} | fields
        if scenario in PERCENT:
            fields["min_query_count"] = minimum_samples(PERCENT[scenario])
        for name, value in {"min_duration_ms": max(1, round(1000 * seconds)), **fields}.items():
            setattr(settings, name, value)
        with tempfile.TemporaryDirectory() as folder:
            logs = lg.LogSettings()
            logs.log_output.outdir, logs.log_output.copy_summary_to_stdout, logs.enable_trace = folder, False, False
            size = len(self._library)
            subject = lg.ConstructSUT(issue, lambda: None)
            samples = lg.ConstructQSL(size, size, lambda _: None, lambda _: None)
            try:
                lg.StartTestWithLogSettings(subject, samples, settings, logs, "")
            finally:
                lg.DestroyQSL(samples)
                lg.DestroySUT(subject)
            detail = (Path(folder) / "mlperf_log_detail.txt").read_text(encoding="utf-8")
        return record(scenario, seconds, entries(detail))


def entries(detail: str) -> dict[str, Any]:
    """mlperf_log_detail.txt -> value by key, the last of each; errors are joined."""
    found: dict[str, Any] = {}
    for line in detail.splitlines():
        mark, _, text = line.partition(":::MLLOG ")
        if mark or not text:
            continue
        entry = json.loads(text)
        key, value = entry["key"], entry["value"]
        if key.startswith("error_"):
            key, value = "error", " ".join(filter(None, [found.get("error"), str(value)]))
        found[key] = value
    return found


def record(scenario: str, seconds: float, found: Mapping[str, Any]) -> Record:
    """What one run says.

    valid            LoadGen's verdict, with its `reasons` where it is False
    official         whether the run was as long as MLPerf asks for
    queries          how many were answered, with so many `samples` (images) in all
    samples_per_s    images: of Server those completed, of the others as fast as they went
    late             of Server: queries that took longer than its bound; too many of them for a p99 within it, with
                     confidence 0.99, and LoadGen says INVALID, be the p99 of these queries within it or not
    p50_ms ...       of queries, from the moment each was due; None where `queries` carry no such percentile
    p90_bound_ms ... LoadGen's early-stopping estimates; None where it gives none
    """
    queries = found.get("result_query_count", 0)
    timed = scenario in PERCENT
    mean_ns = found.get("result_mean_latency_ns")

    def percentile(percent: int, minimum: int) -> float | None:
        value = found.get(f"result_{percent}.00_percentile_latency_ns")
        return value / 1e6 if timed and value is not None and queries >= minimum else None

    def bound(key: str) -> float | None:
        # 0 stands for "too few queries".
        return found[key] / 1e6 if timed and found.get(key) else None

    samples_per_s = {
        "SingleStream": found.get("result_qps_with_loadgen_overhead"),
        "MultiStream": mean_ns and SAMPLES_PER_QUERY * 1e9 / mean_ns,
        "Server": found.get("result_completed_samples_per_sec"),
        "Offline": found.get("result_samples_per_second"),
    }[scenario]
    valid = found.get("result_validity") == "VALID"
    said = ("result_invalid_reason", "error", "early_stopping_result")
    return {
        "scenario": scenario,
        "seconds": seconds,
        "official": seconds >= OFFICIAL_SECONDS,
        "valid": valid,
        "reasons": [] if valid else [" ".join(str(found[key]).split()) for key in said if found.get(key)],
        "queries": queries,
        "samples": queries * found.get("effective_samples_per_query", 1),
        "samples_per_s": samples_per_s,
        "late": found.get("result_overlatency_query_count") if scenario == "Server" else None,
        "p50_ms": percentile(50, 1),
        "p90_ms": percentile(90, minimum_samples(90)),
        "p99_ms": percentile(99, minimum_samples(99)),
        "p90_bound_ms": bound("early_stopping_latency_ss"),
        "p99_bound_ms": bound("early_stopping_latency_ms"),
    }
