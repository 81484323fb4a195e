"""How many times as fast as one exported file others are, called in turns."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from serve.model.classifier import OnnxClassifier, Pixels
from serve.model.devices import Device
from serve.timing import latency
from serve.timing.candidates import as_called

_CALLS = 60
_FEWEST_CALLS = 10
_SECONDS = 1.0
"""About how long the timed calls of all files take at one batch size. Large images take fewer calls, but never fewer
than that."""


def speedup(slow: Path, fast: Path, threads: int) -> float:
    """How many times as long a call with one image takes in `slow` as in `fast`."""
    return float(at({"slow": slow, "fast": fast}, threads, 1)["fast"]["times_as_fast"]["median"])


def beside(
    files: Mapping[str, Path],
    threads: int,
    batch_sizes: Sequence[int],
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, list[dict[str, Any]]]:
    """All files in turns, at each batch size: of each file its records of `at`."""
    records = [at(files, threads, batch_size, clock) for batch_size in batch_sizes]
    return {name: [record[name] for record in records] for name in files}


def at(
    files: Mapping[str, Path],
    threads: int,
    batch_size: int,
    clock: Callable[[], int] = time.perf_counter_ns,
    device: Device = "cpu",
) -> dict[str, dict[str, Any]]:
    """All files in turns at one batch size, by the clock of the benchmark: of each a record, as plain JSON data.

    batch_size, n     images in a call, and timed calls
    p50_ms            of a call
    times_as_fast     how many times as long the first of the files takes, {median, low, high}: paired by rounds, 95 %
    """
    calls = _bound(files, batch_size, threads, device)
    samples = _samples(calls, clock)
    taken = latency.measure(calls, samples, samples // 3, clock=clock)
    reference = taken[next(iter(files))]
    return {
        name: {
            "batch_size": batch_size,
            "n": values.size,
            "p50_ms": latency.summary(values).p50_ms,
            "times_as_fast": latency.paired_ratio(reference, values).to_dict(),
        }
        for name, values in taken.items()
    }


def _samples(calls: Mapping[str, Callable[[], object]], clock: Callable[[], int]) -> int:
    """How many calls of each to time, going by the second of two calls."""
    turn_s = sum(latency.warm_up(calls, 2, clock).values()) / 1e9
    return int(min(_CALLS, max(_FEWEST_CALLS, _SECONDS // max(turn_s, 1e-9))))


def _bound(files: Mapping[str, Path], batch_size: int, threads: int, device: Device) -> dict[str, Callable[[], object]]:
    """Calls of each file with noise of the size that it takes."""
    calls: dict[str, Callable[[], object]] = {}
    for name, path in files.items():
        model = OnnxClassifier(path, threads, device)
        calls[name] = partial(as_called(model, device), noise(batch_size, model.card.image_px))
    return calls


def noise(batch_size: int, image_px: int) -> Pixels:
    """Pixels (B, image_px, image_px, 3) to call a network with."""
    return np.random.default_rng(0).integers(0, 256, (batch_size, image_px, image_px, 3), dtype=np.uint8)
