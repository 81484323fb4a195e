"""latency.json of stage benchmark as typed, frozen records; docs/benchmarking.md says how it came about."""

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from pipeline.report.artefacts.records import Record

TEACHER_ONNX = "teacher_onnx"
"""The candidate that the student is held against: the teacher in the runtime that serves."""


def parts(candidate: str) -> tuple[str, str, str]:
    """Network, number format and runtime: student_int8_onnx -> student, int8, onnx; student_onnx is in fp32."""
    who, _, runtime = candidate.rpartition("_")
    network, _, number_format = who.partition("_")
    return network, number_format or "fp32", runtime


class Timing(Record):
    """Latency of one candidate in milliseconds; None where n samples are too few for a percentile."""

    n: int
    mean_ms: float
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    images_per_s: float
    quantiles_ms: tuple[float | None, ...]
    """p1, p2, ... p99."""


class Ratio(Record):
    """How many times as long one candidate took as another, with a 95 % interval."""

    median: Annotated[float, Field(gt=0)]
    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]


class AfterPause(Record):
    """The first call after a pause, of all candidates in turns."""

    pause_ms: float
    n: int
    p50_ms: dict[str, float]


class Batch(Record):
    """All candidates at one batch size."""

    batch_size: int
    candidates: dict[str, Timing]
    ratios: dict[str, Ratio]
    after_pause: AfterPause | None = None
    """At the smallest batch size; None in files of earlier versions, too."""

    @model_validator(mode="after")
    def _holds_the_answer(self) -> "Batch":
        for name in self.candidates:
            if parts(name)[::2] == ("student", "onnx") and f"{TEACHER_ONNX} / {name}" not in self.ratios:
                raise ValueError(f"the ratio '{TEACHER_ONNX} / {name}' is needed")
        if not {"student_onnx", TEACHER_ONNX} <= self.candidates.keys():
            raise ValueError(f"student_onnx and {TEACHER_ONNX} are needed")
        if self.after_pause is not None and not self.candidates.keys() <= self.after_pause.p50_ms.keys():
            raise ValueError("after_pause needs all candidates that were timed")
        return self

    def teacher_over(self, candidate: str) -> Ratio:
        """How many times as long the teacher takes as a student, both in ONNX Runtime."""
        return self.ratios[f"{TEACHER_ONNX} / {candidate}"]


class Memory(Record):
    """Peak of a fresh process after a call at one batch size; None where the system does not tell."""

    batch_size: int
    peak_bytes: int | None


class Start(Record):
    """Medians over n fresh processes, in milliseconds."""

    n: int
    import_ms: float
    open_ms: float
    first_call_ms: float
    memory: Annotated[tuple[Memory, ...], Field(min_length=1)]


class Scenario(Record):
    """One run of MLPerf's LoadGen, with its verdict."""

    scenario: str
    valid: bool
    reasons: tuple[str, ...] = ()
    """Why it is not valid."""
    official: bool
    """As long as MLPerf asks for."""
    seconds: float
    samples: int
    """Images."""
    samples_per_s: float | None
    p50_ms: float | None
    p99_ms: float | None
    p90_bound_ms: float | None
    """Early-stopping estimate, as p99_bound_ms."""
    p99_bound_ms: float | None
    p99_limit_ms: float | None = None
    """Of Server: the bound that its rate was searched for."""


class Threads(Record):
    """Latency on so many threads."""

    threads: int
    batch_size: int
    p50_ms: float


class Energy(Record):
    """By the machine's own counter."""

    source: str
    batch_size: int
    joules_per_image: float


class Alone(Record):
    """One candidate by itself; None where that was not measured."""

    name: str
    size_bytes: int
    """Of its file."""
    top1: float | None
    """Of the test split, in percent, by the card in the file."""
    threads: tuple[Threads, ...]
    energy: Energy | None
    cold_start: Start | None
    loadgen: tuple[Scenario, ...] | None


class Machine(Record):
    """What the latency was measured on."""

    cpu: str
    cores: int
    os: str
    python: str
    governor: str | None = None
    gpus: tuple[str, ...] = ()
    packages: dict[str, str] = Field(default_factory=dict)
    """Package name -> version."""


def _in_a_list(value: object) -> object:
    """One load average may stand alone."""
    return [value] if isinstance(value, float | int) else value


class Latency(Record):
    """latency.json."""

    machine: Machine
    load_average: Annotated[tuple[float, ...], Field(min_length=1), BeforeValidator(_in_a_list)]
    """Before the measurement, over the last minute, and where known over the last 5 and 15."""
    threads: int
    device: str
    """cpu or cuda."""
    batches: Annotated[tuple[Batch, ...], Field(min_length=1)]
    candidates: tuple[Alone, ...]
    left_out: dict[str, str]
    """What was not timed -> why."""
    size_bytes: dict[str, int]
    """Of the exported files."""

    def smallest_batch(self) -> Batch:
        """The smallest batch size that was timed: 1 unless params.yaml leaves it out."""
        return min(self.batches, key=lambda batch: batch.batch_size)
