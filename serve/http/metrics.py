"""What Prometheus is told. Every name of a label is known beforehand: a client cannot make up new series.

With several worker processes, which share PROMETHEUS_MULTIPROC_DIR, whichever answers tells the sum of all.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from serve.errors import ServeError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0, 4.0, 8.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ModelMetrics:
    """The series of one model, looked up once."""

    def __init__(self, metrics: "Metrics", model: str) -> None:
        self.batch_images = metrics.batch_images.labels(model)
        self.queue_images = metrics.queue_images.labels(model)
        self.queue_seconds = metrics.queue_seconds.labels(model)
        self.compute_seconds = metrics.compute_seconds.labels(model)


class Metrics:
    """The counters of one server, apart from those of any other in the process."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        self.requests = Counter(
            "pupil_requests", "Requests answered, by route and status.", ["route", "status"], registry=registry
        )
        self.model_requests = Counter(
            "pupil_model_requests", "Requests to a model, by status.", ["model", "status"], registry=registry
        )
        self.provider = Gauge(
            "pupil_model_provider",
            "1 for the execution provider of ONNX Runtime that computes a model.",
            ["model", "provider"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.request_seconds = Histogram(
            "pupil_request_seconds",
            "From the header of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.errors = Counter("pupil_errors", "Requests that were refused or failed.", ["reason"], registry=registry)
        self.batch_images = Histogram(
            "pupil_batch_images", "Images computed in one batch.", ["model"], buckets=_IMAGES, registry=registry
        )
        self.queue_images = Gauge(
            "pupil_queue_images",
            "Images that wait for a batch.",
            ["model"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.queue_seconds = Histogram(
            "pupil_queue_seconds",
            "From the arrival of a request to its batch.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.compute_seconds = Histogram(
            "pupil_compute_seconds", "Of one batch.", ["model"], buckets=_SECONDS, registry=registry
        )
        if self._folder is None:
            ProcessCollector(registry=registry)
            PlatformCollector(registry=registry)

    def of_model(self, model: str) -> ModelMetrics:
        """The series of a model."""
        return ModelMetrics(self, model)

    def take_room(self, routes: Iterable[str]) -> None:
        """Take the room on the disk that the series of one of several processes fill. Raises ServeError.

        They are files that are mapped, and have holes at first. If the disk were full when one is filled, SIGBUS would
        end the process.
        """
        if self._folder is None or sys.platform != "linux":
            return
        self.errors.labels("left")  # the counters have no file before one of them is asked for
        for route in routes:
            self.request_seconds.labels(route)
        for path in Path(self._folder).glob(f"*_{os.getpid()}.db"):
            with path.open("r+b") as file:
                try:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
                except OSError as error:
                    raise ServeError(
                        f"{path.parent} has no room for the metrics of a worker ({error.strerror}). Free some, or name "
                        "a folder on another disk by TMPDIR."
                    ) from error

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        if self._folder is None:
            return generate_latest(self._registry)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, self._folder)  # type: ignore[no-untyped-call]
        return generate_latest(merged)
