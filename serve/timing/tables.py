"""What benchmark measured, as aligned text."""

from collections.abc import Mapping, Sequence
from typing import Any


def side_by_side(batches: Sequence[Mapping[str, Any]]) -> str:
    """Latency by batch size and candidate; '-' where there are too few samples for a percentile."""
    rows = [["candidate", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "n"]]
    for batch in batches:
        for name, timing in batch["candidates"].items():
            times = [milliseconds(timing[key]) for key in ("p50_ms", "p90_ms", "p99_ms")]
            rows.append([name, str(batch["batch_size"]), *times, f"{timing['images_per_s']:.1f}", str(timing["n"])])
    return _aligned(rows)


def ratios(batches: Sequence[Mapping[str, Any]]) -> str:
    """How many times as long one candidate takes as another; empty where nothing was compared."""
    rows = [["time / time [95 %]", *(f"batch {batch['batch_size']}" for batch in batches)]]
    for name in batches[0]["ratios"]:
        values = [batch["ratios"][name] for batch in batches]
        rows.append([name, *(f"{r['median']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in values)])
    return _aligned(rows) if len(rows) > 1 else ""


def pauses(batches: Sequence[Mapping[str, Any]]) -> str:
    """The first call after a pause, by candidate; empty where it was not measured."""
    rows = [["after a pause", "pause ms", "batch", "p50 ms", "n"]]
    for batch in batches:
        if (paused := batch["after_pause"]) is None:
            continue
        for name, p50_ms in paused["p50_ms"].items():
            numbers = [str(batch["batch_size"]), milliseconds(p50_ms), str(paused["n"])]
            rows.append([name, f"{paused['pause_ms']:g}", *numbers])
    return _aligned(rows) if len(rows) > 1 else ""


def one_by_one(records: Sequence[Mapping[str, Any]]) -> str:
    """Threads, first calls, memory and LoadGen's scenarios, as far as they were measured."""
    return "\n\n".join(filter(None, [_starts(records), _threads(records), _loadgen(records)]))


def milliseconds(value: float | None) -> str:
    """Three decimals, or '-'."""
    return "-" if value is None else f"{value:.3f}"


def _starts(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [["fresh process", "file MB", "import ms", "open ms", "first call ms", "peak MB", "J/image"]]
    for record in records:
        start, spent = record["cold_start"], record["energy"]
        if start is None:
            continue
        peak = start["memory"][-1]["peak_bytes"]
        rows.append(
            [
                record["name"],
                f"{record['size_bytes'] / 1e6:.2f}",
                *(f"{start[key]:.1f}" for key in ("import_ms", "open_ms", "first_call_ms")),
                "-" if peak is None else f"{peak / 1e6:.0f}",
                "-" if spent is None else f"{spent['joules_per_image']:.2g}",
            ]
        )
    return _aligned(rows) if len(rows) > 1 else ""


def _threads(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [["threads", "n", "batch", "p50 ms", "images/s"]]
    for record in records:
        for timing in record["threads"]:
            numbers = [timing["threads"], timing["batch_size"]]
            speed = [milliseconds(timing["p50_ms"]), f"{timing['images_per_s']:.1f}"]
            rows.append([record["name"], *map(str, numbers), *speed])
    return _aligned(rows) if len(rows) > 1 else ""


def _loadgen(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [["LoadGen", "scenario", "verdict", "images", "p50 ms", "p99 ms", "p90 <= ms", "p99 <= ms", "images/s"]]
    words = 3
    for record in records:
        for run in record["loadgen"] or ():
            verdict = ("VALID" if run["valid"] else "INVALID") + ("" if run["official"] else ", short")
            speed = run["samples_per_s"]
            rows.append(
                [
                    record["name"],
                    run["scenario"],
                    verdict,
                    str(run["samples"]),
                    *(milliseconds(run[key]) for key in ("p50_ms", "p99_ms", "p90_bound_ms", "p99_bound_ms")),
                    "-" if speed is None else f"{speed:.1f}",
                ]
            )
    return _aligned(rows, words) if len(rows) > 1 else ""


def _aligned(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """The first `words` columns to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index < words else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    return "\n".join(lines)
