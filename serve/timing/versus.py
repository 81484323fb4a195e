"""How many times as fast as one exported file others are, called in turns on the CPU."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serve.model.classifier import OnnxClassifier
from serve.timing import latency

_CALLS = 60
_FEWEST_CALLS = 10
_SECONDS = 1.0
"""About how long the files are called at one batch size. Large images take fewer calls, but never fewer than that."""


def speedup(slow: Path, fast: Path, threads: int) -> float:
    """How many times as long a call with one image takes in `slow` as in `fast`: called in turns, the median ratio."""
    calls = _bound({"slow": slow, "fast": fast}, 1, threads)
    samples = latency.measure(calls, _CALLS)
    return latency.paired_ratio(samples["slow"], samples["fast"]).median


def beside(
    files: Mapping[str, Path],
    threads: int,
    batch_sizes: Sequence[int],
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, list[dict[str, Any]]]:
    """All files in turns, at each batch size: of each file a record by batch size, as plain JSON data.

    batch_size, n     images in a call, and calls
    p50_ms            of a call
    times_as_fast     how many times as long the first of the files takes, {median, low, high}
    """
    reference, records = next(iter(files)), {name: list[dict[str, Any]]() for name in files}
    for batch_size in batch_sizes:
        calls = _bound(files, batch_size, threads)
        rounds = _rounds(calls, clock)
        samples = latency.measure(calls, rounds, rounds // 3, clock=clock)
        for name, values in samples.items():
            records[name].append(
                {
                    "batch_size": batch_size,
                    "n": rounds,
                    "p50_ms": latency.summary(values).p50_ms,
                    "times_as_fast": latency.paired_ratio(samples[reference], values).to_dict(),
                }
            )
    return records


def _rounds(calls: Mapping[str, Callable[[], object]], clock: Callable[[], int]) -> int:
    """How often to call all of them, going by the second of two calls of each."""
    taken = latency.measure(calls, 1, 1, clock=clock)
    round_s = sum(int(values[0]) for values in taken.values()) / 1e9
    return int(min(_CALLS, max(_FEWEST_CALLS, _SECONDS // max(round_s, 1e-9))))


def _bound(files: Mapping[str, Path], batch_size: int, threads: int) -> dict[str, Callable[[], object]]:
    """Calls of each file with noise of the size that it takes."""
    calls: dict[str, Callable[[], object]] = {}
    for name, path in files.items():
        model = OnnxClassifier(path, threads, "cpu")
        shape = batch_size, model.card.image_px, model.card.image_px, 3
        calls[name] = partial(model, np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    return calls
