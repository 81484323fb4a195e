"""Rows and sentences about latency, for the page and for RESULTS.md alike."""

from pipeline.report.artefacts.measured import parts
from pipeline.report.artefacts.results import Results
from pipeline.report.findings.formats import NONE, count, milliseconds, ratio, size, tiny

STARTS = ("file", "import ms", "open ms", "first call ms", "peak of memory", "J per image")
"""Titles of `starts`, behind the candidate."""
CALLS = ("", "batch", "p50", "p90", "p99", "n", "after a pause, p50")
"""Titles of `calls`."""
SCENARIOS = ("scenario", "verdict", "images", "p50 ms", "p99 ms", "p90 bound", "p99 bound", "images/s")
"""Titles of `scenarios`, likewise."""


_RUNTIMES = {"onnx": "ONNX Runtime", "torch": "PyTorch"}


def candidate(name: str) -> str:
    """student_onnx -> 'student, ONNX Runtime'."""
    who, _, runtime = name.rpartition("_")
    return f"{who.replace('_', ' ')}, {_RUNTIMES[runtime]}" if who and runtime in _RUNTIMES else name


def contrast(name: str) -> tuple[str, str]:
    """A ratio's name -> what makes the difference, and what was compared."""
    a, _, b = name.partition(" / ")
    (network_a, format_a, runtime_a), (network_b, format_b, runtime_b) = parts(a), parts(b)
    differences = (network_a != network_b, format_a != format_b, runtime_a != runtime_b)
    if differences == (True, True, False) and runtime_a in _RUNTIMES:
        formats = f"{network_a} {format_a} / {network_b} {format_b}"
        return "smaller model, fewer bits", f"{formats}, both in {_RUNTIMES[runtime_a]}"
    if sum(differences) != 1 or not {runtime_a, runtime_b} <= _RUNTIMES.keys():
        return "all together", f"{candidate(a)} / {candidate(b)}"
    if network_a != network_b:
        return "smaller model", f"{network_a} / {network_b}, both in {_RUNTIMES[runtime_a]}"
    if format_a != format_b:
        return "other numbers", f"{format_a} / {format_b}, {network_a} in {_RUNTIMES[runtime_a]}"
    return "other runtime", f"{_RUNTIMES[runtime_a]} / {_RUNTIMES[runtime_b]}, {network_a}"


def ratios(results: Results) -> list[tuple[str, ...]]:
    """Rows of what makes the difference, what was compared, ratio and interval by batch size."""
    batches = results.latency.batches
    return [
        (*contrast(name), *(ratio(batch.ratios[name]) if name in batch.ratios else NONE for batch in batches))
        for name in batches[0].ratios
    ]


def calls(results: Results) -> list[list[tuple[str, ...]]]:
    """By batch size, rows of candidate, batch size, p50, p90 and p99 in ms, number of calls, p50 after a pause."""
    return [
        [
            (
                candidate(name),
                str(batch.batch_size),
                *map(milliseconds, (timing.p50_ms, timing.p90_ms, timing.p99_ms)),
                count(timing.n),
                milliseconds(None if batch.after_pause is None else batch.after_pause.p50_ms[name]),
            )
            for name, timing in batch.candidates.items()
        ]
        for batch in results.latency.batches
    ]


def calls_note(results: Results) -> str:
    """How the rows of `calls` came about."""
    paused = [batch.after_pause for batch in results.latency.batches if batch.after_pause is not None]
    pause = f" After a pause: the first call after {paused[0].pause_ms:g} ms, {paused[0].n} times." if paused else ""
    return (
        "One call after the other: candidates take turns in blocks of calls, and the first of a block, whose caches "
        f"others have emptied, are left out.{pause} {NONE}: not measured, or too few samples for that percentile."
    )


def starts(results: Results) -> list[tuple[str, ...]]:
    """Rows of candidate, file, import, open, first call, peak of memory, joules per image; empty if not measured."""
    rows = []
    for it in results.latency.candidates:
        if it.cold_start is None:
            continue
        times = (it.cold_start.import_ms, it.cold_start.open_ms, it.cold_start.first_call_ms)
        peak = max(it.cold_start.memory, key=lambda memory: memory.batch_size).peak_bytes
        rows.append(
            (
                candidate(it.name),
                size(it.size_bytes),
                *map(milliseconds, times),
                NONE if peak is None else size(peak),
                NONE if it.energy is None else tiny(it.energy.joules_per_image),
            )
        )
    return rows


def starts_note(results: Results) -> str:
    """How the rows of `starts` came about."""
    largest = max(batch.batch_size for batch in results.latency.batches)
    counts = {it.cold_start.n for it in results.latency.candidates if it.cold_start is not None}
    meters = {it.energy.source for it in results.latency.candidates if it.energy is not None}
    energy = f"by {', '.join(sorted(meters))}" if meters else "not counted by this machine"
    return (
        f"Medians over {', '.join(map(str, sorted(counts)))} fresh processes; their files were in the system's cache. "
        f"Memory: the peak of the whole process up to a call at batch {largest}. Energy: {energy}."
    )


def scenarios(results: Results) -> list[tuple[str, ...]]:
    """Rows of candidate, scenario, verdict, images, p50, p99, early-stopping p90 and p99, images per second."""
    return [
        (
            candidate(it.name),
            run.scenario + ("" if run.p99_limit_ms is None else f", p99 within {run.p99_limit_ms:g} ms"),
            "VALID" if run.valid else "INVALID",
            count(run.samples),
            *map(milliseconds, (run.p50_ms, run.p99_ms, run.p90_bound_ms, run.p99_bound_ms)),
            NONE if run.samples_per_s is None else count(round(run.samples_per_s)),
        )
        for it in results.latency.candidates
        for run in it.loadgen or ()
    ]


def scenarios_note(results: Results) -> str:
    """How the rows of `scenarios` came about."""
    runs = [run for it in results.latency.candidates for run in it.loadgen or ()]
    lengths = ", ".join(f"{seconds:g}" for seconds in sorted({run.seconds for run in runs}))
    invalid = "".join(
        f" {candidate(it.name)}, {run.scenario}, is INVALID: {' '.join(run.reasons)}"
        for it in results.latency.candidates
        for run in it.loadgen or ()
        if run.reasons
    )
    short = "" if all(run.official for run in runs) else "; MLPerf asks for 600 s, so these are no MLPerf results"
    return (
        f"MLPerf Inference's own load generator, {lengths} s a run{short}. Latency counts from when a query was due; "
        "bounds are LoadGen's early-stopping estimates. "
        "One query after the other, without batching but in Offline; the verdict is LoadGen's."
        f"{invalid}"
    )


def threads(results: Results) -> list[tuple[str, ...]]:
    """Rows of candidate, number of threads, p50 by batch size."""
    batch_sizes = [batch.batch_size for batch in results.latency.batches]
    rows = []
    for it in results.latency.candidates:
        at = {(timing.threads, timing.batch_size): timing.p50_ms for timing in it.threads}
        for number in sorted({timing.threads for timing in it.threads}):
            times = [milliseconds(at.get((number, batch_size))) for batch_size in batch_sizes]
            rows.append((candidate(it.name), str(number), *times))
    return rows
