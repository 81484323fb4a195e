"""A survey on a screen: a line for each candidate, largest first, and below it what cannot be used and why."""

from collections.abc import Sequence

from pipeline.choosing.budget import Budget, Row
from pipeline.system.columns import aligned

_HEAD = (
    *("candidate", "parameters", "MACs M", "MB", "ms", "times as fast", "at 32", "peak MB"),
    *("int8 MB", "int8 ms", "int8 times", "refusals", "fits"),
)
_FITS = {"float32": "yes", "int8": "in int8", None: ""}


def text(teacher: Row, rows: Sequence[Row], budget: Budget) -> str:
    """Lines without one at the end. `ms` is the median of a call with one image; brackets are 95 % intervals."""
    measured = sorted((row for row in rows if row["error"] is None), key=lambda row: -int(row["macs"]))
    lines = [_HEAD, (*_cells(teacher), "", "teacher")]
    lines += [(*_cells(row), str(len(row["refused"]) or ""), _FITS[budget.fits(row)]) for row in measured]
    parts = [*aligned(lines, right=range(1, len(_HEAD))), *_refusals(measured)]
    parts += [f"{row['name']} has no int8 file: {row['int8_error']}" for row in measured if row["int8_error"]]
    parts += [f"{row['name']} was not measured: {row['error']}" for row in rows if row["error"] is not None]
    return "\n".join(parts)


def _cells(row: Row) -> list[str]:
    float32, int8 = row["files"]["float32"], row["files"]["int8"]
    one, many = float32["batches"][0], float32["batches"][-1]
    ratio = one["times_as_fast"]
    cells = [row["name"], f"{row['num_parameters']:,}", f"{row['macs'] / 1e6:.2f}", f"{float32['bytes'] / 1e6:.2f}"]
    cells += [f"{one['p50_ms']:.3f}", f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"]
    cells += [f"{many['times_as_fast']['median']:.2f}", f"{float32['peak_bytes'] / 1e6:.0f}"]
    if int8 is None:
        return [*cells, "-", "-", "-"]
    fast = int8["batches"][0]
    cells += [f"{int8['bytes'] / 1e6:.2f}", f"{fast['p50_ms']:.3f}", f"{fast['times_as_fast']['median']:.2f}"]
    return cells


def _refusals(rows: Sequence[Row]) -> list[str]:
    """A line for each reason, with all candidates that it holds for."""
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for method, why in row["refused"].items():
            by_reason.setdefault((method, why), []).append(row["name"])
    return [f"{method} refuses {', '.join(names)}: {why}" for (method, why), names in by_reason.items()]
