"""serve.timing.loadgen and serve.timing.scenarios: LoadGen really run, for moments; and its log read by hand."""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serve.errors import ServeError
from serve.timing import apart, latency, scenarios
from serve.timing.candidates import open_onnx
from serve.timing.loadgen import entries, record
from tests import asleep, tiny_onnx


def run(tmp_path: Path, make: Any = open_onnx, **changes: object) -> list[dict[str, Any]]:
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 3), dtype=np.uint8)
    images[:4, 0, 0, 0] = 255
    np.save(tmp_path / "images.npy", images)
    what = {
        "make": apart.reference(make),
        "path": str(tiny_onnx.write(tmp_path / "student.onnx")),
        "threads": 1,
        "device": "cpu",
        "images": str(tmp_path / "images.npy"),
        "seconds": 0.05,
        "server_p99_ms": 1000.0,
        "offline_batch": 4,
        "warmup": 5,
        "seed": 0,
    }
    found: list[dict[str, Any]] = apart.call(scenarios.run, **what | changes)
    return found


def test_all_scenarios_run_and_loadgen_judges_them(tmp_path: Path) -> None:
    single, multi, server, offline = run(tmp_path)
    assert [r["scenario"] for r in (single, multi, server, offline)] == [
        "SingleStream",
        "MultiStream",
        "Server",
        "Offline",
    ]
    assert all(r["valid"] and r["reasons"] == [] for r in (single, multi, server, offline))
    assert not any(r["official"] for r in (single, multi, server, offline))
    # The minimum counts of early stopping.
    assert single["queries"] >= 64
    assert multi["queries"] >= 662
    assert server["queries"] >= 662
    assert multi["samples"] == 8 * multi["queries"]
    assert offline["queries"] == 1
    assert offline["samples"] > 1
    for r in (single, multi):
        assert 0 < r["p50_ms"] <= r["p90_ms"]
        if r["queries"] < 662:  # of SingleStream, which may give as many in this time
            assert (r["p99_ms"], r["p99_bound_ms"]) == (None, None)
        else:
            assert r["p90_ms"] <= r["p99_ms"] <= r["p99_bound_ms"]
    assert single["p90_ms"] <= single["p90_bound_ms"]
    assert (offline["p50_ms"], offline["p99_bound_ms"]) == (None, None)
    assert server["rate_per_s"] == max(probe["rate_per_s"] for probe in server["probes"] if probe["valid"])
    assert server["p99_ms"] <= server["p99_limit_ms"] == 1000
    assert all(probe["valid"] == (probe["reasons"] == []) for probe in server["probes"])
    assert server["late"] <= latency.tolerated(server["queries"], 99)
    assert min(r["samples_per_s"] for r in (single, multi, server, offline)) > 0


def test_percentiles_are_of_the_latencies_that_were(tmp_path: Path) -> None:
    # Of 20 images 4 take 3 ms or more, the others 0.3 ms or more; which ones are asked hangs on the seed alone.
    single, _, _, offline = run(tmp_path, asleep.open_slow, seconds=0.1, server_p99_ms=0.1)
    assert single["queries"] >= 64
    assert 0.3 <= single["p50_ms"] < single["p90_ms"]
    assert 3 <= single["p90_ms"] <= single["p90_bound_ms"]
    assert single["samples_per_s"] <= 1000 / 0.3
    assert offline["samples_per_s"] <= 1000 / 0.3
    assert offline["samples"] >= 0.1 * offline["samples_per_s"]


def test_no_rate_meets_a_bound_below_one_call(tmp_path: Path) -> None:
    server = run(tmp_path, asleep.open_slow, server_p99_ms=0.2)[2]
    assert (server["valid"], server["rate_per_s"], server["probes"]) == (False, None, [])
    said = re.search(r"no rate .* p99 of at most 0\.2 ms: one call takes at least ([\d.]+) ms", server["reasons"][0])
    assert said is not None
    assert float(said[1]) >= 0.3


