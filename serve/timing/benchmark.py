"""Candidates measured side by side and one by one: plain JSON data, and the tables a person reads.

The data are described in docs/benchmarking.md.
"""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serve import machine
from serve.timing import apart, energy, latency, loadgen, pause, progress, scenarios
from serve.timing.candidates import Candidate
from serve.timing.cold_start import cold_start

Samples = dict[tuple[str, int], latency.Samples]
"""(candidate, batch size) -> (rounds, kept calls of each) nanoseconds."""

_FEWEST_SAMPLES = 70


@dataclass(frozen=True)
class LoadGen:
    """How long LoadGen runs each scenario, and the bound of its Server scenario."""

    seconds: float
    server_p99_ms: float


@dataclass(frozen=True)
class Plan:
    """What is measured. Empty, 0 and None leave a part out."""

    batch_sizes: tuple[int, ...]
    samples: int  # timed calls at batch 1; larger batches take fewer
    warmup: int
    seed: int
    thread_counts: tuple[int, ...] = ()
    cold_starts: int = 0
    loadgen: LoadGen | None = None

    def __post_init__(self) -> None:
        """Raise ServeError now rather than after minutes of measuring, where LoadGen is asked for and not there."""
        if self.loadgen is not None:
            loadgen.require()


def busy() -> str | None:
    """A warning where other work is in the way; None on an idle machine."""
    load, cores = machine.load_average(), machine.num_cores()
    if load <= 0.5 * cores:
        return None
    return f"Warning: load average {load:.1f} on {cores} cores; only the ratios can be trusted."


