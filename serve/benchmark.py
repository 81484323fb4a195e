"""Exported models against each other on random pixels: rows of latencies, and the table a person reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from serve.latency import Ratio, Summary, measure, paired_ratio, summary
from serve.model import OnnxClassifier


@dataclass(frozen=True)
class Row:
    """One model at one batch size."""

    model: str
    provider: str
    batch_size: int
    latency: Summary
    images_per_s: float  # from the mean latency, one call after the other
    ratio_to_first: Ratio | None  # time taken / time the first model took; None for the first itself

    def to_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        return {
            "model": self.model,
            "provider": self.provider,
            "batch_size": self.batch_size,
            "latency": self.latency.to_dict(),
            "images_per_s": self.images_per_s,
            "ratio_to_first": self.ratio_to_first and self.ratio_to_first.to_dict(),
        }


def compare(models: Mapping[str, OnnxClassifier], batch_size: int, samples: int, seed: int = 0) -> list[Row]:
    """Time every model on its own random uint8 images, all of one batch size; a row each, in the order given."""
    calls = {name: partial(model, _random_pixels(model, batch_size, seed)) for name, model in models.items()}
    measured = measure(calls, samples, seed=seed)
    first = next(iter(models))
    rows = []
    for name, model in models.items():
        timing = summary(measured[name])
        ratio = None if name == first else paired_ratio(measured[name], measured[first], seed)
        rows.append(Row(name, model.provider, batch_size, timing, 1000 * batch_size / timing.mean_ms, ratio))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Aligned columns; '-' where there are too few samples for a percentile, and no ratio of the first to itself."""
    header = ["model", "provider", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "n", "time / first [95 %]"]
    cells = [header, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        # Words to the left, numbers to the right.
        words = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(words + numbers))
    return "\n".join(lines)


def _cells(row: Row) -> list[str]:
    ratio = row.ratio_to_first
    return [
        row.model,
        row.provider.removesuffix("ExecutionProvider"),
        str(row.batch_size),
        *("-" if ms is None else f"{ms:.3f}" for ms in (row.latency.p50_ms, row.latency.p90_ms, row.latency.p99_ms)),
        f"{row.images_per_s:.1f}",
        str(row.latency.n),
        "-" if ratio is None else f"{ratio.median:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
    ]


def _random_pixels(model: OnnxClassifier, batch_size: int, seed: int) -> np.ndarray:
    size = model.card.image_px
    return np.random.default_rng(seed).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