def test_a_model_that_breaks_in_the_middle_is_told(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="failed in its own process: RuntimeError: the model broke"):
        run(tmp_path, asleep.open_broken)


class Judge:
    """In LoadGen's place where its runs would take minutes: a rate holds up to a limit, which longer runs lower."""

    def __init__(self, seconds: float, limits: dict[float, float]) -> None:
        self.seconds, self._limits = seconds, limits
        self.asked: list[tuple[float, float]] = []

    def queue(self) -> Any:
        return nullcontext(lambda samples: None)

    def test(self, scenario: str, issue: object, seconds: float, **fields: Any) -> dict[str, Any]:
        assert (scenario, fields["server_target_latency_ns"]) == ("Server", 10_000_000)
        assert fields["server_target_latency_percentile"] == 0.99
        rate = fields["server_target_qps"]
        self.asked.append((rate, seconds))
        valid = rate <= self._limits[seconds]
        times = {"p50_ms": 1.0, "p99_ms": 7.5, "queries": 662, "late": 1 if valid else 4}
        # What LoadGen said of a p99 within the bound, where 4 of 662 queries were late and 1 may be.
        reasons = [] if valid else [f"* Run unsuccessful. {rate:g} queries/s for {seconds:g} s."]
        return {"valid": valid, "reasons": reasons, "samples_per_s": rate, **times}


def test_queries_of_many_images_that_would_take_minutes_are_not_run() -> None:
    # 662 queries for p99, of 100 ms each.
    found = scenarios.multi_stream(Judge(0.5, {}), 100_000_000)  # type: ignore[arg-type]
    assert (found["valid"], found["queries"], found["p99_ms"]) == (False, 0, None)
    assert found["reasons"] == [
        "not run: p99 needs 662 queries of 8 images, which take at least 66 s; give it that many seconds"
    ]


def test_the_search_ends_at_the_highest_rate_that_holds() -> None:
    # One call takes 0.5 ms: no more than 2000 a second. Six halvings leave 2000 / 64.
    judge = Judge(0.5, {0.5: 1234.0})
    found = scenarios.search(judge, 10.0, 500_000)  # type: ignore[arg-type]
    assert found["valid"]
    assert 1234 - 2000 / 64 < found["rate_per_s"] <= 1234
    assert [rate for rate, _ in judge.asked] == [1000, 1500, 1250, 1125, 1187.5, 1218.75]
    assert found["rate_per_s"] == 1218.75
    assert [probe["valid"] for probe in found["probes"]] == [True, False, False, True, True, True]


def test_a_long_run_has_the_last_word() -> None:
    judge = Judge(600.0, {5.0: 1234.0, 600.0: 1000.0})
    found = scenarios.search(judge, 10.0, 500_000)  # type: ignore[arg-type]
    assert [seconds for _, seconds in judge.asked] == [5.0] * 6 + [600.0] * 3
    assert found["rate_per_s"] == pytest.approx(1218.75 * 0.81)
    hopeless = scenarios.search(Judge(600.0, {5.0: 1234.0, 600.0: 0.0}), 10.0, 500_000)  # type: ignore[arg-type]
    assert (hopeless["valid"], hopeless["rate_per_s"], len(hopeless["probes"])) == (False, None, 10)
    # The last word is that of the slowest of the long runs.
    assert hopeless["reasons"][1] == f"* Run unsuccessful. {1218.75 * 0.9**3:g} queries/s for 600 s."