def side_by_side(
    candidates: Sequence[Candidate], pairs: Sequence[tuple[str, str]], plan: Plan
) -> tuple[list[dict[str, Any]], Samples]:
    """All candidates in turn, at each batch size: a record of each, and the raw samples. Of `pairs`, a / b.

    At the smallest batch size also what a call takes after a pause: who calls rarely sends few images.
    """
    calls = {candidate.name: candidate.open() for candidate in candidates}
    batches, raw = [], {}
    for batch_size in plan.batch_sizes:
        number = max(min(_FEWEST_SAMPLES, plan.samples), plan.samples // batch_size)
        bound = {c.name: partial(calls[c.name], c.pixels(batch_size, plan.seed)) for c in candidates}
        told = progress.rounds(f"timing {', '.join(calls)} in turn, batch {batch_size}")
        samples = latency.measure(bound, number, plan.warmup, plan.seed, on_round=told)
        raw.update({(name, batch_size): values for name, values in samples.items()})
        timings = {name: latency.summary(values) for name, values in samples.items()}
        batches.append(
            {
                "batch_size": batch_size,
                "rounds": len(next(iter(samples.values()))),
                "candidates": {
                    name: {
                        **timing.to_dict(),
                        "images_per_s": 1000 * batch_size / timing.mean_ms,
                        "quantiles_ms": latency.quantiles(samples[name]),
                    }
                    for name, timing in timings.items()
                },
                "ratios": {
                    f"{a} / {b}": latency.paired_ratio(samples[a], samples[b], plan.seed).to_dict() for a, b in pairs
                },
                "after_pause": pause.first_calls(bound, number, plan.seed)
                if batch_size == min(plan.batch_sizes)
                else None,
            }
        )
    return batches, raw


def decomposition(formats: Sequence[str]) -> list[tuple[str, str]]:
    """What to compare of student and teacher in both runtimes, and of the student in further number formats.

    Smaller model, other runtime and other format one by one; what the files come to that a person chooses between,
    smaller model and format in one runtime; and all of them together.
    """
    others = [f"student_{name}_onnx" for name in formats]
    return [
        ("teacher_onnx", "student_onnx"),
        ("teacher_torch", "teacher_onnx"),
        ("student_torch", "student_onnx"),
        *(("student_onnx", other) for other in others),
        *(("teacher_onnx", other) for other in others),
        *(("teacher_torch", last) for last in others or ["student_onnx"]),
    ]


def one_by_one(candidate: Candidate, plan: Plan, with_threads: bool = True) -> dict[str, Any]:
    """One candidate by itself: threads and energy in this process, first calls, memory and LoadGen in fresh ones.

    `with_threads` False leaves the numbers of threads out: torch has one for the whole process.
    """
    parts = ["threads"] if with_threads and candidate.device == "cpu" and plan.thread_counts else []
    parts += [f"{plan.cold_starts} cold starts"] if plan.cold_starts else []
    parts += [f"LoadGen with {plan.loadgen.seconds:g} s a run"] if plan.loadgen is not None else []
    if parts:
        progress.say(f"measuring {candidate.name} alone: {', '.join(parts)}")
    return {
        "name": candidate.name,
        "device": candidate.device,
        "size_bytes": candidate.path.stat().st_size,
        "threads": _by_threads(candidate, plan) if with_threads and candidate.device == "cpu" else [],
        "energy": _energy(candidate, plan),
        **_apart(candidate, plan),
    }


def _by_threads(candidate: Candidate, plan: Plan) -> list[dict[str, Any]]:
    """Latency by number of threads, up to the cores of this machine: sessions in turn, as candidates are."""
    counts = [count for count in plan.thread_counts if count <= machine.num_cores()]
    calls = {str(count): candidate.on(count).open() for count in counts}
    found = []
    for batch_size in plan.batch_sizes if counts else ():
        pixels = candidate.pixels(batch_size, plan.seed)
        bound = {count: partial(call, pixels) for count, call in calls.items()}
        samples = latency.measure(bound, min(_FEWEST_SAMPLES, plan.samples), plan.warmup, plan.seed)
        for count, values in samples.items():
            timing = latency.summary(values)
            found.append(
                {
                    "threads": int(count),
                    "batch_size": batch_size,
                    "n": timing.n,
                    "p50_ms": timing.p50_ms,
                    "p90_ms": timing.p90_ms,
                    "images_per_s": 1000 * batch_size / timing.mean_ms,
                }
            )
    return found


def _energy(candidate: Candidate, plan: Plan) -> dict[str, Any] | None:
    """At the largest batch; None where this machine does not count energy."""
    meter = energy.meter(candidate.device)
    if meter is None:
        return None
    source, read = meter
    batch_size = max(plan.batch_sizes)
    call = partial(candidate.open(), candidate.pixels(batch_size, plan.seed))
    return {"source": source, "batch_size": batch_size, **energy.per_image(call, batch_size, read)}


def _apart(candidate: Candidate, plan: Plan) -> dict[str, Any]:
    """What needs fresh processes; both parts None where the plan leaves them out."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.npy"
        np.save(images, candidate.images)
        what: dict[str, Any] = {
            "make": apart.reference(candidate.make),
            "path": str(candidate.path),
            "threads": candidate.threads,
            "device": candidate.device,
            "images": str(images),
        }
        starts = [apart.call(cold_start, **what, batch_sizes=list(plan.batch_sizes)) for _ in range(plan.cold_starts)]
        records = None
        if plan.loadgen is not None:
            records = apart.call(
                scenarios.run,
                **what,
                **asdict(plan.loadgen),
                offline_batch=max(plan.batch_sizes),
                warmup=plan.warmup,
                seed=plan.seed,
            )
    return {"cold_start": _median_start(starts), "loadgen": records}


def _median_start(starts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Medians over fresh processes; memory is that of the first, since it hardly varies."""
    if not starts:
        return None
    medians = {key: statistics.median(start[key] for start in starts) for key in starts[0] if key.endswith("_ms")}
    return {"n": len(starts), **medians, "memory": starts[0]["memory"]}


def headline(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the smallest batch size, the few numbers that runs are compared by, by file.

    p50_ms, and how many times as fast as the teacher's file each other one is, a median of rounds.
    """
    batch = min(batches, key=lambda batch: batch["batch_size"])
    files = {name.removesuffix("_onnx"): timing for name, timing in batch["candidates"].items() if "_onnx" in name}
    ratios = {name: batch["ratios"].get(f"teacher_onnx / {name}_onnx") for name in files}
    return {
        "batch_size": batch["batch_size"],
        "p50_ms": {name: timing["p50_ms"] for name, timing in files.items()},
        "times_as_fast": {name: ratio["median"] for name, ratio in ratios.items() if ratio is not None},
    }


def sample_rows(raw: Samples) -> list[list[object]]:
    """The raw samples as rows of a table with a header: candidate, batch_size, round, ms, and percent.

    Percent is the share of calls that took no longer, so that (ms, percent) draws the distribution.
    """
    rows: list[list[object]] = [["candidate", "batch_size", "round", "ms", "percent"]]
    for (name, batch_size), samples in raw.items():
        taken, kept = samples.ravel(), samples.shape[1]
        order = np.argsort(taken, kind="stable")
        percents = 100 * np.arange(1, len(taken) + 1) / len(taken)
        for position, percent in zip(order.tolist(), percents.tolist(), strict=True):
            rows.append([name, batch_size, position // kept, round(int(taken[position]) / 1e6, 6), round(percent, 3)])
    return rows


def throughput_rows(batches: Sequence[Mapping[str, Any]]) -> list[list[object]]:
    """Rows of a table with a header: candidate, batch_size, p50_ms, images_per_s."""
    rows: list[list[object]] = [["candidate", "batch_size", "p50_ms", "images_per_s"]]
    for batch in batches:
        for name, timing in batch["candidates"].items():
            rows.append([name, batch["batch_size"], round(timing["p50_ms"], 6), round(timing["images_per_s"], 3)])
    return rows