def test_rates_that_would_take_minutes_to_count_are_not_tried() -> None:
    # 9 ms a call, and no rate holds: 55, 28, 14 a second take 12, 24, 48 s for 662 queries; the next would take 95.
    judge = Judge(0.5, {0.5: 0.0})
    found = scenarios.search(judge, 10.0, 9_000_000)  # type: ignore[arg-type]
    assert found["valid"] is False
    assert len(judge.asked) == 3
    # Not the bound, which the p99 kept, but what LoadGen said.
    assert found["reasons"] == [
        "no rate was VALID. The last, 13.9 queries/s, had a p99 of 7.5 ms, and 4 of 662 queries took longer than "
        "10.0 ms. LoadGen says of it:",
        "* Run unsuccessful. 13.8889 queries/s for 0.5 s.",
    ]
    assert [probe["reasons"] for probe in found["probes"]] == [
        [f"* Run unsuccessful. {rate:g} queries/s for 0.5 s."] for rate, _ in judge.asked
    ]
    slow = scenarios.search(judge, 200.0, 100_000_000)  # type: ignore[arg-type]
    assert slow["reasons"] == ["no rate was tried: at half of the fastest, 662 queries take more than 60 s"]
    assert slow["probes"] == []


def log(**values: object) -> str:
    lines = [":::MLLOG " + json.dumps({"key": key, "value": value, "metadata": {}}) for key, value in values.items()]
    return "\n".join(["a line of another kind", *lines])


def test_a_log_by_hand() -> None:
    text = log(
        **{
            "effective_samples_per_query": 1,
            "result_validity": "VALID",
            "result_query_count": 700,
            "result_mean_latency_ns": 2_500_000,
            "result_qps_with_loadgen_overhead": 395.5,
            "result_50.00_percentile_latency_ns": 2_000_000,
            "result_90.00_percentile_latency_ns": 4_000_000,
            "result_99.00_percentile_latency_ns": 8_000_000,
            "early_stopping_latency_ss": 4_250_000,
            "early_stopping_latency_ms": 9_000_000,
        }
    )
    assert record("SingleStream", 600, entries(text)) == {
        "scenario": "SingleStream",
        "seconds": 600,
        "official": True,
        "valid": True,
        "reasons": [],
        "queries": 700,
        "samples": 700,
        "samples_per_s": 395.5,
        "late": None,
        "p50_ms": 2.0,
        "p90_ms": 4.0,
        "p99_ms": 8.0,
        "p90_bound_ms": 4.25,
        "p99_bound_ms": 9.0,
    }


def test_queries_that_were_late_are_counted_where_there_is_a_bound() -> None:
    text = log(result_validity="INVALID", result_query_count=662, result_overlatency_query_count=4)
    assert record("Server", 1, entries(text))["late"] == 4
    assert record("Offline", 1, entries(text))["late"] is None


def test_too_few_queries_carry_no_p99_and_the_reasons_are_given() -> None:
    text = log(
        **{
            "effective_samples_per_query": 8,
            "result_validity": "INVALID",
            "result_query_count": 100,
            "result_mean_latency_ns": 4_000_000,
            "result_50.00_percentile_latency_ns": 4_000_000,
            "result_90.00_percentile_latency_ns": 5_000_000,
            "result_99.00_percentile_latency_ns": 6_000_000,
            "early_stopping_latency_ms": 0,
            "result_invalid_reason": "Increase it. ",
            "error_runtime": "Ending early.",
            "early_stopping_result": " * Only processed 100 queries.\n",
        }
    )
    found = record("MultiStream", 1, entries(text))
    assert (found["valid"], found["official"], found["samples"]) == (False, False, 800)
    assert found["reasons"] == ["Increase it.", "Ending early.", "* Only processed 100 queries."]
    assert (found["p50_ms"], found["p90_ms"], found["p99_ms"], found["p99_bound_ms"]) == (4, 5, None, None)
    assert found["samples_per_s"] == 2000  # 8 samples in 4 ms


def test_loadgen_drops_as_many_queries_as_our_own_early_stopping() -> None:
    # LoadGen's log of 5949 queries said "Would discard 540"; of 870, for p99, "Would discard 1".
    assert latency.tolerated(5949, 90) - 1 == 540
    assert latency.tolerated(870, 99) - 1 == 1
